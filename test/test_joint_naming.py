"""Names in messages and joints of the robot file: what is renamed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.robot import Robot, RobotFileError, load_robot
from flow_policy_ros.runtime.types import JointState

ROBOTS = Path(__file__).parent / "robots_for_bags"


def robot_with(tmp_path: Path, **keys: object) -> Robot:
    """Of the joints shoulder and elbow; ``keys`` go into its robot block."""
    limits = {joint: {"position": [-3.0, 3.0], "velocity": 2.0, "acceleration": 20.0} for joint in ("shoulder", "elbow")}
    block = {"name": "two_joints", "joints": list(limits), "limits": limits, **keys}
    path = tmp_path / "two_joints.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": block}}}))
    return load_robot(path)


def state(names: list[str], position: list[float]) -> JointState:
    return JointState(7, tuple(names), np.array(position), np.array(position) + 1.0, np.array(position) + 2.0)


def test_nothing_is_said_and_nothing_changes(tmp_path) -> None:
    robot = robot_with(tmp_path)
    given = state(["elbow", "nose", "shoulder"], [1.0, 2.0, 3.0])
    assert robot.naming.named(given) is given
    assert robot.recorded is None


def test_mapped_names_are_renamed_where_they_stand(tmp_path) -> None:
    robot = robot_with(tmp_path, joint_state_names={"q0": "shoulder", "q1": "elbow"})
    given = state(["q1", "tool", "q0"], [1.0, 2.0, 3.0])
    named = robot.naming.named(given)
    assert named.names == ("elbow", "tool", "shoulder")
    assert named.position is given.position and named.velocity is given.velocity and named.effort is given.effort
    assert JointOrder(robot.joints).positions_of(named).tolist() == [3.0, 1.0]


def test_names_that_are_shifted_by_one_do_not_get_mixed_up() -> None:
    """A message's q1 is the robot's q0, and a q0 in the message is none of the robot's joints."""
    naming = JointNaming({"q1": "q0", "q2": "q1"})
    assert naming.rename(("q1", "q2"), 2) == ("q0", "q1")
    order = JointOrder(("q0", "q1"))
    whole = naming.named(JointState(0, ("q0", "q1", "q2"), np.array([9.0, 1.0, 2.0])))
    assert order.positions_of(whole).tolist() == [1.0, 2.0]
    with pytest.raises(BadInput, match=r"missing \['q1'\].*q0 \(not mapped\)"):
        order.positions_of(naming.named(JointState(0, ("q0", "q1"), np.array([9.0, 1.0]))))


@pytest.mark.parametrize("names", [[], ["", ""]])
def test_unnamed_states_get_their_order_or_are_refused_with_the_remedy(tmp_path, names: list[str]) -> None:
    given = state(names, [1.0, 2.0])
    ordered = robot_with(tmp_path, joint_state_order=["elbow", "shoulder"]).naming
    assert ordered.named(given).names == ("elbow", "shoulder")
    with pytest.raises(BadInput, match=r"2 positions and no names.*Give robot\.joint_state_order") as refusal:
        robot_with(tmp_path).naming.named(given)
    assert refusal.value.kind == "joint_state_unnamed"
    with pytest.raises(BadInput, match=r"3 positions and no names, and robot\.joint_state_order has 2 joints"):
        ordered.named(state(names[:1] * 3, [1.0, 2.0, 3.0]))


def test_a_message_with_names_is_never_read_by_the_order(tmp_path) -> None:
    naming = robot_with(tmp_path, joint_state_order=["elbow", "shoulder"]).naming
    assert naming.named(state(["shoulder", "elbow"], [1.0, 2.0])).names == ("shoulder", "elbow")
    assert naming.named(state(["shoulder", ""], [1.0, 2.0])).names == ("shoulder", "")


def test_recorded_commands_have_names_of_their_own(tmp_path) -> None:
    recorded = {"command_topic": "servo/in", "command_names": {"q1": "shoulder"}, "command_order": ["elbow", "shoulder", "tool"]}
    robot = robot_with(tmp_path, joint_state_names={"q0": "shoulder"}, recorded=recorded)
    assert robot.recorded is not None and robot.recorded.topic == "servo/in"
    position = np.array([1.0, 2.0])
    names, same = robot.recorded.named(["q1", "elbow"], position)
    assert names == ("shoulder", "elbow") and same is position
    assert robot.recorded.named([], np.zeros(3))[0] == ("elbow", "shoulder", "tool")
    with pytest.raises(BadInput, match=r"command has 2 positions.*robot\.recorded\.command_order has 3") as refusal:
        robot.recorded.named([], position)
    assert refusal.value.kind == "command_unnamed"
    assert robot_with(tmp_path, command_topic="cmd", recorded={"command_names": {"q1": "elbow"}}).recorded.topic == "cmd"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"joint_state_names": {"q0": "nose"}}, r"robot\.joint_state_names gives names to \['nose'\].*shoulder, elbow"),
        ({"joint_state_names": {"q0": "elbow", "q1": "elbow"}}, r"joint_state_names: what is right of the colons.*each once"),
        ({"joint_state_names": {0: "elbow"}}, r"joint_state_names: what is left of the colons.*in quotes"),
        ({"joint_state_names": ["elbow"]}, r"'joint_state_names' is \['elbow'\], expected dict"),
        ({"joint_state_order": ["elbow"]}, r"robot\.joint_state_order lacks \['shoulder'\].*any other name"),
        ({"joint_state_order": ["elbow", "shoulder", "elbow"]}, r"joint_state_order must be names, each once"),
        ({"joint_state_order": "elbow"}, r"'joint_state_order' is 'elbow', expected list"),
        ({"recorded": {"topic": "x"}}, r"robot\.recorded: unknown keys \['topic'\], expected command_topic"),
        ({"recorded": {"command_topic": "a b"}}, r"robot\.recorded: 'command_topic' is 'a b', which is no ROS topic name"),
        ({"recorded": {"command_order": ["elbow"]}}, r"robot\.recorded\.command_order lacks \['shoulder'\]"),
        ({"recorded": {"command_names": {"x": "nose"}}}, r"robot\.recorded\.command_names gives names to \['nose'\]"),
        ({"joint_state_name": {}}, r"unknown keys \['joint_state_name'\]"),
    ],
)
def test_what_a_robot_file_may_not_say(tmp_path, keys: dict, words: str) -> None:
    with pytest.raises(RobotFileError, match=words):
        robot_with(tmp_path, **keys)


@pytest.mark.parametrize("path", sorted(ROBOTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_robot_files_of_recordings_load_and_say_where_their_limits_come_from(path: Path) -> None:
    robot = load_robot(path)
    assert robot.limits_source
    assert np.isfinite([robot.limits.velocity, robot.limits.acceleration, robot.limits.jerk]).all()
