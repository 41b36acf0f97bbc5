"""Temporal ensembling: predictions that several chunks make for one instant, averaged (Zhao et al. 2023, ACT).

No units, no clock; when to average is ``chunk_execution``'s.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from flow_policy_ros.runtime.types import FloatArray

DECAY = 0.01
"""m of the weights exp(-m i), i = 0 the oldest: the older count a little more."""


class TemporalEnsemble:
    """Averages the chunks that still say something about what comes. Raises ``ValueError`` unless ``decay`` is at least 0.

    At most ``length`` chunks are kept. Chunks may have any stamps and spacing: where their points do not coincide, straight
    lines between them are averaged.
    """

    def __init__(self, decay: float = DECAY, length: int = 64) -> None:
        if not decay >= 0.0:
            raise ValueError(f"decay is {decay}, expected at least 0.")
        self._decay = decay
        self._chunks: deque[tuple[int, int, FloatArray]] = deque(maxlen=length)  # stamp, dt_ns, positions; the oldest first

    def update(self, stamp: int, dt_ns: int, positions: FloatArray) -> FloatArray:
        """Add a chunk (H, A), row k for ``stamp`` + k ``dt_ns``; the weighted average (H, A) of all for the same instants.

        A chunk stamped before the last one begins anew: the clock was set back.
        """
        if self._chunks and stamp < self._chunks[-1][0]:
            self._chunks.clear()
        while self._chunks and _end(self._chunks[0]) < stamp:
            self._chunks.popleft()
        self._chunks.append((stamp, dt_ns, positions))
        offsets = dt_ns * np.arange(len(positions))
        total, weights = np.zeros(positions.shape), np.zeros(len(positions))
        for i, (begin, spacing, rows) in enumerate(self._chunks):
            # A chunk that says nothing about an instant would only shift i there, which a weighted average does not see.
            at = (offsets + (stamp - begin)) / spacing
            weight = np.where(at <= len(rows) - 1, np.exp(-self._decay * i), 0.0)
            index = np.arange(len(rows))
            total += weight[:, None] * np.stack([np.interp(at, index, column) for column in rows.T], axis=1)
            weights += weight
        averaged: FloatArray = total / weights[:, None]
        return averaged

    def clear(self) -> None:
        """Forget every chunk."""
        self._chunks.clear()


def _end(chunk: tuple[int, int, FloatArray]) -> int:
    stamp, dt_ns, positions = chunk
    return stamp + (len(positions) - 1) * dt_ns
