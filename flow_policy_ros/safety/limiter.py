"""Set-points that never break position, velocity, acceleration or jerk limits, whatever the target does.

Discrete time and vectorised over joints: one call is one period T. Knows nothing of chunks, faults or time stamps. Range,
velocity and acceleration are kept by ``acceleration_limiter``; here live jerk and the change of limits while running.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from flow_policy_ros.runtime.robot import JointLimits
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.safety.acceleration_limiter import TOLERANCE, AccelerationLimiter, BoolArray, LimitedStep

__all__ = ["KINDS", "TOLERANCE", "BoolArray", "LimitedStep", "SetpointLimiter", "averaged_ticks"]

KINDS = ("position", "velocity", "acceleration", "jerk")
MOST_TICKS = 500
"""A longer average would delay the set-points by more than a policy can use."""


def averaged_ticks(limits: JointLimits, period_s: float) -> np.ndarray:
    """Set-points to average per joint (J,) int: n = ceil(2 A / (J T)), 1 where the jerk is not limited.

    Raises ``ValueError`` naming joints whose jerk limit is not above zero, or so low for their acceleration that n is above
    ``MOST_TICKS``.
    """
    wrong = [n for n, x in zip(limits.names, limits.jerk, strict=True) if not x > 0]
    if wrong:
        raise ValueError(f"limits of {wrong}: jerk must be above zero. Correct the robot file.")
    with np.errstate(over="ignore"):
        # A hair less, so that a jerk given as 2A/T to full precision is no average of two.
        ticks = np.ceil(2.0 * limits.acceleration / limits.jerk / period_s - 1e-9)
    slow = [n for n, x in zip(limits.names, ticks, strict=True) if x > MOST_TICKS]
    if slow:
        raise ValueError(
            f"limits of {slow}: at full acceleration the jerk limit takes {MOST_TICKS} control periods and more to turn it round. "
            "Lower the acceleration or raise the jerk in the robot file."
        )
    return np.maximum(ticks, 1.0).astype(np.intp)


class SetpointLimiter:
    """Follows a target within limits. With p the set-points, v, a and j their first, second and third differences over T, T²
    and T³ (at rest before the start), lower <= p <= upper exactly, and abs(v) <= V, abs(a) <= A, abs(j) <= J to 1e-9
    relative plus the resolution of float64 positions (4 ulp / T, 4 ulp / T², 8 ulp / T³).

    **Why it holds.** What ``AccelerationLimiter`` gives is averaged over the last n ticks, joint by joint (a finite impulse
    response filter, Biagiotti & Melchiorri 2012). Range and bounds on v and a are convex, so that an average of points that
    keep them keeps them. The average's jerk is (a_k - a_(k-n)) / (n T), at most 2A / (n T) <= J by the choice of n. Nothing is
    assumed of the target.

    **What it costs.** The set-points come (n - 1) / 2 ticks after what was averaged: ``lead`` (J,). Who knows the
    future of the target gives it that much earlier, and the average is centred on it.
    """

    def __init__(self, limits: JointLimits, period_s: float) -> None:
        """Raises ``ValueError`` naming joints whose limits cannot be used."""
        self._inner = AccelerationLimiter(limits, period_s)
        self._period = float(period_s)
        self._limits = limits
        self._pending: JointLimits | None = None
        self._ticks = averaged_ticks(limits, period_s)
        self.lead: FloatArray = (self._ticks - 1) / 2.0
        length, joints = int(self._ticks.max()), len(limits.names)
        # The newest row comes last; each row is written twice, half a buffer apart, so that a window is contiguous.
        self._weights = np.where(np.arange(length)[::-1, None] < self._ticks, 1.0 / self._ticks, 0.0)
        self._window = np.zeros((2 * length, 3, joints))  # position, velocity, acceleration of the inner set-points
        self._length, self._row, self._rest = length, 0, 0
        self._last = np.zeros(joints)
        self._most_change = limits.jerk * self._period * (1.0 + 1e-9)
        nobody = np.zeros(joints, dtype=np.bool_)
        nobody.setflags(write=False)
        self._none = nobody

    @property
    def limits(self) -> JointLimits:
        """The limits in force."""
        return self._limits

    @property
    def period_s(self) -> float:
        """The period T."""
        return self._period

    @property
    def started(self) -> bool:
        """Whether there is a set-point."""
        return self._inner.started

    @property
    def at_rest(self) -> bool:
        """Whether set-points stand still, and go on to while the target does (also before the start)."""
        return not self.started or self._rest >= self._length

    @property
    def position(self) -> FloatArray:
        """The last set-point (J,). Raises ``RuntimeError`` before the start."""
        if not self.started:
            raise RuntimeError("limiter has no set-point yet; call start(position) first.")
        return self._last.copy()

    @property
    def averaged(self) -> FloatArray:
        """The last inner set-points (N, 3, J), oldest first: position, velocity, acceleration, before averaging."""
        return self._now()

    @property
    def averaged_ticks(self) -> np.ndarray:
        """How many set-points are averaged per joint, (J,)."""
        return self._ticks

    def start(self, position: ArrayLike) -> LimitedStep:
        """Begin at rest at ``position`` (J,). Raises ``ValueError`` naming joints not finite or out of range."""
        step = self._inner.start(position)
        self._window[:] = 0.0
        self._window[:, 0] = step.position
        self._rest = self._length
        self._apply_pending()
        return self._with_jerk(step, self._none)

    def forget(self) -> None:
        """Have no set-point, as before the start."""
        self._inner.forget()
        self._apply_pending()

    def step(self, target: ArrayLike) -> LimitedStep:
        """The next set-point towards ``target`` (J,). Raises ``ValueError`` for NaN or Inf and then changes nothing.

        While new limits wait for the motion to be braked to them, it brakes, whatever the target.
        """
        if self._pending is not None and not self._apply_pending():
            return self.stop_step()
        return self._averaged(self._inner.step(target))

    def stop_step(self) -> LimitedStep:
        """The next set-point of a stop: every joint brakes at its limits, then keeps its place."""
        if self._pending is not None:
            self._apply_pending()
        return self._averaged(self._inner.stop_step())

    def change(self, limits: JointLimits) -> None:
        """Use other limits as soon as the motion obeys them; until then it is braked under those in force.

        Raises ``ValueError`` when joints or range differ, or the ratio of acceleration to jerk.
        """
        if limits.names != self._limits.names or not (averaged_ticks(limits, self._period) == self._ticks).all():
            raise ValueError("limits can change by factors on velocity, acceleration and jerk alike; restart for others.")
        self._pending = limits
        self._apply_pending()

    def _apply_pending(self) -> bool:
        """Put the limits that wait into force if the motion obeys them; whether none wait any more."""
        if self._pending is None:
            return True
        now, then = self._limits, self._pending
        if self.started and ((then.velocity < now.velocity).any() or (then.acceleration < now.acceleration).any()):
            window = np.abs(self._now()[:, 1:]) * (self._weights > 0.0)[:, None]
            # What is still in the average counts as motion, too.
            if (window[:, 0] > self._pending.velocity).any() or (window[:, 1] > self._pending.acceleration).any():
                return False
            if not self._inner.obeys(self._pending):
                return False
        self._inner.change(self._pending)
        self._limits, self._pending = self._pending, None
        self._most_change = self._limits.jerk * self._period * (1.0 + 1e-9)
        return True

    def _now(self) -> FloatArray:
        return self._window[self._row : self._row + self._length]

    def _averaged(self, step: LimitedStep) -> LimitedStep:
        before = self._window[self._row + self._length - 1, 2]
        jerky = np.abs(step.acceleration - before) > self._most_change
        newest = self._window[self._row]
        newest[0], newest[1], newest[2] = step.position, step.velocity, step.acceleration
        self._window[self._row + self._length] = newest
        self._row = (self._row + 1) % self._length
        self._rest = self._rest + 1 if self._inner.at_rest else 0
        if self._length > 1 and self._rest <= self._length:
            window = self._now().copy()
            window[:, 0] -= step.position  # distances from the newest: what stands still comes out to the last bit
            average = np.einsum("nkj,nj->kj", window, self._weights)
            average[0] += step.position
            # For rounding only: weights of one third add up to a hair more or less than one.
            position = average[0]
            np.maximum(position, self._limits.lower, out=position)
            np.minimum(position, self._limits.upper, out=position)
            step = LimitedStep(position, average[1], average[2], step.interventions)
        return self._with_jerk(step, jerky)

    def _with_jerk(self, step: LimitedStep, jerky: BoolArray) -> LimitedStep:
        step.interventions["jerk"] = jerky
        self._last = step.position
        return step
