"""Timed chunks in, the one to follow at an instant out.

``ChunkTimeline`` checks, orders and keeps chunks. How one is followed, and within which limits, is ``safety``'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flow_policy_ros.runtime.buffers import StampedBuffer
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.types import Chunk

MAX_FUTURE_NS = 1_000_000_000
"""A chunk is stamped with a measurement, so its stamp lies ahead of its receiver's clock by their clocks' error alone."""
MAX_POINTS = 256
"""Fitting a path takes time with the cube of its points: more would hold the control loop up."""


class ChunkTimeline:
    """Chunks of the joints ``joints``, whose columns come out in that order."""

    def __init__(self, joints: Sequence[str]) -> None:
        self._order = JointOrder(joints)
        self._chunks: StampedBuffer[Chunk] = StampedBuffer(length=16)

    def add(self, chunk: Chunk, received: int) -> None:
        """Take a chunk, visible from ``received`` on (or from its stamp, if that is later).

        Raises ``BadInput``: names that are not exactly our joints, wrong shape, NaN or Inf, ``dt_ns`` not above zero,
        points so far apart that their difference overflows, more than ``MAX_POINTS``, a stamp older than the visible chunk's
        or more than ``MAX_FUTURE_NS`` ahead, or a last point that is past when the chunk is received.
        """
        positions = self._order.select("chunk", chunk.names, chunk.positions)
        strangers = [name for name in chunk.names if name not in self._order.joints]
        if strangers:
            raise BadInput(
                "chunk_names",
                f"chunk commands {strangers}, which the robot file does not have; it was made for another robot. "
                "Use the checkpoint trained for this robot.",
            )
        if positions.ndim != 2 or len(positions) == 0:
            raise BadInput(
                "chunk_shape", f"chunk has positions of shape {positions.shape}, expected (H, A) with H at least 1."
            )
        if len(positions) > MAX_POINTS:
            raise BadInput(
                "chunk_shape", f"chunk has {len(positions)} points, at most {MAX_POINTS} allowed. Send fewer points further apart."
            )
        with np.errstate(over="ignore"):
            ways = np.diff(positions, axis=0)
        if not np.isfinite(ways).all():
            raise BadInput(
                "chunk_range",
                f"chunk has positions up to {np.abs(positions).max():.1e}; nothing lies between such points. Expected rad "
                "or m. Check the policy's statistics.",
            )
        if chunk.dt_ns <= 0:
            raise BadInput("chunk_dt", f"chunk has points {chunk.dt_ns} ns apart, expected more than zero.")
        if chunk.stamp - received > MAX_FUTURE_NS:  # kept, it would crowd out those that can be played
            raise BadInput(
                "chunk_future",
                f"chunk is stamped {(chunk.stamp - received) / 1e9:.3f} s in the future, at most "
                f"{MAX_FUTURE_NS / 1e9:.0f} s allowed. Synchronise the clocks.",
            )
        current = self._chunks.latest(received)
        if current is not None and chunk.stamp < current.stamp:
            raise BadInput(
                "chunk_order",
                f"chunk is stamped {chunk.stamp} ns, older than the one being played ({current.stamp} ns). "
                "Check that one policy only publishes chunks.",
            )
        ordered = Chunk(
            chunk.stamp, chunk.dt_ns, self._order.joints, positions, chunk.nfe, chunk.seed, chunk.observation_stamps
        )
        if ordered.end() < received:
            raise BadInput(
                "chunk_late",
                f"chunk stamped {chunk.stamp} ns was received {(received - ordered.end()) / 1e6:.1f} ms after its last "
                "point. Use fewer solver steps, a smaller network or a longer horizon.",
            )
        self._chunks.put(ordered, chunk.stamp, max(received, chunk.stamp))

    def newest(self, now: int) -> Chunk | None:
        """The visible chunk with the newest stamp, columns in our order; None before one is visible."""
        entry = self._chunks.latest(now)
        return None if entry is None else entry.item

    def chunk_age(self, now: int) -> int | None:
        """ns since the stamp of the newest visible chunk; None without one."""
        newest = self._chunks.latest(now)
        return None if newest is None else now - newest.stamp

    def clear(self) -> None:
        """Forget every chunk."""
        self._chunks.clear()
