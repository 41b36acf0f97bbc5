"""What a command node lives on, made up: joint states and chunks of one smooth motion. For benchmarks.

Also what it says meanwhile: the stamps of what it executed, and its diagnostics. Nothing is judged here.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.collector import values
from flow_policy_ros.ros.domain import environment_variables
from flow_policy_ros.ros.messages import SECOND_NS, chunk_to_message, joint_state_to_message
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState

HORIZON, DT_NS, CHUNK_HZ = 48, 10_000_000, 25.0
"""The chunks: points, their distance in time, and how often one comes."""
Traffic = TypeVar("Traffic", bound="ControlTraffic")
FREQUENCY_HZ, SHARE = 0.5, 0.3
"""Of the motion, and how much of range, velocity and acceleration it uses."""


class ControlTraffic:
    """A node in the domain of ``environment`` (see ``domain.own_domain``); a context manager. Works while ``spin`` does.

    ``stamps`` of the set-points executed, ns; ``report`` and ``message``: the newest diagnostics of the command node.
    """

    def __init__(self, robot: Robot, rate_hz: float, environment: dict[str, str]) -> None:
        self.stamps: list[int] = []
        self.report: dict[str, str] = {}
        self.message = ""
        self._robot, self._rate_hz, self._environment = robot, rate_hz, environment
        limits, turn = robot.limits, 2.0 * np.pi * FREQUENCY_HZ
        endless = ~np.isfinite(limits.upper - limits.lower)
        lower, upper = np.where(endless, -1.0, limits.lower), np.where(endless, 1.0, limits.upper)
        self._centre = (lower + upper) / 2.0
        self._amplitude = SHARE * np.minimum.reduce([(upper - lower) / 2.0, limits.velocity / turn, limits.acceleration / turn**2])

    def __enter__(self: Traffic) -> Traffic:
        with ExitStack() as stack, environment_variables(self._environment):
            context = Context()
            rclpy.init(context=context, domain_id=int(self._environment["ROS_DOMAIN_ID"]))
            stack.callback(context.try_shutdown)
            self._node = node = rclpy.create_node("control_traffic", context=context)
            stack.callback(node.destroy_node)
            self._executor = _executor(context)
            stack.callback(self._executor.shutdown)
            self._executor.add_node(node)
            self._states = node.create_publisher(JointStateMsg, self._robot.joint_state_topic, qos.RELIABLE)
            node.create_timer(1.0 / self._rate_hz, self._say_state)
            self._begin(node)
            self._closing = stack.pop_all()
        return self

    def _begin(self, node: Node) -> None:
        """What is said beside joint states, and what is heard."""
        self._chunks = node.create_publisher(JointTrajectory, "policy/chunk", qos.RELIABLE)
        node.create_subscription(JointStateMsg, "command/executed", self._on_executed, qos.RECORD, raw=True)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.RELIABLE)
        node.create_timer(1.0 / CHUNK_HZ, self._say_chunk)

    def __exit__(self, *exception: object) -> None:
        self._closing.close()

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Live for ``seconds``, or shorter, ``until`` something is so; whether it was."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until():
                return True
            self._executor.spin_once(timeout_sec=0.05)
        return until()

    def motion(self, stamps: np.ndarray) -> FloatArray:
        """Where the motion is at ``stamps`` (N,) ns: (N, J)."""
        phase = 2.0 * np.pi * FREQUENCY_HZ * (stamps.astype(np.int64) % int(1e9 / FREQUENCY_HZ)) * 1e-9
        joints = np.arange(len(self._robot.joints))
        moved: FloatArray = self._centre + self._amplitude * np.sin(phase[:, None] + joints)
        return moved

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _say_state(self) -> None:
        now = self._now()
        position = self.motion(np.array([now]))[0]
        self._states.publish(joint_state_to_message(JointState(now, self._robot.joints, position)))

    def _say_chunk(self) -> None:
        now = self._now()
        points = self.motion(now + DT_NS * np.arange(HORIZON, dtype=np.int64))
        self._chunks.publish(chunk_to_message(Chunk(now, DT_NS, self._robot.joints, points)))

    def _on_executed(self, message: bytes) -> None:
        # At this rate messages would be lost if each were read as a whole: four bytes say how it is coded, then comes the stamp.
        seconds, nanoseconds = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, 4)
        self.stamps.append(seconds * SECOND_NS + nanoseconds)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "command":
                self.report, self.message = values(status), status.message


def _executor(context: Context) -> Executor:
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)
