"""What a policy or perception node lives on, made up: joint states, features and pictures. For benchmarks.

Also when what it makes arrived. Nothing in it has a meaning, and nothing is judged here.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.control_traffic import ControlTraffic
from flow_policy_ros.ros.images import features_to_message, image_to_message
from flow_policy_ros.runtime.contract import FRAMES, SAID, StreamContract
from flow_policy_ros.runtime.robot import Camera, Robot
from flow_policy_ros.runtime.types import FeatureArray, Features

STATES_HZ, FEATURES_HZ = 100.0, 25.0


class InputTraffic(ControlTraffic):
    """Joint states and empty features of ``streams`` for a policy; grey pictures of ``cameras``, raw, at their rates.

    ``arrived``: when each chunk, or features of one of ``heard``, came here (``time.monotonic``, s). See ``ControlTraffic``.
    """

    def __init__(
        self,
        robot: Robot,
        environment: dict[str, str],
        streams: tuple[StreamContract, ...] = (),
        cameras: tuple[Camera, ...] = (),
        heard: tuple[str, ...] = (),
    ) -> None:
        super().__init__(robot, STATES_HZ, environment)
        self.arrived: list[float] = []
        self._streams = tuple(stream for stream in streams if stream.kind not in (*SAID, FRAMES))
        self._cameras, self._heard = cameras, heard

    def _begin(self, node: Node) -> None:
        for stream in self._streams:
            publisher = node.create_publisher(Image, f"features/{stream.name}", qos.RELIABLE)
            values = np.zeros((stream.tokens, stream.channels), dtype=np.float32)
            node.create_timer(1.0 / FEATURES_HZ, partial(self._say_features, publisher, stream.name, values))
        for camera in self._cameras:
            publisher = node.create_publisher(Image, camera.topic, qos.IMAGE)
            picture = np.full((camera.height, camera.width, 3), 128, dtype=np.uint8)
            node.create_timer(1.0 / camera.rate_hz, partial(self._show, publisher, picture))
        node.create_subscription(JointTrajectory, "policy/chunk", self._on_product, qos.RELIABLE, raw=True)
        for stream_name in self._heard:
            node.create_subscription(Image, f"features/{stream_name}", self._on_product, qos.RELIABLE, raw=True)

    def _say_features(self, publisher: Publisher, stream: str, values: FeatureArray) -> None:
        publisher.publish(features_to_message(Features(self._now(), stream, values)))

    def _show(self, publisher: Publisher, picture: NDArray[np.uint8]) -> None:
        publisher.publish(image_to_message(picture, self._now()))

    def _on_product(self, message: bytes) -> None:
        self.arrived.append(time.monotonic())
