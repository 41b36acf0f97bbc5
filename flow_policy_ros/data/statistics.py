"""Statistics of vectors: what a normaliser is made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flow_policy_ros.runtime.types import FloatArray


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
        rows = np.asarray(values, dtype=np.float64)
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"values have shape {rows.shape}, expected (N, D) with N at least 1.")
        if not np.isfinite(rows).all():
            raise ValueError("values hold NaN or Inf, expected finite numbers.")
        low, high = np.quantile(rows, (0.01, 0.99), axis=0)
        return VectorStatistics(len(rows), rows.mean(axis=0), rows.std(axis=0), low, high)
