"""What the policy was shown: how old it was, why it was missing, and whether it looks like what the policy was trained on.

A range is the training's 1 to 99% as the checkpoint's statistics give it: exact where it was normalised by quantiles, that of a
normal distribution (mean ± 2.33 deviations) where by mean and deviation. In a sound run a few values in a hundred are outside;
with images normalised twice, colours exchanged or another camera nearly all are, or nothing is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flow_policy_ros.evaluation.replay.records import ReplayFeatures
from flow_policy_ros.evaluation.replay.sketch import Percentiles
from flow_policy_ros.policy.codec import Codec, state_dim
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState

NORMAL_99 = 2.3263
"""The 99% quantile of the standard normal distribution."""
JOINT_STATE = "joint_state"


@dataclass(frozen=True)
class TrainedRange:
    """``low`` and ``high`` (rows, channels) of the token rows ``rows`` that the policy uses; ``first``: it looks at the first
    features of a run only. ``names`` of the rows (classes, joints), where they have any."""

    low: FloatArray
    high: FloatArray
    rows: tuple[int, ...]
    names: tuple[str, ...]
    first: bool = False


def trained_ranges(policy: object) -> dict[str, TrainedRange]:
    """By feature stream, and of the joint positions as ``joint_state``; empty for a policy without a ``codec``."""
    codec = getattr(policy, "codec", None)
    if not isinstance(codec, Codec):
        return {}
    contract, normaliser = codec.contract, codec.observation_normaliser
    half = normaliser.scale * (1.0 if normaliser.method == "quantile" else NORMAL_99)
    low, high = normaliser.offset - half, normaliser.offset + half
    n = len(contract.joints)
    ranges = {JOINT_STATE: TrainedRange(low[:n, None], high[:n, None], tuple(range(n)), contract.joints)}
    begin = state_dim(contract)
    for stream in contract.streams:
        size = len(stream.rows) * stream.channels
        part = slice(begin, begin + size)
        shape = (len(stream.rows), stream.channels)
        classes = stream.extractor.get("classes", ())
        names = tuple(str(classes[row]) if row < len(classes) else str(row) for row in stream.rows)
        ranges[stream.name] = TrainedRange(
            low[part].reshape(shape), high[part].reshape(shape), stream.rows, names, stream.moment == "first"
        )
        begin += size
    return ranges


class _Seen:
    """Counts of one stream."""

    def __init__(self) -> None:
        self.count = self.outside = self.values = 0
        self.empty: FloatArray | None = None


class Inputs:
    """Features, joint positions and observations of one replay."""

    def __init__(self, ranges: Mapping[str, TrainedRange]) -> None:
        self._ranges = dict(ranges)
        self._rows = {name: np.array(expected.rows, dtype=np.intp) for name, expected in self._ranges.items()}
        self._seen: dict[str, _Seen] = {}
        self._ages: dict[str, Percentiles] = {}
        self._columns: dict[tuple[str, ...], list[int]] = {}

    def on_joint_state(self, state: JointState) -> None:
        """Take a joint state; names that the policy was not trained with do not count."""
        expected = self._ranges.get(JOINT_STATE)
        if expected is None:
            return
        position = state.position
        if state.names != expected.names:
            if not set(expected.names) <= set(state.names):
                return
            columns = self._columns.setdefault(state.names, [state.names.index(name) for name in expected.names])
            position = position[columns]
        seen = self._seen.setdefault(JOINT_STATE, _Seen())
        seen.count += 1
        seen.values += len(position)
        seen.outside += int(np.count_nonzero((position < expected.low[:, 0]) | (position > expected.high[:, 0])))

    def on_features(self, given: ReplayFeatures) -> None:
        """Take the features of one image that reach the policy."""
        if given.lost:
            return
        values, expected = given.features.values, self._ranges.get(given.features.stream)
        seen = self._seen.setdefault(given.features.stream, _Seen())
        used = values if expected is None else values[self._rows[given.features.stream]]
        if expected is not None and not (expected.first and seen.count):
            outside = (used < expected.low) | (used > expected.high)
            seen.outside += int(np.count_nonzero(outside))
            seen.values += outside.size
        if seen.empty is None:
            seen.empty = np.zeros(len(used))
        seen.empty += ~used.any(axis=1)
        seen.count += 1

    def on_chunk(self, now: int, chunk: Chunk) -> None:
        """Take a chunk that was sampled at ``now`` (ns), for the ages of what it was sampled from."""
        for name, stamp in chunk.observation_stamps.items():
            self._ages.setdefault(name, Percentiles()).add_one(abs(now - stamp) / 1e6)

    def ages(self) -> dict[str, Any]:
        """ms from an input's stamp to the observation, by input; one stamped ahead of its receipt counts as its distance."""
        return {name: ages.figures(50, 99) for name, ages in sorted(self._ages.items())}

    def features(self) -> dict[str, Any]:
        """By stream: ``outside`` the training's range (share of the values that the policy uses; None where that is not known),
        ``empty`` (share of token rows that were all zero), ``absent`` (that share by row, where it is not zero), ``count``."""
        result: dict[str, Any] = {}
        for name, seen in sorted(self._seen.items()):
            empty = None if seen.empty is None else seen.empty / seen.count
            expected = self._ranges.get(name)
            names = expected.names if expected is not None else tuple(map(str, range(0 if empty is None else len(empty))))
            result[name] = {
                "outside": seen.outside / seen.values if seen.values else None,
                "empty": 0.0 if empty is None else float(empty.mean()),
                "absent": {} if empty is None else {n: float(e) for n, e in zip(names, empty, strict=True) if e > 0.0},
                "count": seen.count,
            }
        return result


def stale_kind(reason: str) -> str:
    """What a reason for not sampling has in common with others of its kind: its first sentence, without the numbers."""
    sentence = reason.split(". ")[0]
    if "in the future" in sentence:
        return re.split(r" is stamped ", sentence)[0] + " is stamped in the future"
    return re.split(r"[:,]?( age)? -?\(?\d", sentence)[0].rstrip(" .")
