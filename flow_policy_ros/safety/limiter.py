"""Set-points that never break position, velocity or acceleration limits, whatever the target does.

Discrete time and vectorised over joints. Knows nothing of chunks, faults or time stamps: one call is one period T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flow_policy_ros.runtime.robot import JointLimits
from flow_policy_ros.runtime.types import FloatArray

BoolArray = NDArray[np.bool_]
KINDS = ("position", "velocity", "acceleration")
TOLERANCE = 1e-9  # rad or m: a set-point nearer to its target than this was not changed
# Share of the deceleration that is planned for the arrival at a target; the rest is for a target that brakes as well.
# Measured on targets faster than the limits: 0.7 has smaller errors than 1, and a step arrives no later than 3% after.
ARRIVAL_SHARE = 0.7


@dataclass(frozen=True)
class LimitedStep:
    """One set-point: ``position``, ``velocity``, ``acceleration`` (J,) as finite differences of set-points.

    ``interventions[kind]`` (J,) bool for each kind of ``KINDS``: the limit that kept the set-point from its target.
    """

    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    interventions: dict[str, BoolArray]


class SetpointLimiter:
    """Follows a target within limits; with p the set-points, v = (p - p_before) / T and a = (v - v_before) / T it keeps
    lower <= p <= upper exactly and abs(v) <= V, abs(a) <= A to 1e-9 relative plus the resolution of float64 positions
    (4 ulp / T, 4 ulp / T²).

    **Why it holds.** Let D = A·T, the change of velocity that one tick allows. Braking from v > 0 runs through v - D,
    v - 2D, … and still covers S(v) = T·(n·v - D·n(n+1)/2), n = floor(v / D). Call (p, v) safe if p + S(v) <= upper.
    A new velocity u leads to a safe state iff u·T + S(u) <= upper - p; the left side grows with u and is linear between
    its knots u = n·D, where it is T·D·n(n+1)/2, so ``_approach_speed`` inverts it exactly. From a safe state with v > D
    the choice u = v - D is safe, since (v - D)·T + S(v - D) = S(v); with abs(v) <= D the choice u = 0 is. Both keep
    abs(u - v) <= D and abs(u) <= V, and ``lower`` is the mirror image: the bounds [low, high] on u are never empty and
    every u in them leads to a safe state. At rest inside the range is safe: by induction every state is.

    **How it follows.** The same braking curve, shallower and relative to the target's own motion, leads without
    overshoot to a target that stands still or moves evenly. A target that keeps the limits is met exactly at each tick:
    it is never farther than T·D from where its motion so far leads, and that is the way of one tick.
    """

    def __init__(self, limits: JointLimits, period_s: float) -> None:
        if not (np.isfinite(period_s) and period_s > 0):
            raise ValueError(f"limiter period is {period_s} s, expected a finite time above zero.")
        self._period = float(period_s)
        self._lower, self._upper = limits.lower.astype(np.float64), limits.upper.astype(np.float64)
        self._max_speed = limits.velocity.astype(np.float64)
        self._max_change = limits.acceleration * self._period  # D
        share = np.array([[1.0], [1.0], [ARRIVAL_SHARE]])  # to upper, to lower, to the target
        self._change = share * self._max_change
        self._quantum = self._change * self._period  # T·D: the way of one tick between rest and rest
        for what, values in (("range", self._upper - self._lower), ("velocity", self._max_speed),
                             ("acceleration", self._max_change)):
            wrong = [n for n, x in zip(limits.names, values, strict=True) if not (np.isfinite(x) and x > 0)]
            if wrong:
                raise ValueError(f"limits of {wrong}: {what} must be finite and above zero. Correct the robot file.")
        joints = len(limits.names)
        self._names = limits.names
        nobody = np.zeros(joints, dtype=np.bool_)
        nobody.setflags(write=False)  # shared by every step without interventions
        self._none = dict.fromkeys(KINDS, nobody)
        self._room = np.zeros((3, joints))
        self._braking = np.zeros((3, joints))  # ticks of braking still ahead
        self._position: FloatArray | None = None
        self._velocity = np.zeros(joints)
        self._target: FloatArray | None = None  # of the tick before, clipped to the range
        self._target_velocity = np.zeros(joints)

    @property
    def started(self) -> bool:
        """Whether there is a set-point."""
        return self._position is not None

    @property
    def at_rest(self) -> bool:
        """Whether the last set-point repeats the one before (also before the start)."""
        return not self._velocity.any()

    def start(self, position: ArrayLike) -> LimitedStep:
        """Begin at rest at ``position`` (J,). Raises ``ValueError`` naming joints not finite or out of range."""
        start = np.array(position, dtype=np.float64)
        outside = ~((start >= self._lower) & (start <= self._upper))
        if outside.any():
            named = [n for n, wrong in zip(self._names, outside, strict=True) if wrong]
            raise ValueError(f"limiter cannot start: {named} not finite or outside the command range.")
        self._position, self._velocity = start, np.zeros_like(start)
        self._forget_target()
        return LimitedStep(start.copy(), self._velocity.copy(), np.zeros_like(start), dict(self._none))

    def forget(self) -> None:
        """Have no set-point, as before the start."""
        self._position = None
        self._velocity = np.zeros_like(self._velocity)
        self._forget_target()

    def step(self, target: ArrayLike) -> LimitedStep:
        """The next set-point towards ``target`` (J,). Raises ``ValueError`` for NaN or Inf and then changes nothing."""
        position, velocity, period = self._current(), self._velocity, self._period
        target = np.asarray(target, dtype=np.float64)
        if target.shape != position.shape or not np.isfinite(target).all():
            raise ValueError(f"limiter target must be {position.size} finite positions.")
        wanted = np.minimum(np.maximum(target, self._lower), self._upper)
        drift = self._drift(wanted)
        gap = wanted - drift * period - position  # to where the target was a tick ago

        room = self._room
        np.subtract(self._upper, position, out=room[0])
        np.subtract(position, self._lower, out=room[1])
        np.abs(gap, out=room[2])
        to_upper, to_lower, to_target = self._approach_speed(room)
        to_target = np.maximum(to_target, np.minimum(room[2] / period, self._max_change))
        law = drift + np.copysign(to_target, gap)
        high = np.minimum(np.minimum(velocity + self._max_change, self._max_speed), to_upper)
        low = np.maximum(np.maximum(velocity - self._max_change, -self._max_speed), -to_lower)
        chosen = np.minimum(np.maximum(law, low), high)
        step = self._advance(chosen)

        off = np.abs(step.position - wanted) > TOLERANCE
        limited = off & (chosen != law)
        at_stop = limited & ((chosen == to_upper) | (chosen == -to_lower))
        at_speed = limited & (np.abs(chosen) == self._max_speed)
        step.interventions.update(
            position=at_stop | (np.abs(target - wanted) > TOLERANCE),
            velocity=at_speed,
            acceleration=off & ~(at_stop | at_speed),
        )
        return step

    def stop_step(self) -> LimitedStep:
        """The next set-point of a stop: every joint brakes at its limit, then keeps its place."""
        self._forget_target()
        change = np.minimum(np.maximum(self._velocity, -self._max_change), self._max_change)
        return self._advance(self._velocity - change)

    def _drift(self, wanted: FloatArray) -> FloatArray:
        """The velocity (J,) that the target had in this tick and the one before: a single jump is not a motion."""
        before = self._target_velocity
        if self._target is None:
            now = np.zeros_like(wanted)
        else:
            now = (wanted - self._target) / self._period
            now = np.minimum(np.maximum(now, -self._max_speed), self._max_speed)
        self._target, self._target_velocity = wanted, now
        return np.minimum(np.maximum(now, np.minimum(before, 0.0)), np.maximum(before, 0.0))

    def _approach_speed(self, distance: FloatArray) -> FloatArray:
        """The greatest velocity (3, J) of one tick after which braking still ends within ``distance`` (3, J)."""
        ticks = np.divide(distance, self._quantum, out=self._braking)
        ticks *= 8.0
        ticks += 1.0
        np.sqrt(ticks, out=ticks)
        ticks -= 1.0
        ticks *= 0.5
        np.floor(ticks, out=ticks)
        speed = distance / ((ticks + 1.0) * self._period)
        ticks *= 0.5
        ticks *= self._change
        speed += ticks
        return speed

    def _advance(self, chosen: FloatArray) -> LimitedStep:
        before, velocity = self._current(), self._velocity
        # The clip is of rounding only: a chosen velocity leads out of the range by no more than an ulp.
        position = np.minimum(np.maximum(before + chosen * self._period, self._lower), self._upper)
        self._position = position
        self._velocity = (position - before) / self._period
        acceleration = (self._velocity - velocity) / self._period
        return LimitedStep(position.copy(), self._velocity.copy(), acceleration, dict(self._none))

    def _forget_target(self) -> None:
        self._target = None
        self._target_velocity = np.zeros_like(self._velocity)

    def _current(self) -> FloatArray:
        if self._position is None:
            raise RuntimeError("limiter has no set-point yet; call start(position) first.")
        return self._position
