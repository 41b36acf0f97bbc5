"""How long it takes from an observation until the robot obeys what came of it: measured lately, covered with a margin.

Percentiles for diagnostics are in ``latency_tracker``; injected delays in ``latency``.
"""

from __future__ import annotations

import math
from collections import deque


class DelayEstimator:
    """The last ``window`` delays, in ns. Raises ``ValueError`` for a window of less than one."""

    def __init__(self, window: int = 64) -> None:
        if window < 1:
            raise ValueError(f"window is {window}, expected at least 1.")
        self._delays: deque[int] = deque(maxlen=window)

    def add(self, delay: int) -> None:
        """Record one delay; one below zero, which clocks that disagree give, counts as none."""
        self._delays.append(max(delay, 0))

    def quantile(self, share: float) -> int | None:
        """The least of the delays in the window that at least ``share`` of them do not exceed; None before the first.

        ``share`` 0 is the least of them, 1 the greatest. Raises ``ValueError`` outside of that.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share is {share}, expected 0 to 1.")
        if not self._delays:
            return None
        rank = math.ceil(round(share * len(self._delays), 9))  # 0.7 of 10 is 7, though 0.7 * 10 may come out above
        return sorted(self._delays)[max(rank, 1) - 1]

    def clear(self) -> None:
        """Forget every delay."""
        self._delays.clear()
