"""One recorded image → the features that the perception node would have made of it, and when the policy would have had them."""

from __future__ import annotations

import time

from flow_policy_ros.data.bag_events import BadEvent, ImageEvent
from flow_policy_ros.evaluation.closed_loop import Perception
from flow_policy_ros.evaluation.replay.records import ReplayFeatures
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.vision.decode import ImageError
from flow_policy_ros.vision.detector import DetectorError
from flow_policy_ros.vision.extractors import inner, picture
from flow_policy_ros.vision.geometry import DepthError
from flow_policy_ros.vision.overlay import Detecting
from flow_policy_ros.vision.pretrained import ExtractorError


def perceive(perception: Perception, event: ImageEvent, now: int, delays: Delays, seed: int) -> ReplayFeatures | BadEvent:
    """What ``perception`` sees in the image of ``event``, which it is given at the tick ``now`` (ns).

    Delay and loss are drawn by (``seed``, the image's stamp). A ``BadEvent`` for an image that cannot be decoded or used.
    """
    start = time.perf_counter()
    try:
        image = picture(event.image)
        features = perception.extract(image, event.stamp)
    except (ImageError, DetectorError, ExtractorError, DepthError) as error:
        return BadEvent(event.received, f"camera '{event.camera}'", str(error))
    duration_ms = (time.perf_counter() - start) * 1e3
    boxes, labels = None, ()
    whole = inner(perception)
    if isinstance(whole, Detecting) and whole.last is not None:
        found, classes = whole.last, whole.detector.classes
        boxes, labels = found.boxes, tuple(classes[c] for c in found.classes.tolist())
    ready = now + delays.delay("perception", event.stamp, seed)
    lost = delays.dropped("perception", event.stamp, seed)
    return ReplayFeatures(features, event.received, ready, lost, duration_ms, image, boxes, labels)
