"""A recording played into the live nodes over DDS, and through the replay engine: the published commands are equal, bit for bit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from ros_support import Ears, Launcher, ears_fixture, launcher_fixture, values  # noqa: F401

pytest.importorskip("rclpy")
pytest.importorskip("ultralytics")
from demo_support import OBJECTS, untrained_policy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState as JointStateMsg

from flow_policy_ros.data.bag_events import CommandEvent
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.evaluation.replay.engine import replay
from flow_policy_ros.evaluation.replay.records import ReplayMeta, ReplayTick
from flow_policy_ros.evaluation.replay.stack import ReplaySelection, events_of, load_replay, sources_of
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.inject import Injection
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Features

LATENCY = LatencyProfile({"perception": (4.0, 23.0, 31.0), "inference": (2.0, 17.0)})
LOST_CHUNKS, LOST_FRAMES = "delay=0.0..0.03,drop-chunks=0.1", ",drop-frames=0.2"
SHARED = Path(__file__).parents[2] / "shared" / "bags"


@dataclass
class Sent:
    """A sink that keeps every set-point, by the stamp of its tick."""

    commands: dict[int, bytes] = field(default_factory=dict)
    ticks: int = 0

    def begin(self, meta: ReplayMeta) -> None: ...

    def on_joint_state(self, state: object, received: int) -> None: ...

    def on_recorded(self, command: CommandEvent) -> None: ...

    def on_bad(self, event: object) -> None: ...

    def on_features(self, seen: object) -> None: ...

    def on_chunk(self, sampled: object) -> None: ...

    def on_tick(self, tick: ReplayTick) -> None:
        self.ticks += 1
        if tick.tick.setpoint is not None:
            self.commands[tick.now] = tick.tick.setpoint.position.tobytes()

    def end(self) -> None: ...


@dataclass(frozen=True)
class Case:
    """What is played, by which robot and policy; ``streams`` of recorded features."""

    bag: Path
    robot: Path
    checkpoint: Path
    detector: Path | None = None
    streams: tuple[str, ...] = ()


def irregular_bag(folder: Path, joints: tuple[str, ...]) -> Path:
    """1.5 s of joint states at 73 Hz and features at 31 Hz that arrive 1 to 40 ms after their stamps, some out of order."""
    draw = np.random.default_rng(3)
    bag = Rosbag2Writer(folder)
    sent: list[tuple[int, str, str, bytes]] = []
    for k in range(110):
        stamp = 5_000_000_000 + int(k * 1e9 / 73)
        position = 0.05 * np.sin(k / 15 + np.arange(len(joints)))
        data = messages.joint_state(stamp, joints, position)
        sent.append((stamp + int(draw.uniform(1e6, 4e7)), "/joint_states", messages.JOINT_STATE, data))
    for k in range(46):
        stamp = 5_000_000_000 + int(k * 1e9 / 31)
        seen = Features(stamp, "objects", draw.normal(size=(1, 12)).astype(np.float32))
        sent.append((stamp + int(draw.uniform(1e6, 4e7)), "/features/objects", messages.IMAGE, messages.features(seen)))
    for received, topic, kind, data in sorted(sent, key=lambda entry: entry[0]):
        bag.put(topic, kind, received, data)
    bag.close()
    return folder


def sample(root: Path, folder: Path) -> Case:
    """The shipped sample: camera, detector and policy as they are."""
    checkpoints = root / "checkpoints"
    return Case(
        root / "samples/adroit_door/seed_5000", root / "config/robots/adroit_door.yaml",
        checkpoints / "adroit_door_camera", checkpoints / "adroit_door_detector",
    )  # fmt: skip


def irregular(root: Path, folder: Path) -> Case:
    """Joint states that are neither at the control rate nor on time, and recorded features."""
    robot = root / "config/robots/adroit_door.yaml"
    loaded = load_robot(robot)
    policy = untrained_policy(folder / "policy", loaded, OBJECTS)
    return Case(irregular_bag(folder / "bag", loaded.joints), robot, policy, streams=("objects",))


def servo_arm(root: Path, folder: Path) -> Case:
    """A real arm at 16 Hz, whose joints have other names in the recording."""
    robot = root / "test/robots_for_bags/ats-mcap-short.yaml"
    if not SHARED.is_dir():
        pytest.skip("needs the shared recordings")
    bag = next((SHARED / "ats-mcap-short").glob("ros2bag*"))
    return Case(bag, robot, untrained_policy(folder / "policy", load_robot(robot)))


@pytest.mark.parametrize(("make", "mode"), [(sample, "receding"), (irregular, "rtc"), (servo_arm, "receding")])
def test_live_nodes_publish_what_the_replay_gives(
    launcher: Launcher, ears: Ears, tmp_path: Path, root: Path, make: object, mode: str
) -> None:
    torch.set_num_threads(1)
    case: Case = make(root, tmp_path)  # type: ignore[operator]
    LATENCY.save(tmp_path / "latency.json")
    # A node has no operator: what would be a fault live is no part of this. Limits act all the same.
    settings = {"policy.steps": 5, "policy.seed": 7, "policy.mode": mode, "policy.rate_hz": 30.0,
                "policy.joint_state_max_age_s": 0.5, "command.joint_state_max_age_s": 5.0, "command.stall_s": 10.0,
                "command.soft_start_s": 0.0, "command.first_command_max": 10.0, "command.tracking_time_s": 10.0}  # fmt: skip

    inject = LOST_CHUNKS + (LOST_FRAMES if case.detector is not None else "")
    selection = ReplaySelection(
        case.robot, case.checkpoint, case.detector, settings, Injection.parse(inject), str(tmp_path / "latency.json")
    )
    parts = load_replay(selection)
    sent = Sent()
    with contextlib.closing(open_bag(case.bag)) as bag:
        sources = sources_of(bag, parts)
        events = events_of(bag, parts.robot, sources, "header")
        stack, ahead = parts.open(sources)
        period = round(1e9 / parts.parts.command_parameters.rate_hz)
        meta = ReplayMeta(str(case.bag), "", "", parts.robot.joints, period)
        replayed = replay(events, stack, [sent], meta, sources.camera, ahead)
    assert len(set(sent.commands.values())) > 20, replayed.problems  # it moves, so that equality means something
    assert not stack.command.statistics().faults

    flags = {name.replace(".", "__"): value for name, value in settings.items()}
    lockstep = {"lockstep__enabled": True, "lockstep__timeout_s": 250.0}
    delayed = {**lockstep, "lockstep__latency": tmp_path / "latency.json", "lockstep__inject": inject, "lockstep__seed": 7}
    policy = {name: value for name, value in flags.items() if name.startswith("policy")}
    command = {name: value for name, value in flags.items() if name.startswith("command")}
    launcher.node("policy_node", case.robot, policy__checkpoint=case.checkpoint, **policy, **delayed)
    launcher.node("command_node", case.robot, **command, **delayed)
    if case.detector is not None:
        launcher.node("perception_node", case.robot, perception__detector=case.detector, **lockstep)
    features = {"player__features": " ".join(case.streams)} if case.streams else {}
    launcher.node("player_node", case.robot, player__bag=case.bag, **features, **lockstep)
    executed = ears.listen(JointStateMsg, "command/executed")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    status = ears.listen(DiagnosticStatus, "player/status", latched)
    for service in ("policy/reset", "command/reset", "player/start"):
        assert ears.trigger(service).success
    done = status.wait_for(lambda s: values(s)["state"] == "done", what="the recording did not end")
    assert int(values(done)["ticks"]) == sent.ticks
    executed.wait_count(len(sent.commands))

    given = {from_time(message.header.stamp): np.array(message.position).tobytes() for message in executed.messages}
    assert sorted(given) == sorted(sent.commands)
    different = [stamp for stamp in sorted(given) if given[stamp] != sent.commands[stamp]]
    assert different == []
