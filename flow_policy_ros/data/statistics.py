"""Statistics of vectors: what a normaliser is made from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flow_policy_ros.runtime.types import FloatArray

MOST_BYTES = 1 << 29
"""Rows that statistics are taken of at once; a set of this size has quantiles to four digits."""


@dataclass(frozen=True)
class VectorStatistics:
    """Per dimension (D,): mean, standard deviation, 1% and 99% quantiles ``low`` and ``high`` of ``count`` rows."""

    count: int
    mean: FloatArray
    std: FloatArray
    low: FloatArray
    high: FloatArray

    @staticmethod
    def of(values: ArrayLike) -> VectorStatistics:
        """Statistics of ``values`` (N, D), N at least 1. Raises ``ValueError`` for another shape, NaN or Inf."""
        rows = _rows(values)
        low, high = np.quantile(rows, (0.01, 0.99), axis=0)
        return VectorStatistics(len(rows), rows.mean(axis=0), rows.std(axis=0), low, high)


class StatisticsBuilder:
    """Statistics of rows that come in parts: exactly ``VectorStatistics.of`` all of them while they fit into ``most_bytes``.

    Values may be left out one by one, such as those of tokens that are padding; a dimension of which none is counted has mean and
    deviation 0.

    Beyond it mean and deviation stay exact to rounding (merged part by part: Chan et al., 1979), and the quantiles are those
    of a random half, quarter, … of the rows, always the same one.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._generator = np.random.default_rng(0)
        self._kept: list[FloatArray] = []
        self._share = 1.0
        self._rows, self._count = 0, np.zeros(0)
        self._mean, self._squares = np.zeros(0), np.zeros(0)

    def add(self, values: ArrayLike, counted: NDArray[np.bool_] | None = None) -> None:
        """More rows (n, D), n above zero; ``counted`` (n, D) is False where a value is to be left out.

        Raises ``ValueError`` for another shape, NaN or Inf.
        """
        rows = _rows(values)
        if counted is not None and not counted.all():
            rows = np.where(counted, rows, np.nan)
        new, mean, squares = _moments(rows)
        before, self._rows = self._count, self._rows + len(rows)
        if len(before) == 0:
            self._count, self._mean, self._squares = new, mean, squares
        else:
            self._count, apart = before + new, mean - self._mean
            least = np.maximum(self._count, 1)  # of dimensions that nothing was counted of yet
            self._squares = self._squares + squares + apart**2 * (before * new / least)
            self._mean = self._mean + apart * (new / least)
        self._kept.append(self._thinned(rows, self._share))
        while sum(kept.nbytes for kept in self._kept) > self._most_bytes:
            self._share /= 2
            self._kept = [np.concatenate([self._thinned(kept, 0.5) for kept in self._kept])]

    def result(self) -> VectorStatistics:
        """Of everything added. Raises ``ValueError`` when nothing was."""
        kept = np.concatenate(self._kept) if self._kept else np.zeros((0, 0))
        if self._share == 1.0 and not np.isnan(kept).any():
            return VectorStatistics.of(kept)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a dimension of which nothing is counted
            low, high = np.nan_to_num(np.nanquantile(kept, (0.01, 0.99), axis=0))
        return VectorStatistics(self._rows, self._mean, np.sqrt(self._squares / np.maximum(self._count, 1)), low, high)

    def _thinned(self, rows: FloatArray, share: float) -> FloatArray:
        return rows if share == 1.0 else rows[self._generator.random(len(rows)) < share]


def _moments(rows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per dimension: how many are not NaN, their mean, and their squared distances from it together."""
    if not np.isnan(rows).any():
        return np.full(rows.shape[1], float(len(rows))), rows.mean(axis=0), rows.var(axis=0) * len(rows)
    count = np.count_nonzero(~np.isnan(rows), axis=0).astype(np.float64)
    mean = np.nansum(rows, axis=0) / np.maximum(count, 1)
    return count, mean, np.nansum((rows - mean) ** 2, axis=0)


def _rows(values: ArrayLike) -> FloatArray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"values have shape {rows.shape}, expected (N, D) with N at least 1.")
    if not np.isfinite(rows).all():
        raise ValueError("values hold NaN or Inf, expected finite numbers.")
    return rows
