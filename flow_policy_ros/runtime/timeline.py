"""Timed chunks in, the position for an instant out.

``ChunkTimeline`` checks, orders and keeps chunks; how visible chunks make one position is the execution policy's
decision, a class of its own. Limits are not known here: what comes out may be anywhere, and jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from flow_policy_ros.runtime.buffers import StampedBuffer
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.types import Chunk, FloatArray

MAX_FUTURE_NS = 1_000_000_000
"""A chunk is stamped with a measurement, so its stamp lies ahead of its receiver's clock by their clocks' error alone."""


class ExecutionPolicy(Protocol):
    """Makes one position of the visible chunks."""

    def position(self, chunks: Sequence[Chunk], instant: int) -> FloatArray | None:
        """Position (A,) for ``instant`` (ns), None when the chunks say nothing about it.

        ``chunks`` are visible, newest first, none stamped after ``instant``, columns in the timeline's order.
        """


class RecedingHorizon:
    """The newest chunk alone counts, from the instant at which it is visible; straight lines between its points."""

    def position(self, chunks: Sequence[Chunk], instant: int) -> FloatArray | None:
        """See ``ExecutionPolicy``."""
        if not chunks or instant > chunks[0].end():
            return None
        newest = chunks[0]
        index, past = divmod(instant - newest.stamp, newest.dt_ns)
        before = newest.positions[index]
        if past == 0:
            return before.copy()
        return before + (newest.positions[index + 1] - before) * (past / newest.dt_ns)


class ChunkTimeline:
    """Chunks of the joints ``joints``; positions come out in that order."""

    def __init__(self, joints: Sequence[str], execution: ExecutionPolicy | None = None) -> None:
        self._order = JointOrder(joints)
        self._execution = execution or RecedingHorizon()
        self._chunks: StampedBuffer[Chunk] = StampedBuffer(length=16)

    def add(self, chunk: Chunk, received: int) -> None:
        """Take a chunk, visible from ``received`` on (or from its stamp, if that is later).

        Raises ``BadInput``: names that are not exactly our joints, wrong shape, NaN or Inf, ``dt_ns`` not above zero,
        points so far apart that their difference overflows, a stamp older than the visible chunk's or more than
        ``MAX_FUTURE_NS`` ahead, or a last point that is past when the chunk is received.
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

    def sample(self, instant: int) -> FloatArray | None:
        """Position (A,) for ``instant`` (ns); None before a chunk is visible or beyond the newest one's last point."""
        return self._execution.position([entry.item for entry in self._chunks.visible(instant)], instant)

    def chunk_age(self, now: int) -> int | None:
        """ns since the stamp of the newest visible chunk; None without one."""
        newest = self._chunks.latest(now)
        return None if newest is None else now - newest.stamp

    def clear(self) -> None:
        """Forget every chunk."""
        self._chunks.clear()
