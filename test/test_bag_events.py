"""What recordings say to a robot's policy: topics found by the robot file, names, stamps, and sentences on what is missing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_support import PERIOD, SAMPLE, START, STORE, TYPES, cdr, header, shared, state
from mcap.writer import Writer

from flow_policy_ros.data.bag_events import BadEvent, BagEvents, CommandEvent, FeaturesEvent, ImageEvent, JointStateEvent
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.runtime.robot import Robot, load_robot

LIMITS = "{position: [-9.0, 9.0], velocity: 1.0, acceleration: 1.0, jerk: 1.0}"


def robot(tmp_path: Path, *more: str, joints: tuple[str, ...] = ("a", "b")) -> Robot:
    """A robot of ``joints`` with the lines ``more`` in its block."""
    lines = ["/**:", "  ros__parameters:", "    robot:", "      name: test"]
    lines += [f"      joints: [{', '.join(joints)}]", "      limits:"]
    lines += [f"        {joint}: {LIMITS}" for joint in joints] + [f"      {line}" for line in more]
    path = tmp_path / "robot.yaml"
    path.write_text("\n".join(lines) + "\n")
    return load_robot(path)


def recording(tmp_path: Path, *messages: tuple[str, Any]) -> Any:
    """An opened recording; message k, (topic, object), was received at START + k PERIOD."""
    path = tmp_path / "a.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channels: dict[str, int] = {}
        for k, (topic, message) in enumerate(messages):
            kind = message.__msgtype__
            if topic not in channels:
                schema = writer.register_schema(kind, "ros2msg", STORE.generate_msgdef(kind, ros_version=2)[0].encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            received = START + k * PERIOD
            writer.add_message(channels[topic], received, cdr(message), received)
        writer.finish()
    return open_bag(path)


def trajectory(stamp: int, rows: list[list[float]], names: tuple[str, ...] = ("a", "b")) -> Any:
    duration = TYPES["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)
    empty = np.zeros(0)
    points = [
        TYPES["trajectory_msgs/msg/JointTrajectoryPoint"](
            positions=np.array(row, float), velocities=empty, accelerations=empty, effort=empty, time_from_start=duration
        )
        for row in rows
    ]
    return TYPES["trajectory_msgs/msg/JointTrajectory"](header=header(stamp), joint_names=list(names), points=points)


def array(*values: float) -> Any:
    layout = TYPES["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return TYPES["std_msgs/msg/Float64MultiArray"](layout=layout, data=np.array(values, float))


def image(stamp: int, frame: str = "", encoding: str = "rgb8", height: int = 2, width: int = 2, size: int = 3) -> Any:
    data = np.arange(height * width * size, dtype=np.uint8)
    return TYPES["sensor_msgs/msg/Image"](
        header=header(stamp, frame), height=height, width=width, encoding=encoding, is_bigendian=0, step=width * size, data=data
    )


def compressed(stamp: int) -> Any:
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(stamp), format="jpeg", data=np.arange(5, dtype=np.uint8))


def test_the_sample() -> None:
    events = BagEvents(open_bag(SAMPLE), load_robot("config/robots/adroit_door.yaml"))
    found = list(events)
    assert Counter(type(event) for event in found) == {JointStateEvent: 200, CommandEvent: 200, ImageEvent: 25}
    assert [event.received for event in found] == sorted(event.received for event in found)
    assert events.problems == [] and events.commands == "/command/executed" and not events.bad
    assert events.cameras == {"front": "/camera/image_raw/compressed"}
    assert len(list(events)) == 425 and events.problems == []  # once more


def test_events_say_what_was_recorded(tmp_path: Path) -> None:
    bag = recording(
        tmp_path, ("joint_states", state(START - 5, ("b", "a"), (2.0, 1.0), velocity=(4.0, 3.0))),
        ("/joint_command", trajectory(START + 7, [[1.0, 2.0]])), ("/eye", image(START + 9)),
        ("/features/things", image(START + 11, "things", "32FC1", 2, 3, 4)),
    )
    with_camera = robot(tmp_path, "joint_state_topic: /joint_states", "cameras:",
                        "  front: {topic: eye, width: 2, height: 2, rate_hz: 10.0}")
    events = BagEvents(bag, with_camera, features=("things",))
    states, command, picture, features = list(events)
    assert isinstance(states, JointStateEvent) and isinstance(command, CommandEvent)
    assert isinstance(picture, ImageEvent) and isinstance(features, FeaturesEvent)
    assert (states.received, states.state.stamp, states.state.names) == (START, START - 5, ("b", "a"))
    assert states.state.position.tolist() == [2.0, 1.0] and states.state.velocity is not None and states.state.effort is None
    assert states.state.position.base is None  # and does not hold the message
    assert (command.received, command.stamp, command.position.tolist()) == (START + PERIOD, START + 7, [1.0, 2.0])
    assert (picture.camera, picture.stamp, picture.image.encoding, picture.image.step) == ("front", START + 9, "rgb8", 6)
    assert bytes(picture.image.data) == bytes(range(12))
    assert (features.features.stream, features.features.stamp, features.features.values.shape) == ("things", START + 11, (2, 3))
    assert events.problems == []
    assert [type(event) for event in events.events(START + PERIOD, START + 2 * PERIOD)] == [CommandEvent]


def test_instants_of_receipt(tmp_path: Path) -> None:
    bag = recording(
        tmp_path, *[("/joint_states", state(0))] * 3, ("/joint_command", state(START - 40 * 10**9)),
        ("/features/f", image(0, "f", "32FC1", 1, 1, 4)),
    )
    events = BagEvents(bag, robot(tmp_path), features=("f",))
    assert [event.state.stamp for event in events if isinstance(event, JointStateEvent)] == [0, 0, 0]
    zero, far, _ = events.problems
    assert zero.startswith("3 of 3 messages of /joint_states have the header stamp zero") and "--stamps receive" in zero
    assert "1 of 1 messages of /joint_command were received 40.030 to 40.030 s after" in far and "--stamps receive" in far
    events = BagEvents(bag, robot(tmp_path), stamps="receive", features=("f",))
    for event in events:
        stamp = event.state.stamp if isinstance(event, JointStateEvent) else (
            event.features.stamp if isinstance(event, FeaturesEvent) else event.stamp)  # type: ignore[union-attr]
        assert stamp == event.received
    assert events.problems == []
    with pytest.raises(ValueError, match="expected 'header' or 'receive'"):
        BagEvents(bag, robot(tmp_path), stamps="both")  # type: ignore[arg-type]


class TestNames:
    def test_missing_joints(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, *[("/joint_states", state(START, ("a", "q1", "q2"), (1.0, 2.0, 3.0)))] * 2,
                        ("/joint_states", state(START, ("c",), (1.0,))))
        events = BagEvents(bag, robot(tmp_path, joints=("a", "b", "ffj3")))
        assert events.problems == ["robot.command_topic: topic joint_command is not in the recording; topics of that type: "
                                   "/joint_states."]
        assert len(list(events)) == 3
        assert "joint ffj3 of the robot file is not in /joint_states." in events.problems
        assert "joint b of the robot file is not in /joint_states." in events.problems
        assert any("has joints that the robot file has not: c, q1, q2." in problem for problem in events.problems)
        assert "joint a of the robot file is in 2 of 3 messages of /joint_states." in events.problems

    def test_mapped(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, ("/joint_states", state(START, ("q0", "q1"))), ("/leader", state(START, ("l0", "l1"))))
        mapped = robot(tmp_path, "joint_state_names: {q0: a, q1: b}",
                       "recorded: {command_topic: leader, command_names: {l1: a, l0: b}}")
        events = BagEvents(bag, mapped)
        states, command = list(events)
        assert isinstance(states, JointStateEvent) and isinstance(command, CommandEvent)
        assert states.state.names == ("a", "b") and command.names == ("b", "a") and events.problems == []

    def test_unnamed_without_an_order_are_refused_and_counted(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, *[("/joint_states", state(START, ()))] * 5)
        events = BagEvents(bag, robot(tmp_path))
        found = list(events)
        assert all(isinstance(event, BadEvent) and "robot.joint_state_order" in event.reason for event in found)
        assert events.bad == {"/joint_states": 5}
        assert any("5 messages of /joint_states cannot be used." in problem for problem in events.problems)

    def test_unnamed_with_an_order(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, ("/joint_states", state(START, ("", ""))), ("/joint_states", state(START, (), (1.0,))))
        good, bad = list(BagEvents(bag, robot(tmp_path, "joint_state_order: [b, a]")))
        assert isinstance(good, JointStateEvent) and good.state.names == ("b", "a")
        assert isinstance(bad, BadEvent) and "has 2 joints" in bad.reason


    def test_plain_arrays_with_an_order(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, ("/joint_states", array(1.0, 2.0)))
        (event,) = BagEvents(bag, robot(tmp_path, "joint_state_order: [b, a]"))
        assert isinstance(event, JointStateEvent)
        assert (event.state.stamp, event.state.names, event.state.position.tolist()) == (START, ("b", "a"), [1.0, 2.0])


class TestCommands:
    def commands(self, tmp_path: Path, found_by: Robot, *messages: tuple[str, Any]) -> tuple[BagEvents, list[Any]]:
        events = BagEvents(recording(tmp_path, ("/joint_states", state(START)), *messages), found_by)
        return events, list(events)[1:]

    def test_arrays_need_an_order(self, tmp_path: Path) -> None:
        events, (event,) = self.commands(tmp_path, robot(tmp_path), ("/joint_command", array(1.0, 2.0)))
        assert isinstance(event, BadEvent) and "robot.recorded.command_order" in event.reason and events.problems

    @pytest.mark.parametrize("order", ["recorded: {command_order: [b, a]}", "command_joints: [b, a]"])
    def test_arrays_in_order(self, tmp_path: Path, order: str) -> None:
        ordered = robot(tmp_path, "command_interface: float64_array", order, *(
            ["command_joints: [a, b]"] if "recorded" in order else []))
        events, (event, short) = self.commands(
            tmp_path, ordered, ("/joint_command", array(1.0, 2.0)), ("/joint_command", array(1.0)))
        assert (event.names, event.position.tolist(), event.stamp) == (("b", "a"), [1.0, 2.0], START + PERIOD)
        assert isinstance(short, BadEvent) and events.bad == {"/joint_command": 1}

    def test_chunks_are_no_commands(self, tmp_path: Path) -> None:
        events, (chunk, now) = self.commands(
            tmp_path, robot(tmp_path), ("/joint_command", trajectory(START, [[0.0, 0.0], [1.0, 1.0]])),
            ("/joint_command", trajectory(0, [[0.0, 1.0]])))
        assert isinstance(chunk, BadEvent) and "has 2 points" in chunk.reason and "robot.recorded.command_topic" in chunk.reason
        assert now.stamp == now.received  # a trajectory stamped zero begins at once
        assert events.bad == {"/joint_command": 1}

    def test_lengths(self, tmp_path: Path) -> None:
        _, (event,) = self.commands(tmp_path, robot(tmp_path), ("/joint_command", state(START, ("a", "b"), (1.0,))))
        assert isinstance(event, BadEvent) and "1 positions for 2 names" in event.reason

    def test_what_was_executed_comes_first(self, tmp_path: Path) -> None:
        messages = [("/joint_command", array(5.0, 5.0)), ("/command/executed", state(START))]
        events, found = self.commands(tmp_path, robot(tmp_path), *messages)
        assert events.commands == "/command/executed" and len(found) == 1
        events, _ = self.commands(tmp_path, robot(tmp_path, "recorded: {command_topic: joint_command}"), *messages)
        assert events.commands == "/joint_command"


class TestTopics:
    CAMERA = ("cameras:", "  front: {topic: eye, width: 2, height: 2, rate_hz: 10.0}")

    def test_absent(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, ("/arm/joint_states", state(START)))
        events = BagEvents(bag, robot(tmp_path, *self.CAMERA), features=("things",))
        assert list(events) == [] and len(events.problems) == 4
        assert events.problems[0] == (
            "robot.joint_state_topic: topic joint_states is not in the recording; topics of that type: /arm/joint_states."
        )
        assert "robot.cameras.front.topic" in events.problems[2] and "'things'" in events.problems[3]

    def test_of_another_type(self, tmp_path: Path) -> None:
        events = BagEvents(recording(tmp_path, ("/joint_states", image(START))), robot(tmp_path))
        assert "topic /joint_states is sensor_msgs/msg/Image, expected sensor_msgs/msg/JointState" in events.problems[0]

    def test_compressed_beside_and_instead(self, tmp_path: Path) -> None:
        both = recording(tmp_path, ("/eye", image(START)), ("/eye/compressed", compressed(START)))
        assert BagEvents(both, robot(tmp_path, *self.CAMERA)).cameras == {"front": "/eye"}
        other = ("cameras:", "  front: {topic: eye/compressed, width: 2, height: 2, rate_hz: 10.0}")
        assert BagEvents(both, robot(tmp_path, *other)).cameras == {"front": "/eye/compressed"}
        (event,) = BagEvents(recording(tmp_path, ("/eye/compressed", compressed(START))), robot(tmp_path, *self.CAMERA))
        assert isinstance(event, ImageEvent) and event.image.encoding == "compressed" and bytes(event.image.data) == bytes(range(5))

    def test_features_of_another_stream_or_form(self, tmp_path: Path) -> None:
        bag = recording(tmp_path, ("/features/f", image(START, "g", "32FC1", 1, 1, 4)), ("/features/f", image(START, "f")))
        events = BagEvents(bag, robot(tmp_path), features=("f",))
        other, form = list(events)
        assert isinstance(other, BadEvent) and "'g', expected 'f'" in other.reason
        assert isinstance(form, BadEvent) and "32FC1" in form.reason and events.bad == {"/features/f": 2}


def test_messages_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    bag = recording(tmp_path, *[("/joint_states", state(START))] * 3)
    good = bag.messages
    bag.messages = lambda *limits: (type(m)(m.topic, m.received, m.data[:30]) for m in good(*limits))
    events = BagEvents(bag, robot(tmp_path))
    assert all(isinstance(event, BadEvent) for event in events) and events.bad == {"/joint_states": 3}
    assert sum("cannot be used" in problem for problem in events.problems) == 1


class TestShared:
    def test_names_that_differ(self, tmp_path: Path) -> None:
        bag = open_bag(shared("ats-mcap-short/ros2bag_ats_2025-12-02_12-44-28"))
        events = BagEvents(bag, robot(tmp_path, "joint_state_topic: servo/out/state", joints=("q0", "shoulder")))
        states = [event for event in events if isinstance(event, JointStateEvent)]
        assert len(states) == 124
        assert "joint shoulder of the robot file is not in /servo/out/state." in events.problems
        assert any("has joints that the robot file has not: q1, q2." in problem for problem in events.problems)
        mapped = ("joint_state_topic: servo/out/state", "joint_state_names: {q1: shoulder}")
        events = BagEvents(bag, robot(tmp_path, *mapped, joints=("q0", "shoulder")))
        assert len(list(events)) == 124 and not any("of the robot file is not in" in problem for problem in events.problems)

    def test_unnamed(self, tmp_path: Path) -> None:
        bag = open_bag(shared("ats-emptynames-motion/ros2bag_static_ats_invz"))
        events = BagEvents(bag, robot(tmp_path, "joint_state_topic: servo/out/state"))
        assert any(isinstance(event, BadEvent) for event in events)
        assert any("robot.joint_state_order" in problem for problem in events.problems)

    def test_a_controllers_state_is_both(self, tmp_path: Path) -> None:
        bag = open_bag(shared("kr5-ros1/trajectory_data.bag"))
        first = bag.decode(next(bag.messages()))
        events = BagEvents(bag, robot(tmp_path, "joint_state_topic: arm_controller/state",
                                      "recorded: {command_topic: arm_controller/state}", joints=tuple(first.joint_names)))
        found = Counter(type(event) for event in events)
        assert found == {JointStateEvent: 562, CommandEvent: 562} and events.problems == []

    def test_json(self, tmp_path: Path) -> None:
        bag = open_bag(shared("json-mcap/trajectory_20250527_003358_00m02s.mcap"))
        message = next(bag.messages(["/joint_states"]))
        events = BagEvents(bag, robot(tmp_path, joints=tuple(json.loads(bytes(message.data))["name"])))
        assert sum(isinstance(event, JointStateEvent) for event in events) == 4
