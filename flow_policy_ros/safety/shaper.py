"""From a chunk to the plan that the limiter follows: in range, smooth, slow enough, and joined to the present motion.

Looks at the whole chunk at once, when it begins to be followed. Nothing here is trusted with limits: the limiter keeps
them whatever a plan says. Shaping decides how little of that is needed, and that the path stays the policy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.robot import JointLimits
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.safety.acceleration_limiter import BoolArray
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.safety.spline import Path, fit

SHARE = 0.95
"""Of the limits, that a path may use: the rest is for the changes of its own speed and for joining it."""
SLOWEST = 0.05
"""A path is not slowed further than this; what still is too fast then is for the limiter to clamp."""
JOIN_SHARE = 0.5
"""Of the acceleration limit, that joining a new chunk to the present motion may add; the less, the later the chunk is met."""
EASE_S = 0.03
"""Slowing begins about this long before the place that needs it, and ends as long after it."""


@dataclass(frozen=True)
class ShapedPlan:
    """What the limiter is to be given: row k of ``targets`` (N, J) at the k-th tick from the one it was made for.

    ``published`` (N, J) is what comes out of it if no limit acts. ``clipped`` (J,) joints whose points were out of range,
    ``too_fast`` (kind → (J,)) joints because of which the path was slowed, ``stretch`` the time that the rest of the chunk
    takes over the time that it was meant to take.
    """

    targets: FloatArray
    published: FloatArray
    clipped: BoolArray
    too_fast: dict[str, BoolArray]
    stretch: float


class ChunkShaper:
    """Shapes chunks for ``limiter``, whose limits, period and present motion it reads."""

    def __init__(self, smoothing_s: float, splice_s: float, slow_down: bool, longest_s: float = 60.0) -> None:
        """No plan is made longer than ``longest_s``, however long a chunk is."""
        self.smoothing_s, self.splice_s, self.slow_down, self.longest_s = smoothing_s, splice_s, slow_down, longest_s

    def shape(self, points: FloatArray, dt: float, since: float, limiter: SetpointLimiter) -> ShapedPlan:
        """The plan for ``points`` (H, J), ``dt`` s apart, from ``since`` s after the first point on; H at least 2.

        The first row is for the tick that the limiter makes next.
        """
        limits, period, leads = limiter.limits, limiter.period_s, _leads(tuple(limiter.lead.tolist()))
        clipped: BoolArray = np.any((points < limits.lower) | (points > limits.upper), axis=0)
        inside = np.minimum(np.maximum(points, limits.lower), limits.upper)
        path = fit(inside, dt, self.smoothing_s).clipped(limits.lower, limits.upper)
        # Slowed or not, the path's own time goes on from ``since`` at each tick.
        speed, too_fast = _speed(path, since, limits) if self.slow_down else (None, {})
        most = int(np.ceil(self.longest_s / period)) + 1
        times = _times(path, speed, since, period, leads.parts, leads.furthest, most)
        # Row 0 lies one tick back, where the limiter is now.
        rows = leads.read(path, times, moving=since > 0.0)
        before, targets = rows[0], rows[1:]
        self._splice(targets, before, path, times[leads.distinct], leads.which, speed, since > 0.0, limiter)
        np.maximum(targets, limits.lower, out=targets)
        np.minimum(targets, limits.upper, out=targets)
        meant = max(path.duration - since, period)
        stretch = max(1.0, len(targets) * period / meant)
        return ShapedPlan(targets, _averaged(targets, limiter), clipped, too_fast, stretch)

    def _splice(
        self,
        targets: FloatArray,
        before: FloatArray,
        path: Path,
        times: FloatArray,
        which: NDArray[np.intp],
        speed: _Speed | None,
        entered: bool,
        limiter: SetpointLimiter,
    ) -> None:
        """Let the difference between the present motion and the path's fade, with its first two derivatives.

        The path is at ``before`` (J,) now, at its own ``times`` (K,), of which each joint reads that of ``which`` (J,); ``entered``
        after its beginning, or at rest there.
        """
        most = min(round(self.splice_s / limiter.period_s), len(targets))
        if most < 1:
            return
        joints = np.arange(targets.shape[1])
        rate = np.ones(len(times)) if speed is None else speed.at(times)
        moving = ((times > 0.0) | entered) & (times < path.duration)
        velocity = (path.evaluate(times, 1) * (rate * moving)[:, None])[which, joints]
        curved = moving & (times >= 0.0)
        acceleration = (path.evaluate(times, 2) * (rate**2 * curved)[:, None])[which, joints]
        position_now, velocity_now, acceleration_now = limiter.averaged[-1]
        offset, drift = position_now - before, velocity_now - velocity
        # A quintic that fades from e within t accelerates by up to 5.8 e / t^2; one that fades from a velocity by 4 v / t.
        allowed = JOIN_SHARE * limiter.limits.acceleration
        needed = np.maximum(np.sqrt(5.8 * np.abs(offset) / allowed), 4.0 * np.abs(drift) / allowed)
        ticks = np.minimum(np.maximum(np.ceil(needed / limiter.period_s), 1), most)
        duration = ticks * limiter.period_s
        longest = int(ticks.max())
        x = np.minimum(np.arange(1, longest + 1)[:, None] / ticks, 1.0)
        difference = acceleration_now - acceleration
        targets[:longest] += _fading(x, offset, drift * duration, difference * duration**2)


@dataclass(frozen=True)
class _Leads:
    """How far ahead each joint is read, since its average comes late: ``which`` (J,) of the ``distinct`` (K,) leads, in ``parts``
    of a tick; ``furthest`` is the greatest."""

    parts: int
    distinct: NDArray[np.intp]
    which: NDArray[np.intp]
    furthest: int

    def read(self, path: Path, times: FloatArray, moving: bool) -> FloatArray:
        """Positions (N, J) along ``path``, one row per tick, of ``times`` ((N - 1) parts + furthest + 1,); see ``_along``."""
        if len(self.distinct) == 1:  # nearly always: what lies between is read by no joint
            return _along(path, times[self.furthest :: self.parts], moving)
        every = _along(path, times, moving)
        ticks = np.arange(0, len(times) - self.furthest, self.parts)
        rows: FloatArray = every[ticks[:, None] + self.distinct[self.which], np.arange(every.shape[1])]
        return rows


@lru_cache(maxsize=8)
def _leads(ticks: tuple[float, ...]) -> _Leads:
    """Of joints that are read so many ticks ahead (``SetpointLimiter.lead``), by halves where an average is of an even number."""
    parts = 2 if any(lead % 1.0 for lead in ticks) else 1
    distinct, which = np.unique([round(lead * parts) for lead in ticks], return_inverse=True)
    return _Leads(parts, distinct.astype(np.intp), which.astype(np.intp), int(distinct[-1]))


@dataclass(frozen=True)
class _Speed:
    """Speed along a path (1 as meant), linear between ``places`` (K,) s of the path's own time."""

    places: FloatArray
    values: FloatArray

    def at(self, times: FloatArray) -> FloatArray:
        speed: FloatArray = np.interp(times, self.places, self.values)
        return speed


def _speed(path: Path, since: float, limits: JointLimits) -> tuple[_Speed | None, dict[str, BoolArray]]:
    """How fast each place of the path may be passed, None when nowhere slower than meant; and the joints to blame."""
    velocity = np.abs(path.at_points(1)) / (SHARE * limits.velocity)
    acceleration = np.abs(path.at_points(2)) / (SHARE * limits.acceleration)
    places: FloatArray = np.arange(len(velocity), dtype=np.float64) * path.dt
    past = int(np.searchsorted(places, since - path.dt))  # points that lie behind
    demands = {"velocity": velocity[past:], "acceleration": acceleration[past:]}
    too_fast: dict[str, BoolArray] = {kind: np.any(demand > 1.0, axis=0) for kind, demand in demands.items()}
    if not (too_fast["velocity"].any() or too_fast["acceleration"].any()):
        return None, {}
    # Along the path velocity goes with the speed, acceleration with its square (the speed's own change apart).
    demand = np.maximum(np.maximum(velocity, np.sqrt(acceleration)).max(axis=1), 1.0)
    demand[:past] = 1.0
    values = np.maximum(1.0 / demand, SLOWEST)
    reach = min(int(np.ceil(EASE_S / path.dt)), len(values))
    lowest = values[_neighbours(len(values), reach)].min(axis=1)
    # The mean of a neighbourhood's lowest speeds is nowhere above the speed allowed, and changes evenly.
    eased: FloatArray = np.convolve(lowest, np.full(2 * reach + 1, 1.0 / (2 * reach + 1)), mode="valid")
    return _Speed(places, eased), too_fast


@lru_cache(maxsize=32)
def _neighbours(count: int, reach: int) -> NDArray[np.intp]:
    """(count + 2 reach, 2 reach + 1): the points up to ``reach`` from each of ``count``, and of as many before and behind them
    as the same distance; at the ends the last one is repeated."""
    places = np.arange(-reach, count + reach)[:, None] + np.arange(-reach, reach + 1)
    return np.minimum(np.maximum(places, 0), count - 1)


def _times(path: Path, speed: _Speed | None, since: float, period: float, parts: int, beyond: int, most: int) -> FloatArray:
    """Path times ((N + 1) parts + beyond - parts + 1,), ``parts`` per tick, the first one tick before ``since``: N ticks from
    ``since`` up to the path's end, at least one and at most ``most``, and ``beyond`` more parts; at its end the path rests."""
    if speed is None:
        count = min(max(1, int(np.floor((path.duration - since) / period + 1e-9)) + 1), most)
        return np.minimum(since + np.arange(-parts, (count - 1) * parts + beyond + 1) * (period / parts), path.duration)
    # Between the knots of its speed v = v0 + g (s - s0), so that s = s0 + v0 (exp(g t) - 1) / g.
    knots = np.concatenate([[since], speed.places[speed.places > since + 1e-12]])
    values = speed.at(knots)
    ways = knots[1:] - knots[:-1]
    slopes = (values[1:] - values[:-1]) / ways
    small = np.abs(slopes) < 1e-9
    safe = np.where(small, 1.0, slopes)
    durations = np.where(small, ways / values[:-1], np.log(values[1:] / values[:-1]) / safe)
    clock = np.concatenate([[0.0], np.cumsum(durations)])
    count = min(max(1, int(np.floor(clock[-1] / period + 1e-9)) + 1), most)
    ticks = np.arange((count - 1) * parts + beyond + 1) * (period / parts)
    if len(ways) == 0:
        inner = np.full(len(ticks), since)
    else:
        k = np.minimum(np.searchsorted(clock, ticks, side="right") - 1, len(ways) - 1)
        local = np.minimum(ticks, clock[-1]) - clock[k]
        speeds, growth = values[k], safe[k]
        way = np.where(small[k], speeds * local, speeds * np.expm1(growth * local) / growth)
        inner = np.where(ticks > clock[-1], path.duration, knots[k] + way)
    back = since + np.arange(-parts, 0) * (period / parts * float(values[0]))
    return np.minimum(np.concatenate([back, inner]), path.duration)


def _along(path: Path, times: FloatArray, moving: bool) -> FloatArray:
    """Positions (N, J) at ``times`` (N,): before its beginning the path goes straight, or rests there unless ``moving``."""
    rows = path.evaluate(times)
    if moving and times[0] < 0.0:
        early = np.flatnonzero(times < 0.0)
        rows[early] += times[early, None] * path.evaluate(np.zeros(1), 1)
    return rows


def _fading(x: FloatArray, offset: FloatArray, drift: FloatArray, curvature: FloatArray) -> FloatArray:
    """An offset (J,) that fades with its first two derivatives to nothing at x = 1 (quintic Hermite), at ``x`` (N, J)."""
    x2 = x * x
    x3 = x2 * x
    faded: FloatArray = (
        (1.0 - x3 * (10.0 - 15.0 * x + 6.0 * x2)) * offset
        + (x - x3 * (6.0 - 8.0 * x + 3.0 * x2)) * drift
        + (0.5 * x2 - x3 * (1.5 - 1.5 * x + 0.5 * x2)) * curvature
    )
    return faded


def _averaged(targets: FloatArray, limiter: SetpointLimiter) -> FloatArray:
    """What the limiter's average makes of ``targets`` (N, J) when no limit acts."""
    ticks = limiter.averaged_ticks
    most = int(ticks.max())
    if most == 1:
        return targets
    history = np.concatenate([limiter.averaged[:, 0], targets])
    total = np.concatenate([np.zeros((1, targets.shape[1])), np.cumsum(history, axis=0)])
    ends = np.arange(most + 1, len(total))[:, None]
    averaged: FloatArray = (total[most + 1 :] - total[ends - ticks, np.arange(targets.shape[1])]) / ticks
    return averaged
