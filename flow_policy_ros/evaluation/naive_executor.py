"""The opponent in the latency benchmark: the newest chunk as it is, spliced as other runners splice. For simulators only.

As LeRobot does (``async_inference.RobotClient._aggregate_action_queues`` with ``latest_only``, and
``policies.rtc.ActionQueue._replace_actions_queue``): while a chunk is computed the rest of the old one is played; when it is
there, its actions for instants that have passed are dropped and the next one is sent, however far it lies from the last.
Each action is sent once its time has come and the servo holds it; a queue that ran empty sends nothing, so that the last one
stays. Nothing limits speed, acceleration or jerk; positions are clipped. No node can be started with it.
"""

from __future__ import annotations

import numpy as np

from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState, Plan, Setpoint
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.limiter import KINDS
from flow_policy_ros.safety.statistics import CommandStatistics


class NaiveExecutor:
    """Takes the place of ``CommandLoop`` in ``closed_loop.Stack``: the same calls, none of the safety.

    Counts as ``CommandLoop`` does; the only interventions are clipped positions.
    """

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._clipped = np.zeros(len(robot.joints), dtype=np.int64)
        self._ticks = self._active = self._limited = 0
        self.reset()

    def reset(self) -> None:
        """Forget chunks and set-point; counts stay."""
        self._arriving: list[tuple[int, Chunk]] = []  # with the instant of arrival
        self._chunk: Chunk | None = None
        self._sent: FloatArray | None = None

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """Not looked at."""

    def on_chunk(self, chunk: Chunk, received: int) -> None:
        """Take a chunk, played from ``received`` (ns) on."""
        self._arriving.append((received, chunk))

    def tick(self, now: int) -> CommandTick:
        """The action whose time has come; no set-point before the first chunk."""
        self._ticks += 1
        plan = self._replace(now)
        interventions = None
        state = GuardState.INACTIVE if self._sent is None else GuardState.HOLDING
        action = None if self._chunk is None else self._action(self._chunk, now)
        if action is not None:
            limits = self._robot.limits
            self._sent = np.clip(action, limits.lower, limits.upper)
            changed = self._sent != action
            interventions = {kind: changed if kind == "position" else np.zeros_like(changed) for kind in KINDS}
            self._clipped += changed
            self._active += 1
            self._limited += bool(changed.any())
            state = GuardState.ACTIVE
        setpoint = None
        if self._sent is not None:
            unknown = np.zeros_like(self._sent)
            setpoint = Setpoint(now, self._robot.joints, self._sent, unknown, unknown)
        return CommandTick(state=state, setpoint=setpoint, faults=(), interventions=interventions, plan=plan)

    def statistics(self) -> CommandStatistics:
        """Counts since construction."""
        nobody = dict.fromkeys(self._robot.joints, 0)
        clipped = dict(zip(self._robot.joints, map(int, self._clipped), strict=True))
        return CommandStatistics(
            ticks=self._ticks,
            ticks_active=self._active,
            ticks_limited=self._limited,
            interventions={kind: clipped if kind == "position" else dict(nobody) for kind in KINDS},
            rejections={},
            faults={},
            joint_ticks_limited=int(self._clipped.sum()),
        )

    def _replace(self, now: int) -> Plan | None:
        """Put the newest chunk that has arrived in the old one's place."""
        arrived = [chunk for received, chunk in self._arriving if received <= now]
        if not arrived:
            return None
        self._arriving = [(received, chunk) for received, chunk in self._arriving if received > now]
        newest = max(arrived, key=lambda chunk: chunk.stamp)
        if self._chunk is not None and newest.stamp <= self._chunk.stamp:
            return None
        columns = [newest.names.index(joint) for joint in self._robot.joints]
        self._chunk = Chunk(newest.stamp, newest.dt_ns, self._robot.joints, newest.positions[:, columns], newest.nfe, newest.seed)
        rest = self._chunk.positions[(now - newest.stamp) // newest.dt_ns :]
        return Plan(now, newest.dt_ns, self._robot.joints, rest, newest.stamp) if len(rest) else None

    @staticmethod
    def _action(chunk: Chunk, now: int) -> FloatArray | None:
        row = (now - chunk.stamp) // chunk.dt_ns
        return chunk.positions[row] if 0 <= row < len(chunk.positions) else None
