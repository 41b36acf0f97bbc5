"""The subscription of who needs a camera's pictures: reliable while every publisher of the topic is, with best effort otherwise.

A raw picture travels as many fragments. With best effort one that is lost costs the picture, and where pictures are larger than the
shared memory that Fast DDS sends through, that is nearly every one. Onlookers keep to best effort: a robot does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from flow_policy_ros.ros import qos

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]


class ImageReader:
    """Hands the images on ``topic`` to ``take``: ``CompressedImage`` where its name ends so, else ``Image``.

    Live, ``attend`` is to be called once a second; in lockstep the reader is reliable from the start.
    """

    def __init__(self, node: Node, topic: str, take: Callable[[Any], None], lockstep: bool) -> None:
        self._node, self._take, self._lockstep = node, take, lockstep
        self._topic = node.resolve_topic_name(topic)
        self._kind = CompressedImage if topic.endswith("compressed") else Image
        self._reads_all = False
        self._subscription = self._subscribe(qos.image_reader(lockstep))

    def publishers(self) -> int:
        """How many there are, of this type or another."""
        return len(self._node.get_publishers_info_by_topic(self._topic))

    def attend(self) -> None:
        """Be as reliable as all the publishers are. Called in the thread that spins the node."""
        offered = [end.qos_profile.reliability for end in self._node.get_publishers_info_by_topic(self._topic)]
        reads_all = bool(offered) and all(one == ReliabilityPolicy.RELIABLE for one in offered)
        if self._lockstep or reads_all == self._reads_all:
            return
        self._reads_all = reads_all
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(qos.IMAGE_ALL if reads_all else qos.image_reader(lockstep=False))

    def _subscribe(self, profile: QoSProfile) -> Any:
        # Of publishers that offer less rclpy says that nothing will be heard from them: the next ``attend`` sees to that.
        silent = SubscriptionEventCallbacks(incompatible_qos=lambda _: None)
        return self._node.create_subscription(self._kind, self._topic, self._take, profile, event_callbacks=silent)
