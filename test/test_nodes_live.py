"""Perception and policy node as real processes: what they say when their inputs are silent, odd or foreign."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ros_support import JOINTS, Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
from sensor_msgs.msg import Image
from std_msgs.msg import String
from test_nodes_dds_lockstep import CLASSES, CONFIDENCE, untrained_detector, untrained_policy
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import features_from_message, features_to_message, image_to_message
from flow_policy_ros.ros.messages import chunk_from_message, from_time
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features

WARN, ERROR = b"\x01", b"\x02"


def test_perception(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    detector = {"perception__detector": untrained_detector(tmp_path / "detector"), "perception__confidence": CONFIDENCE}
    diagnostics = ears.diagnostics()
    info = ears.listen(String, "features/detections/info", qos.LATCHED)
    features, overlay = ears.listen(Image, "features/detections"), ears.listen(Image, "perception/overlay")
    camera = ears.speak(Image, "camera/image_raw")
    node = launcher.node("perception_node", write_robot(tmp_path), **detector)

    silent = diagnostics.wait_for(lambda s: s.name == "perception" and s.level == ERROR)
    assert "/camera/image_raw" in silent.message
    assert json.loads(info.wait_for().data)["classes"] == list(CLASSES)

    ears.connected(camera)
    broken = image_to_message(np.zeros((48, 64, 3), np.uint8), 1)
    broken.encoding = "rgb16"
    with ears.insisting(lambda: camera.publish(broken)):
        diagnostics.wait_for(lambda s: int(values(s).get("rejections.ImageError", 0)) > 0)
    assert not features.messages
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with ears.insisting(lambda: camera.publish(image_to_message(image, 123_456_789_012))):
        seen = features_from_message(features.wait_for())
        assert from_time(overlay.wait_for().header.stamp) == 123_456_789_012
    assert (seen.stamp, seen.stream, seen.values.shape) == (123_456_789_012, "detections", (len(CLASSES), 5))
    assert node.alive()


def test_policy(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot_file = write_robot(tmp_path)
    identity = {"weights_sha256": "of the training"}
    checkpoint = untrained_policy(tmp_path / "policy", load_robot(robot_file), identity)
    diagnostics = ears.diagnostics()
    chunks = ears.listen(JointTrajectory, "policy/chunk")
    robot = FakeRobot(ears)
    detections, objects = ears.speak(Image, "features/detections"), ears.speak(Image, "features/objects")
    info = ears.speak(String, "features/detections/info", qos.LATCHED)
    patient = {"policy__joint_state_max_age_s": 8.0}  # a busy machine must not make the joint state the stale one
    node = launcher.node("policy_node", robot_file, policy__checkpoint=checkpoint, policy__steps=2, policy__profile=True, **patient)

    waiting = diagnostics.wait_for(lambda s: s.name == "policy" and s.level == WARN and "features" in s.message)
    assert "'detections'" in waiting.message and not chunks.messages

    def see() -> None:
        values = np.full((len(CLASSES), 5), 0.5, dtype=np.float32)
        detections.publish(features_to_message(Features(ears.now(), "detections", values)))
        objects.publish(features_to_message(Features(ears.now(), "objects", np.ones((1, 12), np.float32))))

    def say_odd_things() -> None:
        detections.publish(Image(encoding="rgb8"))
        robot.say(["shoulder"], [0.0])

    with ears.insisting(see):
        chunk = chunk_from_message(chunks.wait_for())
        assert set(chunk.names) == set(JOINTS) and chunk.positions.shape == (16, 2)
        stages = {f"profile_ms.{stage}.p99" for stage in ("assembly", "velocity", "decode", "publish")}
        diagnostics.wait_for(lambda s: stages <= set(values(s)))
        with ears.insisting(say_odd_things):
            counted = {"rejections.joint_state_names", "rejections.features_malformed"}
            diagnostics.wait_for(lambda s: counted <= set(values(s)))

    # the camera is silent now
    stale = diagnostics.wait_for(lambda s: s.name == "policy" and "stale" in s.message, after=len(diagnostics.messages))
    assert stale.level == WARN

    info.publish(String(data=json.dumps({"weights_sha256": "of another one"})))
    foreign = diagnostics.wait_for(lambda s: s.name == "policy" and s.level == ERROR)
    assert "weights_sha256" in foreign.message
    assert node.alive() and "Traceback" not in node.output
