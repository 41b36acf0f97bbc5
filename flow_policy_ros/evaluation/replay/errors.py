"""How far chunks are from what was recorded, by joint and by look-ahead step, beside the error of not moving at all: over the whole
replay, in the worst second of each joint, and how far joints are driven that stood still.

This is open loop: the policy is shown recorded states, whatever it said. A good policy is not the expert that recorded, and one
that copies the measured position has a small error and does nothing. So these figures describe and alone condemn nobody; the
error of holding the command of the chunk's instant (persistence) says what an error of this size means in this recording.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.evaluation.replay.comparison import ComparedChunk
from flow_policy_ros.runtime.types import FloatArray

WORST_NS = 1_000_000_000
"""A failure that is short beside the recording shows in the worst such time."""


class Errors:
    """Sums over chunks of H points and J joints."""

    def __init__(self) -> None:
        self.chunks = 0
        self._begin: int | None = None  # of the second that is open, ns
        self._ahead_s: FloatArray | None = None

    def add(self, compared: ComparedChunk) -> None:
        """Take a chunk; points that have no recorded command do not count."""
        if self._ahead_s is None:
            self._ahead_s = (compared.stamps - compared.sampled.chunk.stamp) / 1e9
            points, joints = compared.predicted.shape
            self._count, self._total = np.zeros((points, joints)), np.zeros((2, points, joints))
            self._open, self._points = np.zeros((2, joints)), np.zeros(joints)
            self._worst, self._away = np.zeros((2, joints)), np.zeros(joints)
        away = np.empty(self._total.shape)  # of what was predicted, and of holding
        np.subtract(compared.predicted, compared.recorded, out=away[0])
        np.subtract(compared.hold, compared.recorded, out=away[1])
        np.abs(away, out=away)
        known = np.isfinite(away[0]) & np.isfinite(away[1])
        count = np.count_nonzero(known)
        if not count:
            return
        if count < known.size:
            away = np.where(known, away, 0.0)
        self.chunks += 1
        self._count += known
        self._total += away
        stamp, points_known = compared.sampled.chunk.stamp, known.sum(axis=0)
        if self._begin is None or not 0 <= stamp - self._begin < WORST_NS:
            self._close()
            self._begin = stamp
        sums = away.sum(axis=1)
        self._open += sums
        self._points += points_known
        np.maximum(self._away, sums[0] / np.maximum(points_known, 1), out=self._away)

    def result(self, joints: tuple[str, ...], motion: FloatArray, moving: NDArray[np.bool_]) -> dict[str, Any]:
        """``error`` and ``error_hold`` by joint (rad or m), ``error_by_step``, ``error_share`` and ``error_start`` (of
        the first point) as shares of the joint's ``motion`` (J,) in the recording, over the ``moving`` joints (J,), and
        ``error_total``, the ratio to holding. ``error_worst``: of the mean error in each joint's worst second, the mean over the
        moving joints and that of holding as shares of the motion, and ``by_joint`` rad or m; ``away`` the mean distance (rad or
        m) of the points of that chunk which is furthest from the recorded commands, by joint that does not move."""
        nothing: dict[str, Any] = {
            "error": {}, "error_hold": {}, "error_by_step": {"ahead_s": [], "predicted": [], "hold": []},
            "error_share": None, "error_start": None, "error_total": None,
            "error_worst": {"share": None, "hold_share": None, "by_joint": {}}, "away": {},
        }  # fmt: skip
        if self._ahead_s is None or not self.chunks:
            return nothing
        points = self._count.sum(axis=0)
        known = points > 0
        predicted, hold = self._total.sum(axis=1) / np.maximum(points, 1)
        judged = known & moving
        self._close()
        worst = self._worst[:, judged] / motion[judged]
        names = [joint for joint, of in zip(joints, judged, strict=True) if of]
        by_step: dict[str, list[float | None]] = {
            "ahead_s": [round(float(ahead), 6) for ahead in self._ahead_s],
            "predicted": self._shares(self._total[0], judged, motion),
            "hold": self._shares(self._total[1], judged, motion),
        }
        share = float(np.mean(predicted[judged] / motion[judged])) if judged.any() else None
        hold_share = float(np.mean(hold[judged] / motion[judged])) if judged.any() else None
        return {
            "error": {joint: float(value) for joint, value, is_known in zip(joints, predicted, known, strict=True) if is_known},
            "error_hold": {joint: float(value) for joint, value, is_known in zip(joints, hold, known, strict=True) if is_known},
            "error_by_step": by_step,
            "error_share": share,
            "error_start": by_step["predicted"][0],
            "error_total": share / hold_share if share is not None and hold_share else None,
            "error_worst": {
                "share": float(worst[0].mean()) if names else None,
                "hold_share": float(worst[1].mean()) if names else None,
                "by_joint": {joint: float(self._worst[0, j]) for j, joint in enumerate(joints) if judged[j]},
            },
            "away": {joint: float(self._away[j]) for j, joint in enumerate(joints) if known[j] and not moving[j]},
        }

    def _close(self) -> None:
        """The open second is over."""
        self._worst = np.maximum(self._worst, self._open / np.maximum(self._points, 1))
        self._open[:], self._points[:] = 0.0, 0.0

    def _shares(self, total: FloatArray, judged: NDArray[np.bool_], motion: FloatArray) -> list[float | None]:
        """Mean over the judged joints at each step, None where none is known."""
        count = self._count[:, judged]
        share = total[:, judged] / np.maximum(count, 1) / motion[judged]
        there = (count > 0).sum(axis=1)
        return [float(row.sum() / n) if n else None for row, n in zip(np.where(count > 0, share, 0.0), there, strict=True)]
