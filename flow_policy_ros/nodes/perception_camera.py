"""One camera of the perception node: its topics, its worker thread, and what it says of itself.

Every camera has its own thread, rate and silence, so that none waits for another. Live, only the newest image counts: of those that
arrive while another is being looked at, the last one is next. In lockstep every image is looked at, in order.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from flow_policy_ros.nodes.perception_depth import DepthTopics
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, counts, latency_values, status
from flow_policy_ros.ros.image_reader import ImageReader
from flow_policy_ros.ros.images import encoded_from_message, features_to_message, image_to_message
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.parameters import PerceptionParameters
from flow_policy_ros.runtime.robot import Camera
from flow_policy_ros.runtime.trouble import Trouble
from flow_policy_ros.vision.decode import ImageError
from flow_policy_ros.vision.detector import DetectorError
from flow_policy_ros.vision.extractors import grid_of, inner, picture, set_confidence
from flow_policy_ros.vision.features import FeatureExtractor
from flow_policy_ros.vision.geometry import DepthError
from flow_policy_ros.vision.heat_map import scale_of
from flow_policy_ros.vision.overlay import draw_seen
from flow_policy_ros.vision.positions import PositionFeatures
from flow_policy_ros.vision.pretrained import ExtractorError


class StaleImage(ValueError):
    """An image that is older than the robot file allows for its camera; the message says by how much."""


REFUSED = (ImageError, DetectorError, ExtractorError, DepthError, StaleImage)
"""What is said of an image that cannot be used, and goes on with the next."""


@dataclass(frozen=True)
class Conditions:
    """What all cameras of a node have in common. ``delays`` are injected, by ``seed``; not ``live`` is in lockstep."""

    live: bool
    delays: Delays
    seed: int


class PerceivedCamera:
    """Looks at the images of ``camera`` with ``extractor``, whose stream is published with its info; the ``first`` camera's overlay
    and diagnostics have the plain names, another's end with the camera's."""

    def __init__(
        self,
        node: Node,
        camera: Camera,
        extractor: FeatureExtractor,
        first: bool,
        conditions: Conditions,
        parameters: PerceptionParameters,
    ) -> None:
        """Raises ``DepthError`` or ``ParameterError`` for points that cannot be made of what the camera sends."""
        self.camera, self.extractor = camera, extractor
        extractor.extract(np.zeros((camera.height, camera.width, 3), np.uint8), 0)  # the first one is slow
        self.parameters = parameters
        self.name = "perception" if first else f"perception/{camera.name}"
        self._node, self._conditions = node, conditions
        self._clock, self._log = node.get_clock(), node.get_logger()
        self._silence_s = max(1.0, 5.0 / camera.rate_hz)
        self._durations, self._ages = LatencyTracker(), LatencyTracker()
        self._refused: dict[str, int] = {}
        self._problem: str | None = None  # why the newest image was refused
        self._depth_problem: str | None = None  # why the newest depth was
        self._images = self._dropped = self._lost = 0
        self._last_image = time.monotonic()
        self._silence = Trouble()
        self._pending: deque[Image | CompressedImage] = deque(maxlen=1 if conditions.live else None)
        self._arrived = threading.Condition()
        self._ended = False

        # First of all: who sees this node's features may rely on its waiting for images.
        lockstep = not conditions.live
        self._reader = ImageReader(node, camera.topic, self._on_image, lockstep)
        self._depth = self._depth_topics(first, lockstep) if parameters.points else None
        self._publisher = node.create_publisher(Image, f"features/{extractor.stream}", qos.RELIABLE)
        self._overlay = node.create_publisher(Image, "perception/overlay" + ("" if first else f"_{camera.name}"), qos.IMAGE)
        self._info = node.create_publisher(String, f"features/{extractor.stream}/info", qos.LATCHED)
        self._identity = extractor.identity()
        self._say_identity()
        self._worker = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._worker.start()

    def _depth_topics(self, first: bool, lockstep: bool) -> DepthTopics:
        whole = inner(self.extractor)
        own = self.parameters.points == "patches"
        grid = getattr(whole, "grid", None) if own else grid_of(self.parameters.points, "perception.points")
        stream = "points" if first else f"points_{self.camera.name}"
        topics = DepthTopics(
            self._node, self.camera, stream, grid, getattr(whole, "covered", None) if own else None, lockstep,
            self._points_known, self._refuse_depth,
        )  # fmt: skip
        self._points_first = first
        self._points = self._node.create_publisher(Image, f"features/{stream}", qos.RELIABLE)
        self._points_info = self._node.create_publisher(String, f"features/{stream}/info", qos.LATCHED)
        return topics

    def tune(self, parameters: PerceptionParameters) -> None:
        """Parameters that may change while running."""
        self.parameters = parameters
        if set_confidence(self.extractor, parameters.confidence) and self.extractor.identity() != self._identity:
            self._identity = self.extractor.identity()
            self._say_identity()

    def _say_identity(self) -> None:
        """Who made the features and, for people who want to see it, which part of the image they cover."""
        covered = getattr(inner(self.extractor), "covered", None)
        self._info.publish(String(data=json.dumps({**self._identity, **({} if covered is None else {"covered": covered})})))

    def end(self) -> None:
        """Look at no further image."""
        with self._arrived:
            self._ended = True
            self._arrived.notify()

    def join(self) -> None:
        """Wait, after ``end``, for the image that is being looked at."""
        self._worker.join(timeout=10.0)

    def _on_image(self, message: Image | CompressedImage) -> None:
        with self._arrived:
            self._images += 1
            self._last_image = time.monotonic()
            if self._pending and self._conditions.live:
                self._dropped += 1
            self._pending.append(message)
            self._arrived.notify()

    def _run(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._pending or self._ended)
                if self._ended:
                    return
                message = self._pending.popleft()
            try:
                self._look(message)
                self._problem = None
            except REFUSED as error:
                self._problem = self._count(error, self.camera.topic)

    def _look(self, message: Image | CompressedImage) -> None:
        start = time.perf_counter()
        stamp = from_time(message.header.stamp)
        self._check_age(stamp)
        image = picture(encoded_from_message(message))
        features = self.extractor.extract(image, stamp)
        # Points and features of one image go together or not at all: tokens are never paired with other tokens' places.
        points = self._depth.points(image, stamp) if self._depth is not None else None
        conditions = self._conditions
        # In lockstep it is the policy that loses them.
        lost = conditions.live and conditions.delays.dropped("perception", stamp, conditions.seed)
        self._lost += lost
        if not lost:
            if points is not None:
                self._points.publish(features_to_message(points))
            self._publisher.publish(features_to_message(features))
        self._durations.add((time.perf_counter() - start) * 1e3)
        if conditions.live:
            self._ages.add((self._clock.now().nanoseconds - stamp) / 1e6)
        self._draw(image, features.values, stamp)

    def _check_age(self, stamp: int) -> None:
        greatest = self.camera.max_age_s
        age_s = (self._clock.now().nanoseconds - stamp) / 1e9
        if self._conditions.live and greatest is not None and age_s > greatest:
            raise StaleImage(
                f"the image is {age_s:.3f} s old, expected at most {greatest} s (max_age_s in the robot file). Check the camera's "
                "clock and what delays its images, or raise the limit."
            )

    def _draw(self, image: NDArray[np.uint8], values: NDArray[np.float32], stamp: int) -> None:
        if not (self.parameters.overlay and self._overlay.get_subscription_count()):
            return
        drawn = draw_seen(image, inner(self.extractor), values, self._identity.get("mask_channel"), scale_of(image))
        if drawn is not None:
            self._overlay.publish(image_to_message(drawn, stamp, self.camera.name))

    def _points_known(self, points: PositionFeatures) -> None:
        camera = {} if self._points_first else {"camera": self.camera.name}
        self._points_info.publish(String(data=json.dumps({**points.identity(), **camera})))

    def _refuse_depth(self, error: ValueError) -> None:
        assert self.camera.depth is not None
        self._depth_problem = self._count(error, self.camera.depth.topic)

    def _count(self, error: Exception, topic: str) -> str:
        """Note a refusal; says it with where it came from."""
        kind = type(error).__name__
        if kind not in self._refused:
            self._log.warning(f"refused: {error}")
        self._refused[kind] = self._refused.get(kind, 0) + 1
        return f"{error} The camera is '{self.camera.name}' on topic {topic}."

    def _attend(self, silent_s: float) -> bool:
        """Listen as suits the publishers, and say when images stay away or come again. Whether they stay away."""
        self._reader.attend()
        if self._depth is not None:
            self._depth.attend()
        if not self._conditions.live or silent_s <= self._silence_s:
            if self._silence.well(time.monotonic()):
                self._log.info(f"images of camera '{self.camera.name}' come again")
            return False
        there = self._reader.publishers()
        cause = (
            f"It has {there} publisher(s), but nothing arrives: see the log of the driver of camera '{self.camera.name}'; "
            "'flow_policy doctor --live' says whether images are lost on the way."
            if there
            else f"Nobody publishes it: start the driver of camera '{self.camera.name}', or correct its topic in the robot file."
        )
        topic = self._node.resolve_topic_name(self.camera.topic)
        said = self._silence.wrong(f"no image on topic {topic} for {silent_s:.0f} s. {cause}", time.monotonic())
        if said is not None:
            self._log.error(said)
        return True

    def diagnose(self) -> DiagnosticStatus:
        """What this camera says of itself; asked once a second."""
        silent_s = time.monotonic() - self._last_image
        level, message = OK, "running"
        if self._attend(silent_s):
            level, message = ERROR, self._silence.text() or ""
        elif self._problem is not None:
            level, message = ERROR, " ".join(filter(None, [self._problem, self._depth_problem]))
        elif not self._images:
            level, message = WARN, "waiting for the first image"
        if not self._worker.is_alive() and not self._ended:
            level, message = ERROR, "the worker failed with an error (see the node's output); restart the node."
        self._depth_problem = None  # said once: another depth image may be sound
        values: dict[str, object] = {
            "images": self._images,
            "dropped": self._dropped,
            **({"lost_by_injection": self._lost} if self._lost else {}),
            **latency_values("perception_ms", self._durations),
            **latency_values("features_age_ms", self._ages),
            **counts("rejections", self._refused),
        }
        return status(self.name, level, message, values)
