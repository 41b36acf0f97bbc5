"""Jerk of slow motion, commanded beside recorded, over the whole replay and in its worst second.

Third differences of single ticks are mostly tremor: 2 mrad of it in recorded commands hide any swing. Means over a tenth of a
second, as far apart, show the motion, and a failure that is short beside the recording shows in the worst second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray

SLOW_S = 0.1
WORST_S = 1.0


class SlowJerk:
    """Sums over the ticks of J joints."""

    def __init__(self, period_s: float, stride: int, joints: int) -> None:
        """``stride``: ticks between two recorded commands, which are lines between."""
        self._ticks = max(stride, round(SLOW_S / period_s), 1)
        self._scale = 1.0 / (self._ticks * period_s) ** 3
        self._window = max(1, round(WORST_S / period_s))
        self._rest = np.empty((2, 0, joints))
        self._sum, self._count, self._worst = np.zeros((2, joints)), np.zeros(joints), np.zeros((2, joints))
        self._open, self._open_count, self._rows = np.zeros((2, joints)), np.zeros(joints), 0

    def add(self, commanded: FloatArray, recorded: FloatArray, followed: NDArray[np.bool_]) -> None:
        """Take the next ticks of both, (n, J) each, NaN where there is none; only those ``followed`` (n,) count."""
        both = np.where(followed[None, :, None], np.stack([commanded, recorded]), np.nan)
        rows, m = np.concatenate([self._rest, both], axis=1), self._ticks
        if rows.shape[1] < 4 * m:
            self._rest = rows
            return
        self._rest = rows[:, 1 - 4 * m :].copy()
        means = np.lib.stride_tricks.sliding_window_view(rows, m, axis=1).mean(axis=-1)
        jerk = (means[:, 3 * m :] - 3 * means[:, 2 * m : -m] + 3 * means[:, m : -2 * m] - means[:, : -3 * m]) * self._scale
        known = np.isfinite(jerk).all(axis=0)
        squares = np.where(known, jerk**2, 0.0)
        begin = 0
        while begin < len(known):
            end = min(len(known), begin + self._window - self._rows)
            self._open += squares[:, begin:end].sum(axis=1)
            self._open_count += known[begin:end].sum(axis=0)
            self._rows += end - begin
            begin = end
            if self._rows == self._window:
                self._close()

    def end(self) -> None:
        """No tick comes any more."""
        self._close()

    def result(self, motion: FloatArray, moving: NDArray[np.bool_]) -> dict[str, float | None]:
        """``ratio`` of the whole (``slow``) and of each joint's ``worst`` second."""
        judged = moving & (self._count > 0)
        whole = self._sum[:, judged] / self._count[judged]
        return {"slow": ratio(whole, motion[judged]), "worst": ratio(self._worst[:, judged], motion[judged])}

    def _close(self) -> None:
        long = self._open_count >= self._window // 2
        mean = self._open / np.maximum(self._open_count, 1)
        self._worst = np.where(long, np.maximum(self._worst, mean), self._worst)
        self._sum += self._open
        self._count += self._open_count
        self._open[:], self._open_count[:], self._rows = 0.0, 0.0, 0


def ratio(squares: FloatArray, motion: FloatArray) -> float | None:
    """Root of the first over the second row of mean ``squares`` (2, J), joints weighted by 1 / ``motion``²; None where the
    second has none."""
    ours, theirs = (squares / motion**2).sum(axis=1)
    return float(np.sqrt(ours / theirs)) if theirs > 0.0 else None
