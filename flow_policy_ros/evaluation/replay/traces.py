"""What the report draws over time: recorded, predicted, commanded and measured positions. No figures are made here.

Memory is bounded by thinning: when the rows are full, every other one is dropped, and from then on half as many are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.evaluation.replay.comparison import RecordedTrack, in_order
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.runtime.types import FloatArray, JointState
from flow_policy_ros.safety.acceleration_limiter import BoolArray


@dataclass(frozen=True)
class TraceData:
    """N ticks, every ``stride``-th of the replay, in the robot's order of ``joints`` (J).

    ``stamps`` (N,) ns; ``recorded`` what the robot was told when the bag was recorded, ``predicted`` the newest chunk's own point
    for that instant (before the safety stage), ``commanded`` what the safety stage sent, ``measured`` the newest recorded joint
    state: each (N, J) rad or m, NaN where there is none. ``limited`` (N, J): a limit acted on the joint since the row before;
    ``stale`` (N,): a chunk was due since the row before and could not be sampled; ``states`` N names of the guard's state.

    ``chunk_stamps`` (M,) ns, ``chunk_ready`` (M,) ns at which it reached the command stage (−1: never), every
    ``chunk_stride``-th chunk; ``inference_ms`` (M,) what sampling took on this machine. ``faults`` ((stamp ns, name), …).
    """

    joints: tuple[str, ...]
    period_ns: int
    stride: int
    stamps: NDArray[np.int64]
    recorded: FloatArray
    predicted: FloatArray
    commanded: FloatArray
    measured: FloatArray
    limited: BoolArray
    stale: BoolArray
    states: tuple[str, ...]
    chunk_stride: int
    chunk_stamps: NDArray[np.int64]
    chunk_ready: NDArray[np.int64]
    inference_ms: FloatArray
    faults: tuple[tuple[int, str], ...]

    def elapsed_s(self) -> FloatArray:
        """(N,) s since the first row."""
        return (self.stamps - self.stamps[:1]) / 1e9


class Traces:
    """A ``ReplaySink`` that keeps at most ``rows`` rows (even, 2 or more) of the traces; see ``data``."""

    def __init__(self, rows: int = 4096) -> None:
        if rows < 2 or rows % 2:
            raise ValueError(f"rows is {rows}, expected an even number, 2 or more: every other row is dropped when they are full.")
        self._rows = rows

    def begin(self, meta: ReplayMeta) -> None:
        self._meta = meta
        shape = (self._rows, len(meta.joints))
        self._stamps = np.empty(self._rows, dtype=np.int64)
        self._recorded, self._predicted, self._commanded, self._measured = (np.full(shape, np.nan) for _ in range(4))
        self._limited = np.zeros(shape, dtype=np.bool_)
        self._stale = np.zeros(self._rows, dtype=np.bool_)
        self._states: list[str] = []
        self._count = self._filled = self._tick = 0
        self._stride = 1
        self._limited_since, self._stale_since = np.zeros(shape[1], dtype=np.bool_), False
        self._track = RecordedTrack(meta.joints)
        self._state: JointState | None = None
        self._coming: list[ReplayChunk] = []
        self._active: ReplayChunk | None = None
        self._chunks: list[tuple[int, int, float]] = []
        self._chunk_stride, self._chunk_count = 1, 0
        self._faults: list[tuple[int, str]] = []
        self._latched: tuple[object, ...] = ()

    def on_joint_state(self, state: JointState, received: int) -> None:
        self._state = state

    def on_recorded(self, command: CommandEvent) -> None:
        self._track.add(command)

    def on_bad(self, event: BadEvent) -> None:
        pass

    def on_features(self, seen: ReplayFeatures) -> None:
        pass

    def on_chunk(self, sampled: ReplayChunk) -> None:
        if not sampled.lost:
            self._coming.append(sampled)
        if self._chunk_count % self._chunk_stride == 0:
            if len(self._chunks) == self._rows:
                self._chunks, self._chunk_stride = self._chunks[::2], self._chunk_stride * 2
            ready = -1 if sampled.lost else sampled.ready
            self._chunks.append((sampled.chunk.stamp, ready, sampled.duration_ms))
        self._chunk_count += 1

    def on_tick(self, tick: ReplayTick) -> None:
        for sampled in [sampled for sampled in self._coming if sampled.ready <= tick.now]:
            self._coming.remove(sampled)
            if self._active is None or sampled.chunk.stamp >= self._active.chunk.stamp:
                self._active = sampled
        for kind in (tick.tick.interventions or {}).values():
            self._limited_since |= kind
        self._stale_since |= bool(tick.stale)
        if tick.tick.faults != self._latched and len(self._faults) < self._rows:
            new = [fault for fault in tick.tick.faults if fault not in self._latched]
            self._faults += [(tick.now, fault.name) for fault in new]
        self._latched = tick.tick.faults
        if self._tick % self._stride == 0:
            if self._count == self._rows:
                self._thin(tick.now)
            if self._tick % self._stride == 0:
                self._row(tick)
        if self._tick % 64 == 0:
            self._fill(tick.now)
        self._tick += 1

    def end(self) -> None:
        self._fill(None)

    def data(self) -> TraceData:
        """What was seen so far."""
        n = self._count
        chunks = np.array([(stamp, ready) for stamp, ready, _ in self._chunks], dtype=np.int64).reshape(-1, 2)
        return TraceData(
            self._meta.joints, self._meta.period_ns, self._stride, self._stamps[:n].copy(), self._recorded[:n].copy(),
            self._predicted[:n].copy(), self._commanded[:n].copy(), self._measured[:n].copy(), self._limited[:n].copy(),
            self._stale[:n].copy(), tuple(self._states), self._chunk_stride, chunks[:, 0], chunks[:, 1],
            np.array([ms for _, _, ms in self._chunks], dtype=np.float64), tuple(self._faults),
        )  # fmt: skip

    def _row(self, tick: ReplayTick) -> None:
        n, joints = self._count, self._meta.joints
        self._stamps[n] = tick.now
        self._recorded[n] = np.nan
        self._predicted[n] = np.nan if self._active is None else _point(joints, self._active, tick.now)
        self._commanded[n] = np.nan if tick.tick.setpoint is None else tick.tick.setpoint.position
        self._measured[n] = np.nan
        if self._state is not None:
            self._measured[n] = in_order(joints, self._state.names, self._state.position[None])[0]
        self._limited[n] = self._limited_since
        self._stale[n] = self._stale_since
        self._states.append(tick.tick.state.value)
        self._limited_since[:] = False
        self._stale_since = False
        self._count += 1

    def _thin(self, now: int) -> None:
        """Drop every other row; what happened between two of them is the later one's."""
        self._fill(now)
        half = self._rows // 2
        for events in (self._limited, self._stale):
            events[2::2] |= events[1:-1:2]
        for values in (self._stamps, self._recorded, self._predicted, self._commanded, self._measured, self._limited, self._stale):
            values[:half] = values[::2].copy()
        self._limited_since |= self._limited[-1]  # the last row is one that goes
        self._stale_since |= bool(self._stale[-1])
        self._states = self._states[::2]
        self._count, self._filled = half, (self._filled + 1) // 2
        self._stride *= 2

    def _fill(self, now: int | None) -> None:
        """The recorded commands of rows that the recording has passed; of all that are left at the end (``now`` None)."""
        newest = self._track.newest
        if newest is None:
            return
        known = self._count if now is None else int(np.searchsorted(self._stamps[: self._count], newest, side="right"))
        if known > self._filled:
            self._recorded[self._filled : known] = self._track.at(self._stamps[self._filled : known])
            self._filled = known
        if now is not None:
            self._track.forget_before(int(self._stamps[known]) if known < self._count else min(now, newest))


def _point(joints: tuple[str, ...], sampled: ReplayChunk, now: int) -> FloatArray:
    """The chunk's own point at ``now``, on the line between two of its points; NaN after its end."""
    chunk = sampled.chunk
    place = (now - chunk.stamp) / chunk.dt_ns
    low = int(place)
    if place < 0 or place > len(chunk.positions) - 1:
        return np.full(len(joints), np.nan)
    high = min(low + 1, len(chunk.positions) - 1)
    row = chunk.positions[low] + (place - low) * (chunk.positions[high] - chunk.positions[low])
    return in_order(joints, chunk.names, row[None])[0]
