"""Resident memory of a process while it goes through something long: whether it grows with it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from flow_policy_ros.runtime.realtime import resident_mb

SAMPLES = 500
SETTLED = 0.1
"""What is allocated in the first part is for good: caches, tables of a fixed size, code."""


class Resident:
    """Samples of this process, at most ``SAMPLES``, against how much of ``amount`` (of a ``unit``) has been gone through."""

    def __init__(self, amount: float, unit: str = "gb") -> None:
        self._amount, self._unit = amount, unit
        self._samples: list[tuple[float, float]] = [(0.0, resident_mb(os.getpid()))]

    def at(self, share: float) -> None:
        """``share`` (0 to 1) has been gone through; looks only as often as is of use."""
        if share - self._samples[-1][0] >= 1 / SAMPLES:
            self._samples.append((share, resident_mb(os.getpid())))

    def result(self) -> dict[str, Any]:
        """``resident_mb_start`` when the first tenth is done, ``resident_mb_end`` when all is, ``resident_mb_after`` now,
        ``resident_mb_max`` of it all, MB; ``mb_per_UNIT`` what a straight line through the samples rises by from the first tenth
        on, None when there are too few."""
        end = resident_mb(os.getpid())
        settled = np.array([sample for sample in self._samples if sample[0] >= SETTLED]).reshape(-1, 2)
        slope = None
        if len(settled) >= 3:
            slope = round(float(np.polyfit(settled[:, 0] * self._amount, settled[:, 1], 1)[0]), 3)
        start = float(settled[0, 1]) if len(settled) else self._samples[0][1]
        last = float(settled[-1, 1]) if len(settled) else end
        return {
            "resident_mb_start": round(start, 1), "resident_mb_end": round(last, 1), "resident_mb_after": round(end, 1),
            "resident_mb_max": round(max(mb for _, mb in [*self._samples, (1.0, end)]), 1),
            f"mb_per_{self._unit}": slope, "samples": len(settled),
        }  # fmt: skip
