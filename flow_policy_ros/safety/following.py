"""The chunk that is being followed: from its points to the target of each tick. Whether it may be followed is not decided here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from flow_policy_ros.runtime.robot import JointLimits
from flow_policy_ros.runtime.types import Chunk, FloatArray, Plan
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.safety.shaper import ChunkShaper, ShapedPlan

TURN = 2.0 * np.pi
SLOWED = ("velocity", "acceleration")
"""Limits because of which a chunk is slowed down."""


@dataclass
class ShapingCounts:
    """Chunks followed; of them slowed down; ``slowed[kind][joint]`` and ``clipped[joint]`` the joints that were the reason."""

    chunks: int = 0
    chunks_slowed: int = 0
    slowed: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in SLOWED})
    clipped: Counter[str] = field(default_factory=Counter)

    def add(self, shaped: ShapedPlan, names: tuple[str, ...]) -> None:
        """Count one chunk."""
        self.chunks += 1
        self.chunks_slowed += bool(shaped.too_fast)
        for kind, joints in shaped.too_fast.items():
            self.slowed[kind].update(names[j] for j in np.flatnonzero(joints))
        if np.count_nonzero(shaped.clipped):
            self.clipped.update(names[j] for j in np.flatnonzero(shaped.clipped))


@dataclass(frozen=True)
class Prepared:
    """``chunk`` as ``shaped`` by ``shaper`` from ``since_ns`` on, for a limiter with ``limits`` and ``motion`` (3, J).

    ``rows`` (N, J) are what it will publish, spaced as the chunk is.
    """

    chunk: Chunk
    since_ns: int
    shaper: ChunkShaper
    limits: JointLimits
    motion: FloatArray
    shaped: ShapedPlan
    rows: FloatArray


class Follower:
    """Gives ``limiter`` the targets of the newest chunk, one nominal period per tick, however late the tick is."""

    def __init__(self, limiter: SetpointLimiter, shaper: ChunkShaper) -> None:
        self.counts = ShapingCounts()
        self.shaper = shaper
        self._limiter = limiter
        self._endless = bool(limiter.limits.continuous.any())
        self._shaped: ShapedPlan | None = None
        self._prepared: Prepared | None = None  # for the next tick
        self._begun: Prepared | None = None  # what was begun last
        self._progress = 0.0  # ticks of the plan
        self.chunk_stamp: int | None = None

    def begin(self, chunk: Chunk, since_ns: int, now: int) -> Plan:
        """Follow ``chunk`` (columns in the limits' order) from ``since_ns`` after its stamp on; its plan from ``now`` on."""
        begun = self._as_prepared(chunk, since_ns) or self._shape(chunk, since_ns)
        self._prepared, self._begun = None, begun
        self._shaped, self._progress = begun.shaped, 0.0
        self.chunk_stamp = chunk.stamp
        self.counts.add(begun.shaped, self._limiter.limits.names)
        return Plan(now, chunk.dt_ns, chunk.names, begun.rows, chunk.stamp)

    def prepare(self, chunk: Chunk, since_ns: int) -> None:
        """Shape ``chunk`` now for a ``begin`` at the next tick, from ``since_ns`` after its stamp on. Changes no motion."""
        self._prepared = self._shape(chunk, since_ns)

    def begin_again(self, shaped: ShapedPlan) -> None:
        """For rehearsals: at the next tick the chunk that was begun last begins once more, as if prepared to be ``shaped``."""
        if self._begun is not None:
            self._prepared = replace(self._begun, motion=self._limiter.averaged[-1].copy(), shaped=shaped)
            self.chunk_stamp = None

    @property
    def shaped(self) -> ShapedPlan | None:
        """What is followed."""
        return self._shaped

    def _as_prepared(self, chunk: Chunk, since_ns: int) -> Prepared | None:
        """What was prepared, if it still holds: within half a period the tick counts as punctual."""
        prepared = self._prepared
        if (
            prepared is None
            or prepared.chunk is not chunk
            or abs(since_ns - prepared.since_ns) > 0.5e9 * self._limiter.period_s
            or prepared.shaper is not self.shaper
            or prepared.limits is not self._limiter.limits
            or np.count_nonzero(prepared.motion != self._limiter.averaged[-1])
        ):
            return None
        return prepared

    def _shape(self, chunk: Chunk, since_ns: int) -> Prepared:
        dt = chunk.dt_ns * 1e-9
        points = chunk.positions if len(chunk.positions) > 1 else np.repeat(chunk.positions, 2, axis=0)
        points = self._unwound(points, int(since_ns // chunk.dt_ns))
        shaped = self.shaper.shape(points, dt, since_ns * 1e-9, self._limiter)
        rows = _spaced(shaped.published, dt / self._limiter.period_s)
        motion = self._limiter.averaged[-1].copy()
        return Prepared(chunk, since_ns, self.shaper, self._limiter.limits, motion, shaped, rows)

    def entry_distance(self, chunk: Chunk, since_ns: int, measured: FloatArray) -> FloatArray:
        """How far (J,) the chunk's point at ``since_ns`` lies from the ``measured`` position."""
        row = min(int(since_ns // chunk.dt_ns), len(chunk.positions) - 1)
        return np.abs(self.difference(chunk.positions[row], measured))

    def difference(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """a - b (J,), the short way round for joints without stops."""
        away = a - b
        if not self._endless:
            return away
        turns = np.where(self._limiter.limits.continuous, np.round(away / TURN), 0.0)
        return away - turns * TURN

    def target(self, advance: float = 1.0) -> FloatArray | None:
        """The target (J,) of this tick, ``advance`` (0 to 1) of a period further along; None at the plan's end."""
        if self._shaped is None or self._progress > len(self._shaped.targets) - 1:
            return None
        row = int(self._progress)
        target = self._shaped.targets[row]
        past = self._progress - row
        if past > 0.0 and row + 1 < len(self._shaped.targets):
            target = target + past * (self._shaped.targets[row + 1] - target)
        self._progress += advance
        return target

    def remaining(self) -> FloatArray:
        """The targets (N, J) of the ticks to come."""
        if self._shaped is None:
            return np.empty((0, len(self._limiter.limits.names)))
        return self._shaped.targets[int(np.ceil(self._progress)) :]

    def drop(self) -> None:
        """Follow nothing, until another chunk begins."""
        self._shaped = None

    def forget(self) -> None:
        """Follow nothing, as before the first chunk."""
        self._shaped = self.chunk_stamp = self._prepared = None

    def _unwound(self, points: FloatArray, row: int) -> FloatArray:
        """Joints without stops: continuous over the chunk, and within half a turn of the present set-point at ``row``."""
        endless = self._limiter.limits.continuous
        if not endless.any():
            return points
        points = points.copy()
        points[:, endless] = np.unwrap(points[:, endless], axis=0)
        here = self._limiter.averaged[-1, 0][endless]
        at = points[min(row, len(points) - 1), endless]
        points[:, endless] += TURN * np.round((here - at) / TURN)
        return points


def _spaced(published: FloatArray, ticks: float) -> FloatArray:
    """Every ``ticks``-th row, between rows on a straight line."""
    places = np.arange(0.0, len(published) - 1 + 1e-6, ticks)
    before = np.minimum(places.astype(np.intp), len(published) - 1)
    after = np.minimum(before + 1, len(published) - 1)
    rows: FloatArray = published[before] + (places - before)[:, None] * (published[after] - published[before])
    return rows
