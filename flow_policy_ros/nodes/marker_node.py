"""The marker node: where the newest chunk would lead the robot's fingertips, and the plan that is being executed, as markers.

An onlooker: it reads with best effort, draws only while somebody looks, and tells the robot nothing. Where links are is
``runtime.forward_kinematics``' to say, what a marker looks like ``ros.markers``'.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import OK, WARN, Diagnostics, counts, latency_values, status
from flow_policy_ros.ros.markers import BLUE, GREEN, ORANGE, Look, balls, way
from flow_policy_ros.ros.messages import MessageError, chunk_from_message, joint_state_from_message, plan_from_message
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.ros.raw import opened
from flow_policy_ros.runtime.forward_kinematics import load_kinematics
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.parameters import MarkerParameters, ParameterError
from flow_policy_ros.runtime.types import Chunk, FloatArray, Plan

MEASURED = "measured"


class MarkerNode(ClosableNode):
    """Publishes ``policy/markers``: a line for each link of the chunk (``chunk/LINK``) and of the plan (``plan/LINK``), and a ball
    where each link is (``measured``)."""

    def __init__(self) -> None:
        super().__init__("marker_node")
        robot = robot_of(self)
        self._declared = NodeParameters(self, robot, ("markers",), on_change=self._changed)
        settings = self._settings
        path = settings.urdf or robot.urdf
        if not path:
            raise ParameterError(
                f"there is no URDF to draw with: robot file {robot.path} has no robot.urdf, and markers.urdf is empty. "
                "Give the path of the robot's URDF in one of them."
            )
        self._kinematics = load_kinematics(Path(path), settings.links.split(), robot.joints)
        self._frame = settings.frame or self._kinematics.root
        self._robot = robot
        self._order = JointOrder(robot.joints)
        self._waiting: dict[str, bytes] = {}  # newest message not drawn yet, by what it is
        self._measured: dict[str, float] = {}
        self._counts = dict.fromkeys(("chunk", "plan"), 0)
        self._published = 0
        self._refused: Counter[str] = Counter()
        self._time = LatencyTracker()
        sources: tuple[tuple[str, type, str], ...] = (
            ("chunk", JointTrajectory, "policy/chunk"),
            ("plan", JointTrajectory, "command/plan"),
            (MEASURED, JointStateMsg, robot.joint_state_topic),
        )
        for what, kind, topic in sources:  # as bytes: most are never looked at
            self.create_subscription(kind, topic, self._keeper(what), qos.reader(lockstep=False), raw=True)
        self._markers = self.create_publisher(MarkerArray, "policy/markers", qos.RELIABLE)
        self._diagnostics = Diagnostics(self, self._robot.name)
        self._timer = self._begin_timer(settings.rate_hz)
        self.create_timer(1.0, self._diagnose, clock=STEADY)

    @property
    def _settings(self) -> MarkerParameters:
        return self._declared.block(MarkerParameters)

    def _keeper(self, what: str) -> Callable[[bytes], None]:
        def keep(message: bytes) -> None:
            self._waiting[what] = message
            if what in self._counts:
                self._counts[what] += 1

        return keep

    def _begin_timer(self, rate_hz: float) -> Any:
        return self.create_timer(1.0 / rate_hz, self._draw, clock=STEADY)

    def _changed(self, prefix: str, block: MarkerParameters) -> None:
        if block.rate_hz != self._settings.rate_hz:
            self.destroy_timer(self._timer)
            self._timer = self._begin_timer(block.rate_hz)

    def _draw(self) -> None:
        """Everything new, in one message; nothing while nobody looks."""
        if not self._waiting or not self._markers.get_subscription_count():
            return
        began = time.perf_counter()
        markers: list[Marker] = []
        # Joint states first: they say where the joints are that a chunk does not name.
        for what, make in ((MEASURED, self._balls), ("plan", self._plan), ("chunk", self._chunk)):
            message = self._waiting.pop(what, None)
            if message is None:
                continue
            try:
                markers += make(message)
            except (MessageError, BadInput) as error:
                self._refuse(error.kind if isinstance(error, BadInput) else f"{what}_malformed", error)
        if markers:
            self._markers.publish(MarkerArray(markers=markers))
            self._published += 1
            self._time.add(1e3 * (time.perf_counter() - began))

    def _refuse(self, kind: str, error: Exception) -> None:
        self._refused[kind] += 1
        if self._refused[kind] == 1:
            self.get_logger().warning(f"{kind}: {error} It is not drawn; more of this kind are only counted.")

    def _balls(self, message: bytes) -> list[Marker]:
        state = self._robot.naming.named(joint_state_from_message(opened(message, JointStateMsg)))
        position = {name: float(q) for name, q in zip(state.names, state.position, strict=True) if np.isfinite(q)}
        self._measured.update({name: position[name] for name in self._kinematics.needed if name in position})
        return [balls(MEASURED, self._kinematics.positions(self._measured), GREEN, self._look(state.stamp))]

    def _chunk(self, message: bytes) -> list[Marker]:
        return self._ways("chunk", chunk_from_message(opened(message, JointTrajectory)), BLUE)

    def _plan(self, message: bytes) -> list[Marker]:
        return self._ways("plan", plan_from_message(opened(message, JointTrajectory)), ORANGE)

    def _ways(self, what: str, motion: Chunk | Plan, colour: tuple[float, float, float]) -> list[Marker]:
        rows = self._order.select(what, motion.names, motion.positions)
        if len(rows) > self._settings.points:
            rows = rows[np.linspace(0, len(rows) - 1, self._settings.points).round().astype(np.intp)]
        joints: dict[str, FloatArray | float] = {**self._measured, **dict(zip(self._robot.joints, rows.T, strict=True))}
        places = self._kinematics.positions(joints)
        look = self._look(motion.stamp)
        return [way(f"{what}/{link}", places[:, i], colour, look) for i, link in enumerate(self._kinematics.links)]

    def _look(self, stamp: int) -> Look:
        return Look(stamp, self._frame, self._settings.width_m, self._settings.lifetime_s)

    def _unknown(self) -> list[str]:
        """Joints on the way to the links that neither the robot file nor the joint state names."""
        known = {*self._robot.joints, *self._measured}
        return [joint for joint in self._kinematics.needed if joint not in known]

    def _diagnose(self) -> None:
        watched, unknown = self._markers.get_subscription_count(), self._unknown()
        level, message = OK, "drawing" if watched else "nobody looks"
        if watched and unknown and MEASURED not in self._waiting:
            level, message = WARN, f"nobody says where {', '.join(unknown)} are; they are drawn at 0."
        values: dict[str, object] = {
            "links": " ".join(self._kinematics.links),
            "watched": watched,
            "chunks": self._counts["chunk"],
            "plans": self._counts["plan"],
            "published": self._published,
            **latency_values("markers_ms", self._time),
            **counts("rejections", self._refused),
        }
        stamp = int(self.get_clock().now().nanoseconds)
        self._diagnostics.publish(stamp, status("markers", level, message, values))


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(MarkerNode, args)


if __name__ == "__main__":
    sys.exit(main())
