"""Percentiles of as many values as there are, in constant memory: counts in bins of equal ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

LEAST, MOST = 1e-9, 1e9
PRECISION = 0.005
"""Percentiles are right to this share of their value (Masson et al. 2019, DDSketch)."""
PENDING = 512
"""Single values that wait to be counted together, at most."""
_LOG = np.log((1.0 + PRECISION) / (1.0 - PRECISION))
_BINS = int(np.ceil(np.log(MOST / LEAST) / _LOG)) + 1


class Percentiles:
    """Of values that are never negative; ``count`` and ``max`` are exact. What is below ``LEAST`` counts as zero."""

    def __init__(self) -> None:
        self._count = self._zeros = 0
        self._max = 0.0
        self._bins = np.zeros(_BINS, dtype=np.int64)
        self._single: list[float] = []  # not counted yet

    @property
    def count(self) -> int:
        """Values so far."""
        self._settle()
        return self._count

    @property
    def max(self) -> float:
        """The greatest, 0 without values."""
        self._settle()
        return self._max

    def add_one(self, value: float) -> None:
        """Take one value; cheap at each tick."""
        self._single.append(value)
        if len(self._single) == PENDING:
            self._settle()

    def add(self, values: ArrayLike) -> None:
        """Take values of any shape; NaN does not count."""
        flat = np.asarray(values, dtype=np.float64).reshape(-1)
        flat = flat[np.isfinite(flat)]
        if not len(flat):
            return
        self._count += len(flat)
        self._max = max(self._max, float(flat.max()))
        above = flat[flat > LEAST]
        self._zeros += len(flat) - len(above)
        places = np.minimum(np.log(above / LEAST) / _LOG, _BINS - 1).astype(np.int64)
        np.add.at(self._bins, places, 1)

    def _settle(self) -> None:
        if self._single:
            waiting, self._single = self._single, []
            self.add(waiting)

    def at(self, percent: float) -> float | None:
        """The value that ``percent`` of all are not above; None without values."""
        if not self.count:
            return None
        rank = percent / 100.0 * (self._count - 1)
        if rank < self._zeros:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), rank - self._zeros, side="right"))
        return min(float(LEAST * np.exp((place + 0.5) * _LOG)), self._max)

    def figures(self, *percents: float) -> dict[str, float | None]:
        """``p50`` and so on by ``percents``, and ``max``, for the record."""
        return {**{f"p{percent:g}": self.at(percent) for percent in percents}, "max": self.max if self.count else None}
