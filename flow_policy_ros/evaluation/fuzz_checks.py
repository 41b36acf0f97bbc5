"""What the safety stage must never do, looked for in the record of a run. Uses nothing of ``safety``: plain differences.

``Record`` is filled tick by tick by ``fuzz_scenarios``; ``violations`` looks at all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.types import FloatArray

BoolArray = NDArray[np.bool_]
RELATIVE = 1e-9
"""Tolerance of velocity, acceleration and jerk; besides it the resolution of float64 positions, as the limiter states it."""
CHANGES = {  # between two ticks, without a reset in between
    "inactive": {"inactive", "starting", "fault"},
    "starting": {"active", "holding", "fault"},
    "active": {"active", "stopping", "holding", "fault"},
    "stopping": {"stopping", "active", "holding", "fault"},
    "holding": {"holding", "active", "fault"},
    "fault": {"fault"},
}
STOPS = ("stopping", "holding", "fault")


@dataclass(frozen=True)
class Violation:
    """One thing that must not be: ``check`` is its short name, ``tick`` where in the scenario, ``detail`` in words."""

    check: str
    tick: int
    detail: str


@dataclass
class Moment:
    """One tick: what was so before it, as the outside knows it, and what came of it.

    ``limits`` were in force, ``asked`` are those that the parameters ask for without a soft start. ``held`` (2, J) are the
    least and greatest velocity that the average still held at the first tick of a stop. ``path`` (J,) is where a chunk that
    keeps every limit has the joints now, ``path_tolerance`` (J,) how near the set-point has to be.
    """

    now: int
    state: str
    position: FloatArray | None
    velocity: FloatArray | None
    acceleration: FloatArray | None
    limits: JointLimits
    asked: JointLimits
    reset: bool = False
    emergency: bool = False
    may_follow: bool = True
    fresh: bool = True
    chunk: bool = True
    first: FloatArray | None = None
    above: bool = False
    above_allowed_s: float = 0.0
    held: FloatArray | None = None
    path: FloatArray | None = None
    path_tolerance: FloatArray | None = None


@dataclass
class Record:
    """A scenario's ticks at ``period_s``, and what was wrong already while it ran."""

    period_s: float
    moments: list[Moment] = field(default_factory=list)
    seen: list[Violation] = field(default_factory=list)


def violations(record: Record) -> list[Violation]:
    """Everything wrong in ``record``, the first of each check, in the order of ticks."""
    found = [*record.seen, *_states(record.moments), *_limits_in_force(record)]
    for first, last in _segments(record.moments):
        found += _motion(record, first, last)
    firsts: dict[str, Violation] = {}
    for violation in sorted(found, key=lambda v: v.tick):
        firsts.setdefault(violation.check, violation)
    return list(firsts.values())


def averaged_ticks(limits: JointLimits, period: float) -> FloatArray:
    """Over how many ticks (J,) a change of acceleration from one limit to the other has to be spread."""
    return np.maximum(np.ceil(2.0 * limits.acceleration / limits.jerk / period - 1e-9), 1.0)


def _states(moments: list[Moment]) -> Iterator[Violation]:
    """The state machine, and that what was known outside had its effect."""
    before, started, above_since = "inactive", False, None
    for k, m in enumerate(moments):
        if m.reset:
            before, started, above_since = "inactive", False, None
        if m.state not in CHANGES[before]:
            yield Violation("transition", k, f"{before} to {m.state}")
        if m.state == "inactive" and m.position is not None:
            yield Violation("published_inactive", k, "a set-point while inactive")
        if m.position is None and (started or m.state not in ("inactive", "fault")):
            yield Violation("silent", k, f"no set-point in {m.state}")
        if m.position is not None and not started and (
            m.state != "starting" or m.first is None or not np.array_equal(m.position, m.first)
        ):
            yield Violation("first_setpoint", k, f"{m.position} in {m.state}, measured and clipped {m.first}")
        if m.emergency and m.state != "fault":
            yield Violation("emergency", k, f"{m.state} with the emergency stop engaged")
        if started and not m.fresh and m.state != "fault":
            yield Violation("stale", k, f"{m.state} without a fresh joint state")
        if not m.may_follow and m.state in ("active", "starting"):
            yield Violation("not_allowed", k, f"{m.state} without enable or hold-to-run switch")
        if not m.chunk and m.state == "active":
            yield Violation("no_chunk", k, "active without a chunk that may be followed")
        above_since = (m.now if above_since is None else above_since) if m.above and started else None
        if above_since is not None and (m.now - above_since) / 1e9 > m.above_allowed_s and m.state != "fault":
            yield Violation("effort", k, f"{m.state} with an effort above its limit")
        started = started or m.position is not None
        before = m.state


def _limits_in_force(record: Record) -> Iterator[Violation]:
    """Never raised above what is asked for, and lowered to it as soon as a stop would have ended."""
    since, bound, before = None, 0, None
    for k, m in enumerate(record.moments):
        force, asked = m.limits, m.asked
        pairs = ((force.velocity, asked.velocity), (force.acceleration, asked.acceleration), (force.jerk, asked.jerk))
        if not any((f > a * (1.0 + RELATIVE)).any() for f, a in pairs):
            since = None
        else:
            if since is None:
                since, bound = k, _ticks_to_rest(force.velocity, force, record.period_s)
            if before is not None and force is not before and (force.velocity > before.velocity * (1.0 + RELATIVE)).any():
                yield Violation("limits_raised", k, "limits in force were raised above those asked for")
            if k - since > bound:
                yield Violation("limits_pending", k, f"lower limits not in force after {k - since} ticks, at most {bound} expected")
        before = force


def _ticks_to_rest(speed: FloatArray, limits: JointLimits, period: float) -> int:
    """Ticks from the first of a stop to rest: braking at the limit, then until the average has forgotten it."""
    return int((np.ceil(speed / (limits.acceleration * period) - 1e-6) + averaged_ticks(limits, period)).max()) + 2


def _segments(moments: list[Moment]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the set-points between resets."""
    first = None
    for k, m in enumerate(moments):
        if first is not None and (m.reset or m.position is None):
            yield first, k
            first = None
        if first is None and m.position is not None:
            first = k
    if first is not None:
        yield first, len(moments)


def _gathered(moments: list[Moment], name: str) -> FloatArray:
    """The limit ``name`` in force at each tick (K, J); the objects are few."""
    distinct = {id(m.limits): m.limits for m in moments}
    rows = {key: i for i, key in enumerate(distinct)}
    values = np.array([getattr(limits, name) for limits in distinct.values()])
    return values[[rows[id(m.limits)] for m in moments]]


def _motion(record: Record, first: int, last: int) -> Iterator[Violation]:
    """Range, differences and stops of consecutive set-points, begun at rest."""
    moments, period = record.moments[first:last], record.period_s
    published = np.array([m.position for m in moments])
    lower, upper = moments[0].limits.lower, moments[0].limits.upper

    def worst(check: str, excess: FloatArray) -> Iterator[Violation]:
        """``excess`` (K, J) above 0, or NaN, is wrong."""
        wrong = ~(excess <= 0.0)
        if wrong.any():
            k = int(np.argmax(wrong.any(axis=1)))
            j = int(np.argmax(wrong[k]))
            yield Violation(check, first + k, f"joint {j} by {excess[k, j]:.3e}, {int(wrong.any(axis=1).sum())} ticks in all")

    yield from worst("position", np.maximum(lower - published, published - upper))
    rest = np.concatenate([np.repeat(published[:1], 3, axis=0), published])
    ulp = np.spacing(np.abs(published).max(axis=0))
    velocity = np.diff(rest, axis=0) / period
    acceleration = np.diff(velocity, axis=0) / period
    jerk = np.diff(acceleration, axis=0) / period
    velocity, acceleration = velocity[2:], acceleration[1:]
    for check, values, power, ulps in (("velocity", velocity, 1, 4), ("acceleration", acceleration, 2, 4), ("jerk", jerk, 3, 8)):
        limit = _gathered(moments, check)
        yield from worst(check, np.abs(values) - limit * (1.0 + RELATIVE) - ulps * ulp / period**power)
    for check, values, power in (("velocity", velocity, 1), ("acceleration", acceleration, 2)):
        said = np.array([getattr(m, check) for m in moments])
        slack = RELATIVE * _gathered(moments, check) + 4 * ulp / period**power
        yield from worst(f"reported_{check}", np.abs(said - values) - slack)
    away = np.full_like(published, -1.0)
    for k, m in enumerate(moments):
        if m.path is not None and m.path_tolerance is not None:
            away[k] = np.abs(published[k] - m.path) - m.path_tolerance
    yield from worst("off_the_path", away)
    yield from _stops(record, first, last, published, velocity, ulp / period)


def _stops(
    record: Record, first: int, last: int, published: FloatArray, velocity: FloatArray, rounding: FloatArray
) -> Iterator[Violation]:
    """A stop holds no velocity but what the average held, ends in time, and then stands."""
    moments, period = record.moments[first:last], record.period_s
    k = 0
    while k < len(moments):
        begin = k
        while k < len(moments) and moments[k].state in STOPS:
            k += 1
        held = moments[begin].held
        if k > begin and held is not None:
            slack = RELATIVE * np.abs(held).max(axis=0) + 4 * rounding
            outside = (velocity[begin:k] > np.maximum(held[1], 0) + slack) | (velocity[begin:k] < np.minimum(held[0], 0) - slack)
            if outside.any():
                at = begin + int(np.argmax(outside.any(axis=1)))
                yield Violation("stop_accelerates", first + at, f"joint {int(np.argmax(outside[at - begin]))}")
            distinct = {id(m.limits): m.limits for m in moments[begin:k]}.values()
            bound = max(_ticks_to_rest(np.abs(held).max(axis=0), limits, period) for limits in distinct)
            if (published[begin + bound : k] != published[min(begin + bound, k - 1)]).any():
                yield Violation("stop_endless", first + begin, f"not at rest after {bound} ticks")
        k = max(k, begin + 1)
    holding = np.array([m.state == "holding" for m in moments])
    moves = holding[1:] & (published[1:] != published[:-1]).any(axis=1)
    if moves.any():
        yield Violation("hold_moves", first + 1 + int(np.argmax(moves)), "the set-point moves while holding")
