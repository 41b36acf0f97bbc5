"""Raw pictures between two processes: larger than the shared memory of Fast DDS, and from cameras that offer more or less."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import Child, Ears, Inbox, Launcher, ears_fixture, launcher_fixture, until  # noqa: F401

pytest.importorskip("rclpy")
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.image_reader import ImageReader
from flow_policy_ros.ros.images import image_to_message

TOPIC = "camera/image_raw"
CAMERA = """
import time
import numpy as np
import rclpy
from sensor_msgs.msg import Image
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import image_to_message

rclpy.init()
publisher = rclpy.create_node("camera").create_publisher(Image, "camera/image_raw", qos.IMAGE)
picture = image_to_message(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), 1)
number = 0
while True:
    picture.header.frame_id = str(number)
    publisher.publish(picture)
    number += 1
    time.sleep(0.1)
"""
IN_A_ROW = 8
"""With best effort and default settings of every 10 to 100 such pictures one arrives."""


def camera(launcher: Launcher) -> Child:
    return launcher._start([sys.executable, "-c", CAMERA], "camera")


def in_a_row(seen: list[Image]) -> int:
    """How many pictures came last without one that is missing."""
    count = 1
    for one, next_one in pairwise([int(m.header.frame_id) for m in seen]):
        count = count + 1 if next_one == one + 1 else 1
        if count >= IN_A_ROW:
            break
    return count


def reading(ears: Ears, take: Callable[[Image], None]) -> ImageReader:
    reader = ImageReader(ears.node, TOPIC, take, lockstep=False)
    ears.node.create_timer(0.2, reader.attend)
    return reader


def test_every_picture_of_640_by_480_arrives_from_a_driver_with_default_settings(launcher: Launcher, ears: Ears) -> None:
    inbox: Inbox[Image] = Inbox()
    reading(ears, inbox.put)
    node = camera(launcher)
    inbox.wait_for(lambda _: in_a_row(inbox.messages) >= IN_A_ROW, what=node.output)


def test_with_the_profile_of_pictures_best_effort_is_enough(
    launcher: Launcher, ears: Ears, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, str(root / "config" / "fastdds_pictures.xml"))
    inbox = ears.listen(Image, TOPIC, qos.image_reader(lockstep=False))
    node = camera(launcher)
    inbox.wait_for(lambda _: in_a_row(inbox.messages) >= IN_A_ROW, what=node.output)
    assert "XMLPARSER" not in node.output


def test_a_camera_with_best_effort_is_heard_whenever_it_comes(ears: Ears) -> None:
    inbox: Inbox[Image] = Inbox()
    reading(ears, inbox.put)

    def reliability() -> list[ReliabilityPolicy]:
        return [end.qos_profile.reliability for end in ears.node.get_subscriptions_info_by_topic(f"/{TOPIC}")]

    def heard(publisher: Any, name: str) -> None:
        message = image_to_message(np.zeros((4, 4, 3), np.uint8), 1, name)
        with ears.insisting(lambda: publisher.publish(message)):
            inbox.wait_for(lambda m: m.header.frame_id == name, len(inbox.messages), what=name)

    reliable = ears.speak(Image, TOPIC, qos.IMAGE)
    until(lambda: reliability() == [ReliabilityPolicy.RELIABLE], "the reader does not ask for what is offered")
    heard(reliable, "reliable")
    lesser = ears.speak(Image, TOPIC, qos.image_reader(lockstep=False))
    heard(lesser, "best effort")
    heard(reliable, "still")
    ears.node.destroy_publisher(lesser)
    until(lambda: reliability() == [ReliabilityPolicy.RELIABLE], "the reader keeps to what is gone")
