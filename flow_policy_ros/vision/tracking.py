"""Which of several like objects is which, from picture to picture: an object keeps its row of the features while it is seen.

Without it rows are ordered by score, and two cups change places whenever the detector finds the other one a little clearer. Boxes
are matched by their overlap alone, greedily and by fixed rules, so that equal pictures with equal stamps give equal rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.detector_quality import iou
from flow_policy_ros.vision.pretrained import ExtractorError


@dataclass(frozen=True)
class Tracking:
    """A box is the object of before when it overlaps its last box by ``least_iou``; an object unseen for longer than
    ``patience_s`` is forgotten. Raises ``ExtractorError`` for values that make no sense."""

    least_iou: float = 0.2
    patience_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.least_iou <= 1 or not self.patience_s > 0:
            raise ExtractorError(
                f"tracking has an overlap of {self.least_iou} and {self.patience_s} s of patience, expected an overlap above 0 and "
                "up to 1, and patience above 0."
            )

    def identity(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"least_iou": self.least_iou, "patience_s": self.patience_s}


@dataclass(frozen=True)
class _Track:
    number: int
    box: NDArray[np.float32]
    seen: int


class SlotTracker:
    """The ``slots`` rows of one class, and whose they are. Knows nothing after a stamp that is earlier than the one before."""

    def __init__(self, slots: int, tracking: Tracking) -> None:
        self._tracking = tracking
        self._slots: list[_Track | None] = [None] * slots
        self._newest = 0
        self._count = 0

    @property
    def ids(self) -> list[int]:
        """Number of the object in each row, seen or waited for: 1 for the first since nothing was known; 0 for none."""
        return [track.number if track else 0 for track in self._slots]

    def assign(self, boxes: NDArray[np.float32], stamp: int) -> list[tuple[int, int]]:
        """(row, detection) of each of the ``boxes`` (N, 4) xyxy, best first, that has a place. ``stamp`` is the picture's, ns.

        Known objects keep their rows. A new one takes a free row, else that of the object unseen for longest, else none.
        """
        self._forget(stamp)
        pairs = self._known(boxes)
        taken, matched = {row for row, _ in pairs}, {detection for _, detection in pairs}
        left = sorted(set(range(len(self._slots))) - taken, key=self._unseen_for)
        for detection in (i for i in range(len(boxes)) if i not in matched):
            if not left:
                break
            row = left.pop(0)
            self._count += 1
            self._slots[row] = _Track(self._count, boxes[detection], stamp)
            pairs.append((row, detection))
        for row, detection in pairs:
            track = self._slots[row]
            assert track is not None
            self._slots[row] = _Track(track.number, boxes[detection], stamp)
        return sorted(pairs)

    def _forget(self, stamp: int) -> None:
        if stamp < self._newest:
            self._slots, self._count = [None] * len(self._slots), 0
        self._newest = stamp
        patience = round(self._tracking.patience_s * 1e9)
        self._slots = [track if track and stamp - track.seen <= patience else None for track in self._slots]

    def _known(self, boxes: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Rows and the boxes of their objects, the greatest overlap first."""
        rows = [row for row, track in enumerate(self._slots) if track]
        if not rows or not len(boxes):
            return []
        overlap = iou(np.stack([track.box for track in self._slots if track]), boxes)
        pairs: list[tuple[int, int]] = []
        for flat in np.argsort(-overlap, axis=None, kind="stable"):
            k, detection = divmod(int(flat), len(boxes))
            if overlap[k, detection] < self._tracking.least_iou:
                break
            if all(rows[k] != row and detection != other for row, other in pairs):
                pairs.append((rows[k], detection))
        return pairs

    def _unseen_for(self, row: int) -> tuple[int, int]:
        """Free rows first, then the longest unseen."""
        track = self._slots[row]
        return (track.seen if track else -1, row)
