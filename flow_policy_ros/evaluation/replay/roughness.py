"""Whether chunks jitter more than the recording did, contradict each other, or never change.

Jitter is measured inside a chunk by third differences of its points: white noise of deviation s has third differences of
deviation s·√20, and a motion that the points resolve has next to none. What the recording shows at the same instants is motion,
and is taken off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.evaluation.replay.comparison import ComparedChunk
from flow_policy_ros.runtime.types import FloatArray

KEPT = 512
"""Chunks whose figures are kept, at most: then every other one is dropped and every second one is looked at, and so on."""
WHITE = np.sqrt(20.0)
LEAST_MOTION = 0.05
"""Jitter is judged for joints that moved by this share of their command range: others have no motion to relate it to."""
LEAST_CHUNKS = 5


class Thinned:
    """Rows (J,) of at most ``KEPT`` chunks, evenly over all that were added."""

    def __init__(self) -> None:
        self._rows: list[FloatArray] = []
        self._stride, self._count = 1, 0

    def wanted(self) -> bool:
        """Count one more chunk; whether its row is to be added."""
        self._count += 1
        return (self._count - 1) % self._stride == 0

    def add(self, row: FloatArray) -> None:
        """Take the row of a chunk that is ``wanted``."""
        if len(self._rows) == KEPT:
            self._rows, self._stride = self._rows[::2], self._stride * 2
        self._rows.append(row)

    def median(self) -> FloatArray | None:
        """(J,), NaN where nothing is known; None without rows."""
        if not self._rows:
            return None
        rows = np.array(self._rows)
        known = np.isfinite(rows).any(axis=0)
        result = np.full(rows.shape[1], np.nan)
        result[known] = np.nanmedian(rows[:, known], axis=0)
        return result


class Roughness:
    """Jitter inside chunks, disagreement between a chunk and the one before it, and how much chunks vary."""

    def __init__(self) -> None:
        self._jitter, self._overlap = Thinned(), Thinned()
        self._before: ComparedChunk | None = None
        self._chunks = 0

    def add(self, compared: ComparedChunk) -> None:
        """Take the next chunk."""
        both = np.array([compared.predicted, compared.recorded])  # (2, H, J)
        known = np.isfinite(both[0]) & np.isfinite(both[1])
        if both.shape[1] > 3 and known.any() and self._jitter.wanted():
            third = both
            for _ in range(3):
                third = third[:, 1:] - third[:, :-1]
            own, motion = (third * third).mean(axis=1)
            self._jitter.add(np.sqrt(np.maximum(own - np.nan_to_num(motion), 0.0)) / WHITE)
        if self._before is not None:
            self._add_overlap(self._before, compared)
        self._before = compared
        if not self._chunks:
            self._known, self._sums = np.zeros(known.shape), np.zeros((2, *both.shape))
        self._chunks += 1
        self._known += known
        if np.count_nonzero(known) < known.size:
            both = np.where(known, both, 0.0)
        self._sums[0] += both
        self._sums[1] += both * both

    def noise(
        self, joints: tuple[str, ...], motion: FloatArray, moving: NDArray[np.bool_], span: FloatArray
    ) -> dict[str, Any]:
        """As shares of the joint's ``motion`` in the recording: ``inside`` chunks and ``overlap``, each the worst joint's, with
        its name and the figure in rad or m; ``by_joint`` the shares inside chunks."""
        judged = moving & (motion >= LEAST_MOTION * span)
        jitter, overlap = self._jitter.median(), self._overlap.median()
        result: dict[str, Any] = {"by_joint": {}}
        for name, value in (("inside", jitter), ("overlap", overlap)):
            result[name] = result[f"{name}_joint"] = result[f"{name}_size"] = None
            known = np.zeros(len(joints), dtype=np.bool_) if value is None else judged & np.isfinite(value)
            if value is None or not known.any():
                continue
            share = np.where(known, value / np.where(known, motion, 1.0), -1.0)
            worst = int(np.argmax(share))
            result |= {name: float(share[worst]), f"{name}_joint": joints[worst], f"{name}_size": float(value[worst])}
            if name == "inside":
                result["by_joint"] = {joint: float(share[j]) for j, joint in enumerate(joints) if known[j]}
        return result

    def frozen(self, motion: FloatArray, moving: NDArray[np.bool_]) -> float | None:
        """Deviation over time of what chunks say for each step, over that of the recording at the same instants; None without
        enough chunks or motion. 1 for a policy that moves as the recording does, 0 for one that says the same all the time."""
        if self._chunks < LEAST_CHUNKS:
            return None
        count = np.maximum(self._known, 1)
        (mean, their_mean), (square, their_square) = self._sums / count
        judged = moving[None] & (self._known >= LEAST_CHUNKS)
        scale = np.where(moving, motion, 1.0)
        ours = ((np.maximum(square - mean**2, 0.0) / scale**2)[judged]).sum()
        theirs = ((np.maximum(their_square - their_mean**2, 0.0) / scale**2)[judged]).sum()
        return float(np.sqrt(ours / theirs)) if theirs > 1e-12 else None

    def _add_overlap(self, before: ComparedChunk, compared: ComparedChunk) -> None:
        """Mean difference (J,) at the instants of the new chunk's points that lie in the old one."""
        if compared.stamps[0] <= before.stamps[0]:
            return
        last = len(before.stamps) - 1
        place = (compared.stamps - before.stamps[0]) / before.sampled.chunk.dt_ns
        place = place[place <= last]
        if len(place) < 2 or not self._overlap.wanted():
            return
        low = np.minimum(place.astype(np.int64), max(0, last - 1))
        share = (place - low)[:, None]
        said = (1 - share) * before.predicted.take(low, axis=0)
        said += share * before.predicted.take(np.minimum(low + 1, last), axis=0)
        self._overlap.add(np.abs(compared.predicted[: len(place)] - said).mean(axis=0))
