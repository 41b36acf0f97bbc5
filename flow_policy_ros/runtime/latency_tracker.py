"""How long something took lately: windowed percentiles for diagnostics. Reads no clock; callers measure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LatencySummary:
    """``count`` of all durations ever added; percentiles and maximum, in ms, of those still in the window."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class LatencyTracker:
    """The last ``window`` durations of one stage."""

    def __init__(self, window: int = 1000) -> None:
        self._durations: deque[float] = deque(maxlen=window)
        self._count = 0

    def add(self, duration_ms: float) -> None:
        """Record one duration in ms."""
        self._durations.append(duration_ms)
        self._count += 1

    def summary(self) -> LatencySummary | None:
        """Figures of the window; None before the first duration."""
        if not self._durations:
            return None
        p50, p99 = np.percentile(list(self._durations), (50, 99))
        return LatencySummary(self._count, float(p50), float(p99), max(self._durations))
