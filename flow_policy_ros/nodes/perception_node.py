"""The perception node: camera images in, features stamped with the image's instant out, and a picture for people.

A shell around ``vision.features``. Live, only the newest image counts: of those that arrive while another is being
looked at, the last one is next. In lockstep every image is looked at, in order.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from flow_policy_ros.nodes.lockstep import delays
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, counts, diagnostics, latency_values, status
from flow_policy_ros.ros.images import encoded_from_message, features_to_message, image_to_message
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.parameters import LockstepParameters, ParameterError, PerceptionParameters
from flow_policy_ros.runtime.robot import RobotFileError
from flow_policy_ros.vision.decode import ImageError, decode
from flow_policy_ros.vision.detector import DetectorError, load_detector
from flow_policy_ros.vision.features import DetectionFeatures
from flow_policy_ros.vision.overlay import draw

OVERLAY_SCALE = 2


class PerceptionNode(ClosableNode):
    """Subscribes to the robot file's first camera; publishes ``features/detections`` and ``perception/overlay``."""

    def __init__(self) -> None:
        super().__init__("perception_node")
        robot = robot_of(self)
        self._settings = NodeParameters(self, robot, ("perception", "lockstep"), self._changed)
        parameters, lockstep = self._settings.block(PerceptionParameters), self._settings.block(LockstepParameters)
        if not robot.cameras:
            raise RobotFileError(f"robot file {robot.path} has no camera; add one under robot.cameras.")
        if not parameters.detector:
            raise ParameterError("the parameter perception.detector is not set; give the path of a detector folder.")
        self._camera = robot.cameras[0]
        self._silence_s = max(1.0, 5.0 / self._camera.rate_hz)
        self._detector = load_detector(
            parameters.detector, parameters.allow_pickle, parameters.confidence, parameters.threads
        )
        self._features = DetectionFeatures(self._detector)
        self._features.extract(np.zeros((self._camera.height, self._camera.width, 3), np.uint8), 0)  # first one is slow
        self._durations = LatencyTracker()
        self._ages = LatencyTracker()
        self._refused: dict[str, int] = {}
        self._problem: str | None = None  # why the newest image was refused
        self._images = 0
        self._dropped = 0
        self._last_image = time.monotonic()
        self._silent = False  # and said so
        self._live = not lockstep.enabled
        self._delays, self._seed = delays(lockstep), lockstep.seed
        self._lost = 0  # injected
        if lockstep.inject:
            self.get_logger().warning(f"disturbances are injected: {lockstep.inject}")
        self._pending: deque[Image | CompressedImage] = deque(maxlen=1 if self._live else None)
        self._arrived = threading.Condition()
        self._ended = False

        # First of all: who sees this node's features may rely on its waiting for images.
        kind = CompressedImage if self._camera.topic.endswith("compressed") else Image
        self.create_subscription(kind, self._camera.topic, self._on_image, qos.image_reader(lockstep.enabled))
        self._publisher = self.create_publisher(Image, f"features/{self._features.stream}", qos.RELIABLE)
        self._overlay = self.create_publisher(Image, "perception/overlay", qos.IMAGE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self._info = self.create_publisher(String, f"features/{self._features.stream}/info", qos.LATCHED)
        self._info.publish(String(data=json.dumps(self._features.identity())))
        self._worker = threading.Thread(target=self._run, name="perception", daemon=True)
        self._worker.start()
        self.create_timer(1.0, self._diagnose, clock=STEADY)

    def close(self) -> None:
        """End the worker, after the image that it is looking at."""
        with self._arrived:
            self._ended = True
            self._arrived.notify()
        self._worker.join(timeout=10.0)

    def _on_image(self, message: Image | CompressedImage) -> None:
        with self._arrived:
            self._images += 1
            self._last_image = time.monotonic()
            if self._pending and self._live:
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
            except (ImageError, DetectorError) as error:
                kind = type(error).__name__
                if kind not in self._refused:
                    self.get_logger().warning(f"refused: {error}")
                self._refused[kind] = self._refused.get(kind, 0) + 1
                self._problem = f"{error} The camera is '{self._camera.name}' on topic {self._camera.topic}."

    def _look(self, message: Image | CompressedImage) -> None:
        start = time.perf_counter()
        stamp = from_time(message.header.stamp)
        image = decode(encoded_from_message(message))
        features = self._features.extract(image, stamp)
        lost = self._live and self._delays.dropped("perception", stamp, self._seed)  # in lockstep the policy loses them
        self._lost += lost
        if not lost:
            self._publisher.publish(features_to_message(features))
        self._durations.add((time.perf_counter() - start) * 1e3)
        if self._live:
            self._ages.add((self.get_clock().now().nanoseconds - stamp) / 1e6)
        self._draw(image, stamp)

    def _draw(self, image: NDArray[np.uint8], stamp: int) -> None:
        wanted = self._settings.block(PerceptionParameters).overlay and self._overlay.get_subscription_count()
        if wanted and self._features.last is not None:
            picture = draw(image, self._features.last, self._detector.classes, OVERLAY_SCALE)
            self._overlay.publish(image_to_message(picture, stamp, self._camera.name))

    def _changed(self, prefix: str, block: Any) -> None:
        if prefix == "perception":
            self._detector.confidence = block.confidence

    def _diagnose(self) -> None:
        silent_s = time.monotonic() - self._last_image
        level, message = OK, "running"
        was_silent, self._silent = self._silent, self._live and silent_s > self._silence_s
        if self._silent:
            level = ERROR
            message = (
                f"no image on topic {self.resolve_topic_name(self._camera.topic)} for {silent_s:.0f} s. Check that "
                f"camera '{self._camera.name}' runs and that the robot file names its topic."
            )
            if not was_silent:
                self.get_logger().error(message)
        elif self._problem is not None:
            level, message = ERROR, self._problem
        elif not self._images:
            level, message = WARN, "waiting for the first image"
        if not self._worker.is_alive():
            level, message = ERROR, "the worker failed with an error (see the node's output); restart the node."
        values: dict[str, object] = {
            "images": self._images,
            "dropped": self._dropped,
            **({"lost_by_injection": self._lost} if self._lost else {}),
            **latency_values("perception_ms", self._durations),
            **latency_values("features_age_ms", self._ages),
            **counts("rejections", self._refused),
        }
        stamp = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostics(stamp, status("perception", level, message, values)))


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(PerceptionNode, args, DetectorError)


if __name__ == "__main__":
    sys.exit(main())
