"""How chunks follow each other: what a new chunk has to continue, and what of it is published. One class per mode.

The sampling itself is ``policy``'s, the averaging ``ensemble``'s, what is being executed ``executed``'s. The command stage
knows of no mode: it always follows the newest chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.ensemble import TemporalEnsemble
from flow_policy_ros.runtime.executed import ExecutedTimeline
from flow_policy_ros.runtime.types import Chunk, Continuation, Execution

CONTINUING = ("rtc", "rtc_identity", "rtc_trained")
"""Modes in which a chunk is sampled as the continuation of what is being executed."""

JOIN_NS = 20_000_000
"""What is committed beyond the measured delay: where the new chunk takes over, its path depends on the points around."""


@dataclass(frozen=True)
class Pace:
    """What is known of time when a chunk is begun at ``now``: the ``delay`` from its stamp until the robot obeys it (None:
    none measured yet), and the ``interval`` to the next chunk, all in ns."""

    now: int
    delay: int | None
    interval: int


@dataclass(frozen=True)
class Steps:
    """``delay`` and ``execute`` in chunk steps, and by which names they had to be ``clamped``."""

    delay: int
    execute: int
    clamped: tuple[str, ...]


def allowed_steps(horizon: int, longest_delay: int, delay: int, execute: int) -> Steps:
    """``delay`` d and ``execute`` s as near to those given as 0 <= d <= s <= H - d and d <= ``longest_delay`` allow.

    Real-time chunking needs it: steps beyond would be held to what is unknown by then (``flow.real_time_chunking``).
    """
    d = min(delay, horizon // 2, longest_delay)
    s = min(max(execute, d), horizon - d)
    clamped = tuple(name for name, given, taken in (("delay", delay, d), ("execute", execute, s)) if given != taken)
    return Steps(d, s, clamped)


class ChunkExecution(Protocol):
    """One mode: asked before a chunk is sampled and after. ``continues``: it wants to know what became of the last chunk."""

    continues: bool

    def before(self, stamp: int, executed: ExecutedTimeline, pace: Pace) -> tuple[Continuation | None, Execution]:
        """What the chunk stamped ``stamp`` has to continue, None for nothing, and how that is recorded."""

    def after(self, chunk: Chunk) -> Chunk:
        """What is published of a sampled chunk."""

    def forget(self) -> None:
        """What was before does not count any more."""

    def told_otherwise(self) -> None:
        """The next chunk follows another instruction than those before."""


class Receding:
    """The newest chunk replaces the one before."""

    continues = False

    def before(self, stamp: int, executed: ExecutedTimeline, pace: Pace) -> tuple[Continuation | None, Execution]:
        """See ``ChunkExecution``."""
        return None, Execution("receding")

    def after(self, chunk: Chunk) -> Chunk:
        """See ``ChunkExecution``."""
        return chunk

    def forget(self) -> None:
        """See ``ChunkExecution``."""

    def told_otherwise(self) -> None:
        """See ``ChunkExecution``."""


class Ensemble:
    """Every chunk is published averaged with those before it that speak of the same instants."""

    continues = False

    def __init__(self) -> None:
        self._ensemble = TemporalEnsemble()

    def before(self, stamp: int, executed: ExecutedTimeline, pace: Pace) -> tuple[Continuation | None, Execution]:
        """See ``ChunkExecution``."""
        return None, Execution("ensemble")

    def after(self, chunk: Chunk) -> Chunk:
        """See ``ChunkExecution``."""
        return replace(chunk, positions=self._ensemble.update(chunk.stamp, chunk.dt_ns, chunk.positions))

    def forget(self) -> None:
        """See ``ChunkExecution``."""
        self._ensemble.clear()

    def told_otherwise(self) -> None:
        """See ``ChunkExecution``; the average of two orders is neither."""
        self._ensemble.clear()


class RealTime:
    """Every chunk continues what is being executed, by ``method``, one of ``CONTINUING`` (Black et al. 2025).

    ``overlap`` in ns is how long after the committed steps the new chunk is still held to the old, ever more weakly.
    ``longest_delay`` in steps is what the network was trained for; without one half the horizon is the bound. Where there is
    nothing to continue (cold start, a stop), the chunk is sampled freely.
    """

    continues = True

    def __init__(self, method: str, contract: Contract, overlap: int, longest_delay: int | None = None) -> None:
        self._method = method
        # A network that was trained with prefixes joins them by itself; more than what is really committed only ties it down.
        self._join = 0 if method == "rtc_trained" else JOIN_NS
        self._overlap = overlap
        self._contract = contract
        self._longest = contract.horizon // 2 if longest_delay is None else longest_delay

    def before(self, stamp: int, executed: ExecutedTimeline, pace: Pace) -> tuple[Continuation | None, Execution]:
        """See ``ChunkExecution``."""
        horizon, dt = self._contract.horizon, self._contract.dt_ns
        going_on = executed.positions(stamp + dt * np.arange(horizon), pace.now)
        if going_on is None or pace.delay is None:
            return None, Execution(self._method)
        delay = -(-(pace.delay + self._join) // dt)
        # The steps held are those before H - s. Where what is being executed ends early they are fewer; and beyond the overlap
        # none is held, or a policy that samples often would only repeat its first chunk.
        execute = max(-(-pace.interval // dt), horizon - going_on.known, horizon - delay - self._overlap // dt)
        steps = allowed_steps(horizon, self._longest, delay, execute)
        return (
            Continuation(self._method, going_on.positions, steps.delay, steps.execute),
            Execution(self._method, True, steps.delay, steps.execute, steps.clamped),
        )

    def after(self, chunk: Chunk) -> Chunk:
        """See ``ChunkExecution``."""
        return chunk

    def forget(self) -> None:
        """See ``ChunkExecution``."""

    def told_otherwise(self) -> None:
        """See ``ChunkExecution``; the robot moves on from what it is doing, whatever it is told."""
