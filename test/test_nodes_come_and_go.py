"""Cameras and joint states that stay away, come again, or change while nodes run: named once, counted, and over when it is over."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ros_support import Child, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
from sensor_msgs.msg import Image
from test_nodes_dds_lockstep import CLASSES, CONFIDENCE, untrained_detector, untrained_policy

from flow_policy_ros.ros.images import features_to_message, image_to_message
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features

LINE = re.compile(r"\[(INFO|WARN|ERROR)\] \[[\d.]+\] \[\w+\]: (.*)")


def lines(node: Child) -> list[tuple[str, str]]:
    """Level and text of what was logged."""
    return [(m[1], m[2]) for m in map(LINE.match, node.output.splitlines()) if m]


def test_a_camera_that_is_silent_or_changes_is_named_once_and_seen_again(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    detector = {"perception__detector": untrained_detector(tmp_path / "detector"), "perception__confidence": CONFIDENCE}
    diagnostics, features = ears.diagnostics(), ears.listen(Image, "features/detections")
    slow = {"front": {"topic": "camera/image_raw", "width": 64, "height": 48, "rate_hz": 1.0}}  # 5 s without images are silence
    node = launcher.node("perception_node", write_robot(tmp_path, cameras=slow), **detector)

    def says(words: str) -> None:
        diagnostics.wait_for(lambda s: s.name == "perception" and words in s.message, len(diagnostics.messages), words)

    says("no image on topic /camera/image_raw for")
    says("Nobody publishes it: start the driver of camera 'front'")
    camera = ears.speak(Image, "camera/image_raw")
    says("It has 1 publisher(s), but nothing arrives")

    def sent(height: int, width: int, encoding: str = "rgb8") -> Callable[[], None]:
        message = image_to_message(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), height)
        message.encoding = encoding
        return lambda: camera.publish(message)

    for _ in range(2):  # to and fro: only the first time is news for the log
        with ears.insisting(sent(48, 64)):
            features.wait_for(lambda m: from_time(m.header.stamp) == 48, len(features.messages))
            says("running")
        with ears.insisting(sent(96, 128, "bgr8")):  # as good: another resolution of the same picture
            features.wait_for(lambda m: from_time(m.header.stamp) == 96, len(features.messages))
            says("running")
        with ears.insisting(sent(50, 50)):
            says("expected the proportions of 64 by 48")
        with ears.insisting(sent(48, 64, "rgb16")):
            says("encoding 'rgb16'")
    with ears.insisting(sent(48, 64)):
        says("running")
    assert node.alive() and "Traceback" not in node.output
    assert {from_time(m.header.stamp) for m in features.messages} == {48, 96}
    told = [(level, text) for level, text in lines(node) if "camera" in text or "refused" in text]
    wanted = ("Nobody publishes", "nothing arrives", "come again", "proportions", "rgb16")
    assert [sum(word in text for _, text in told) for word in wanted] == [1, 1, 1, 1, 1] and len(told) == 5, told
    # That it is over is said after 2 s of quiet, wherever that is among the others.
    levels = {word: level for level, text in told for word in wanted if word in text}
    assert [levels[word] for word in wanted] == ["ERROR", "ERROR", "INFO", "WARN", "WARN"], told


def test_a_policy_that_starves_many_times_says_it_once(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot_file = write_robot(tmp_path)
    checkpoint = untrained_policy(tmp_path / "policy", load_robot(robot_file), {})
    diagnostics, robot = ears.diagnostics(), FakeRobot(ears)
    detections, objects = ears.speak(Image, "features/detections"), ears.speak(Image, "features/objects")
    settings = {"policy__checkpoint": checkpoint, "policy__steps": 1, "policy__joint_state_max_age_s": 0.1}
    node = launcher.node("policy_node", robot_file, **settings)

    def see() -> None:
        boxes = np.full((len(CLASSES), 5), 0.5, dtype=np.float32)
        detections.publish(features_to_message(Features(ears.now(), "detections", boxes)))
        objects.publish(features_to_message(Features(ears.now(), "objects", np.ones((1, 12), np.float32))))

    with ears.insisting(see):
        diagnostics.wait_for(lambda s: s.name == "policy" and int(values(s)["chunks"]) > 0)
        starving = ears.node.create_timer(0.3, lambda: setattr(robot, "paused", not robot.paused))
        diagnostics.wait_for(lambda s: re.match(r"no chunk: .*\(([6-9]|\d\d+) times", s.message) is not None)
        ears.node.destroy_timer(starving)
        robot.paused = False
        diagnostics.wait_for(lambda s: s.name == "policy" and s.message == "sampling", len(diagnostics.messages))
    told = [text for _, text in lines(node) if text.startswith(("no chunk", "sampling"))]
    after = told[told.index("sampling") + 1 :]
    assert len({re.sub(r"\d+", "", text.split(" (")[0]) for text in after}) >= len(after) - 2, after
    assert len(after) < 8 and sum("there was no chunk" in text for text in after) >= 1, after
    assert re.fullmatch(r"sampling; there was no chunk ([6-9]|\d\d+) times", after[-1]), after
