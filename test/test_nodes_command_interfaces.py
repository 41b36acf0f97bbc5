"""The command node over DDS: each way of commanding, the switches that stop it, what it sees on its topics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from controller_support import Controller
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
    until,
    values,
    write_robot,
)

pytest.importorskip("rclpy")
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from sensor_msgs.msg import JointState as JointStateMsg
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.messages import chunk_to_message, from_time, plan_from_message

BACKWARDS = ("elbow", "shoulder")


def test_array_in_the_order_of_the_controller_and_the_plan(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    commands = ears.listen(Float64MultiArray, "joint_command")
    plans = ears.listen(JointTrajectory, "command/plan")
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    path = write_robot(tmp_path, command_interface="float64_array", command_joints=list(BACKWARDS))
    launcher.node("command_node", path, **UNHURRIED)
    executed.wait_for()
    ears.connected(chunks)
    chunk = to_and_fro(ears.now())
    chunks.publish(chunk_to_message(chunk))
    commands.wait_for(lambda m: abs(m.data[1]) > 0.1, what="the shoulder, second with the controller, did not move")
    assert all(m.data[0] == 0.0 for m in commands.messages)
    plan = plan_from_message(plans.wait_for())
    assert plan.chunk_stamp == chunk.stamp and plan.names == JOINTS
    by_stamp = {from_time(m.header.stamp): np.array(m.position) for m in executed.messages}
    np.testing.assert_allclose(by_stamp[plan.stamp], plan.positions[0], atol=1e-12)  # what was sent at the tick of its stamp


def test_whole_trajectories_for_a_controller_of_its_own_rate(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    trajectories = ears.listen(JointTrajectory, "joint_command")
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    path = write_robot(tmp_path, command_interface="joint_trajectory_chunk", command_joints=list(BACKWARDS))
    launcher.node("command_node", path, **{**UNHURRIED, "command__stall_s": 1.0})
    first = trajectories.wait_for()
    assert tuple(first.joint_names) == BACKWARDS
    ears.connected(chunks)
    for centre in (0.0, 0.2):
        before = len(executed.messages)
        chunk = to_and_fro(ears.now(), centre)
        chunks.publish(chunk_to_message(replace(chunk, positions=chunk.positions[:40])))
        executed.wait_for(lambda m: m.velocity[0] > 0.6, after=before)
    assert ears.trigger("command/hold").success
    executed.wait_for(lambda m: m.velocity[0] == 0.0, after=len(executed.messages))
    executed.wait_count(len(executed.messages) + 5)
    sent = list(trajectories.messages)
    assert 3 <= len(sent) <= 6  # a start, two plans, a stop: not one for each tick

    # A controller at 500 Hz that has each of them 10 ms after its stamp, however long it took here.
    underway = [(from_time(m.header.stamp) + 10_000_000, m) for m in sent]
    controller = Controller(2_000_000)
    for now in range(underway[0][0], underway[-1][0] + 1_000_000_000, controller.period_ns):
        while underway and underway[0][0] <= now:
            controller.take(underway.pop(0)[1], now)
        controller.sample(now)
    commanded = np.array(controller.positions)
    velocity = np.diff(commanded, axis=0) / 0.002
    assert np.abs(velocity).max() <= VELOCITY * (1 + 1e-6)
    assert np.abs(np.diff(velocity, axis=0)).max() / 0.002 <= ACCELERATION * (1 + 1e-6)
    np.testing.assert_allclose(commanded[-1], motion(executed.messages)[-1, ::-1], atol=1e-9)
    assert np.ptp(commanded[:, 1]) > 0.01 and np.ptp(commanded[-5:], axis=0).max() == 0.0


@pytest.mark.parametrize("kind", ["bool", "joy"])
def test_the_hold_to_run_switch(launcher: Launcher, ears: Ears, tmp_path: Path, kind: str) -> None:
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    if kind == "bool":
        switch, pressed, released = ears.speak(Bool, "command/deadman"), Bool(data=True), Bool(data=False)
    else:
        switch, pressed, released = ears.speak(Joy, "joy"), Joy(buttons=[0, 1]), Joy(buttons=[1, 0])
    FakeRobot(ears)
    hold = {"command__deadman": kind, "command__deadman_button": 1, "command__deadman_max_age_s": 5.0}
    launcher.node("command_node", write_robot(tmp_path), **UNHURRIED, **hold)
    waiting = diagnostics.wait_for(lambda s: "hold-to-run" in s.message)
    assert values(waiting)["state"] == "inactive" and not executed.messages
    with ears.insisting(lambda: switch.publish(pressed)):
        executed.wait_for()
        chunks.publish(chunk_to_message(to_and_fro(ears.now())))
        executed.wait_for(lambda m: m.velocity[0] > 0.8)
    begun = len(executed.messages)
    with ears.insisting(lambda: switch.publish(released)):
        executed.wait_for(lambda m: m.velocity[0] == 0.0, after=begun, what="no stop although the switch was let go")
    stopped = motion(executed.messages)
    assert np.abs(np.diff(stopped, 2, axis=0)).max() / 0.01**2 <= ACCELERATION * (1 + 1e-6)
    held = diagnostics.wait_for(lambda s: values(s)["state"] == "holding")
    assert values(held)["faults"] == ""  # to let go is no fault


def test_two_sources_of_chunks_are_named(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    diagnostics = ears.diagnostics()
    one, other = (ears.speak(JointTrajectory, "policy/chunk") for _ in range(2))
    FakeRobot(ears)
    launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    crowded = diagnostics.wait_for(lambda s: "2 nodes publish /policy/chunk" in s.message)
    assert crowded.level == b"\x01" and values(crowded)["publishers./joint_command"] == "1"
    ears.node.destroy_publisher(other)
    alone = diagnostics.wait_for(lambda s: values(s)["publishers./policy/chunk"] == "1", after=len(diagnostics.messages))
    assert "publish" not in alone.message
    until(lambda: one.get_subscription_count() > 0, "nobody reads chunks")


def test_live_parameters_that_the_loop_refuses_change_nothing(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    diagnostics = ears.diagnostics()
    FakeRobot(ears)
    launcher.node("command_node", write_robot(tmp_path, groups={"arm": ["shoulder"]}), **UNHURRIED)

    def change(scale: float, groups: str) -> SetParametersAtomically.Response:
        number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=scale)
        text = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=groups)
        both = [Parameter(name="command.limit_scale", value=number), Parameter(name="command.group_scale", value=text)]
        request = SetParametersAtomically.Request(parameters=both)
        return ears.call(SetParametersAtomically, "command_node/set_parameters_atomically", request).result

    refused = change(0.5, "leg=0.5")
    assert not refused.successful and "leg" in refused.reason and "arm" in refused.reason
    now = diagnostics.wait_for(after=len(diagnostics.messages))
    assert float(values(now)["limit_scale.highest"]) == 1.0
    assert change(0.5, "arm=0.5").successful
    diagnostics.wait_for(lambda s: (values(s)["limit_scale.lowest"], values(s)["limit_scale.highest"]) == ("0.2500", "0.5000"))


def test_lockstep_needs_one_stamped_command_for_each_tick(launcher: Launcher, tmp_path: Path) -> None:
    path = write_robot(tmp_path, command_interface="joint_trajectory_chunk")
    node = launcher.node("command_node", path, lockstep__enabled=True)
    assert node.wait() == 2
    assert "joint_trajectory_chunk" in node.output and "use joint_trajectory or joint_state" in node.output
