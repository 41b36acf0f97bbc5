"""A dry run over DDS: the command node does all that it does, and nothing leads to the controller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ros_support import (  # noqa: F401
    JOINTS,
    UNHURRIED,
    Ears,
    Inbox,
    Launcher,
    ears_fixture,
    launcher_fixture,
    to_and_fro,
    values,
    write_robot,
)

pytest.importorskip("rclpy")
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.bringup import policy_bringup
from flow_policy_ros.ros.bringup_options import PolicyOptions
from flow_policy_ros.ros.messages import chunk_to_message, joint_state_to_message, plan_from_message
from flow_policy_ros.runtime.parameters import ParameterError
from flow_policy_ros.runtime.types import JointState

TRACKING = {joint: {"position": [-3.0, 3.0], "velocity": 2.0, "acceleration": 20.0, "tracking": 0.05} for joint in JOINTS}
"""Limits with which a robot that does not follow is soon a fault."""


def towards_the_controller(ears: Ears) -> list[str]:
    """Everything that the graph knows of the command node that has to do with the controller's topic or action."""
    node = ("command_node", "/")
    graph = (
        *ears.node.get_publisher_names_and_types_by_node(*node),
        *ears.node.get_subscriber_names_and_types_by_node(*node),
        *ears.node.get_client_names_and_types_by_node(*node),
        *ears.node.get_topic_names_and_types(),
    )
    return sorted({name for name, _ in graph if "joint_command" in name})


def standing(ears: Ears) -> None:
    """A robot that stays where it is, whatever is said."""
    publisher = ears.speak(JointStateMsg, "joint_states")
    state = np.zeros(len(JOINTS))
    ears.node.create_timer(0.01, lambda: publisher.publish(joint_state_to_message(JointState(ears.now(), JOINTS, state))))


def in_motion(ears: Ears, executed: Inbox[JointStateMsg]) -> None:
    """Send a chunk, and wait until its motion is under way."""
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    executed.wait_for()
    ears.connected(chunks)
    chunks.publish(chunk_to_message(to_and_fro(ears.now())))
    executed.wait_for(lambda m: m.velocity[0] > 0.8, what="nothing would have moved")


@pytest.mark.parametrize("interface", ["float64_array", "joint_trajectory_chunk", "follow_joint_trajectory"])
def test_everything_runs_and_nothing_is_sent(launcher: Launcher, ears: Ears, tmp_path: Path, interface: str) -> None:
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    plans = ears.listen(JointTrajectory, "command/plan")
    standing(ears)
    path = write_robot(tmp_path, command_interface=interface, command_joints=list(JOINTS), limits=TRACKING)
    node = launcher.node("command_node", path, command__dry_run=True, **UNHURRIED)
    in_motion(ears, executed)
    assert plan_from_message(plans.wait_for()).names == JOINTS
    executed.wait_for(lambda m: abs(m.position[0]) > 0.4, what="the motion did not go on")  # 0.4 from where the robot stands
    assert towards_the_controller(ears) == []
    assert ears.node.count_publishers("joint_command") == 0
    said = diagnostics.wait_for(lambda s: values(s)["state"] == "active", after=len(diagnostics.messages))
    assert said.message.startswith("DRY RUN, nothing is sent:") and said.level == b"\x01"
    assert values(said)["dry_run"] == "True" and values(said)["faults"] == ""
    assert "DRY RUN: nothing is sent to /joint_command" in node.output
    if interface == "float64_array":
        no = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False)
        request = SetParameters.Request(parameters=[Parameter(name="command.dry_run", value=no)])
        refused = ears.call(SetParameters, "command_node/set_parameters", request).results[0]
        assert not refused.successful
        assert towards_the_controller(ears) == []


def test_a_controller_that_listens_hears_nothing(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed, commands = ears.listen(JointStateMsg, "command/executed"), ears.listen(Float64MultiArray, "joint_command")
    standing(ears)
    path = write_robot(tmp_path, command_interface="float64_array", command_joints=list(JOINTS))
    launcher.node("command_node", path, command__dry_run=True, **UNHURRIED)
    in_motion(ears, executed)
    assert ears.trigger("command/hold").success
    executed.wait_for(lambda m: m.velocity[0] == 0.0, after=len(executed.messages))
    assert commands.messages == [] and ears.node.count_publishers("joint_command") == 0


def test_without_it_the_same_is_sent_and_a_robot_that_stands_is_a_fault(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    standing(ears)
    path = write_robot(tmp_path, command_interface="float64_array", command_joints=list(JOINTS), limits=TRACKING)
    launcher.node("command_node", path, **UNHURRIED)
    executed.wait_for()
    assert "/joint_command" in towards_the_controller(ears)
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    ears.connected(chunks)
    chunks.publish(chunk_to_message(to_and_fro(ears.now())))
    fault = diagnostics.wait_for(lambda s: values(s)["state"] == "fault")
    assert values(fault)["faults"] == "tracking_error" and "DRY RUN" not in fault.message and values(fault)["dry_run"] == "False"


@pytest.mark.parametrize(
    ("robot", "parameters", "reason"),
    [
        ({"command_topic": "command/executed"}, {}, "the commands' topic /command/executed is one on which this node publishes"),
        ({"command_topic": "/command/plan"}, {}, "the commands' topic /command/plan is one on which this node publishes"),
        ({}, {"lockstep__enabled": True}, "a simulation in lockstep waits for commands, and a dry run sends none"),
    ],
)
def test_where_something_would_be_heard_it_is_refused(
    launcher: Launcher, tmp_path: Path, robot: dict[str, str], parameters: dict[str, object], reason: str
) -> None:
    node = launcher.node("command_node", write_robot(tmp_path, **robot), command__dry_run=True, **parameters)
    assert node.wait() == 2
    assert reason in node.output


@pytest.mark.parametrize("where", ["parameters", "params_files"])
def test_a_bring_up_that_is_to_be_dry_is_dry_or_refused(tmp_path: Path, where: str) -> None:
    """A file that was dumped from a live robot has the parameter as false, and goes before the option."""
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text("/**:\n  ros__parameters:\n    command:\n      dry_run: false\n")
    said = {"parameters": ("command_node:command.dry_run:=false",), "params_files": (str(dumped),)}[where]
    with pytest.raises(ParameterError, match=r"a dry run is asked for, but .* the robot would move"):
        policy_bringup(PolicyOptions(dry_run=True, **{where: said}))
    (command,) = (n for n in policy_bringup(PolicyOptions(dry_run=True)).nodes if n.name == "command_node")
    assert command.parameters["command.dry_run"] is True
