"""One recorded image → the features that the perception node would have made of it, and when the policy would have had them."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from flow_policy_ros.data.bag_events import BadEvent, ImageEvent
from flow_policy_ros.evaluation.closed_loop import Perception
from flow_policy_ros.evaluation.replay.records import ReplayFeatures
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.vision.decode import ImageError, decode
from flow_policy_ros.vision.detector import Detections, Detector, DetectorError


@runtime_checkable
class Detecting(Protocol):
    """An extractor whose newest detections can be shown (``vision.features.DetectionFeatures``)."""

    detector: Detector
    last: Detections | None


def perceive(perception: Perception, event: ImageEvent, now: int, delays: Delays, seed: int) -> ReplayFeatures | BadEvent:
    """What ``perception`` sees in the image of ``event``, which it is given at the tick ``now`` (ns).

    Delay and loss are drawn by (``seed``, the image's stamp). A ``BadEvent`` for an image that cannot be decoded or used.
    """
    start = time.perf_counter()
    try:
        image = decode(event.image)
        features = perception.extract(image, event.stamp)
    except (ImageError, DetectorError) as error:
        return BadEvent(event.received, f"camera '{event.camera}'", str(error))
    duration_ms = (time.perf_counter() - start) * 1e3
    boxes, labels = None, ()
    if isinstance(perception, Detecting) and perception.last is not None:
        found, classes = perception.last, perception.detector.classes
        boxes, labels = found.boxes, tuple(classes[c] for c in found.classes.tolist())
    ready = now + delays.delay("perception", event.stamp, seed)
    lost = delays.dropped("perception", event.stamp, seed)
    return ReplayFeatures(features, event.received, ready, lost, duration_ms, image, boxes, labels)
