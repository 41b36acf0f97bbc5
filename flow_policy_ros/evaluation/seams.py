"""How smoothly one chunk takes over from another: jump and acceleration at the seams beside those inside chunks.

A *seam* is the first tick that follows a new chunk while another was being followed; a start from rest is none. Set-points
are rows at one control period T, NaN where none was sent. Every figure is a pool of samples, one per tick and joint, so that
episodes can be put together; the same measure is taken at the seams and inside chunks, and their ratio is what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flow_policy_ros.runtime.types import Chunk, FloatArray, Plan
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.guard import GuardState

WINDOW = 6
"""Ticks from the seam on that count as its neighbourhood, at most: 60 ms at 100 Hz, the time that a splice takes."""
STEP_TICKS = 2
"""A step of the position is in this many second differences."""
PERCENTILE = 95


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and maximum of ``count`` samples; None without samples."""

    median: float | None
    p95: float | None
    max: float | None
    count: int

    @staticmethod
    def of(samples: FloatArray) -> Spread:
        """Of samples of any shape; NaN does not count."""
        known = samples[np.isfinite(samples)]
        if not len(known):
            return Spread(None, None, None, 0)
        median, high = np.percentile(known, (50, PERCENTILE))
        return Spread(float(median), float(high), float(known.max()), len(known))


@dataclass(frozen=True)
class SeamFigures:
    """``position_*`` rad or m (``position_jump``), ``acceleration_*`` as shares of the joints' limits (``acceleration``), both
    at the seams and inside chunks; ``takeover`` rad or m (``takeover_jump``), before any shaping. Ratios are of p95, seam
    over inside; None where there is nothing to compare with.
    """

    seams: int
    position_seam: Spread
    position_inside: Spread
    position_ratio: float | None
    acceleration_seam: Spread
    acceleration_inside: Spread
    acceleration_ratio: float | None
    takeover: Spread

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


@dataclass(frozen=True)
class SeamSamples:
    """Samples of one or more episodes, one per tick and joint, flat; NaN-free. Units as ``SeamFigures``."""

    seams: int
    position_seam: FloatArray
    position_inside: FloatArray
    acceleration_seam: FloatArray
    acceleration_inside: FloatArray
    takeover: FloatArray

    @staticmethod
    def pool(parts: Sequence[SeamSamples]) -> SeamSamples:
        """All samples together."""
        names = ("position_seam", "position_inside", "acceleration_seam", "acceleration_inside", "takeover")
        joined = {name: np.concatenate([np.empty(0), *(getattr(part, name) for part in parts)]) for name in names}
        return SeamSamples(sum(part.seams for part in parts), **joined)

    def figures(self) -> SeamFigures:
        """Spreads and ratios."""
        position = Spread.of(self.position_seam), Spread.of(self.position_inside)
        acceleration = Spread.of(self.acceleration_seam), Spread.of(self.acceleration_inside)
        return SeamFigures(self.seams, *position, _ratio(*position), *acceleration, _ratio(*acceleration), Spread.of(self.takeover))


def position_jump(positions: FloatArray) -> FloatArray:
    """(T, J) → (T, J): |p_k − (3 p_{k−1} − 3 p_{k−2} + p_{k−3})|, how far each set-point lies from where the parabola through
    the three before it leads. A step of height h in a motion of constant acceleration gives h at its tick. NaN for k < 3.
    """
    jump = np.full(positions.shape, np.nan)
    jump[3:] = np.abs(np.diff(positions, n=3, axis=0))
    return jump


def acceleration(positions: FloatArray, period_s: float) -> FloatArray:
    """(T, J) → (T, J): |p_k − 2 p_{k−1} + p_{k−2}| / T², rad/s² or m/s². A step is in ticks k and k + 1. NaN for k < 2."""
    result = np.full(positions.shape, np.nan)
    result[2:] = np.abs(np.diff(positions, n=2, axis=0)) / period_s**2
    return result


def measure(
    positions: FloatArray,
    seams: ArrayLike,
    period_s: float,
    max_acceleration: FloatArray,
    takeover: ArrayLike = (),
    window: int = WINDOW,
) -> SeamSamples:
    """Samples of one episode of set-points ``positions`` (T, J) whose seams are at the ticks ``seams``.

    *Position*: ``position_jump`` at the seam's own tick; inside is every tick whose stencil k−3 … k has no seam after its
    first row. *Acceleration*: ``acceleration`` over ``max_acceleration`` (J,) at the ticks s … s + w − 1 of every seam s;
    inside is every other tick. w is ``window``, or half the way to the next seam if that is less, but never below
    ``STEP_TICKS``. ``takeover`` (seams, J): see ``takeover_jump``. Raises ``ValueError`` for a seam that is no tick of the
    episode or a window below ``STEP_TICKS``.
    """
    ticks = np.unique(np.asarray(seams, dtype=np.int64))
    if len(ticks) and not (ticks.min() >= 0 and ticks.max() < len(positions)):
        raise ValueError(f"seams at ticks {ticks.min()} to {ticks.max()}, expected 0 to {len(positions) - 1}.")
    if window < STEP_TICKS:
        raise ValueError(f"window is {window} ticks, expected {STEP_TICKS} or more: a step is in so many second differences.")
    at, touched, near = (np.zeros(len(positions), dtype=np.bool_) for _ in range(3))
    at[ticks] = True
    gaps = np.diff(ticks, append=len(positions) + 2 * window)
    for tick, gap in zip(ticks, gaps, strict=True):
        touched[tick : tick + 3] = True
        near[tick : tick + max(STEP_TICKS, min(window, gap // 2))] = True
    jump = position_jump(positions)
    share = acceleration(positions, period_s) / max_acceleration
    return SeamSamples(
        len(ticks), _known(jump[at]), _known(jump[~touched]), _known(share[near]), _known(share[~near]),
        _known(np.asarray(takeover, dtype=np.float64)),
    )  # fmt: skip


def takeover_jump(before: Plan, chunk: Chunk, instant: int) -> FloatArray:
    """|new chunk − old plan| (J,) at the ``instant`` (ns) of take-over, in ``before.names`` order, rad or m.

    That is the step which an executor without splicing would command. Either is a straight line between its rows and holds
    its last one.
    """
    column = {name: j for j, name in enumerate(chunk.names)}
    new = _at(chunk.positions, chunk.stamp, chunk.dt_ns, instant)[[column[name] for name in before.names]]
    return np.abs(new - _at(before.positions, before.stamp, before.dt_ns, instant))


class SeamObserver:
    """An observer of ``closed_loop.run_episode`` that finds the seams of one episode; see ``samples``.

    ``seams`` are ticks; ``delays`` ns from each consumed chunk's stamp to its take-over.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.seams: list[int] = []
        self.delays: list[int] = []
        self._window = window
        self._takeover: list[FloatArray] = []
        self._chunks: dict[int, Chunk] = {}
        self._plan: Plan | None = None
        self._active = False
        self._tick = 0

    def __call__(self, robot: object, image: NDArray[np.uint8] | None, chunk: Chunk | None, tick: CommandTick) -> None:
        """Take one tick."""
        if chunk is not None:
            self._chunks[chunk.stamp] = chunk
        if tick.plan is not None:
            self.delays.append(tick.plan.stamp - tick.plan.chunk_stamp)
            if self._plan is not None and self._active:
                self.seams.append(self._tick)
                followed = self._chunks.get(tick.plan.chunk_stamp)
                if followed is not None:
                    self._takeover.append(takeover_jump(self._plan, followed, tick.plan.stamp))
            self._plan = tick.plan
        self._active = tick.state is GuardState.ACTIVE
        self._tick += 1

    def samples(self, commands: FloatArray, period_s: float, max_acceleration: FloatArray) -> SeamSamples:
        """Of the episode's set-points (T, J)."""
        return measure(commands, self.seams, period_s, max_acceleration, self._takeover, self._window)


def _at(positions: FloatArray, stamp: int, dt_ns: int, instant: int) -> FloatArray:
    place = min(max((instant - stamp) / dt_ns, 0.0), len(positions) - 1.0)
    low = min(int(place), len(positions) - 2) if len(positions) > 1 else 0
    if len(positions) == 1:
        return positions[0]
    return positions[low] + (place - low) * (positions[low + 1] - positions[low])


def _known(samples: FloatArray) -> FloatArray:
    return samples[np.isfinite(samples)].reshape(-1)


def _ratio(seam: Spread, inside: Spread) -> float | None:
    return seam.p95 / inside.p95 if seam.p95 is not None and inside.p95 else None
