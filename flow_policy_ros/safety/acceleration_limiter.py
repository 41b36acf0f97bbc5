"""Positions that never break range, velocity or acceleration limits, whatever the target does.

Discrete time and vectorised over joints: one call is one period T. Jerk and live changes of limits are ``limiter``'s.
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
MARGIN_ULP = 1024  # under 1e-12 for bounds below 8 rad or m
ENDLESS = 1e5  # rad: the range of a joint without stops, 15,000 turns either way
# Share of the deceleration that is planned for the arrival at a target; the rest is for a target that brakes as well.
# On targets faster than the limits 0.7 mostly gives smaller errors than 1; a step arrives 1 to 11% later.
ARRIVAL_SHARE = 0.7


@dataclass(frozen=True)
class LimitedStep:
    """One set-point: ``position`` (J,), and the ``velocity`` and ``acceleration`` (J,) of set-points' differences.

    ``interventions[kind]`` (J,) bool for each kind of ``KINDS``: the limit that kept the set-point from its target.
    """

    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    interventions: dict[str, BoolArray]


class AccelerationLimiter:
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
        self._names = limits.names
        joints = len(limits.names)
        nobody = np.zeros(joints, dtype=np.bool_)
        nobody.setflags(write=False)  # shared by every step without interventions
        self._none = dict.fromkeys(KINDS, nobody)
        # Work space. A tick finds its code and data cold, so that each operation and each array less counts fourfold.
        self._room = np.zeros((3, joints))
        self._braking = np.zeros((3, joints))  # ticks of braking still ahead
        self._speed = np.zeros((3, joints))
        self._position: FloatArray | None = None
        self._met = False  # whether the last set-point was the target
        self._velocity = np.zeros(joints)
        self._target = np.zeros(joints)  # of the tick before, clipped to the range; without one, the set-point
        self._target_velocity = np.zeros(joints)
        self._use(limits)

    def _use(self, limits: JointLimits) -> None:
        # A joint without stops has a range all the same: so far away that it is never reached, near enough to compute with.
        self._lower = np.maximum(limits.lower, np.where(limits.continuous, -ENDLESS, -np.inf)).astype(np.float64)
        self._upper = np.minimum(limits.upper, np.where(limits.continuous, ENDLESS, np.inf)).astype(np.float64)
        for what, values in (("range", self._upper - self._lower), ("velocity", limits.velocity),
                             ("acceleration", limits.acceleration)):
            wrong = [n for n, x in zip(limits.names, values, strict=True) if not (np.isfinite(x) and x > 0)]
            if wrong:
                raise ValueError(f"limits of {wrong}: {what} must be finite and above zero. Correct the robot file.")
        # Stops are planned this far inside the range, for the rounding that a long braking adds up.
        margin = MARGIN_ULP * np.spacing(np.maximum(np.abs(self._lower), np.abs(self._upper)))
        self._stop_below, self._stop_above = self._lower + margin, self._upper - margin
        self._max_speed = limits.velocity.astype(np.float64)
        self._max_change = limits.acceleration * self._period  # D
        self._half_brake = self._max_change / 2.0
        share = np.array([[1.0], [1.0], [ARRIVAL_SHARE]])  # to upper, to lower, to the target
        self._change = share * self._max_change
        self._half_change = self._change * 0.5
        self._eighth = self._change * self._period / 8.0  # of T·D, the way of one tick between rest and rest
        self._min_speed, self._min_change = -self._max_speed, -self._max_change
        self._nearly = 1e-6 * self._max_change

    def obeys(self, limits: JointLimits) -> bool:
        """Whether the present motion is within ``limits`` and can be stopped within them (also before the start)."""
        change = limits.acceleration * self._period
        # A motion under lower limits obeys higher ones: computed, rounding could say otherwise.
        if self._position is None or ((limits.velocity >= self._max_speed).all() and (change >= self._max_change).all()):
            return True
        speed = np.abs(self._velocity)
        ticks = np.floor(speed / change)
        way = self._period * (ticks * speed - change * ticks * (ticks + 1.0) / 2.0)
        forward = self._velocity > 0
        ends = self._position + np.where(forward, way, -way)
        within = np.where(forward, ends <= self._stop_above, ends >= self._stop_below) | ~(speed > 0)
        return bool(((speed <= limits.velocity) & within).all())

    def change(self, limits: JointLimits) -> None:
        """Use other limits of the same range from now on. Raises ``ValueError`` when the motion does not obey them."""
        if not self.obeys(limits):
            raise ValueError("the motion does not obey the new limits; stop first.")
        self._use(limits)

    @property
    def started(self) -> bool:
        """Whether there is a set-point."""
        return self._position is not None

    @property
    def at_rest(self) -> bool:
        """Whether the last set-point repeats the one before (also before the start)."""
        return not np.count_nonzero(self._velocity)

    @property
    def position(self) -> FloatArray:
        """The last set-point (J,). Raises ``RuntimeError`` before the start."""
        return self._current().copy()

    @property
    def velocity(self) -> FloatArray:
        """Difference of the last two set-points over the period (J,), zero before the start."""
        return self._velocity.copy()

    def start(self, position: ArrayLike) -> LimitedStep:
        """Begin at rest at ``position`` (J,). Raises ``ValueError`` naming joints not finite or out of range."""
        start = np.array(position, dtype=np.float64)
        outside = ~((start >= self._lower) & (start <= self._upper))
        if outside.any():
            named = [n for n, wrong in zip(self._names, outside, strict=True) if wrong]
            raise ValueError(f"limiter cannot start: {named} not finite or outside the command range.")
        self._position, self._velocity = start, np.zeros_like(start)
        self._target, self._target_velocity = self._position, self._velocity
        return LimitedStep(start.copy(), self._velocity.copy(), np.zeros_like(start), dict(self._none))

    def forget(self) -> None:
        """Have no set-point, as before the start."""
        self._position = None
        self._velocity = np.zeros_like(self._velocity)

    def step(self, target: ArrayLike) -> LimitedStep:
        """The next set-point towards ``target`` (J,). Raises ``ValueError`` for NaN or Inf and then changes nothing."""
        position, velocity, period = self._current(), self._velocity, self._period
        target = np.asarray(target, dtype=np.float64)
        if target.shape != position.shape or np.count_nonzero(np.isfinite(target)) != target.size:
            raise ValueError(f"limiter target must be {position.size} finite positions.")
        wanted = np.minimum(np.maximum(target, self._lower), self._upper)
        if self._met:
            step = self._go_on(wanted)
            if step is not None:
                step.interventions["position"] = np.abs(target - wanted) > TOLERANCE
                return step
        drift = self._drift(wanted)
        gap = wanted - drift * period - position  # to where the target was a tick ago

        room = self._room
        np.subtract(self._stop_above, position, out=room[0])
        np.subtract(position, self._stop_below, out=room[1])
        np.maximum(room, 0.0, out=room)
        distance = np.abs(gap, out=room[2])
        speed = self._approach_speed(room)
        to_target = np.maximum(speed[2], np.minimum(distance / period, self._max_change))
        law = np.copysign(to_target, gap)
        law += drift
        high, low = np.minimum(speed[:2], self._max_speed)
        np.negative(low, out=low)
        bounded = np.maximum(law, low)
        np.minimum(bounded, high, out=bounded)
        # Acceleration comes last: where rounding makes the bounds contradict each other, the margin of the stop gives.
        chosen = np.maximum(bounded, velocity - self._max_change)
        np.minimum(chosen, velocity + self._max_change, out=chosen)
        step = self._advance(chosen)
        self._attribute(step, target, wanted, law, bounded, chosen)
        return step

    def _go_on(self, wanted: FloatArray) -> LimitedStep | None:
        """``wanted`` itself, where the last target was met and the motion may go on to this one: speed and change of speed are
        within the limits, and the state that follows is safe. It is what the law gives, for half the time; else None."""
        velocity = wanted - self._current()
        velocity /= self._period
        speed = np.abs(velocity)
        change = velocity - self._velocity
        if np.count_nonzero(speed > self._max_speed) or np.count_nonzero(np.abs(change) > self._max_change):
            return None
        ticks = speed / self._max_change
        np.floor(ticks, out=ticks)
        way = ticks + 1.0
        way *= self._half_brake
        np.subtract(speed, way, out=way)
        way *= ticks
        way *= self._period
        room = np.where(velocity > 0.0, self._stop_above - wanted, wanted - self._stop_below)
        if np.count_nonzero(way > room):
            return None
        change /= self._period
        self._position = self._target = wanted
        self._velocity = self._target_velocity = velocity
        return LimitedStep(wanted.copy(), velocity.copy(), change, dict(self._none))

    def _attribute(
        self,
        step: LimitedStep,
        target: FloatArray,
        wanted: FloatArray,
        law: FloatArray,
        bounded: FloatArray,
        chosen: FloatArray,
    ) -> None:
        """Which limits kept ``step`` from its ``target``."""
        position = np.abs(target - wanted) > TOLERANCE
        off = np.abs(step.position - wanted) > TOLERANCE
        self._met = not np.count_nonzero(off)
        if not self._met:  # seldom
            limited = off & (bounded != law) & (np.abs(chosen - bounded) <= self._nearly)
            at_speed = limited & (np.abs(bounded) == self._max_speed)
            position |= limited & ~at_speed
            step.interventions["velocity"] = at_speed
            step.interventions["acceleration"] = off & ~limited
        step.interventions["position"] = position

    def stop_step(self) -> LimitedStep:
        """The next set-point of a stop: every joint brakes at its limit, then keeps its place."""
        self._current()
        change = np.minimum(np.maximum(self._velocity, -self._max_change), self._max_change)
        step = self._advance(self._velocity - change)
        self._target, self._target_velocity = self._current(), self._velocity
        self._met = False
        return step

    def _drift(self, wanted: FloatArray) -> FloatArray:
        """The velocity (J,) that the target had in this tick and the one before: a single jump is not a motion."""
        before = self._target_velocity
        now = wanted - self._target
        now /= self._period
        np.maximum(now, self._min_speed, out=now)
        np.minimum(now, self._max_speed, out=now)
        self._target, self._target_velocity = wanted, now
        drift: FloatArray = np.maximum(now, np.minimum(before, 0.0))
        return np.minimum(drift, np.maximum(before, 0.0), out=drift)

    def _approach_speed(self, distance: FloatArray) -> FloatArray:
        """The greatest velocity (3, J) of one tick after which braking still ends within ``distance`` (3, J)."""
        ticks = np.divide(distance, self._eighth, out=self._braking)
        ticks += 1.0
        np.sqrt(ticks, out=ticks)
        ticks -= 1.0
        ticks *= 0.5
        np.floor(ticks, out=ticks)
        speed = np.add(ticks, 1.0, out=self._speed)
        speed *= self._period
        np.divide(distance, speed, out=speed)
        ticks *= self._half_change
        speed += ticks
        return speed

    def _advance(self, chosen: FloatArray) -> LimitedStep:
        # For rounding only: a chosen velocity does not lead out of the range.
        position = chosen * self._period
        position += self._current()
        np.maximum(position, self._lower, out=position)
        np.minimum(position, self._upper, out=position)
        acceleration = chosen - self._velocity
        acceleration /= self._period
        # The chosen velocity is kept, not the difference of rounded positions: a long braking would add up its error.
        self._position, self._velocity = position, chosen
        return LimitedStep(position.copy(), chosen.copy(), acceleration, dict(self._none))

    def _current(self) -> FloatArray:
        if self._position is None:
            raise RuntimeError("limiter has no set-point yet; call start(position) first.")
        return self._position
