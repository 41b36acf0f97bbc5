"""What the policy looks at: the map lies on the patch that the network attends to, on the image that the chunk was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ros_support import Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, until, values, write_robot  # noqa: F401

pytest.importorskip("rclpy")
from sensor_msgs.msg import Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.models.attention_maps import attention_at, heat_maps
from flow_policy_ros.nodes.policy_attention import PolicyAttention
from flow_policy_ros.policy.attended import heats, patches_of
from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import features_to_message, image_from_message, image_to_message
from flow_policy_ros.ros.messages import chunk_from_message, from_time
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features, Observation
from flow_policy_ros.vision.heat_map import draw_attention

JOINTS = ("shoulder", "elbow")
GRID = (3, 4)
CELLS = GRID[0] * GRID[1]
MAP = StreamContract("backbone", CELLS, 2, {"extractor": "backbone", "grid": list(GRID)})
OBJECTS = StreamContract("objects", 2, 2, {})
SIZES: dict[str, dict[str, Any]] = {
    "dit_cross": {"width": 16, "blocks": 2, "heads": 2, "time_width": 16, "state_width": 16},
    "deep_features": {"width": 16, "layers": 2, "heads": 2, "hidden": 24, "prefix_width": 16, "prefix_hidden": 24},
    "residual_mlp": {"width": 16, "blocks": 1},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def checkpoint(network: str, *streams: StreamContract) -> Checkpoint:
    """Random weights in every layer."""
    contract = Contract("two_joints", JOINTS, JOINTS, 10_000_000, 16, streams)
    model = FlowModel(network, SIZES[network], network_shape([contract]))
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator)

    def unit(size: int) -> Normaliser:
        return Normaliser("mean_std", np.zeros(size), np.full(size, 0.2), ())

    return Checkpoint(model.eval(), (Codec(contract, unit(observation_dim(contract)), unit(len(JOINTS)), "absolute"),))


def drawn_to_marks(*streams: StreamContract) -> Checkpoint:
    """A network whose queries are all the same, and whose keys are their tokens' first channel: it looks where that is greatest."""
    result = checkpoint("dit_cross", *streams)
    network: Any = result.model.network
    with torch.no_grad():
        network.memory.project.zero_()
        network.memory.project[0] = 1.0
        network.memory.place.zero_()
        network.memory.keys_values.weight.copy_(torch.eye(16).repeat(4, 1))
        network.memory.keys_values.bias.zero_()
        for block in network.blocks:
            block.query.weight.zero_()
            block.query.bias.fill_(2.0)
    return result


def marked(cell: int, tokens: int = CELLS) -> np.ndarray:
    """Values of a stream with one mark."""
    result = np.random.default_rng(cell).normal(0.0, 0.1, (tokens, 2)).astype(np.float32)
    result[:, 0] = 0.0
    result[cell, 0] = 1.0
    return result


def observed(**features: np.ndarray) -> Observation:
    return Observation(5, np.array([0.1, -0.2]), features)


def heats_of(policy: FlowPolicy, observation: Observation) -> list[np.ndarray]:
    conditioning = policy.remembered(observation)
    assert conditioning is not None
    return heats(policy, conditioning, policy.noise(5, 3), patches_of(policy))


@pytest.mark.parametrize("cell", [0, 6, 11])
def test_the_map_is_hot_where_the_network_looks(cell: int) -> None:
    """Behind another stream's tokens, whatever these are like."""
    policy = FlowPolicy(drawn_to_marks(OBJECTS, MAP))
    (heat,) = heats_of(policy, observed(objects=np.zeros((2, 2), np.float32), backbone=marked(cell)))
    assert heat.shape == GRID and heat[divmod(cell, 4)] > 0.99 and heat.sum() == pytest.approx(1.0, abs=1e-5)
    grey = np.full((48, 64, 3), 100, np.uint8)
    changed = (draw_attention(grey, heat) != grey).any(axis=2).reshape(3, 16, 4, 16).sum(axis=(1, 3))
    assert np.unravel_index(changed.argmax(), GRID) == divmod(cell, 4)
    # Where the network looks at the other stream, nothing of the image is hot.
    (elsewhere,) = heats_of(policy, observed(objects=marked(1, 2), backbone=np.zeros((CELLS, 2), np.float32)))
    assert elsewhere.max() < 0.01


def test_levels_add_up_and_rows_that_are_not_used_stay_cold() -> None:
    """Two levels of 2 by 2 cells and a row besides; the policy uses rows 1, 2, 5, 6 and the last."""
    extractor = {"extractor": "yolo_tokens", "grid": [2, 2], "levels": [0, 2]}
    neck = StreamContract("yolo_tokens", 9, 2, extractor, use=(1, 2, 5, 6, 8))
    policy = FlowPolicy(drawn_to_marks(OBJECTS, neck))
    none = np.zeros((2, 2), np.float32)
    for row, cell in ((1, (0, 1)), (5, (0, 1)), (6, (1, 0))):
        (heat,) = heats_of(policy, observed(objects=none, yolo_tokens=marked(row, 9)))
        assert heat[cell] > 0.99 and heat[0, 0] == 0.0 and heat[1, 1] == 0.0
    both = np.maximum(marked(1, 9), marked(5, 9))
    (heat,) = heats_of(policy, observed(objects=none, yolo_tokens=both))
    assert heat[0, 1] > 0.99  # one half on each level
    (heat,) = heats_of(policy, observed(objects=none, yolo_tokens=marked(8, 9)))
    assert heat.max() < 0.01  # what is said of the whole image lies nowhere in it


@pytest.mark.parametrize("network", ["dit_cross", "deep_features"])
def test_the_map_is_the_networks_own_attention(network: str) -> None:
    policy = FlowPolicy(checkpoint(network, OBJECTS, MAP))
    observation = observed(objects=np.ones((2, 2), np.float32), backbone=marked(3))
    attention = attention_at(policy.model.network, policy.conditioning(observation), policy.noise(5, 3), 0.0, 1)
    (heat,) = heats_of(policy, observation)
    np.testing.assert_array_equal(heat, heat_maps(attention.mean, slice(2, 2 + CELLS), GRID)[0, 0].numpy())
    assert np.ptp(heat) > 0.1 * heat.mean()


def test_of_a_vision_language_model_each_camera_has_its_own_map(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from vlm_policy_support import folder_of, make_checkpoint, observation, picture

    from flow_policy_ros.policy.instruction import PromptReader

    whole = make_checkpoint(folder_of("smolvlm", tmp_path), cameras=("front", "wrist"))
    prompter = whole.codecs[0].prompter
    assert prompter is not None
    policy = FlowPolicy(whole, readers=[PromptReader(prompter, length=64, size=(24, 32), images=2)])
    said = policy.instruct("move the red cube", 0)
    seen = observation(7, picture(1), picture(2, camera="wrist"), *said)
    patches = patches_of(policy)
    assert [one.stream.name for one in patches] == ["frames_front", "frames_wrist"]
    assert policy.remembered(seen) is None  # not looked at for the sake of a map
    conditioning = policy.conditioning(seen)
    found = heats(policy, conditioning, policy.noise(7, 0), patches)
    attention = attention_at(policy.model.network, conditioning, policy.noise(7, 0), 0.0, 1).mean
    seen_tokens: Any = conditioning.prefix
    shares = attention.mean(dim=1)[seen_tokens.image]
    rows, columns = patches[0].grid
    assert rows * columns * 2 == len(shares)
    for k, heat in enumerate(found):
        np.testing.assert_array_equal(heat.ravel(), shares[k * rows * columns : (k + 1) * rows * columns].numpy())
    assert 0.0 < sum(float(heat.sum()) for heat in found) < 1.0


def test_what_cannot_be_drawn_says_why(ears: Ears, tmp_path: Path) -> None:
    robot = load_robot(write_robot(tmp_path))
    first = StreamContract("backbone", CELLS, 2, MAP.extractor, moment="first")
    for whole, reason in (
        (checkpoint("residual_mlp", MAP), "attends to none of its tokens; use dit_cross"),
        (checkpoint("dit_cross", OBJECTS), "has tokens in a grid"),
        (checkpoint("dit_cross", first), "has tokens in a grid over a camera's newest image"),
    ):
        attention = PolicyAttention(ears.node, FlowPolicy(whole), robot, {})
        attention.attend()
        assert reason in str(attention.report()["attention"])
        attention.close()
    sound = PolicyAttention(ears.node, FlowPolicy(checkpoint("dit_cross", MAP)), robot, {})
    until(lambda: ears.node.count_publishers("policy/attention") > 0, "there is no topic")
    assert ears.node.count_publishers("policy/attention") == 1  # and none on which nothing would ever come
    assert sound.report() == {"attention": "nobody looks"}
    sound.close()


def test_live_it_is_drawn_while_somebody_looks(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot_file = write_robot(tmp_path)
    save_checkpoint(tmp_path / "policy", drawn_to_marks(MAP))
    policy = FlowPolicy.load(tmp_path / "policy")
    diagnostics, chunks = ears.diagnostics(), ears.listen(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    camera, stream = ears.speak(Image, "camera/image_raw", qos.IMAGE), ears.speak(Image, "features/backbone")
    info = ears.speak(String, "features/backbone/info", qos.LATCHED)
    info.publish(String(data=json.dumps(MAP.extractor)))
    patient = {"policy__joint_state_max_age_s": 8.0, "policy__features_max_age_s": 8.0}
    node = launcher.node("policy_node", robot_file, policy__checkpoint=tmp_path / "policy", policy__steps=2, **patient)
    sent: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def see() -> None:
        stamp = ears.now()
        number = len(sent)
        picture = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        sent[stamp] = picture, marked(number % CELLS)
        camera.publish(image_to_message(picture, stamp))
        stream.publish(features_to_message(Features(stamp, "backbone", sent[stamp][1])))

    def policy_says(accept: Any, what: str) -> Any:
        return diagnostics.wait_for(lambda s: s.name == "policy" and accept(values(s)), len(diagnostics.messages), what)

    def as_expected(message: Image, covered: Any = None) -> bool:
        stamp = from_time(message.header.stamp)
        picture, features = sent[stamp]
        (heat,) = heats_of(policy, observed(backbone=features))
        return np.array_equal(image_from_message(message), draw_attention(picture, heat, 2, None, covered))

    with ears.insisting(see):
        chunk_from_message(chunks.wait_for())
        policy_says(lambda v: v["attention"] == "nobody looks" and "attention_ms.p50" not in v, "it is drawn for nobody")
        assert ears.node.count_subscribers("camera/image_raw") == 0
        messages: list[Image] = []
        looking = ears.node.create_subscription(Image, "policy/attention", messages.append, qos.IMAGE)
        policy_says(lambda v: v["attention"] == "drawn" and "attention_ms.p50" in v, "it is not drawn")
        until(lambda: len(messages) >= 3, "no more comes")
        assert all(as_expected(message) for message in messages[1:3])  # before the first, its image was not listened to
        assert messages[1].header.frame_id == "front"

        # The extractor says that it looks at the left half only.
        half = (0.0, 0.0, 32.0, 48.0)
        info.publish(String(data=json.dumps({**MAP.extractor, "covered": half})))
        until(lambda: as_expected(messages[-1], half), "it does not obey what the extractor says of itself")

        ears.node.destroy_subscription(looking)
        until(lambda: ears.node.count_subscribers("camera/image_raw") == 0, "the camera is listened to for nobody")
        policy_says(lambda v: v["attention"] == "nobody looks", "it is drawn for nobody")
        before = len(chunks.messages)
        chunks.wait_for(after=before)
    assert node.alive() and "Traceback" not in node.output
