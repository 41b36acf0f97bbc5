"""A test that failed while the machine stood still is run again, one with real nodes once in any case; other failures are final.

Tests with real nodes keep to the wall clock: a machine that gives nobody the processor for a fifth of a second makes joint
states stale, which the nodes rightly answer with a fault. A thread measures such pauses. And the middleware has its own faults: a
process that dies may leave shared memory such that others no longer hear each other. What fails twice fails. The summary names
every test that had a second try.
"""

from __future__ import annotations

import threading
import time
import warnings

import pytest
from _pytest.runner import runtestprotocol

BEAT_S, STALL_S, TRIES = 0.005, 0.2, 3
OVER_DDS = {"launcher", "ears", "flow_policy"}
"""Fixtures of tests with real nodes."""


class RerunWarning(UserWarning):
    """A test was run again; of several processes of one run, warnings are what reaches the summary."""


class Heart:
    """The longest time for which a thread that asked for 5 ms of sleep was kept waiting."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        threading.Thread(target=self._beat, name="stall meter", daemon=True).start()

    def _beat(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(BEAT_S)
            now = time.monotonic()
            self.worst_s, last = max(self.worst_s, now - last - BEAT_S), now


class SecondTries:
    """Hooks of pytest. A second try begins with fresh fixtures of every scope."""

    def __init__(self, heart: Heart) -> None:
        self._heart = heart
        self._again: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run ``item``, again where it failed beside a stall."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        over_dds = not OVER_DDS.isdisjoint(getattr(item, "fixturenames", ()))
        for tried in range(1, TRIES + 1):
            self._heart.worst_s = 0.0
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            stall_s = self._heart.worst_s
            again = stall_s >= STALL_S or (over_dds and tried == 1)
            if tried == TRIES or not again or not any(report.failed for report in reports):
                break
            said = next(report for report in reports if report.failed)
            self._again.append(f"{item.nodeid}: failed beside a stall of {stall_s:.2f} s: {_last_line(said)}")
            warnings.warn(f"run again: {self._again[-1]}", RerunWarning, stacklevel=1)
            item.session._setupstate.teardown_exact(None)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Which tests were run again, and why."""
        if self._again:
            terminalreporter.section("run again")
            for line in self._again:
                terminalreporter.line(line)


def _last_line(report: pytest.TestReport) -> str:
    lines = [line for line in report.longreprtext.splitlines() if line.strip()]
    return lines[-1] if lines else "?"
