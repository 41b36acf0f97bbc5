"""Controllers of ros2_control as nodes, without a robot: what they take, what they refuse, which joint states follow from it.

Written after ros2_controllers' documentation and messages of refusal (joint_trajectory_controller, "Trajectory Representation" and
parameters; forward_command_controller). What joint_trajectory_controller makes of its points: ``controller_support``. The joint
states are joint_state_broadcaster's: names in an order of its own, with joints of other controllers among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from threading import Event, Thread
from typing import Any

import numpy as np
import rclpy
from controller_support import hermite
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.messages import from_time, to_time

REST = np.finfo(np.float32).eps
EVERY = QoSProfile(depth=1000)
"""Reliable, and deep: a test that is slow on a busy machine refuses nothing and misses nothing."""


class MockController(Node):
    """What the controllers share: joints in their own order, where they are, what was refused and what was taken.

    ``taken`` has (instant of receipt in ns, message). ``position`` (J,) is in the order of ``joints``. Joint states
    come at 100 Hz with the names sorted, and with ``others``, which stand at 0.
    """

    def __init__(
        self,
        context: rclpy.Context,
        kind: type,
        topic: str,
        joints: Sequence[str],
        start: np.ndarray,
        state_topic: str = "joint_states",
        others: Sequence[str] = (),
    ) -> None:
        super().__init__("controller", context=context)
        self.joints = tuple(joints)
        self.position = np.array(start, dtype=np.float64)
        self.refused: list[str] = []
        self.taken: list[tuple[int, Any]] = []
        self._others = dict.fromkeys(others, 0.0)
        self._states = self.create_publisher(JointStateMsg, state_topic, EVERY)
        self.create_subscription(kind, topic, self._receive, EVERY)
        self.create_timer(0.01, self._cycle)

    def why_refused(self, message: Any, now: int) -> str:
        """Why ``message`` is not taken at ``now`` (ns), as the controller says it; empty if it is."""
        raise NotImplementedError

    def move(self, now: int) -> None:
        """Bring ``position`` to where it is at ``now``."""
        raise NotImplementedError

    def now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _receive(self, message: Any) -> None:
        now = self.now()
        reason = self.why_refused(message, now)
        if reason:
            self.refused.append(reason)
        else:
            self.taken.append((now, message))

    def _cycle(self) -> None:
        now = self.now()
        self.move(now)
        positions = dict(zip(self.joints, self.position, strict=True)) | self._others
        names = sorted(positions)
        state = JointStateMsg(name=names, position=[float(positions[name]) for name in names])
        state.header.stamp = to_time(now)
        self._states.publish(state)


class ForwardCommandController(MockController):
    """Takes values by their places, whatever they mean, and has them at once."""

    def __init__(self, context: rclpy.Context, topic: str, joints: Sequence[str], start: np.ndarray, **states: Any) -> None:
        super().__init__(context, Float64MultiArray, topic, joints, start, **states)

    def why_refused(self, message: Float64MultiArray, now: int) -> str:
        if len(message.data) != len(self.joints):
            return f"command size ({len(message.data)}) does not match number of interfaces ({len(self.joints)})"
        return "" if np.isfinite(message.data).all() else "Non-finite value received. Dropping message"

    def move(self, now: int) -> None:
        if self.taken:
            self.position = np.array(self.taken[-1][1].data)


class JointStateDriver(MockController):
    """A hand's own node that takes joint states as commands, by their places, and looks at nothing else."""

    def __init__(self, context: rclpy.Context, topic: str, joints: Sequence[str], start: np.ndarray, **states: Any) -> None:
        super().__init__(context, JointStateMsg, topic, joints, start, **states)

    def why_refused(self, message: JointStateMsg, now: int) -> str:
        return "" if len(message.position) == len(self.joints) else f"{len(message.position)} values for {len(self.joints)} motors"

    def move(self, now: int) -> None:
        if self.taken:
            self.position = np.array(self.taken[-1][1].position)


class JointTrajectoryController(MockController):
    """Takes whole trajectories by name, each in place of the one before, and runs through them by its own clock."""

    def __init__(self, context: rclpy.Context, topic: str, joints: Sequence[str], start: np.ndarray, **states: Any) -> None:
        super().__init__(context, JointTrajectory, topic, joints, start, **states)

    def why_refused(self, message: JointTrajectory, now: int) -> str:
        names, points = tuple(message.joint_names), message.points
        if len(names) != len(self.joints):
            return f"Joints on incoming trajectory ({len(names)}) don't match the controller joints ({len(self.joints)})."
        strangers = [name for name in names if name not in self.joints]
        if strangers or len(set(names)) != len(names):
            return f"Incoming joint {(strangers or names)[0]} doesn't match the controller's joints."
        if not points:
            return "Empty trajectory received."
        times = [from_time(point.time_from_start) for point in points]
        stamp = from_time(message.header.stamp)
        if stamp != 0 and stamp + times[-1] < now:
            return "Received trajectory with non-zero start time that ends in the past"
        if any(after <= before for before, after in pairwise(times)):
            return "Time between points is not strictly increasing"
        for k, point in enumerate(points):
            for field, may_lack in (("positions", False), ("velocities", True), ("accelerations", True)):
                values = getattr(point, field)
                if len(values) != len(names) and not (may_lack and not len(values)):
                    return f"Mismatch between joint_names size ({len(names)}) and {field} ({len(values)}) at point #{k}."
        if any(abs(velocity) > REST for velocity in points[-1].velocities):
            return "Velocity of last trajectory point is not zero"
        return ""

    def move(self, now: int) -> None:
        if self.taken:
            self.position = self.sampled(self.taken[-1][1], now, self.position)

    def sampled(self, message: JointTrajectory, now: int, before: np.ndarray) -> np.ndarray:
        """Position (J,) at ``now`` in the controller's order; ``before`` as long as it has not begun."""
        points = message.points
        times = [from_time(message.header.stamp) + from_time(point.time_from_start) for point in points]
        after = int(np.searchsorted(times, now, side="right"))
        if after == 0:
            return before
        if after == len(points):
            values = np.array(points[-1].positions)
        else:
            start, end = times[after - 1], times[after]
            values = hermite(points[after - 1], points[after], (end - start) / 1e9, (now - start) / 1e9)
        return values[[message.joint_names.index(joint) for joint in self.joints]]

    def replayed(self, period_ns: int, delay_ns: int) -> np.ndarray:
        """Set-points (K, J) of a controller with that period that had each trajectory ``delay_ns`` after its stamp.

        The delay of this process, which another one may keep from running, is no part of what the node sends.
        """
        underway = [(from_time(message.header.stamp) + delay_ns, message) for _, message in self.taken]
        end = from_time(underway[-1][1].header.stamp) + from_time(underway[-1][1].points[-1].time_from_start)
        current, position = underway[0][1], np.array(underway[0][1].points[0].positions)
        rows = []
        for now in range(underway[0][0], end, period_ns):
            while underway and underway[0][0] <= now:
                current = underway.pop(0)[1]
            position = self.sampled(current, now, position)
            rows.append(position)
        return np.array(rows)


CONTROLLERS: dict[str, Callable[..., MockController]] = {
    "float64_array": ForwardCommandController,
    "joint_state": JointStateDriver,
    "joint_trajectory_chunk": JointTrajectoryController,
}
"""By ``robot.command_interface``."""


@contextmanager
def running(interface: str, *arguments: Any, **states: Any) -> Iterator[MockController]:
    """The controller for ``interface``, spun in a thread and a context of its own."""
    context = rclpy.Context()
    context.init()
    controller = CONTROLLERS[interface](context, *arguments, **states)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(controller)
    stopped = Event()

    def spin() -> None:
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield controller
    finally:
        stopped.set()
        thread.join(timeout=5.0)
        executor.shutdown()
        controller.destroy_node()
        context.try_shutdown()
