"""Each real robot's file over DDS: the command node is followed by a controller that is strict, without one refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from robots_support import DECLARED, OTHERS, ROOT, beyond, robot_of
from ros_support import UNHURRIED, Ears, Launcher, ears_fixture, launcher_fixture, until, values  # noqa: F401

pytest.importorskip("rclpy")
import rclpy
from mock_controllers import CONTROLLERS, JointTrajectoryController, MockController, running
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.command_outputs import for_controller
from flow_policy_ros.ros.messages import chunk_to_message, setpoint_to_message, trajectory_to_message
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import Setpoint

PATIENT = {**UNHURRIED, "command__tracking_time_s": 10.0}
"""This process, which has the controller in it, may be kept from running for a while."""
FINE_NS, TRANSPORT_NS = 2_000_000, 10_000_000


def check_limits(rows: np.ndarray, period_s: float, robot: Robot, joints: tuple[str, ...]) -> None:
    """Set-points (N, J) in the order of ``joints``, at rest before the first, keep range, velocity, acceleration and jerk."""
    order = [robot.joints.index(joint) for joint in joints]
    limits = robot.limits
    assert (rows >= limits.lower[order] - 1e-9).all() and (rows <= limits.upper[order] + 1e-9).all()
    padded = np.concatenate([np.repeat(rows[:1], 3, axis=0), rows])
    for times, kind in enumerate(("velocity", "acceleration", "jerk"), start=1):
        reached = np.abs(np.diff(padded, times, axis=0)).max(axis=0) / period_s**times
        noise = 2**times * np.spacing(np.abs(rows).max()) / period_s**times
        assert (reached <= getattr(limits, kind)[order] * (1 + 1e-6) + 4 * noise).all(), kind


def sent(controller: MockController, robot: Robot) -> tuple[np.ndarray, float]:
    """The set-points that the controller goes through, and their period (s)."""
    if isinstance(controller, JointTrajectoryController):
        return controller.replayed(FINE_NS, TRANSPORT_NS), FINE_NS / 1e9
    rows = [message.data if isinstance(message, Float64MultiArray) else message.position for _, message in controller.taken]
    return np.array(rows), 1.0 / float(robot.parameters["command.rate_hz"])


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_it_is_followed_without_a_refusal(launcher: Launcher, ears: Ears, name: str) -> None:
    robot, joints = robot_of(name), DECLARED[name]
    executed, diagnostics = ears.listen(JointStateMsg, "command/executed"), ears.diagnostics()
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    start = 0.6 * robot.limits.lower + 0.4 * robot.limits.upper
    by_name = dict(zip(robot.joints, start, strict=True))
    place = np.array([by_name[joint] for joint in joints])
    topic = robot.command_topic
    with running(robot.command_interface, topic, joints, place, others=OTHERS.get(name, ())) as controller:
        launcher.node("command_node", Path(robot.path), **PATIENT)
        executed.wait_for()
        ears.connected(chunks)
        chunks.publish(chunk_to_message(beyond(robot, start, ears.now())))
        executed.wait_for(lambda m: np.abs(m.velocity).max() > 0.0, what="nothing moved")
        executed.wait_count(len(executed.messages) + 60)
        before = len(executed.messages)
        assert ears.trigger("command/hold").success
        executed.wait_for(lambda m: not np.any(m.velocity), after=before, what="no stop")
        last = executed.messages[-1]
        goal = np.array([dict(zip(last.name, last.position, strict=True))[joint] for joint in joints])
        until(lambda: bool(np.abs(controller.position - goal).max() < 1e-6), f"the controller did not come to {goal}, by name")
        said = diagnostics.wait_for(lambda s: values(s)["state"] == "holding")

    assert controller.refused == [] and controller.taken
    assert values(said)["faults"] == ""
    assert (np.abs(goal - place) > 1e-4).all()  # every joint has moved, each its own way
    rows, period_s = sent(controller, robot)
    check_limits(rows, period_s, robot, joints)
    with pytest.raises(AssertionError):  # the check sees motion, and what is too fast
        check_limits(rows, period_s / 3.0, robot, joints)
    if isinstance(controller, JointTrajectoryController):
        assert len(controller.taken) <= 12  # whole trajectories, not one for each tick
    else:
        assert len(rows) > 60


def trajectory(**changes: object) -> JointTrajectory:
    """Half a second to 0.1 and 0.2 of joints a and b, from now on the clock of the tests below (1 s)."""
    rows = np.linspace([0.0, 0.0], [0.1, 0.2], 6)
    slow = np.zeros((6, 2))
    message = trajectory_to_message(1_000_000_000, [100_000_000 * k for k in range(6)], ("a", "b"), rows, slow, slow)
    for key, value in changes.items():
        setattr(message, key, value)
    return message


def spoilt(what: str) -> JointTrajectory:
    message = trajectory()
    if what == "in the past":
        message.header.stamp.sec = 0
        message.header.stamp.nanosec = 1  # 0 would be "at once"
    elif what == "strictly increasing":
        message.points[3].time_from_start = message.points[2].time_from_start
    elif what == "positions (1) at point #2":
        message.points[2].positions = [0.0]
    elif what == "velocities (1) at point #2":
        message.points[2].velocities = [0.0]
    elif what == "not zero":
        message.points[-1].velocities = [0.1, 0.0]
    return message


def quiet(kind: str, joints: tuple[str, ...], context: rclpy.Context) -> MockController:
    return CONTROLLERS[kind](context, f"{kind}/commands", joints, np.zeros(len(joints)))


def test_the_controller_refuses_what_a_real_one_refuses() -> None:
    context = rclpy.Context()
    context.init()
    try:
        strict = quiet("joint_trajectory_chunk", ("a", "b"), context)
        now = 1_010_000_000
        assert strict.why_refused(trajectory(), now) == ""
        assert strict.why_refused(trajectory(joint_names=["b", "a"]), now) == ""  # by name
        cases = {
            "don't match the controller joints (2)": trajectory(joint_names=["a"]),
            "Incoming joint c": trajectory(joint_names=["a", "c"]),
            "Incoming joint a": trajectory(joint_names=["a", "a"]),
            "Empty": trajectory(points=[]),
            **{
                what: spoilt(what)
                for what in (
                    "in the past",
                    "strictly increasing",
                    "positions (1) at point #2",
                    "velocities (1) at point #2",
                    "not zero",
                )
            },
        }
        for reason, message in cases.items():
            assert reason in strict.why_refused(message, now), reason
        plain = quiet("float64_array", ("a", "b"), context)
        assert plain.why_refused(Float64MultiArray(data=[0.0, 1.0]), now) == ""
        assert "command size (1) does not match number of interfaces (2)" in plain.why_refused(Float64MultiArray(data=[0.0]), now)
        assert "Non-finite" in plain.why_refused(Float64MultiArray(data=[0.0, float("nan")]), now)
    finally:
        context.try_shutdown()


def test_a_wrong_order_would_be_seen(tmp_path: Path) -> None:
    """By place: with two joints swapped in the file, the joints by name are not where they were sent."""
    tree = yaml.safe_load((ROOT / "config/robots/so101.yaml").read_text())
    order = tree["/**"]["ros__parameters"]["robot"]["command_joints"]
    order[0], order[1] = order[1], order[0]
    path = tmp_path / "so101.yaml"
    path.write_text(yaml.safe_dump(tree))
    goal = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    context = rclpy.Context()
    context.init()
    try:
        for robot, places in ((robot_of("so101"), goal), (load_robot(path), goal[[1, 0, 2, 3, 4, 5]])):
            controller = quiet("float64_array", DECLARED["so101"], context)
            setpoint = for_controller(robot, Setpoint(0, robot.joints, goal, 0.0 * goal, 0.0 * goal))
            controller.taken.append((0, setpoint_to_message(setpoint, "float64_array", 10_000_000)))
            controller.move(0)
            np.testing.assert_array_equal(controller.position, places)
    finally:
        context.try_shutdown()


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_ros_reads_it_as_a_parameter_file(name: str) -> None:
    robot = robot_of(name)
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", robot.path], context=context)
    try:
        node = Node("reader", context=context, automatically_declare_parameters_from_overrides=True)
        assert tuple(node.get_parameter("robot.joints").value) == robot.joints
        last = node.get_parameter(f"robot.limits.{robot.joints[-1]}.position").value
        assert tuple(last) == (robot.limits.lower[-1], robot.limits.upper[-1])
    finally:
        context.try_shutdown()
