"""What the robot was told and will be told: the set-points that were sent, and the plan that the command stage follows.

A chunk is not what is executed: the command stage begins it late, slows it down, splices it. Real-time chunking
continues what is here. What is done where nothing is known is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.buffers import StampedBuffer
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.types import FloatArray, Plan, Setpoint

LEFT_PLAN = 0.05
"""rad or m: a set-point farther than this from the plan at its instant shows that the plan is not being followed."""


@dataclass(frozen=True)
class Executed:
    """``positions`` (N, J) at N instants. The first ``known`` of them were sent or are planned; for the others the last
    position is held."""

    positions: FloatArray
    known: int


class ExecutedTimeline:
    """Set-points and plans of the joints ``joints``; positions come out in that order."""

    def __init__(self, joints: Sequence[str]) -> None:
        self._order = JointOrder(joints)
        self._sent: StampedBuffer[FloatArray] = StampedBuffer(length=256)
        self._plans: StampedBuffer[Plan] = StampedBuffer(length=4)

    def on_setpoint(self, setpoint: Setpoint, received: int) -> None:
        """Take a set-point that was sent, known from ``received`` (ns) on. Raises ``BadInput``."""
        position = self._order.select("executed", setpoint.names, setpoint.position)
        if position.ndim != 1:
            raise BadInput("executed_shape", f"executed set-point has positions of shape {position.shape}, expected (J,).")
        self._sent.put(position, setpoint.stamp, received)

    def on_plan(self, plan: Plan, received: int) -> None:
        """Take what the command stage says it will send, known from ``received`` (ns) on. Raises ``BadInput``."""
        positions = self._order.select("plan", plan.names, plan.positions)
        if positions.ndim != 2 or len(positions) == 0:
            raise BadInput("plan_shape", f"plan has positions of shape {positions.shape}, expected (N, J) with N at least 1.")
        if plan.dt_ns <= 0:
            raise BadInput("plan_dt", f"plan has rows {plan.dt_ns} ns apart, expected more than zero.")
        self._plans.put(replace(plan, names=self._order.joints, positions=positions), plan.stamp, received)

    def positions(self, instants: NDArray[np.int64], now: int) -> Executed | None:
        """Positions at ``instants`` (N,) ns, ascending, as known at ``now``: what was sent, after it the plan, after it its end.

        Straight lines lie between the points. None when there is nothing to continue: no plan, one that has ended, nothing
        known of the first instant, or a last set-point that is not the plan's, because the command stage stops or limits.
        """
        entry = self._plans.latest(now)
        if entry is None:
            return None
        plan = entry.item
        planned = plan.stamp + plan.dt_ns * np.arange(len(plan.positions))
        points = [(e.stamp, e.item) for e in reversed(self._sent.visible(now))]
        if points and points[-1][0] >= plan.stamp:
            stamp, last = points[-1]
            if np.abs(last - _between(planned, plan.positions, np.array([stamp]))[0]).max() > LEFT_PLAN:
                return None
        sent_until = points[-1][0] if points else plan.stamp - 1
        points += [(int(stamp), row) for stamp, row in zip(planned, plan.positions, strict=True) if stamp > sent_until]
        known = int(np.searchsorted(instants, max(points[-1][0], int(planned[-1])), side="right"))
        if instants[0] < points[0][0] or known == 0:
            return None
        stamps, positions = np.array([p[0] for p in points]), np.stack([p[1] for p in points])
        return Executed(_between(stamps, positions, instants), known)

    def clear(self) -> None:
        """Forget everything."""
        self._sent.clear()
        self._plans.clear()


def _between(stamps: NDArray[np.int64], positions: FloatArray, instants: NDArray[np.int64]) -> FloatArray:
    """Positions (N, J) at ``instants``, straight lines between ``positions`` (M, J) at ``stamps``, the ends held.

    Relative to the first instant, since a float does not hold an instant to the nanosecond.
    """
    origin = instants[0]
    columns = [np.interp(instants - origin, stamps - origin, column) for column in positions.T]
    return np.stack(columns, axis=1)
