"""The command node's managed life cycle over DDS: when it sends, how it ceases to, and what a new start is."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_support import (  # noqa: F401
    ACCELERATION,
    JOINTS,
    UNHURRIED,
    VELOCITY,
    Ears,
    FakeRobot,
    Launcher,
    ears_fixture,
    launcher_fixture,
    motion,
    to_and_fro,
    values,
    write_robot,
)

pytest.importorskip("rclpy")
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.messages import chunk_to_message

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, SHUTDOWN = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)


class Manager:
    """A lifecycle manager by hand."""

    def __init__(self, ears: Ears) -> None:
        self._ears = ears

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._ears.call(ChangeState, "command_node/change_state", request).success)

    @property
    def state(self) -> str:
        return str(self._ears.call(GetState, "command_node/get_state", GetState.Request()).current_state.label)


def enable(ears: Ears, on: bool) -> Any:
    return ears.call(SetBool, "command/enable", SetBool.Request(data=on))


def within_limits(positions: np.ndarray) -> None:
    velocity = np.diff(positions, axis=0) / 0.01
    assert np.abs(velocity).max() <= VELOCITY * (1 + 1e-6)
    assert np.abs(np.diff(velocity, axis=0)).max() / 0.01 <= ACCELERATION * (1 + 1e-6)


def test_deactivated_in_motion_it_stops_and_is_silent_and_activated_it_starts_anew(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    robot, manager = FakeRobot(ears), Manager(ears)
    node = launcher.node("command_node", write_robot(tmp_path), managed=True, **UNHURRIED)
    assert manager.state == "unconfigured"
    assert manager.change(CONFIGURE) and manager.state == "inactive"
    ears.connected(robot.publisher)
    diagnostics.wait_for(lambda s: values(s)["lifecycle"] == "inactive")
    assert not executed.messages and not enable(ears, True).success  # only active it sends, whoever asks

    assert manager.change(ACTIVATE) and manager.state == "active"
    executed.wait_for()
    chunks.publish(chunk_to_message(to_and_fro(ears.now())))
    executed.wait_for(lambda m: m.velocity[0] > 0.8, what="the chunk did not move the joint")
    assert manager.change(DEACTIVATE)
    silent = diagnostics.wait_for(lambda s: "nothing is sent" in s.message, after=len(diagnostics.messages))
    assert values(silent)["lifecycle"] == "inactive"
    stopped = motion(executed.messages)
    within_limits(stopped)
    assert np.ptp(stopped[-2:], axis=0).max() == 0.0  # at rest, then silence
    diagnostics.wait_for(after=len(diagnostics.messages))
    assert len(executed.messages) == len(stopped)

    robot.position["shoulder"] += 0.3  # moved by hand: no way back to the old set-point
    assert manager.change(ACTIVATE)
    again = executed.wait_for(after=len(stopped))
    np.testing.assert_allclose(again.position[0], stopped[-1, 0] + 0.3, atol=1e-12)
    executed.wait_count(len(stopped) + 10)
    assert np.ptp(motion(executed.messages[len(stopped):]), axis=0).max() == 0.0  # the old chunk is not followed

    assert manager.change(DEACTIVATE) and manager.change(CLEANUP) and manager.state == "unconfigured"
    write_robot(tmp_path, command_interface="joint_state")  # a robot file that has changed meanwhile
    commands = ears.listen(JointStateMsg, "joint_command")
    assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
    commands.wait_for()
    node.send(signal.SIGTERM)
    assert node.wait() == 0


def test_a_fault_outlives_deactivation(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    emergency = ears.speak(Bool, "command/emergency_stop")
    FakeRobot(ears)
    manager = Manager(ears)
    launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    executed.wait_for()
    assert manager.state == "active"  # by itself
    ears.connected(emergency)
    emergency.publish(Bool(data=True))
    diagnostics.wait_for(lambda s: "emergency_stop" in values(s)["faults"])
    refused = enable(ears, True)
    assert not refused.success and "emergency_stop" in refused.message
    assert manager.change(DEACTIVATE) and not manager.change(ACTIVATE) and manager.state == "inactive"
    engaged = ears.trigger("command/reset")
    assert not engaged.success and "release" in engaged.message
    emergency.publish(Bool(data=False))
    with ears.insisting(lambda: emergency.publish(Bool(data=False))):
        answer = ears.trigger("command/reset")
        while not answer.success:
            answer = ears.trigger("command/reset")
    sent = len(executed.messages)
    assert manager.change(ACTIVATE)
    executed.wait_for(after=sent)
    assert manager.change(SHUTDOWN) and manager.state == "finalized"


def test_refused_configuration_says_why_and_can_be_repeated(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    good = write_robot(tmp_path).read_text()
    path = write_robot(tmp_path, command_interface="follow_joint_trajectory")
    node = launcher.node("command_node", path, managed=True)
    manager = Manager(ears)
    try:
        import control_msgs  # noqa: F401
    except ImportError:
        assert not manager.change(CONFIGURE) and manager.state == "unconfigured"
        assert "control_msgs" in node.output and "joint_trajectory_chunk" in node.output
    path.write_text(good.replace("velocity: 2.0", "velocity: -2.0"))
    assert not manager.change(CONFIGURE) and "velocity" in node.output
    path.write_text(good)
    assert manager.change(CONFIGURE) and manager.state == "inactive"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_motion_stops_the_robot_first(
    launcher: Launcher, ears: Ears, tmp_path: Path, number: signal.Signals
) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    node = launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    executed.wait_for()
    ears.connected(chunks)
    chunks.publish(chunk_to_message(to_and_fro(ears.now())))
    executed.wait_for(lambda m: m.velocity[0] > 0.8)
    node.send(number)
    assert node.wait() == 0
    executed.wait_for(lambda m: m.velocity[0] == 0.0, after=len(executed.messages) - 1, what="it did not come to rest")
    positions = motion(executed.messages)
    within_limits(positions)
    assert np.ptp(positions[-2:], axis=0).max() == 0.0


def test_hold_and_enable(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    executed.wait_for()
    ears.connected(chunks)
    for stop in (lambda: ears.trigger("command/hold"), lambda: enable(ears, False)):
        begun = len(executed.messages)
        chunks.publish(chunk_to_message(to_and_fro(ears.now(), centre=executed.messages[-1].position[0])))
        executed.wait_for(lambda m: m.velocity[0] > 0.8, after=begun)
        assert stop().success
        executed.wait_for(lambda m: m.velocity[0] == 0.0, after=len(executed.messages), what="no stop")
        held = len(executed.messages)
        chunks.publish(chunk_to_message(to_and_fro(ears.now())))
        executed.wait_count(held + 20)
        assert np.ptp(motion(executed.messages[held:]), axis=0).max() == 0.0  # chunks are not followed
        assert enable(ears, True).success
    within_limits(motion(executed.messages))
