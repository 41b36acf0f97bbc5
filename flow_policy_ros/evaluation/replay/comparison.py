"""Chunks beside what was recorded: each is kept until the recording has passed its end, then handed out with the recorded
commands at its points' instants. What is made of the difference is the caller's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import FAR_NS, CommandEvent
from flow_policy_ros.data.chunk_rows import MAX_GAP_S, on_line
from flow_policy_ros.evaluation.replay.records import ReplayChunk
from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.types import FloatArray

LINE_NS = round(MAX_GAP_S * 1e9)
"""Between recorded commands no farther apart than this the command is a straight line, as it is in training; over a longer gap it
is held."""
PATIENCE_NS = 1_000_000_000
"""A chunk is waited for no longer than this after its end: the recording of commands may have ended before the recording."""
AHEAD_NS = 50_000_000
"""Of two commands whose stamps go back, that is wrong which is stamped by more than this further ahead of its receipt."""


@dataclass(frozen=True)
class ComparedChunk:
    """``sampled`` with its points in the robot's joint order: ``stamps`` (H,) ns, ``predicted`` and ``recorded`` (H, J) rad or m,
    ``hold`` (J,) the recorded command at the chunk's own instant. NaN where a joint or instant is not known."""

    sampled: ReplayChunk
    stamps: NDArray[np.int64]
    predicted: FloatArray
    recorded: FloatArray
    hold: FloatArray


class RecordedTrack:
    """Recorded commands of the last while, each joint for itself: a message may name some of the robot's joints only.

    ``refused`` counts commands whose stamps go back or are no instants near their receipt, ``foreign`` those that name no joint of
    the robot. ``first_stamps`` (J,) ns and ``first_row`` (J,) are each joint's first command: NaN, and the greatest stamp, where
    there is none.
    """

    def __init__(self, joints: tuple[str, ...]) -> None:
        n = len(joints)
        self.refused = self.foreign = 0
        self.newest: int | None = None
        """Until this instant (ns) the commands are complete: to the last one of each joint that is being commanded."""
        self.first_stamps, self.first_row = np.full(n, np.iinfo(np.int64).max), np.full(n, np.nan)
        self._joints = joints
        self._stamps = np.empty(256, dtype=np.int64)
        self._rows = np.empty((256, n))
        self._count = 0
        self._last, self._lead = np.full(n, np.iinfo(np.int64).min), 0  # stamps; of the last command before its receipt
        self._head_stamps, self._head = np.full(n, np.iinfo(np.int64).min), np.full(n, np.nan)  # the last that was forgotten
        self._whole = True  # whether every command so far named every joint
        self._columns: dict[tuple[str, ...], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def row(self, command: CommandEvent) -> FloatArray:
        """Positions (J,) in the robot's order, NaN for joints that the command does not name; unknown names do not count."""
        if command.names == self._joints:
            return command.position
        if command.names not in self._columns:
            pairs = [(self._joints.index(name), k) for k, name in enumerate(command.names) if name in self._joints]
            into, out_of = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            self._columns[command.names] = into, out_of
        into, out_of = self._columns[command.names]
        row = np.full(len(self._joints), np.nan)
        row[into] = command.position[out_of]
        return row

    def add(self, command: CommandEvent) -> FloatArray | None:
        """Take a command; its row (``row``), or None when it is ``refused`` or ``foreign``."""
        row, stamp, lead = self.row(command), command.stamp, command.stamp - command.received
        named = np.isfinite(row)
        count = np.count_nonzero(named)
        if not count:
            self.foreign += 1
            return None
        if abs(lead) > FAR_NS:
            self.refused += 1
            return None
        if self._count and stamp <= self._stamps[self._count - 1]:
            self.refused += 1
            # One command that is stamped ahead of time must not make those wrong that follow it.
            if self._count < 2 or stamp <= self._stamps[self._count - 2] or self._lead - lead <= AHEAD_NS:
                return None
            self._count -= 1
            self._last = np.minimum(self._last, stamp)
        if self._count == len(self._stamps):
            self._stamps = np.concatenate([self._stamps, np.empty_like(self._stamps)])
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._stamps[self._count] = stamp
        self._rows[self._count] = row
        self._count += 1
        self._lead = lead
        if self._whole and self.newest is not None and count == len(row):  # nearly always: what is below for all joints alike
            self._last.fill(stamp)
            self.newest = stamp
            return row
        self._whole = self._whole and count == len(row)
        new = named & np.isnan(self.first_row)
        self.first_stamps[new], self.first_row[new] = stamp, row[new]
        self._last[named] = stamp
        self.newest = int(self._last[self._last >= stamp - LINE_NS].min())
        return row

    def forget_before(self, stamp: int) -> None:
        """What is before ``stamp`` will not be asked for."""
        stale = int(np.searchsorted(self._stamps[: self._count], stamp, side="right")) - 1
        if stale > len(self._stamps) // 2:
            named = np.isfinite(self._rows[:stale])
            gone = named.any(axis=0)
            at = stale - 1 - np.argmax(named[::-1], axis=0)  # the last row that names each joint
            self._head_stamps[gone], self._head[gone] = self._stamps[at][gone], self._rows[at, np.arange(len(at))][gone]
            left = self._count - stale
            self._stamps[:left] = self._stamps[stale : self._count].copy()
            self._rows[:left] = self._rows[stale : self._count].copy()
            self._count = left

    def at(self, stamps: NDArray[np.int64]) -> FloatArray:
        """Commands (N, J) at the instants ``stamps`` (N,) ns; NaN before a joint's first command and after the last of all."""
        return self._look_up(stamps)[0]

    def lines(self, stamps: NDArray[np.int64]) -> FloatArray:
        """As ``at``, but NaN too in the gaps over which a command is held: what comes after one is no motion."""
        found, held = self._look_up(stamps)
        np.copyto(found, np.nan, where=held)
        return found

    def _look_up(self, stamps: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Commands (N, J), and whether they are held over a gap, (N, J) or (N, 1)."""
        known, rows = self._stamps[: self._count], self._rows[: self._count]
        if self._whole and self._count and known[0] <= stamps.min(initial=known[0]) and stamps.max(initial=known[0]) <= known[-1]:
            found, over = _lines(known, rows, stamps)
            return found, over[:, None]
        result = np.full((len(stamps), len(self._joints)), np.nan)
        held = np.zeros(result.shape, dtype=np.bool_)
        if not self._count:
            return result, held
        named = np.isfinite(rows)
        if named.all():
            inside = (stamps >= known[0]) & (stamps <= known[-1])
            result[inside], over = _lines(known, rows, stamps[inside])
            held[inside] = over[:, None]
            return result, held
        # Joints that the same commands name are looked up together.
        patterns, group = np.unique(np.concatenate([self._head_stamps[None], named]), axis=1, return_inverse=True)
        for k, pattern in enumerate(patterns.T):
            columns = np.flatnonzero(group.reshape(-1) == k)
            own, values = known[pattern[1:] > 0], rows[np.ix_(pattern[1:] > 0, columns)]
            if pattern[0] > np.iinfo(np.int64).min:
                own, values = np.append(pattern[0], own), np.concatenate([self._head[None, columns], values])
            if len(own):
                inside = (stamps >= own[0]) & (stamps <= known[-1])
                result[np.ix_(inside, columns)], over = _lines(own, values, np.minimum(stamps[inside], own[-1]))
                held[np.ix_(inside, columns)] = over[:, None]
        return result, held


class ChunkComparison:
    """Pairs the chunks of one replay with the recorded commands. Bounded: a chunk is let go of soon after its end.

    While a chunk is handed out, ``track`` knows the commands from ``before_ns`` before its stamp to ``after_ns`` after its end, as
    far as there are any.
    """

    def __init__(self, joints: tuple[str, ...], before_ns: int = 0, after_ns: int = 0) -> None:
        self.track = RecordedTrack(joints)
        self._joints = joints
        self._before_ns, self._after_ns = before_ns, after_ns
        self._pending: deque[ReplayChunk] = deque()

    def on_recorded(self, command: CommandEvent) -> FloatArray | None:
        """Take a recorded command; see ``RecordedTrack.add``."""
        return self.track.add(command)

    def on_chunk(self, sampled: ReplayChunk) -> None:
        """Take a chunk that was sampled."""
        self._pending.append(sampled)

    def passed(self, now: int) -> list[ComparedChunk]:
        """Chunks whose end the recording has passed by ``now`` (ns), oldest first."""
        if not self._pending:
            self.track.forget_before(now - self._before_ns - PATIENCE_NS)  # the next one is of an observation that is no older
            return []
        if not self._past(self._pending[0], now):
            return []
        # Those handed out last may still have been looked at beside their commands; these are let go of now.
        self.track.forget_before(self._pending[0].chunk.stamp - self._before_ns)
        done = []
        while self._pending and self._past(self._pending[0], now):
            done.append(self._compared(self._pending.popleft()))
        return done

    def rest(self) -> list[ComparedChunk]:
        """The chunks that the recording ended in."""
        rest = [self._compared(sampled) for sampled in self._pending]
        self._pending.clear()
        return rest

    def _past(self, sampled: ReplayChunk, now: int) -> bool:
        end, newest = sampled.chunk.end() + self._after_ns, self.track.newest
        return now >= end and ((newest is not None and newest >= end) or now >= end + PATIENCE_NS)

    def _compared(self, sampled: ReplayChunk) -> ComparedChunk:
        chunk = sampled.chunk
        stamps = chunk.stamp + chunk.dt_ns * np.arange(len(chunk.positions), dtype=np.int64)
        predicted = in_order(self._joints, chunk.names, chunk.positions)
        recorded = self.track.at(stamps)
        return ComparedChunk(sampled, stamps, predicted, recorded, recorded[0])  # the first point lies at the chunk's own instant


def _lines(
    stamps: NDArray[np.int64], rows: FloatArray, asked: NDArray[np.int64]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """``rows`` (M, J) of the instants ``stamps`` (M,) at those ``asked`` (N,), none of which is outside; and whether they are held
    over a gap."""
    low = np.minimum(np.searchsorted(stamps, asked, side="right") - 1, max(0, len(stamps) - 2))
    high = np.minimum(low + 1, len(stamps) - 1)
    begin, end, after = stamps.take(low), stamps.take(high), rows.take(high, axis=0)
    gap, past = end - begin, asked - begin
    long = gap > LINE_NS
    values = on_line(rows.take(low, axis=0), after, np.where(long, 0.0, past / np.maximum(gap, 1)))
    last = asked >= end  # where a joint has no step, as across a turn, the command itself is in force at its instant
    np.copyto(values, after, where=last[:, None])
    return values, long & (past > 0) & ~last


def in_order(joints: tuple[str, ...], names: tuple[str, ...], positions: FloatArray) -> FloatArray:
    """``positions`` (H, A) of ``names`` as (H, J) of ``joints``; NaN for joints without a column."""
    if names == joints:
        return positions
    result = np.full((len(positions), len(joints)), np.nan)
    for k, name in enumerate(names):
        if name in joints:
            result[:, joints.index(name)] = positions[:, k]
    return result


def spans(limits: JointLimits) -> FloatArray:
    """Command range (J,) of each joint, rad or m: a turn for one without stops, and for one that may not move at all."""
    span = limits.upper - limits.lower
    return np.where(np.isfinite(span) & (span > 0.0), np.minimum(span, 2 * np.pi), 2 * np.pi)
