"""What had arrived by an instant, for whole tables at once: the stamped buffer of ``runtime.buffers``, vectorised.

Both must agree on every question, bit for bit; a test holds them to it with inputs that are late and out of order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Arrivals:
    """Inputs of one kind: header ``stamps`` (K,) and the instants ``received`` (K,) of their receipt, ns, ascending in the
    latter. Answers are rows of this table, -1 for none."""

    stamps: Indices
    received: Indices

    def latest(self, instants: Indices) -> Indices:
        """Row of the newest stamp among what was received by each of the ``instants`` (M,); of equal ones the last received."""
        return self._of_prefix(self._running_newest(), instants)

    def oldest(self, instants: Indices) -> Indices:
        """Row of the oldest stamp among what was received by each of the ``instants`` (M,); of equal ones the first received."""
        return self._of_prefix(self._running_oldest(), instants)

    def latest_stamped(self, instants: Indices, limits: Indices) -> Indices:
        """As ``latest``, among stamps up to ``limits`` (M,); where there is none of them, ``oldest``."""
        order = np.argsort(self.stamps, kind="stable")  # of equal stamps the last received comes last
        place = np.searchsorted(self.stamps[order], limits, side="right") - 1
        while True:  # as many rounds as inputs that were still on their way at the same time
            late = (place >= 0) & (self.received[order[place]] > instants)
            if not late.any():
                break
            place = place - late
        return np.where(place >= 0, order[place], self.oldest(instants))

    def _of_prefix(self, running: Indices, instants: Indices) -> Indices:
        count = np.searchsorted(self.received, instants, side="right")
        return np.concatenate([[-1], running])[count]

    def _running_newest(self) -> Indices:
        is_newest = self.stamps >= np.maximum.accumulate(self.stamps) if len(self.stamps) else np.zeros(0, dtype=bool)
        return np.maximum.accumulate(np.where(is_newest, np.arange(len(self.stamps)), 0))

    def _running_oldest(self) -> Indices:
        before = np.minimum.accumulate(self.stamps)[:-1]
        is_oldest = np.concatenate([[True], self.stamps[1:] < before])[: len(self.stamps)]
        return np.maximum.accumulate(np.where(is_oldest, np.arange(len(self.stamps)), 0))
