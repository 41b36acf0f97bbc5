"""The command node as a real process over DDS: what it sends, what it refuses to send, what it says about itself."""

from __future__ import annotations

import math
import re
import signal
from pathlib import Path

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
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.messages import chunk_to_message, from_time
from flow_policy_ros.ros.processes import SUSPENDING
from flow_policy_ros.runtime.types import Chunk


def stamp(message: JointStateMsg) -> int:
    return from_time(message.header.stamp)


def within_limits(positions: np.ndarray) -> None:
    """Consecutive set-points of the 100 Hz stream keep velocity and acceleration limits."""
    velocity = np.diff(positions, axis=0) / 0.01
    assert np.abs(velocity).max() <= VELOCITY * (1 + 1e-6)
    assert np.abs(np.diff(velocity, axis=0)).max() / 0.01 <= ACCELERATION * (1 + 1e-6)


def test_nothing_before_joint_states_then_starts_at_the_measured_position(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    executed, commands = ears.listen(JointStateMsg, "command/executed"), ears.listen(JointTrajectory, "joint_command")
    diagnostics = ears.diagnostics()
    robot = FakeRobot(ears)
    robot.paused = True
    robot.position = {"shoulder": 0.5, "elbow": -0.25}
    node = launcher.node("command_node", write_robot(tmp_path))
    waiting = diagnostics.wait_for(lambda s: s.name == "command" and int(values(s)["ticks"]) >= 10)
    assert values(waiting)["state"] == "inactive" and waiting.level != b"\x00"
    assert not executed.messages and not commands.messages

    ears.connected(robot.publisher)
    robot.paused = False
    first = executed.wait_for()
    assert dict(zip(first.name, first.position, strict=True)) == {"shoulder": 0.5, "elbow": -0.25}
    commands.wait_count(20)
    assert {tuple(c.joint_names) for c in commands.messages} == {JOINTS}
    assert np.ptp([c.points[0].positions for c in commands.messages], axis=0).max() == 0.0  # no chunk: it stays there

    maps = Path(f"/proc/{node.pid}/maps").read_text()
    assert not re.search(r"libtorch|/cv2/", maps)
    node.send(signal.SIGINT)
    assert node.wait() == 0
    assert "Traceback" not in node.output


def test_follows_a_chunk_and_refuses_odd_ones(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    diagnostics = ears.diagnostics()
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    node = launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    executed.wait_for()
    ears.connected(chunks)

    # The end is held for 25 s, so that the chunk is not over before a busy machine delivers it.
    ramp = np.minimum(0.04 * np.arange(250), 0.1)[:, None] * [1.0, -1.0]
    step_ns = 100_000_000
    sound = chunk_to_message(Chunk(from_time(executed.messages[-1].header.stamp), step_ns, JOINTS, ramp))
    strangers = chunk_to_message(Chunk(ears.now(), step_ns, ("shoulder", "nose"), ramp + 1.0))
    not_finite = chunk_to_message(Chunk(ears.now(), step_ns, JOINTS, np.full((16, 2), math.nan)))
    uneven = chunk_to_message(Chunk(ears.now(), step_ns, JOINTS, ramp + 1.0))
    uneven.points[3].time_from_start.nanosec += 1
    for message in (strangers, not_finite, uneven, JointTrajectory(), sound, sound):
        chunks.publish(message)
    executed.wait_for(lambda m: np.allclose(m.position, [0.1, -0.1], atol=0.02), what="the chunk's end was not reached")
    counted = values(diagnostics.wait_for(lambda s: values(s).get("rejections.chunk_malformed") == "2"))
    assert counted["rejections.chunk_names"] == "1" and counted["rejections.chunk_not_finite"] == "1"
    assert counted["faults"] == ""
    within_limits(motion(executed.messages))
    assert node.alive()


def test_nan_joint_state_is_a_fault_and_a_decelerated_stop(
    launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    diagnostics = ears.diagnostics()
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    robot = FakeRobot(ears)
    node = launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    executed.wait_for()
    ears.connected(chunks)
    chunks.publish(chunk_to_message(to_and_fro(ears.now())))
    executed.wait_for(lambda m: m.velocity[0] > 0.8, what="the chunk did not move the joint")

    with ears.insisting(lambda: robot.say(list(JOINTS), [math.nan, 0.0])):
        fault = diagnostics.wait_for(lambda s: s.name == "command" and "bad_joint_state" in values(s)["faults"])
    assert fault.level == b"\x02" and "shoulder" in fault.message
    latched = ears.now()
    chunks.publish(chunk_to_message(to_and_fro(latched)))
    executed.wait_for(lambda m: stamp(m) > latched and m.velocity[0] == 0.0, what="no stop although chunks went on")
    executed.wait_count(len(executed.messages) + 20)
    positions = motion(executed.messages)
    assert np.isfinite(positions).all()
    within_limits(positions)
    assert np.ptp(positions[-20:], axis=0).max() == 0.0

    assert ears.trigger("command/reset").success  # and only that leads out of a fault
    chunks.publish(chunk_to_message(to_and_fro(ears.now(), centre=positions[-1, 0])))
    executed.wait_for(lambda m: m.velocity[0] > 0.8, after=len(positions), what="no motion after the reset")
    assert node.alive()


def test_reset_in_motion_stops_first(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    FakeRobot(ears)
    node = launcher.node("command_node", write_robot(tmp_path), **UNHURRIED)
    executed.wait_for()
    ears.connected(chunks)
    assert ears.trigger("command/reset").success  # at rest; and from now on an answer is not lost
    chunks.publish(chunk_to_message(to_and_fro(ears.now())))
    executed.wait_for(lambda m: m.velocity[0] > 0.8)
    answer = ears.trigger("command/reset")
    assert not answer.success and "moves" in answer.message
    assert "Call again" in ears.trigger("command/reset").message  # at once: it still moves
    refused = ears.now()
    chunks.publish(chunk_to_message(to_and_fro(refused)))
    executed.wait_for(lambda m: stamp(m) > refused and m.velocity[0] == 0.0, what="no stop after the refusal")
    executed.wait_count(len(executed.messages) + 20)
    positions = motion(executed.messages)
    within_limits(positions)
    assert np.ptp(positions[-20:], axis=0).max() == 0.0
    later = motion([m for m in executed.messages if stamp(m) > refused])
    assert np.ptp(later[:, 0]) < 0.05  # braked at once: the chunk would have led 0.5 rad to and fro
    assert ears.trigger("command/reset").success
    lines = [line for line in node.output.splitlines() if "command/reset: " in line]
    assert sum("not yet: the robot moves" in line for line in lines) == 1 and not [line for line in lines if "[WARN]" in line]


def test_parameters_change_all_or_nothing(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    launcher.node("command_node", write_robot(tmp_path))

    def set_parameters(**given: float) -> object:
        pairs = [
            Parameter(name=f"command.{k}", value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=v))
            for k, v in given.items()
        ]
        request = SetParametersAtomically.Request(parameters=pairs)
        return ears.call(SetParametersAtomically, "command_node/set_parameters_atomically", request).result

    assert set_parameters(joint_state_max_age_s=0.5).successful
    static = set_parameters(rate_hz=50.0)
    assert not static.successful and "read" in static.reason.lower()
    assert not set_parameters(joint_state_max_age_s=99.0).successful
    assert not set_parameters(joint_state_max_age_s=0.4, no_such_parameter=1.0).successful


def test_ctrl_z_does_not_suspend_it(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """A robot in motion would be left without commands."""
    node = launcher.node("command_node", write_robot(tmp_path))
    ears.diagnostics().wait_for(lambda status: status.name == "command")
    (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{node.pid}/status").read_text())
    assert all(int(ignored, 16) >> (number - 1) & 1 for number in SUSPENDING)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"robot_file": "nowhere.yaml"}, ["nowhere.yaml", "cannot be read"]),
        ({"command__limit_scale": 1000.0}, ["command.limit_scale", "expected 0.01 to 1.0"]),
        ({"lockstep__latency": "nowhere.json", "lockstep__enabled": True}, ["nowhere.json", "lockstep.latency"]),
    ],
)
def test_bad_input_is_one_paragraph(
    launcher: Launcher, tmp_path: Path, parameters: dict[str, object], words: list[str]
) -> None:
    robot_file = Path(str(parameters.pop("robot_file", write_robot(tmp_path))))
    node = launcher.node("command_node", robot_file, **parameters)
    assert node.wait() == 2
    assert "Traceback" not in node.output and len(node.output.splitlines()) == 1
    assert all(word in node.output for word in words), node.output
