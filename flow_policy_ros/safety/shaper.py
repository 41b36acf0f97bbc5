"""From a chunk to the plan that the limiter follows: in range, smooth, slow enough, and joined to the present motion.

Looks at the whole chunk at once, when it begins to be followed. Nothing here is trusted with limits: the limiter keeps
them whatever a plan says. Shaping decides how little of that is needed, and that the path stays the policy's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
        limits, period = limiter.limits, limiter.period_s
        clipped: BoolArray = np.any((points < limits.lower) | (points > limits.upper), axis=0)
        path = fit(np.clip(points, limits.lower, limits.upper), dt, self.smoothing_s).clipped(limits.lower, limits.upper)
        # Slowed or not, the path's own time goes on from ``since`` at each tick.
        speed, too_fast = _speed(path, since, limits) if self.slow_down else (None, {})
        # An average of n lies (n - 1) / 2 ticks back, so that each joint is read as much ahead: by halves where an n is even.
        parts = 2 if (limiter.lead % 1.0).any() else 1
        ahead = np.round(limiter.lead * parts).astype(np.intp)
        furthest = int(ahead.max())
        most = int(np.ceil(self.longest_s / period)) + 1
        times = _times(path, speed, since, period, parts, furthest, most)
        rows = _along(path, times, moving=since > 0.0)
        count = (len(rows) - furthest - 1) // parts
        # Row 0 of ``rows`` lies one tick back, where the limiter is now.
        which = np.arange(count + 1)[:, None] * parts + ahead
        targets = rows[which, np.arange(rows.shape[1])] if furthest else rows[: count + 1]
        before, targets = targets[0], targets[1:].copy()
        self._splice(targets, before, path, times[ahead], speed, since > 0.0, limiter)
        np.clip(targets, limits.lower, limits.upper, out=targets)
        meant = max(path.duration - since, period)
        return ShapedPlan(targets, _averaged(targets, limiter), clipped, too_fast, max(1.0, count * period / meant))

    def _splice(
        self,
        targets: FloatArray,
        before: FloatArray,
        path: Path,
        times: FloatArray,
        speed: _Speed | None,
        entered: bool,
        limiter: SetpointLimiter,
    ) -> None:
        """Let the difference between the present motion and the path's fade, with its first two derivatives.

        The path is at ``before`` (J,) now, at its own ``times`` (J,); ``entered`` after its beginning, or at rest there.
        """
        most = min(round(self.splice_s / limiter.period_s), len(targets))
        if most < 1:
            return
        joints = np.arange(targets.shape[1])
        # Whole rows for all joints, of which each reads its own time: leads differ, if at all, by few ticks.
        distinct, which = np.unique(times, return_inverse=True)
        rate = np.ones(len(distinct)) if speed is None else speed.at(distinct)
        moving = ((distinct > 0.0) | entered) & (distinct < path.duration)
        velocity = (path.evaluate(distinct, 1) * (rate * moving)[:, None])[which, joints]
        curved = moving & (distinct >= 0.0)
        acceleration = (path.evaluate(distinct, 2) * (rate**2 * curved)[:, None])[which, joints]
        position_now, velocity_now, acceleration_now = limiter.averaged[-1]
        offset, drift = position_now - before, velocity_now - velocity
        # A quintic that fades from e within t accelerates by up to 5.8 e / t^2; one that fades from a velocity by 4 v / t.
        allowed = JOIN_SHARE * limiter.limits.acceleration
        needed = np.maximum(np.sqrt(5.8 * np.abs(offset) / allowed), 4.0 * np.abs(drift) / allowed)
        ticks = np.clip(np.ceil(needed / limiter.period_s), 1, most)
        duration = ticks * limiter.period_s
        longest = int(ticks.max())
        x = np.minimum(np.arange(1, longest + 1)[:, None] / ticks, 1.0)
        difference = acceleration_now - acceleration
        targets[:longest] += _fading(x, offset, drift * duration, difference * duration**2)


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
    ahead = np.arange(len(velocity)) * path.dt >= since - path.dt
    demands = {"velocity": velocity[ahead], "acceleration": acceleration[ahead]}
    too_fast: dict[str, BoolArray] = {kind: np.any(demand > 1.0, axis=0) for kind, demand in demands.items()}
    if not (too_fast["velocity"].any() or too_fast["acceleration"].any()):
        return None, {}
    # Along the path velocity goes with the speed, acceleration with its square (the speed's own change apart).
    demand = np.maximum(np.maximum(velocity, np.sqrt(acceleration)).max(axis=1), 1.0)
    demand[~ahead] = 1.0
    values = np.maximum(1.0 / demand, SLOWEST)
    reach = min(int(np.ceil(EASE_S / path.dt)), len(values))
    lowest: FloatArray = np.lib.stride_tricks.sliding_window_view(np.pad(values, 2 * reach, mode="edge"), 2 * reach + 1).min(axis=1)
    # The mean of a neighbourhood's lowest speeds is nowhere above the speed allowed, and changes evenly.
    eased: FloatArray = np.convolve(lowest, np.full(2 * reach + 1, 1.0 / (2 * reach + 1)), mode="valid")
    places: FloatArray = np.arange(len(values), dtype=np.float64) * path.dt
    return _Speed(places, eased), too_fast


def _times(path: Path, speed: _Speed | None, since: float, period: float, parts: int, beyond: int, most: int) -> FloatArray:
    """Path times ((N + 1) parts + beyond - parts + 1,), ``parts`` per tick, the first one tick before ``since``: N ticks from
    ``since`` up to the path's end, at least one and at most ``most``, and ``beyond`` more parts; at its end the path rests."""
    if speed is None:
        count = min(max(1, int(np.floor((path.duration - since) / period + 1e-9)) + 1), most)
        return np.minimum(since + np.arange(-parts, (count - 1) * parts + beyond + 1) * (period / parts), path.duration)
    # Between the knots of its speed v = v0 + g (s - s0), so that s = s0 + v0 (exp(g t) - 1) / g.
    knots = np.concatenate([[since], speed.places[speed.places > since + 1e-12]])
    values = speed.at(knots)
    ways = np.diff(knots)
    slopes = np.diff(values) / np.where(ways > 0, ways, 1.0)
    small = np.abs(slopes) < 1e-9
    safe = np.where(small, 1.0, slopes)
    durations = np.where(small, ways / values[:-1], np.log(values[1:] / values[:-1]) / safe)
    clock = np.concatenate([[0.0], np.cumsum(durations)])
    count = min(max(1, int(np.floor(clock[-1] / period + 1e-9)) + 1), most)
    ticks = np.arange((count - 1) * parts + beyond + 1) * (period / parts)
    if len(ways) == 0:
        inner = np.full(len(ticks), since)
    else:
        k = np.clip(np.searchsorted(clock, ticks, side="right") - 1, 0, len(ways) - 1)
        local = np.minimum(ticks, clock[-1]) - clock[k]
        way = np.where(small[k], values[k] * local, values[k] * np.expm1(safe[k] * local) / safe[k])
        inner = np.where(ticks > clock[-1], path.duration, knots[k] + way)
    back = since + np.arange(-parts, 0) * (period / parts * float(values[0]))
    return np.minimum(np.concatenate([back, inner]), path.duration)


def _along(path: Path, times: FloatArray, moving: bool) -> FloatArray:
    """Positions (N, J) at ``times`` (N,): before its beginning the path goes straight, or rests there unless ``moving``."""
    rows = path.evaluate(times)
    early = np.flatnonzero(times < 0.0)
    if moving and len(early):
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
    ends = np.arange(most + 1, most + 1 + len(targets))[:, None]
    joints = np.arange(targets.shape[1])
    averaged: FloatArray = (total[ends, joints] - total[ends - ticks, joints]) / ticks
    return averaged
