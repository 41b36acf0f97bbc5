"""Four real processes over DDS in lockstep give the commands of one process, bit for bit: camera, delays and all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ros_support import Ears, Launcher, ears_fixture, launcher_fixture, values  # noqa: F401

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState as JointStateMsg

from flow_policy_ros.evaluation.closed_loop import Stack, run_episode
from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.parameters import CommandParameters, PolicyParameters, from_flat
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.vision.detector import build_network, load_detector
from flow_policy_ros.vision.features import DetectionFeatures
from flow_policy_ros.vision.training import architecture_of, save_detector

STEPS = 40
CONFIDENCE = 0.5
CLASSES = ("palm", "handle")


def untrained_detector(folder: Path) -> Path:
    torch.manual_seed(0)
    architecture = architecture_of("yolo11n.yaml")
    network = build_network(architecture, CLASSES)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()(torch.rand(4, 3, 96, 96))  # normalises every layer, so that the output depends on the image
    for branch in network.model[-1].cv3:  # scores about one half, so that something is found
        branch[-1].bias.data.zero_()
    return save_detector(folder, network, architecture, "yolo11n", CLASSES, 96, {})


def untrained_policy(folder: Path, robot: Robot, detector: dict[str, object]) -> Path:
    """Weights drawn at random in every layer, so that the chunk depends on every input."""
    streams = (StreamContract("detections", len(CLASSES), 5, detector), StreamContract("objects", 1, 12, {}))
    contract = Contract(robot.name, robot.joints, robot.joints, 10_000_000, 16, streams)
    shape = network_shape([contract])
    model = FlowModel("residual_mlp", {"width": 32, "blocks": 1}, shape)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)

    def unit(size: int, scale: float) -> Normaliser:
        return Normaliser("mean_std", np.zeros(size), np.full(size, scale), ())

    codec = Codec(contract, unit(observation_dim(contract), 1.0), unit(shape.action, 0.2), "absolute")
    save_checkpoint(folder, Checkpoint(model, (codec,)))
    return folder


@pytest.mark.parametrize("mode", ["receding", "rtc"])
def test_the_nodes_give_what_one_process_gives(
    launcher: Launcher, ears: Ears, tmp_path: Path, root: Path, mode: str
) -> None:
    torch.set_num_threads(1)
    robot_file = root / "config/robots/adroit_door.yaml"
    robot = load_robot(robot_file)
    features = DetectionFeatures(load_detector(untrained_detector(tmp_path / "detector"), confidence=CONFIDENCE))
    checkpoint = untrained_policy(tmp_path / "policy", robot, features.identity())
    latency = LatencyProfile({"perception": (4.0, 23.0, 31.0), "inference": (2.0, 17.0)})
    latency.save(tmp_path / "latency.json")

    lockstep = {"lockstep__enabled": True, "lockstep__timeout_s": 250.0}
    delayed = {**lockstep, "lockstep__latency": tmp_path / "latency.json", "lockstep__seed": 5}
    episode = {"sim__seed": 11, "sim__episode": 3, "sim__steps": STEPS}
    detector = {"perception__detector": tmp_path / "detector", "perception__confidence": CONFIDENCE}
    launcher.node("sim_node", robot_file, sim__task="door", **episode, **lockstep)
    chosen = {"policy.steps": 5, "policy.seed": 7, "policy.mode": mode, "policy.rate_hz": 30.0}
    flags = {name.replace(".", "__"): value for name, value in chosen.items()}
    launcher.node("policy_node", robot_file, policy__checkpoint=checkpoint, **flags, **delayed)
    launcher.node("command_node", robot_file, **delayed)
    executed = ears.listen(JointStateMsg, "command/executed")
    chunk_info = ears.listen(DiagnosticStatus, "policy/chunk_info")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    status = ears.listen(DiagnosticStatus, "sim/status", latched)
    for service in ("policy/reset", "command/reset"):
        assert ears.trigger(service).success
    ears.begin_episode()
    # Only now, so that the episode has begun while nobody takes its first image.
    launcher.node("perception_node", robot_file, **detector, **lockstep)

    chosen = {**robot.parameters, **chosen}
    policy_parameters = from_flat(PolicyParameters, "policy", chosen)
    stack = Stack(
        PolicyLoop(FlowPolicy.load(checkpoint), policy_parameters),
        CommandLoop(robot, from_flat(CommandParameters, "command", chosen)), features, latency, latency_seed=5, privileged=True,
    )  # fmt: skip
    sim = AdroitRobot("door", robot)
    expected = run_episode(sim, stack, seed=11, episode=3, steps=STEPS)
    assert len({v.tobytes() for v in expected.commands}) > 20  # it moves, so that equality means something
    assert features.last is not None and len(features.last.scores)  # and something was detected

    done = status.wait_for(lambda s: values(s)["state"] == "done", what="the episode did not end")
    assert values(done)["step"] == str(STEPS)
    executed.wait_count(STEPS)

    commands = {from_time(message.header.stamp): message.position for message in executed.messages}
    given = np.array([commands[stamp] for stamp in sorted(commands)])
    assert given.tobytes() == expected.commands.tobytes()
    assert len(chunk_info.messages) == expected.chunks
    seen = [int(values(info)["observation.detections"]) for info in chunk_info.messages]
    assert all(stamp > 0 for stamp in seen) and seen == sorted(seen)
    assert {values(info)["mode"] for info in chunk_info.messages} == {mode}
    continued = [values(info)["continued"] == "True" for info in chunk_info.messages]
    assert not continued[0] and any(continued) == (mode == "rtc")


def test_a_checkpoint_for_another_robot_is_refused(launcher: Launcher, tmp_path: Path, root: Path) -> None:
    robot = load_robot(root / "config/robots/adroit_door.yaml")
    checkpoint = untrained_policy(tmp_path / "policy", robot, {})
    wrong_robot = launcher.node(
        "policy_node", root / "config/robots/adroit_pen.yaml", policy__checkpoint=checkpoint
    )
    wrong_path = launcher.node("policy_node", root / "config/robots/adroit_door.yaml", policy__checkpoint="nowhere")
    for node, words in ((wrong_robot, ["ARTz", "adroit_pen"]), (wrong_path, ["nowhere"])):
        assert node.wait() == 2
        assert "Traceback" not in node.output and len(node.output.splitlines()) == 1
        assert all(word in node.output for word in words), node.output
    assert json.loads((checkpoint / "contract.json").read_text())["robot"] == "adroit_door"
