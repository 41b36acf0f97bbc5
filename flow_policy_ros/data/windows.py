"""Training samples cut from recordings: the observation that the robot would have had at an instant, and the chunk after it.

Samples are anchored at joint states: the observation is made when one is received, and the chunk is stamped with its header
stamp, as ``runtime.buffers`` and ``runtime.policy_loop`` do it live. All arrays of all recordings lie end to end, so that a
batch is a handful of gathers. Normalising and augmenting are done elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.arrivals import Arrivals, Indices
from flow_policy_ros.data.chunk_rows import MAX_GAP_S, ChunkTable
from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.data.recording import Recording, Stream
from flow_policy_ros.runtime.types import FloatArray


@dataclass(frozen=True)
class Batch:
    """``joint_position`` (B, J) and ``actions`` (B, H, A) in rad or m, float64; ``features[stream]`` (B, tokens,
    channels) float32, or uint8 of pictures; ``mask`` (B, H) False where the chunk is past the end of what was commanded and
    repeats the last command; ``joint_history`` (B, n, J) the positions before, None when none are observed."""

    joint_position: FloatArray
    features: dict[str, NDArray[Any]]
    actions: FloatArray
    mask: NDArray[np.bool_]
    joint_history: FloatArray | None = None


@dataclass(frozen=True)
class Samples:
    """Which samples to gather: ``ticks`` (M,) joint states over all recordings, ``rows[stream]`` (M,) the feature seen at each."""

    ticks: Indices
    rows: dict[str, Indices]

    def take(self, which: Indices | slice) -> Samples:
        """Some of the samples."""
        return Samples(self.ticks[which], {name: rows[which] for name, rows in self.rows.items()})

    def of(self, streams: Collection[str]) -> Samples:
        """The same, with some of the streams alone."""
        return Samples(self.ticks, {name: rows for name, rows in self.rows.items() if name in streams})


@dataclass(frozen=True)
class Ages:
    """Greatest ages in s, by header stamp, of what may be observed; a stamp further in the future is as bad. ``streams_s``: those
    of single streams instead of ``features_s``, as cameras may have."""

    joint_state_s: float = math.inf
    features_s: float = math.inf
    streams_s: Mapping[str, float] = field(default_factory=dict)


class Windows:
    """Samples of ``recordings``: chunks of ``horizon`` points ``chunk_dt_ns`` apart, observing ``streams``.

    A feature is visible from its receipt + a delay on, which is drawn per sample from ``delay_s`` = (least, greatest)
    seconds; of the streams ``of_first`` every sample has the first since the recording's beginning; the ``standing`` ones hold
    from their receipt until replaced, without delay and at any age. ``history_ns`` are the offsets of past joint states to
    observe. A joint state that was overtaken by a newer one is no anchor: live, nothing would be computed from it. Neither is one
    at which something was older than ``ages``, or nothing was commanded (``ChunkTable``).

    ``joints`` is the column order of positions and actions, that of the first recording unless given. Raises ``EpisodeError``
    for recordings that do not belong together, ``ValueError`` for a chunk spacing that is no multiple of a regular grid's tick.
    """

    def __init__(
        self,
        recordings: Sequence[Recording | Episode],
        streams: Sequence[str],
        horizon: int,
        chunk_dt_ns: int,
        delay_s: tuple[float, float] = (0.0, 0.0),
        of_first: Sequence[str] = (),
        *,
        history_ns: Sequence[int] = (),
        ages: Ages = Ages(),
        max_gap_s: float = MAX_GAP_S,
        joints: Sequence[str] = (),
        standing: Sequence[str] = (),
    ) -> None:
        tables = [entry if isinstance(entry, Recording) else Recording.of_episode(entry) for entry in recordings]
        if not tables:
            raise EpisodeError("there are no episodes to cut; record some.")
        first = tables[0]
        if horizon < 1 or chunk_dt_ns < 1 or (first.tick_ns and chunk_dt_ns % first.tick_ns):
            raise ValueError(
                f"chunk of {horizon} points, {chunk_dt_ns} ns apart: expected at least one point and a multiple of the "
                f"episodes' tick of {first.tick_ns} ns."
            )
        if not 0.0 <= delay_s[0] <= delay_s[1]:
            raise ValueError(f"feature delay is {delay_s} s, expected 0 <= least <= greatest.")
        self.joints, self.horizon, self.chunk_dt_ns = tuple(joints) or first.joints, horizon, chunk_dt_ns
        self.history_ns = tuple(history_ns)
        self.streams = {name: _stream_shape(first, name) for name in streams}
        columns = [_columns(table, first, self.joints) for table in tables]
        self._position = np.concatenate([table.position[:, c] for table, c in zip(tables, columns, strict=True)])
        self._received = [table.received for table in tables]
        self._chunks = ChunkTable(tables, columns, horizon, chunk_dt_ns, max_gap_s)
        seen = [_anchors(table, ages.joint_state_s) for table in tables]
        self._usable = np.concatenate(seen) & self._chunks.commanded
        newest = np.concatenate([_anchors(table, math.inf) for table in tables])
        outside = np.concatenate([_outside(table) for table in tables])
        self._unfit = (  # why joint states are no samples, whatever the streams show; the first reason that holds counts
            ("a newer joint state had been received", ~newest),
            (f"the joint state is older than {ages.joint_state_s:g} s (--joint-state-max-age)", ~np.concatenate(seen)),
            ("they lie before the first command or after the last", outside),
            (f"commands pause longer than {max_gap_s:g} s (--max-gap)", ~self._chunks.commanded),
        )
        self._period_s = np.concatenate([np.full(len(t.stamps), t.seconds / len(t.stamps)) for t in tables])
        self._history = _history(tables, self.history_ns)
        found = {name: [_stream(table, name, self.streams[name]) for table in tables] for name in streams}
        self._arrivals = {name: [Arrivals(s.stamps, s.received) for s in parts] for name, parts in found.items()}
        self._values = {name: _Rows([s.values for s in parts]) for name, parts in found.items()}
        self._of_first, self._standing = frozenset(of_first), frozenset(standing)
        self._greatest_s = {name: ages.streams_s.get(name, ages.features_s) for name in streams}
        self._delay_ns = (round(delay_s[0] * 1e9), round(delay_s[1] * 1e9))

    def moment(self, name: str) -> str:
        """Which features of a stream are observed: ``newest``, ``first`` or ``standing``, as a contract says it."""
        return "standing" if name in self._standing else "first" if name in self._of_first else "newest"

    def samples(self, seed: int, epoch: int) -> Samples:
        """Every usable joint state at which each stream had something to show, in order; the delays depend on (seed, epoch)
        alone."""
        generator = np.random.default_rng([seed, epoch, 1])
        rows: dict[str, Indices] = {}
        for name in self._arrivals:
            if name in self._standing:
                rows[name] = self._visible(name, np.zeros(len(self._position), dtype=np.int64))
                continue
            delays = generator.integers(self._delay_ns[0], self._delay_ns[1], size=len(self._position), endpoint=True)
            rows[name] = self._visible(name, delays)
        seen = np.all([self._usable, *(row >= 0 for row in rows.values())], axis=0)
        return Samples(np.arange(len(self._position), dtype=np.int64), rows).take(np.flatnonzero(seen))

    def left_out(self, samples: Samples) -> dict[str, int]:
        """How many joint states are not among ``samples``, all that there are, by the reason why; each is counted once."""
        left, reasons = np.ones(len(self._position), dtype=bool), {}
        left[samples.ticks] = False
        unseen = "there are not yet features of every stream, or too old ones (--delay-max, --features-max-age)"
        for reason, holds in (*self._unfit, (unseen, left.copy())):
            reasons[reason] = int(np.count_nonzero(left & holds))
            left &= ~holds
        return {reason: count for reason, count in reasons.items() if count}

    def seconds(self, samples: Samples) -> float:
        """How long the samples last together, each until the next joint state, s."""
        return float(self._period_s[samples.ticks].sum())

    def gather(self, samples: Samples) -> Batch:
        """The samples' arrays."""
        actions, mask = self._chunks.gather(samples.ticks)
        return Batch(
            joint_position=self._position[samples.ticks],
            features={name: self._values[name].take(rows) for name, rows in samples.rows.items()},
            actions=actions,
            mask=mask,
            joint_history=self._position[self._history[samples.ticks]] if self.history_ns else None,
        )

    def _visible(self, name: str, delays: Indices) -> Indices:
        """Per joint state the feature (row over all recordings) that is observed, or -1: none, or the newest is too old."""
        found, tick, first = np.empty(len(delays), dtype=np.int64), 0, 0
        for received, arrivals in zip(self._received, self._arrivals[name], strict=True):
            here = slice(tick, tick + len(received))
            known = received - delays[here]
            row = arrivals.latest(known)
            greatest_s = math.inf if name in self._standing else self._greatest_s[name]
            usable = (row >= 0) & _fresh(arrivals.stamps, row, received, greatest_s)
            if name in self._of_first:
                row = arrivals.oldest(known)
            found[here] = np.where(usable, row + first, -1)
            tick += len(received)
            first += len(arrivals.stamps)
        return found


class _Rows:
    """The values of a stream in all recordings, end to end; pictures stay where they are, so that there is one copy of them."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        pictures = len(parts) > 1 and parts[0].dtype == np.uint8
        self._parts = list(parts) if pictures else [np.concatenate(parts)]
        self._firsts = np.cumsum([0, *(len(part) for part in self._parts)])

    def take(self, rows: Indices) -> NDArray[Any]:
        """(M, tokens, channels) of the rows (M,)."""
        if len(self._parts) == 1:
            return self._parts[0][rows]
        chosen = np.empty((len(rows), *self._parts[0].shape[1:]), dtype=self._parts[0].dtype)
        owners = np.searchsorted(self._firsts, rows, side="right") - 1
        for place, (owner, row) in enumerate(zip(owners.tolist(), rows.tolist(), strict=True)):
            chosen[place] = self._parts[owner][row - self._firsts[owner]]
        return chosen


def _outside(table: Recording) -> NDArray[np.bool_]:
    """Whether each joint state is from before the first command or after the last."""
    if not len(table.command_stamps):
        return np.ones(len(table.stamps), dtype=bool)
    return (table.stamps < table.command_stamps[0]) | (table.stamps > table.command_stamps[-1])


def _anchors(table: Recording, max_age_s: float) -> NDArray[np.bool_]:
    """Whether each joint state is the newest at its receipt, and no older than allowed."""
    rows = np.arange(len(table.stamps))
    newest = Arrivals(table.stamps, table.received).latest(table.received) == rows
    return newest & _fresh(table.stamps, rows, table.received, max_age_s)


def _fresh(stamps: Indices, rows: Indices, now: Indices, max_age_s: float) -> NDArray[np.bool_]:
    """``runtime.buffers.age_problem`` for tables; rows of -1 may give anything."""
    if math.isinf(max_age_s) or not len(stamps):
        return np.ones(len(rows), dtype=bool)
    return np.abs((now - stamps[rows]) / 1e9) <= max_age_s


def _history(tables: Sequence[Recording], offsets: Sequence[int]) -> Indices:
    """(N, n) rows over all recordings: the newest joint state known by then and no younger than the stamp + offset."""
    if not offsets:
        return np.zeros((0, 0), dtype=np.int64)
    parts, start = [], 0
    for table in tables:
        arrivals = Arrivals(table.stamps, table.received)
        rows = [arrivals.latest_stamped(table.received, table.stamps + offset) for offset in offsets]
        parts.append(np.stack(rows, axis=1) + start)
        start += len(table.stamps)
    return np.concatenate(parts)


def _columns(table: Recording, first: Recording, joints: Sequence[str]) -> list[int]:
    """Where the columns ``joints`` are in ``table``, by name."""
    if set(table.joints) != set(joints) or table.tick_ns != first.tick_ns:
        raise EpisodeError(
            f"{table.source} has joints {list(table.joints)}{_every(table)}, expected {list(joints)}{_every(first)} as in the "
            "first; keep recordings of different robots in different folders."
        )
    return [table.joints.index(joint) for joint in joints]


def _every(table: Recording) -> str:
    return f" every {table.tick_ns} ns" if table.tick_ns else ""


def _stream(table: Recording, name: str, shape: tuple[int, int] | None) -> Stream:
    if name not in table.streams:
        raise EpisodeError(
            f"{table.source} has no feature stream '{name}', only {sorted(table.streams)}. Name one "
            "of these, or compute the features first (flow_policy featurize)."
        )
    stream = table.streams[name]
    if shape is not None and stream.values.shape[1:] != shape:
        raise EpisodeError(
            f"stream '{name}' of the {table.source} has {stream.values.shape[1:]} (tokens, channels), "
            f"expected {shape} as in the first episode; compute all features with the same extractor."
        )
    return stream


def _stream_shape(table: Recording, name: str) -> tuple[int, int]:
    values = _stream(table, name, None).values
    return values.shape[1], values.shape[2]
