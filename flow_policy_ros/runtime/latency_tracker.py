"""How long something took lately: windowed percentiles for diagnostics. Reads no clock; callers measure."""

from __future__ import annotations

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
        self._durations = np.zeros(window)  # a ring: the summary of many thousand is not to cost a control period
        self._count = 0

    def add(self, duration_ms: float) -> None:
        """Record one duration in ms."""
        self._durations[self._count % len(self._durations)] = duration_ms
        self._count += 1

    def summary(self) -> LatencySummary | None:
        """Figures of the window; None before the first duration."""
        if not self._count:
            return None
        p50, p99, most = np.percentile(self._durations[: self._count], (50, 99, 100))
        return LatencySummary(self._count, float(p50), float(p99), float(most))
