"""Vectors to about unit size and back. Dimensions that hardly moved in the data are left alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.runtime.types import FloatArray

METHODS = ("mean_std", "quantile")
MIN_SPREAD = 1e-3
"""Below this spread (in the vector's own unit: rad, m, fraction of the image) a dimension counts as dead."""


@dataclass(frozen=True)
class Normaliser:
    """y = (x - offset) / scale per dimension (D,).

    ``mean_std`` gives mean 0 and deviation 1, ``quantile`` maps the 1% and 99% quantiles to -1 and 1. A dimension with
    a spread below ``MIN_SPREAD`` is ``dead``: its scale is 1, so that a live deviation stays as small as it is.
    """

    method: str
    offset: FloatArray
    scale: FloatArray
    dead: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown normalisation {self.method!r}; known: {', '.join(METHODS)}.")
        if self.offset.ndim != 1 or self.scale.shape != self.offset.shape or not np.all(self.scale > 0):
            raise ValueError(
                f"normaliser has offsets {self.offset.shape} and scales {self.scale.shape}, expected two (D,), all "
                "scales above zero."
            )
        object.__setattr__(self, "_offset", torch.from_numpy(self.offset))
        object.__setattr__(self, "_scale", torch.from_numpy(self.scale))

    _offset = _scale = torch.empty(0)  # float64 tensors of the arrays, set above; no fields

    @staticmethod
    def fit(statistics: VectorStatistics, method: str = "mean_std") -> Normaliser:
        """From statistics of the training data. Raises ``ValueError`` for an unknown method."""
        if method == "quantile":
            offset, scale = (statistics.low + statistics.high) / 2, (statistics.high - statistics.low) / 2
        else:
            offset, scale = statistics.mean, statistics.std
        dead = scale < MIN_SPREAD
        # A dimension that moves in less than 2% of the rows has no quantile spread: its mean is the better centre.
        offset = np.where(dead, statistics.mean, offset)
        return Normaliser(method, offset, np.where(dead, 1.0, scale), tuple(int(k) for k in np.flatnonzero(dead)))

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., D) to float32 (..., D). Raises ``ValueError`` for another last axis."""
        self._check(x)
        return ((x.double() - self._offset) / self._scale).float()

    def denormalise(self, y: torch.Tensor) -> torch.Tensor:
        """y (..., D) to float64 (..., D); the inverse. Raises ``ValueError`` for another last axis."""
        self._check(y)
        return y.double() * self._scale + self._offset

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; floats survive exactly."""
        return {
            "method": self.method,
            "offset": self.offset.tolist(),
            "scale": self.scale.tolist(),
            "dead": list(self.dead),
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> Normaliser:
        """Inverse of ``to_json``. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for malformed content."""
        return Normaliser(
            str(content["method"]),
            np.array(content["offset"], dtype=np.float64),
            np.array(content["scale"], dtype=np.float64),
            tuple(int(k) for k in content["dead"]),
        )

    def _check(self, x: torch.Tensor) -> None:
        require_shape("normaliser input", x, (*x.shape[:-1], len(self.offset)))


def json_sha256(content: Any) -> str:
    """Hash of plain JSON content, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
