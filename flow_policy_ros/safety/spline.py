"""A chunk's points as a smooth path: a penalised cubic B-spline through or near them.

The path is twice continuously differentiable and lies within the range of its control points. How fast it is followed is
the shaper's to decide; limits are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flow_policy_ros.runtime.types import FloatArray

# Rows: weight of control point k, k + 1, k + 2, k + 3 in interval k as a polynomial in x in [0, 1], lowest power first.
BASIS = np.array([[1.0, -3.0, 3.0, -1.0], [4.0, 0.0, -6.0, 3.0], [1.0, 3.0, 3.0, -3.0], [0.0, 0.0, 0.0, 1.0]]) / 6.0


@dataclass(frozen=True)
class Path:
    """Cubic B-spline: ``control`` (H + 2, J) control points, ``dt`` s apart; time 0 is the chunk's first point."""

    control: FloatArray
    dt: float

    @property
    def duration(self) -> float:
        """Time of the last point, s."""
        return (len(self.control) - 3) * self.dt

    def evaluate(self, times: FloatArray, derivative: int = 0) -> FloatArray:
        """Positions (N, J) at ``times`` (N,) s, or their first or second derivative; outside the path, those at its ends."""
        last = len(self.control) - 4
        u = np.minimum(np.maximum(times / self.dt, 0.0), last + 1)
        index = np.minimum(u.astype(np.intp), last)
        weights = (_powers(u - index, derivative) / self.dt**derivative) @ BASIS.T
        rows: FloatArray = weights[:, :1] * self.control.take(index, axis=0)
        for k in range(1, 4):
            rows += weights[:, k : k + 1] * self.control.take(index + k, axis=0)
        return rows

    def at_points(self, derivative: int) -> FloatArray:
        """First or second derivative (H, J) at the points."""
        c = self.control
        if derivative == 1:
            return (c[2:] - c[:-2]) / (2.0 * self.dt)
        return (c[2:] - 2.0 * c[1:-1] + c[:-2]) / self.dt**2

    def clipped(self, lower: FloatArray, upper: FloatArray) -> Path:
        """The same with control points in range, and so the whole path."""
        return Path(np.minimum(np.maximum(self.control, lower), upper), self.dt)


def _powers(x: FloatArray, derivative: int) -> FloatArray:
    """1, x, x², x³ (N, 4) at ``x`` (N,), or their first or second derivatives."""
    powers = np.zeros((len(x), 4))
    if derivative == 0:
        powers[:, 0], powers[:, 1], powers[:, 2], powers[:, 3] = 1.0, x, x * x, x * x * x
    elif derivative == 1:
        powers[:, 1], powers[:, 2], powers[:, 3] = 1.0, 2.0 * x, 3.0 * x * x
    else:
        powers[:, 2], powers[:, 3] = 2.0, 6.0 * x
    return powers


def fit(points: FloatArray, dt: float, smoothing_s: float) -> Path:
    """The path through ``points`` (H, J), H >= 2, ``dt`` s apart, or near them with ``smoothing_s`` above 0.

    P-spline (Eilers & Marx 1996) with third differences penalised: on a long chunk motion of the period 2 pi
    ``smoothing_s`` is halved, faster motion suppressed with its sixth power, slower motion kept; even accelerations pass
    unchanged.
    """
    return Path(_control_matrix(len(points), smoothing_s / dt) @ points, dt)


@lru_cache(maxsize=32)
def _control_matrix(count: int, smoothing: float) -> FloatArray:
    """Points (H,) to control points (H + 2,); ``smoothing`` in units of the spacing."""
    observe = np.zeros((count, count + 2))
    for k in range(3):
        observe[np.arange(count), np.arange(count) + k] = (1.0 / 6.0, 4.0 / 6.0, 1.0 / 6.0)[k]
    order = min(3, count)  # as many differences as there are points for
    differences = np.diff(np.eye(count + 2), order, axis=0)
    # More smoothing than the chunk is long changes nothing but the condition of the equations.
    weight = max(min(smoothing, 1.0 * count) ** 6, 1e-9)  # the hair decides the two control points that the points leave free
    # Least squares by QR: the normal equations would lose millimetres where smoothing is strong.
    rotation, triangle = np.linalg.qr(np.concatenate([observe, np.sqrt(weight) * differences]))
    matrix: FloatArray = np.linalg.solve(triangle, rotation[:count].T)
    return matrix
