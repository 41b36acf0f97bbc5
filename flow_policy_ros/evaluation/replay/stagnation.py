"""Whether the commands stand still while the recorded robot moves: in windows of a quarter of a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from flow_policy_ros.runtime.types import FloatArray

WINDOW_S = 0.25
STILL = 0.2
"""Commands that move less than this share of what the recorded ones move stand still …"""
MOVING = 0.5
"""… where the recording moves at least this share of its own mean."""
KEPT = 16384
"""Windows that are kept, at most (68 minutes): then every two become one."""


class Stagnation:
    """Movement is the span of a joint's positions in a window as a share of its command range ``span`` (J,), mean over joints."""

    def __init__(self, period_s: float, span: FloatArray) -> None:
        self._rows = max(2, round(WINDOW_S / period_s))
        self._window_s = self._rows * period_s
        self._span = span
        self._rest = np.empty((2, 0, len(span)))
        self._moved: list[tuple[float, float]] = []
        self._pairs = 1  # windows of WINDOW_S in each of those kept
        self._open: list[tuple[float, float]] = []

    def add(self, commanded: FloatArray, recorded: FloatArray) -> None:
        """Take the next ticks of both, (n, J) each, NaN where there is none."""
        rows = np.concatenate([self._rest, np.stack([commanded, recorded])], axis=1)
        whole = rows.shape[1] // self._rows * self._rows
        for begin in range(0, whole, self._rows):
            self._window(rows[:, begin : begin + self._rows])
        self._rest = rows[:, whole:].copy()

    def end(self) -> None:
        """No tick comes any more: a rest of more than half a window counts as one."""
        if self._rest.shape[1] > self._rows // 2:
            self._window(self._rest)
        self._rest = self._rest[:, :0]

    def result(self) -> dict[str, Any]:
        """``fraction`` of the windows in which the recording moves and the commands do not; the ``longest_s`` such time, and
        ``missed_s``, the longest without those parts in which the recording rests too; the number of ``windows`` in which the
        recording moves."""
        if not self._moved:
            return {"fraction": None, "longest_s": 0.0, "missed_s": 0.0, "windows": 0}
        ours, theirs = np.array(self._moved).T
        moving = (theirs > 0.0) & (theirs >= MOVING * theirs.mean())
        still = moving & (ours < STILL * theirs)
        quiet = ours < STILL * np.maximum(theirs, MOVING * theirs.mean())
        longest = length = most = missed = 0
        for stands, rests in zip(still, quiet, strict=True):
            # A window in which both rest ends no standstill, and makes none either.
            length = length + 1 if stands or (rests and length) else 0
            longest = max(longest, length if stands else 0)
            missed = missed + int(stands) if length else 0
            most = max(most, missed)
        windows = int(moving.sum())
        return {
            "fraction": float(still.sum() / windows) if windows else None,
            "longest_s": round(longest * self._pairs * self._window_s, 6),
            "missed_s": round(most * self._pairs * self._window_s, 6),
            "windows": windows,
        }

    def _window(self, rows: FloatArray) -> None:
        known = np.isfinite(rows[1]).all(axis=0)
        if not known.any():
            return
        theirs = float(((rows[1].max(axis=0) - rows[1].min(axis=0)) / self._span)[known].mean())
        there = np.isfinite(rows[0][:, known]).all(axis=1)
        own = rows[0][there][:, known]
        ours = float(((own.max(axis=0) - own.min(axis=0)) / self._span[known]).mean()) if len(own) else 0.0
        self._open.append((ours, theirs))
        if len(self._open) < self._pairs:
            return
        self._moved.append(_mean(self._open))
        self._open = []
        if len(self._moved) == KEPT:
            self._moved = [_mean(self._moved[k : k + 2]) for k in range(0, KEPT, 2)]
            self._pairs *= 2


def _mean(moved: list[tuple[float, float]]) -> tuple[float, float]:
    ours, theirs = zip(*moved, strict=True)
    return sum(ours) / len(ours), sum(theirs) / len(theirs)
