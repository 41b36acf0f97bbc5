"""One rule for the pictures that a policy looks at itself, and for the depth beside them: whether a camera's image may be used, and
for how long depth is waited for, is the same in training, in replay and in the nodes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from ros_support import write_robot

from flow_policy_ros.data.bag_events import BadEvent, ImageEvent
from flow_policy_ros.evaluation.replay.perceive import perceive
from flow_policy_ros.evaluation.setup import load_parts
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.latency import NO_LATENCY
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.training.config import TrainConfig
from flow_policy_ros.training.frames import FrameExtract
from flow_policy_ros.vision.decode import ImageError
from flow_policy_ros.vision.frames import FrameFeatures
from flow_policy_ros.vision.pretrained import ExtractorError

SIZE = (24, 32)
SECOND = 1_000_000_000


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return load_robot(write_robot(tmp_path))


def sent(encoding: str, width: int = 64, height: int = 48) -> EncodedImage:
    step = width * {"rgb8": 3, "16UC1": 2, "32FC1": 4}[encoding]
    return EncodedImage(encoding, height, width, step, bytes([1]) * (step * height))


BAD = [
    (sent("16UC1"), ImageError, "encoding '16UC1', a depth image"),
    (sent("32FC1"), ImageError, "encoding '32FC1', a depth image"),
    (sent("rgb8", 32, 24), ExtractorError, "image of 32 by 24 pixels, expected 64 by 48 of camera 'front'"),
]


@pytest.mark.parametrize(("image", "error", "said"), BAD)
def test_training_refuses_what_the_robot_refuses(robot: Robot, tmp_path: Path, image, error, said) -> None:
    looking = dict(streams=(), network="deep_expert", vlm="none", frames=("front=24x32",))
    extract = FrameExtract(TrainConfig(data=(tmp_path,), out=tmp_path, **looking), robot)  # type: ignore[arg-type]
    good = extract(ImageEvent(5, 5, "front", sent("rgb8")))
    assert good is not None and good.values.shape == (24, 96)
    with pytest.raises(error, match=said):
        extract(ImageEvent(5, 5, "front", image))


@pytest.mark.parametrize(("image", "error", "said"), BAD)
def test_the_node_refuses_it(robot: Robot, image, error, said) -> None:
    pytest.importorskip("rclpy")
    from flow_policy_ros.nodes.policy_sight import views
    from flow_policy_ros.runtime.contract import Contract

    maker = FrameFeatures(SIZE, "front")
    stream = StreamContract("frames", maker.tokens, maker.channels, maker.identity())
    prompt = StreamContract("prompt", 4, 2, {"extractor": "prompt"}, moment="standing")
    view = views(Contract(robot.name, robot.joints, robot.joints, 10_000_000, 4, (stream, prompt)), robot)["frames"]
    assert view.frame(sent("rgb8"), 5).values.shape == (24, 96)
    with pytest.raises(error, match=said):
        view.frame(image, 5)


def test_replay_refuses_it(robot: Robot, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("rclpy")
    from test_nodes_language import looking_policy

    checkpoint = looking_policy(tmp_path / "policy", robot)
    parts = load_parts(robot, {**robot.parameters, "policy.checkpoint": str(checkpoint)}, None)
    assert parts.perception is not None
    assert not isinstance(perceive(parts.perception, ImageEvent(5, 5, "front", sent("rgb8")), 5, NO_LATENCY, 0), BadEvent)
    for image, _, said in BAD:
        bad = perceive(parts.perception, ImageEvent(5, 5, "front", image), 5, NO_LATENCY, 0)
        assert isinstance(bad, BadEvent) and said in bad.reason


def test_depth_is_waited_for_also_once_the_clock_was_set_back(tmp_path: Path) -> None:
    rclpy = pytest.importorskip("rclpy")
    from flow_policy_ros.nodes.perception_depth import DepthTopics
    from flow_policy_ros.ros.images import camera_info_to_message, encoded_to_message

    front = {"topic": "front", "width": 64, "height": 48, "rate_hz": 10.0, "depth": {"topic": "depth", "tolerance_s": 0.01}}
    camera = load_robot(write_robot(tmp_path, cameras={"front": front})).cameras[0]
    context = rclpy.context.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("depth", context=context)
    refused: list[ValueError] = []
    try:
        depth = DepthTopics(node, camera, "points", (2, 2), None, False, lambda points: None, refused.append)
        depth._patience_s = 20.0
        matrix = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
        depth._on_info(camera_info_to_message(matrix, 64, 48, 0, "front"))
        image = np.zeros((48, 64, 3), np.uint8)
        far = EncodedImage("32FC1", 48, 64, 256, np.ones((48, 64), "<f4").tobytes())

        def add(seconds: float) -> None:
            depth._on_depth(encoded_to_message(far, round(seconds * SECOND), "front"))

        for k in range(4):
            add(100 + 0.1 * k)
        assert depth.points(image, round(100.3 * SECOND)).values[:, 3].all()
        for seconds in (5.0, 5.1):
            later = threading.Timer(0.05, add, (seconds,))
            later.start()
            assert depth.points(image, round(seconds * SECOND)).values[:, 3].all()
            later.join()
        assert not refused
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_picture_of_any_size_is_taken_where_no_camera_is_known() -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    assert FrameFeatures(SIZE, "front").extract(image, 0).values.shape == (24, 96)
    with pytest.raises(ExtractorError, match="12 by 10 pixels, expected 64 by 48"):
        FrameFeatures(SIZE, "front", seen=(48, 64)).extract(image, 0)
