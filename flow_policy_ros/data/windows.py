"""Training samples cut from episodes: the observation that the robot would have had at a tick, and the chunk after it.

All arrays of all episodes lie end to end, so that a batch is a handful of gathers. Normalising and augmenting are done
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.runtime.types import FloatArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """``joint_position`` (B, J) and ``actions`` (B, H, A) in rad or m, float64; ``features[stream]`` (B, tokens,
    channels) float32; ``mask`` (B, H) False where the chunk is past its episode's end and repeats the last label."""

    joint_position: FloatArray
    features: dict[str, NDArray[np.float32]]
    actions: FloatArray
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """Which samples to gather: ``ticks`` (M,) over all episodes, ``rows[stream]`` (M,) the feature seen at each."""

    ticks: Indices
    rows: dict[str, Indices]

    def take(self, which: Indices | slice) -> Samples:
        """Some of the samples."""
        return Samples(self.ticks[which], {name: rows[which] for name, rows in self.rows.items()})


class Windows:
    """Samples of ``episodes``: chunks of ``horizon`` points ``chunk_dt_ns`` apart, observing ``streams``.

    A feature is visible from its stamp + a delay on, which is drawn per sample from ``delay_s`` = (least, greatest)
    seconds; of the streams ``of_first`` every sample has the episode's first. ``joints`` is the column order of positions
    and actions. Raises ``EpisodeError`` for episodes that do not
    belong together, ``ValueError`` for a chunk spacing that is no multiple of the episodes' tick.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        streams: Sequence[str],
        horizon: int,
        chunk_dt_ns: int,
        delay_s: tuple[float, float] = (0.0, 0.0),
        of_first: Sequence[str] = (),
    ) -> None:
        if not episodes:
            raise EpisodeError("there are no episodes to cut; record some.")
        first = episodes[0]
        if horizon < 1 or chunk_dt_ns < 1 or chunk_dt_ns % first.dt_ns:
            raise ValueError(
                f"chunk of {horizon} points, {chunk_dt_ns} ns apart: expected at least one point and a multiple of the "
                f"episodes' tick of {first.dt_ns} ns."
            )
        if not 0.0 <= delay_s[0] <= delay_s[1]:
            raise ValueError(f"feature delay is {delay_s} s, expected 0 <= least <= greatest.")
        self.joints, self.horizon, self.chunk_dt_ns = first.joints, horizon, chunk_dt_ns
        self.streams = {name: _stream_shape(first, name) for name in streams}
        columns = [_columns(episode, first) for episode in episodes]
        self._position = np.concatenate([e.position[:, c] for e, c in zip(episodes, columns, strict=True)])
        self._label = np.concatenate([e.label[:, c] for e, c in zip(episodes, columns, strict=True)])
        self._last = np.concatenate([np.full(len(e.stamps), k) for e, k in zip(episodes, _ends(episodes), strict=True)])
        self._offsets = np.arange(horizon) * (chunk_dt_ns // first.dt_ns)
        self._tick_stamps = [e.stamps for e in episodes]
        self._stamps = {name: [_stream(e, name, self.streams[name])[0] for e in episodes] for name in streams}
        self._values = {
            name: np.concatenate([_stream(e, name, self.streams[name])[1] for e in episodes]) for name in streams
        }
        self._of_first = frozenset(of_first)
        self._delay_ns = (round(delay_s[0] * 1e9), round(delay_s[1] * 1e9))

    def samples(self, seed: int, epoch: int) -> Samples:
        """Every tick at which each stream had something to show, in order; the delays depend on (seed, epoch) alone."""
        generator = np.random.default_rng([seed, epoch, 1])
        ticks = np.arange(len(self._position), dtype=np.int64)
        rows: dict[str, Indices] = {}
        for name, stamps in self._stamps.items():
            delays = generator.integers(self._delay_ns[0], self._delay_ns[1], size=len(ticks), endpoint=True)
            rows[name] = _newest_visible(self._tick_stamps, stamps, delays)
            if name in self._of_first:
                rows[name] = np.where(rows[name] >= 0, _first_rows(self._tick_stamps, stamps), -1)
        seen = np.all([row >= 0 for row in rows.values()], axis=0) if rows else np.ones(len(ticks), dtype=bool)
        return Samples(ticks, rows).take(np.flatnonzero(seen))

    def gather(self, samples: Samples) -> Batch:
        """The samples' arrays."""
        wanted = samples.ticks[:, None] + self._offsets
        last = self._last[samples.ticks][:, None]
        return Batch(
            joint_position=self._position[samples.ticks],
            features={name: self._values[name][rows] for name, rows in samples.rows.items()},
            actions=self._label[np.minimum(wanted, last)],
            mask=wanted <= last,
        )


def _first_rows(ticks: list[Indices], stamps: list[Indices]) -> Indices:
    """Per tick the first row (over all episodes) of its episode."""
    starts = np.cumsum([0, *(len(stamp) for stamp in stamps[:-1])])
    return np.repeat(starts, [len(tick) for tick in ticks])


def _newest_visible(ticks: list[Indices], stamps: list[Indices], delays: Indices) -> Indices:
    """Per tick the row (over all episodes) of the newest stamp with stamp + delay <= tick, or -1."""
    found, tick_start, row_start = np.empty(len(delays), dtype=np.int64), 0, 0
    for tick, stamp in zip(ticks, stamps, strict=True):
        here = slice(tick_start, tick_start + len(tick))
        row = np.searchsorted(stamp, tick - delays[here], side="right") - 1
        found[here] = np.where(row >= 0, row + row_start, -1)
        tick_start += len(tick)
        row_start += len(stamp)
    return found


def _ends(episodes: Sequence[Episode]) -> Indices:
    return np.cumsum([len(e.stamps) for e in episodes]) - 1


def _columns(episode: Episode, first: Episode) -> list[int]:
    """Where the columns of ``first`` are in ``episode``, by name."""
    if set(episode.joints) != set(first.joints) or episode.dt_ns != first.dt_ns:
        raise EpisodeError(
            f"episode of seed {episode.seed} has joints {list(episode.joints)} every {episode.dt_ns} ns, the first has "
            f"{list(first.joints)} every {first.dt_ns} ns; keep recordings of different robots in different folders."
        )
    return [episode.joints.index(joint) for joint in first.joints]


def _stream(episode: Episode, name: str, shape: tuple[int, int] | None) -> tuple[Indices, NDArray[np.float32]]:
    if name not in episode.streams:
        raise EpisodeError(
            f"episode of seed {episode.seed} has no feature stream '{name}', only {sorted(episode.streams)}. Name one "
            "of these, or compute the features first."
        )
    stamps, values = episode.streams[name]
    if shape is not None and values.shape[1:] != shape:
        raise EpisodeError(
            f"stream '{name}' of the episode of seed {episode.seed} has {values.shape[1:]} (tokens, channels), "
            f"expected {shape} as in the first episode; compute all features with the same extractor."
        )
    return stamps, values


def _stream_shape(episode: Episode, name: str) -> tuple[int, int]:
    _, values = _stream(episode, name, None)
    return values.shape[1], values.shape[2]
