"""Set-points to the controller, by ``Robot.command_interface``: one by one, or as whole trajectories.

What is sent is in the controller's joint order, mimics computed. Which set-points there are is the command loop's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.command_trajectory import Announcement, knots
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import command_message_type, setpoint_to_message, trajectory_to_message
from flow_policy_ros.runtime.parameters import CommandParameters, ParameterError
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FloatArray, Setpoint
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick

WHOLE = ("joint_trajectory_chunk", "follow_joint_trajectory")
"""Interfaces whose messages are whole trajectories."""
IN_LOCKSTEP = ("joint_trajectory", "joint_state")
"""Interfaces whose messages are one set-point with a stamp, which the simulation waits for."""
STALLED = "control_loop_stalled"
HOLD_NS = 1_000_000_000
"""A trajectory goes on at rest for this long: a controller refuses one that has ended when it comes, and would not stop."""


class Output(Protocol):
    """Where set-points go."""

    topic: str
    """Of the commands, with name space and remapping."""

    @property
    def at_rest(self) -> bool:
        """Whether the controller stands where the loop does; it may be behind."""

    def instants(self, now: int) -> Iterator[int]:
        """When the timer fires at ``now`` (ns): the instants to tick the loop for, each tick made before the next is asked for."""

    def take(self, stamp: int, tick: CommandTick) -> None:
        """The tick of ``stamp``."""

    def flush(self) -> None:
        """All ticks of now were taken."""

    def forget(self) -> None:
        """A new start follows."""


def make_output(node: Node, robot: Robot, loop: CommandLoop, parameters: Callable[[], CommandParameters], lockstep: bool) -> Output:
    """The output for ``robot.command_interface``; in a dry run one of the same kind that sends nothing. ``parameters`` gives
    the current ones. To be called when ``node`` has its other publishers.

    Raises ``ParameterError`` for an interface, or a dry run, that cannot be had here.
    """
    interface = robot.command_interface
    if parameters().dry_run:
        return _dry_output(node, robot, loop, parameters, lockstep)
    if lockstep and interface not in IN_LOCKSTEP:
        raise ParameterError(
            f"lockstep.enabled needs commands with a stamp, one for each tick, but robot file {robot.path} has command_interface "
            f"{interface}; use {' or '.join(IN_LOCKSTEP)}."
        )
    if interface == "follow_joint_trajectory":
        from flow_policy_ros.nodes.command_action import goal_sender

        send, topic = goal_sender(node, robot.command_topic)
        return TrajectoryOutput(robot, loop, parameters, send, topic)
    publisher = node.create_publisher(command_message_type(interface), robot.command_topic, qos.RELIABLE)
    if interface in WHOLE:
        return TrajectoryOutput(robot, loop, parameters, publisher.publish, publisher.topic_name)
    return SetpointOutput(robot, round(1e9 / parameters().rate_hz), publisher.publish, publisher.topic_name)


def _dry_output(
    node: Node, robot: Robot, loop: CommandLoop, parameters: Callable[[], CommandParameters], lockstep: bool
) -> Output:
    """No publisher and no action client is made. Its topic is the one that would be sent to."""
    if lockstep:
        raise ParameterError(
            "command.dry_run and lockstep.enabled are both true, but a simulation in lockstep waits for commands, and a dry run "
            "sends none. Set one of them to false."
        )
    topic = node.resolve_topic_name(robot.command_topic)
    own = [publisher.topic_name for publisher in node.publishers]
    if topic in own:
        raise ParameterError(
            f"command.dry_run is true, but the commands' topic {topic} is one on which this node publishes in any case, and the "
            f"controller would hear it. Change robot.command_topic in {robot.path}, or the remapping, to none of "
            f"{', '.join(sorted(own))}."
        )
    if robot.command_interface in WHOLE:
        return TrajectoryOutput(robot, loop, parameters, _unsent, topic)
    return SetpointOutput(robot, round(1e9 / parameters().rate_hz), _unsent, topic)


def _unsent(message: object) -> None:
    """Where the messages of a dry run end."""


def untracked(robot: Robot) -> Robot:
    """``robot`` for a dry run: without 'tracking', since what is not commanded does not follow."""
    return replace(robot, limits=replace(robot.limits, tracking=np.full(len(robot.joints), np.inf)))


class SetpointOutput:
    """Every set-point as a message of its own, at once."""

    def __init__(self, robot: Robot, period_ns: int, send: Callable[[Any], None], topic: str) -> None:
        self.topic = topic
        self._robot = robot
        self._period_ns = period_ns
        self._send = send

    @property
    def at_rest(self) -> bool:
        """It has every set-point at once."""
        return True

    def instants(self, now: int) -> Iterator[int]:
        """Now, however late."""
        yield now

    def take(self, stamp: int, tick: CommandTick) -> None:
        """Send it."""
        if tick.setpoint is not None:
            setpoint = for_controller(self._robot, tick.setpoint)
            self._send(setpoint_to_message(setpoint, self._robot.command_interface, self._period_ns))

    def flush(self) -> None:
        """Nothing waits."""

    def forget(self) -> None:
        """Nothing is remembered."""


class TrajectoryOutput:
    """Whole trajectories, up to rest, each time that the set-points become other than what was sent last.

    The controller runs through a trajectory by its own clock, so the loop keeps to that clock: its ticks lie on a grid of whole
    periods, and a tick that the timer missed is made up. After a stall (a fault) nothing more is sent: the controller is
    somewhere ahead on what it has, which keeps all limits and ends at rest, and a stop from where the loop was would be a jump.
    """

    def __init__(
        self,
        robot: Robot,
        loop: CommandLoop,
        parameters: Callable[[], CommandParameters],
        send: Callable[[JointTrajectory], None],
        topic: str,
    ) -> None:
        self.topic = topic
        self._robot = robot
        self._loop = loop
        self._parameters = parameters
        self._send = send
        self._period_ns = round(1e9 / parameters().rate_hz)
        self._announcement = Announcement(self._period_ns / 1e9)
        self._grid: int | None = None  # instant of the newest tick
        self._due: int | None = None  # stamp of the tick that has to be announced
        self._now = self._end = 0  # the timer's newest instant; when the controller is through with what it has

    @property
    def at_rest(self) -> bool:
        """Whether the controller is through with what it was sent."""
        return self._now >= self._end

    def instants(self, now: int) -> Iterator[int]:
        """The points of the grid since the last tick; now, where the robot stands and a new grid may begin."""
        if now < self._now - self._period_ns:  # the clock went back, and the controller's with it
            self._end = now + max(0, self._end - self._now)
        self._now = now
        stands = self._loop.at_rest and self.at_rest
        if self._grid is None or stands or not -self._period_ns <= now - self._grid <= self._stall_ns():
            self._grid = now
            yield now
            return
        while self._grid + self._period_ns // 2 <= now:
            self._grid += self._period_ns
            yield self._grid

    def take(self, stamp: int, tick: CommandTick) -> None:
        """Look whether it is what the controller was told."""
        if tick.setpoint is None or any(fault.name == STALLED for fault in tick.faults):
            self._due = None
        elif self._announcement.take(tick.setpoint.position) or self._due is not None:
            self._due = stamp

    def flush(self) -> None:
        """Send what is to come, if it has changed."""
        if self._due is None:
            return
        stamp, self._due = self._due, None
        points = self._announcement.announce(self._loop.rollout()[:, 0])
        rows = knots(self._robot.command_positions(points), self._period_ns / 1e9)
        times = [k * self._period_ns for k in range(len(rows.position))]
        self._end = stamp + times[-1]
        times[-1] += HOLD_NS
        self._send(
            trajectory_to_message(stamp, times, self._robot.command_joints, rows.position, rows.velocity, rows.acceleration)
        )

    def forget(self) -> None:
        """A new start follows, on a new grid."""
        self._announcement.forget()
        self._grid = self._due = None
        self._end = 0

    def _stall_ns(self) -> int:
        """What the loop takes for a stall."""
        return max(round(self._parameters().stall_s * 1e9), 3 * self._period_ns)


def for_controller(robot: Robot, setpoint: Setpoint) -> Setpoint:
    """``setpoint`` in the order of ``robot.command_joints``, mimics with velocity and acceleration times their multiplier."""
    if robot.command_joints == setpoint.names:
        return setpoint
    offset = robot.command_positions(0.0 * setpoint.position)
    velocity, acceleration = (robot.command_positions(row) - offset for row in (setpoint.velocity, setpoint.acceleration))
    position: FloatArray = robot.command_positions(setpoint.position)
    return replace(setpoint, names=robot.command_joints, position=position, velocity=velocity, acceleration=acceleration)
