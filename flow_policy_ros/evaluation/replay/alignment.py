"""Whether chunks fit the recording better at another time, or another joint's recording better than their own.

A policy that was trained on commands that come late says at t what was right before t. One whose outputs are wired to other joints
says for one joint what is right for another. Either is found by trying: all shifts, all joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from flow_policy_ros.evaluation.replay.comparison import ComparedChunk, RecordedTrack
from flow_policy_ros.runtime.types import FloatArray

EARLIEST_S, LATEST_S = -0.3, 0.5
"""Shifts that are tried, s; positive: the policy says late what was recorded."""
STEP_S = 0.02
"""Between two shifts, at least."""
POINTS = 16
"""Points of a chunk that are compared at each shift, at most."""
APART_NS = 40_000_000
"""Between two chunks that are looked at, at least: neighbours say the same. Five times as much after the first ``MANY``."""
MANY = 128
LEAST_SPREAD = 0.01
"""A joint's deviation counts as no less than this share of its command range: else a still joint would fit nothing."""
GAIN = 0.5
"""An exchange of joints must at least halve the error …"""
FIT = 1.0
"""… to less than the recording's own variance, …"""
MISFIT = 0.3
"""… and there must be an error to explain: more than this share of the variance. Fingers that move alike fit each other well."""


@dataclass(frozen=True)
class Lag:
    """``lag_s`` is the shift that fits best; ``gain`` the squared error there over the one without a shift."""

    lag_s: float
    gain: float


class LagFit:
    """Squared error of the chunks of a replay at every shift, by joint."""

    def __init__(self) -> None:
        self._shifts: NDArray[np.int64] | None = None
        self._ahead = self._asked = self._which = np.zeros(0, dtype=np.int64)
        self._last: int | None = None
        self.chunks = 0

    def add(self, compared: ComparedChunk, track: RecordedTrack) -> None:
        """Take a chunk whose surroundings ``track`` knows; one that lies too near the recording's end does not count. Before its
        first recorded command a joint is taken to have stood there."""
        chunk = compared.sampled.chunk
        apart = APART_NS if self.chunks < MANY else 5 * APART_NS
        if track.newest is None or (self._last is not None and 0 <= chunk.stamp - self._last < apart):
            return
        if self._shifts is None:
            step = chunk.dt_ns * max(1, round(STEP_S * 1e9 / chunk.dt_ns))
            self._shifts = step * np.arange(round(EARLIEST_S * 1e9 / step), round(LATEST_S * 1e9 / step) + 1, dtype=np.int64)
            self._error = np.zeros((len(self._shifts), compared.predicted.shape[1]))
            self._count = np.zeros(compared.predicted.shape[1])
        every = -(-len(compared.stamps) // POINTS)
        predicted, ahead = compared.predicted[::every], compared.stamps[::every] - chunk.stamp
        if not np.array_equal(ahead, self._ahead):  # shifts lay points on points: each is asked for once
            self._ahead = ahead
            self._asked, self._which = np.unique(ahead[None] - self._shifts[:, None], return_inverse=True)
        asked = chunk.stamp + self._asked
        recorded = np.where(asked[:, None] < track.first_stamps, track.first_row, track.at(asked))
        squared = predicted[None] - recorded.take(self._which.reshape(len(self._shifts), -1), axis=0)
        squared *= squared
        known = np.isfinite(squared).all(axis=(0, 1))  # every shift is judged by the same points
        if not known.any():
            return
        self._last = chunk.stamp
        self.chunks += 1
        self._error += np.where(known, squared.sum(axis=1), 0.0)
        self._count += len(ahead) * known

    def result(self, motion: FloatArray, moving: NDArray[np.bool_]) -> Lag | None:
        """Over the ``moving`` joints, errors as shares of their ``motion`` (J,); None without any."""
        if self._shifts is None or not (judged := moving & (self._count > 0)).any():
            return None
        error = (self._error[:, judged] / self._count[judged] / motion[judged] ** 2).mean(axis=1)
        best, zero = int(np.argmin(error)), int(np.argmin(np.abs(self._shifts)))
        shift = float(self._shifts[best])
        if 0 < best < len(error) - 1:  # the parabola through the best and its neighbours
            left, middle, right = error[best - 1 : best + 2]
            bend = left - 2 * middle + right
            shift += float((left - right) / (2 * bend) * (self._shifts[1] - self._shifts[0])) if bend > 0 else 0.0
        return Lag(shift / 1e9, float(error[best] / error[zero]) if error[zero] > 0 else 1.0)


class JointOrderFit:
    """Squared errors of every joint's chunks against every joint's recording."""

    def __init__(self, joints: tuple[str, ...], span: FloatArray) -> None:
        """``span`` (J,) of the command ranges, rad or m."""
        self._joints = joints
        self._least = (LEAST_SPREAD * span) ** 2
        n = len(joints)
        self._error, self._count = np.zeros((n, n)), np.zeros((n, n))
        self._sum, self._squares, self._rows = np.zeros(n), np.zeros(n), np.zeros(n)

    def add(self, compared: ComparedChunk) -> None:
        """Take a chunk."""
        has, knows = np.isfinite(compared.predicted), np.isfinite(compared.recorded)
        ours, theirs = np.where(has, compared.predicted, 0.0), np.where(knows, compared.recorded, 0.0)
        has_f, knows_f, theirs_squared = has.astype(np.float64), knows.astype(np.float64), theirs * theirs
        self._error += (ours * ours).T @ knows_f - 2 * ours.T @ theirs + has_f.T @ theirs_squared
        self._count += has_f.T @ knows_f
        self._sum += theirs.sum(axis=0)
        self._squares += theirs_squared.sum(axis=0)
        self._rows += knows_f.sum(axis=0)

    def result(self) -> dict[str, str]:
        """For each joint whose chunks belong to another, that other. Joints change places in rings, each of which must by itself
        explain an error that there is (``GAIN``, ``FIT``, ``MISFIT``): of the best assignment (Kuhn 1955) only those count."""
        known = np.flatnonzero((np.diag(self._count) > 0) & (self._rows > 1))
        if len(known) < 2:
            return {}
        mean = self._sum[known] / self._rows[known]
        variance = np.maximum(self._squares[known] / self._rows[known] - mean**2, self._least[known])
        count = np.maximum(self._count[np.ix_(known, known)], 1)
        cost = np.maximum(self._error[np.ix_(known, known)], 0.0) / count / variance[None]
        _, chosen = linear_sum_assignment(cost)
        own, other = np.diag(cost), cost[np.arange(len(known)), chosen]
        found: dict[str, str] = {}
        for ring in rings(chosen.tolist()):
            if len(ring) > 1 and own[ring].mean() > MISFIT and other[ring].mean() < min(FIT, GAIN * own[ring].mean()):
                found |= {self._joints[known[k]]: self._joints[known[chosen[k]]] for k in ring}
        return {joint: found[joint] for joint in self._joints if joint in found}


def rings(chosen: list[int]) -> list[list[int]]:
    """The cycles of the permutation k → ``chosen[k]``, each from its least member."""
    left, found = set(range(len(chosen))), []
    for start in range(len(chosen)):
        ring = []
        place = start
        while place in left:
            left.remove(place)
            ring.append(place)
            place = chosen[place]
        if ring:
            found.append(ring)
    return found
