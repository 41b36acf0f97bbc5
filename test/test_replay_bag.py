"""``replay.mcap`` read back by readers that are not ours: everything that the replay told is in it, when and where it belongs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_support import JOINTS, ROBOT, START, TICK, chunk_to, state
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.evaluation.replay.replay_bag import ReplayBag
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Mimic, Robot
from flow_policy_ros.runtime.types import Features
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick

BEGIN = 1_700_000_000_000_000_000
TICKS = 150
META = ReplayMeta("recording", "toy", "policy", JOINTS, TICK, {"policy.mode": "rtc"})
Read = dict[str, list[tuple[int, Any]]]


def read(path: Path) -> Read:
    """By topic, decoded with nothing but the definitions in the file: what Foxglove does."""
    found: Read = defaultdict(list)
    stores: dict[str, Any] = {}
    with path.open("rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            assert schema is not None and (schema.encoding, channel.message_encoding) == ("ros2msg", "cdr")
            if schema.name not in stores:
                stores[schema.name] = get_typestore(Stores.EMPTY)
                stores[schema.name].register(get_types_from_msg(schema.data.decode(), schema.name))
            decoded = stores[schema.name].deserialize_cdr(message.data, schema.name)
            found[channel.topic].append((message.log_time, decoded))
    return found


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def played(path: Path, robot: Robot = ROBOT) -> list[CommandTick]:
    """A command stage that is given chunks too fast for it, then an emergency stop; the ticks that it made."""
    loop = CommandLoop(robot, CommandParameters(first_command_max=10.0, soft_start_s=0.0, slow_down=False))
    bag = ReplayBag(path, robot)
    bag.begin(META)
    made = []
    picture = np.full((30, 40, 3), 90, np.uint8)
    for k in range(TICKS):
        now = BEGIN + k * TICK
        joint_state = state(now - 1_000_000)
        bag.on_joint_state(joint_state, now)
        loop.on_joint_state(joint_state, now)
        bag.on_recorded(CommandEvent(now - 3_000_000, now - 4_000_000, JOINTS, START + k))
        if k % 10 == 5:
            features = Features(now - 2_000_000, "objects", np.full((2, 3), k, np.float32))
            boxes = np.array([[5.0, 5.0, 20.0, 20.0]], np.float32)
            lost = k == 25
            bag.on_features(ReplayFeatures(features, now, now + 3 * TICK, lost, 1.0, picture, boxes, ("cup",)))
        if k % 20 == 10:
            chunk = chunk_to(now, [0.8, -0.8, 0.3] if k % 40 == 10 else START)
            lost, ready = k == 50, now + 2 * TICK + 1
            if not lost:
                loop.on_chunk(chunk, ready)
            bag.on_chunk(ReplayChunk(now, chunk, ready, lost, 7.5))
        if k == 60:
            bag.on_bad(BadEvent(now, "/joint_states", "not a joint state; look."))
        if k == 120:
            loop.on_emergency_stop(True, now)
        tick = loop.tick(now)
        made.append(tick)
        bag.on_tick(ReplayTick(now, tick, 0.05, "features too old" if k == 70 else "", k == 80))
    bag.end()
    return made


@pytest.fixture(name="made", scope="module")
def made_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[CommandTick]]:
    path = tmp_path_factory.mktemp("replay") / "replay.mcap"
    return path, played(path)


def test_commands_and_plans_are_those_of_the_ticks(made: tuple[Path, list[CommandTick]]) -> None:
    path, ticks = made
    found = read(path)
    sent = [tick.setpoint for tick in ticks if tick.setpoint is not None]
    assert len(sent) > 100
    for (at, executed), (_, command), setpoint in zip(
        found["/command/executed"], found["/joint_command"], sent, strict=True
    ):
        assert at == stamp_of(executed) == stamp_of(command) == setpoint.stamp
        assert tuple(executed.name) == tuple(command.joint_names) == JOINTS
        np.testing.assert_array_equal(executed.position, setpoint.position)
        np.testing.assert_array_equal(executed.velocity, setpoint.velocity)
        (point,) = command.points
        np.testing.assert_array_equal(point.positions, setpoint.position)
        assert point.time_from_start.nanosec == TICK
    plans = [tick.plan for tick in ticks if tick.plan is not None]
    assert plans
    for (_, message), plan in zip(found["/command/plan"], plans, strict=True):
        assert (stamp_of(message), message.header.frame_id) == (plan.stamp, str(plan.chunk_stamp))
        np.testing.assert_array_equal([p.positions for p in message.points], plan.positions)


def test_inputs_are_there_when_they_were_received(made: tuple[Path, list[CommandTick]]) -> None:
    found = read(made[0])
    assert [at for at, _ in found["/joint_states"]] == [BEGIN + k * TICK for k in range(TICKS)]
    assert all(stamp_of(message) == at - 1_000_000 for at, message in found["/joint_states"])
    recorded = found["/replay/recorded"]
    assert [at for at, _ in recorded] == [BEGIN + k * TICK - 3_000_000 for k in range(TICKS)]
    np.testing.assert_array_equal([m.position for _, m in recorded], [START + k for k in range(TICKS)])


def test_chunks_and_features_come_when_they_are_ready_and_lost_ones_not(made: tuple[Path, list[CommandTick]]) -> None:
    found = read(made[0])
    chunks = [k for k in range(10, TICKS, 20) if k != 50]
    for topic in ("/policy/chunk", "/policy/chunk_info"):
        assert [at for at, _ in found[topic]] == [BEGIN + (k + 2) * TICK + 1 for k in chunks]
    assert [stamp_of(message) for _, message in found["/policy/chunk"]] == [BEGIN + k * TICK for k in chunks]
    info = {pair.key: pair.value for pair in found["/policy/chunk_info"][0][1].values}
    assert info["stamp"] == str(BEGIN + 10 * TICK) and info["duration_ms"] == "7.500" and info["horizon"] == "40"
    seen = [k for k in range(5, TICKS, 10) if k != 25]
    assert [at for at, _ in found["/features/objects"]] == [BEGIN + (k + 3) * TICK for k in seen]
    first = found["/features/objects"][0][1]
    assert (first.encoding, first.height, first.width) == ("32FC1", 2, 3)
    np.testing.assert_array_equal(first.data.view("<f4"), np.full(6, 5.0, np.float32))


def test_pictures_show_what_was_detected(made: tuple[Path, list[CommandTick]]) -> None:
    at, message = read(made[0])["/perception/overlay/compressed"][0]
    assert at == BEGIN + 5 * TICK and stamp_of(message) == at - 2_000_000
    picture = np.asarray(cv2.imdecode(message.data, cv2.IMREAD_COLOR), dtype=int)[..., ::-1]
    assert picture.shape == (240, 320, 3)
    off = np.abs(picture - 90).max(axis=2)
    assert off[100, 40] > 60 and off[100, 160] > 60  # the sides of the box
    assert off[200, 250] < 12  # nothing is drawn there


def test_interventions_add_up(made: tuple[Path, list[CommandTick]]) -> None:
    path, ticks = made
    found = read(path)
    total = 0
    for kind in ("position", "velocity", "acceleration", "jerk"):
        changes = found[f"/replay/interventions/{kind}"]
        assert tuple(changes[0][1].name) == JOINTS and changes[0][0] == BEGIN
        steps = [(at - BEGIN) // TICK for at, _ in changes] + [TICKS]
        acting = np.concatenate([
            np.tile(message.position, (stop - start, 1))
            for (_, message), start, stop in zip(changes, steps, steps[1:], strict=False)
        ])  # fmt: skip
        expected = [np.zeros(3) if t.interventions is None else t.interventions.get(kind, np.zeros(3)) for t in ticks]
        np.testing.assert_array_equal(acting, expected)
        total += int(acting.sum())
    assert total > 0
    values = {pair.key: pair.value for pair in found["/diagnostics"][-1][1].status[0].values}
    assert sum(int(v) for key, v in values.items() if key.startswith("interventions.")) == total


def test_diagnostics_tell_the_state_and_what_went_wrong(made: tuple[Path, list[CommandTick]]) -> None:
    path, ticks = made
    found = read(path)
    reports = [(at, message.status[0], {p.key: p.value for p in message.status[0].values}) for at, message in found["/diagnostics"]]
    states: dict[int, str] = {at: values["state"] for at, _, values in reports}
    shown = ""
    for k, tick in enumerate(ticks):
        shown = states.get(BEGIN + k * TICK, shown)
        assert shown == tick.state.value, k
    fault = next(values for at, status, values in reports if at == BEGIN + 120 * TICK)
    assert fault["faults"] == "emergency_stop"
    assert [status.level for at, status, _ in reports if at == BEGIN + 120 * TICK] == [2]
    assert any(values["stale"] == "features too old" for _, _, values in reports)
    assert any(values["reset"] == "True" for at, _, values in reports if at == BEGIN + 80 * TICK)
    last = reports[-1][2]
    expected = {"chunks": "6", "chunks_lost": "1", "features_lost": "1", "stale": "1", "resets": "1", "bad_inputs": "1"}
    assert {name: last[f"count.{name}"] for name in expected} == expected
    (bad,) = found["/replay/bad"]
    assert (bad[1].name, bad[1].message) == ("/joint_states", "not a joint state; look.")


def test_the_file_lies_in_the_order_of_receipt_and_opens_as_a_bag(made: tuple[Path, list[CommandTick]]) -> None:
    path, _ = made
    with path.open("rb") as stream:
        instants = [m.log_time for _, _, m in make_reader(stream).iter_messages(log_time_order=False)]
    assert instants == sorted(instants)
    bag = open_bag(path)
    try:
        assert not bag.problems
        assert [m.received for m in bag.messages()] == instants
        message = next(iter(bag.messages(["/command/executed"])))
        assert tuple(bag.decode(message).name) == JOINTS
    finally:
        bag.close()


def test_it_opens_with_rosbags(made: tuple[Path, list[CommandTick]]) -> None:
    path, ticks = made
    with AnyReader([path]) as reader:
        (executed,) = (c for c in reader.connections if c.topic == "/command/executed")
        read_back = [reader.deserialize(raw, executed.msgtype) for _, _, raw in reader.messages([executed])]
    assert [tuple(m.position) for m in read_back] == [tuple(t.setpoint.position) for t in ticks if t.setpoint is not None]


@pytest.mark.parametrize(
    ("interface", "kind"),
    [("float64_array", "std_msgs/msg/Float64MultiArray"), ("joint_state", "sensor_msgs/msg/JointState"),
     ("joint_trajectory_chunk", "trajectory_msgs/msg/JointTrajectory")],
)  # fmt: skip
def test_commands_have_the_form_and_the_order_of_the_controller(tmp_path: Path, interface: str, kind: str) -> None:
    order = ("c", "a", "b", "tip")
    mimics = (Mimic("tip", "b", 2.0, 0.5),)
    robot = replace(ROBOT, command_interface=interface, command_topic="/arm/forward", command_joints=order, mimics=mimics)
    ticks = played(tmp_path / "replay.mcap", robot)
    found = read(tmp_path / "replay.mcap")["/arm/forward"]
    sent = [tick.setpoint for tick in ticks if tick.setpoint is not None]
    for (_, message), setpoint in zip(found, sent, strict=True):
        assert message.__msgtype__ == kind
        a, b, c = setpoint.position
        values = message.data if interface == "float64_array" else message.position if interface == "joint_state" \
            else message.points[0].positions
        np.testing.assert_allclose(values, [c, a, b, 2 * b + 0.5], rtol=0, atol=1e-15)
        if interface == "joint_state":
            assert tuple(message.name) == order
            np.testing.assert_allclose(message.velocity[3], 2 * setpoint.velocity[1], rtol=0, atol=1e-12)


def test_a_replay_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "replay.mcap"
    path.write_bytes(b"something else")
    bag = ReplayBag(path, ROBOT)
    bag.begin(META)
    bag.end()
    assert read(path) == {}
    with path.open("rb") as stream:
        (record,) = make_reader(stream).iter_metadata()
    assert record.metadata == {"bag": "recording", "robot": "toy", "checkpoint": "policy", "policy.mode": "rtc"}
