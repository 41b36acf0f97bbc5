"""How well a timer keeps its period. Reads no clock."""

from __future__ import annotations

from flow_policy_ros.runtime.latency_tracker import LatencyTracker


class PeriodMeter:
    """Errors of the intervals between ticks against the nominal period, and the deadlines that were missed."""

    def __init__(self, period_ns: int, window: int = 1000) -> None:
        """``window`` is how many intervals the errors are of."""
        self.window = window
        self.errors = LatencyTracker(window)
        self.missed = 0
        self._period = period_ns
        self._last: int | None = None

    def tick(self, now: int) -> None:
        """A tick at ``now`` (ns, steady clock). An interval of k periods and more has missed k - 1 deadlines."""
        if self._last is not None:
            interval = now - self._last
            self.errors.add(abs(interval - self._period) / 1e6)
            self.missed += max(0, interval // self._period - 1)
        self._last = now

    def restart(self) -> None:
        """The next tick is the first of a new series."""
        self._last = None
