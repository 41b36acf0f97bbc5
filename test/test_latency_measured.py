"""Measuring the delays of this machine: what a busy machine gives is told, and not kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flow_policy_ros.evaluation import latency
from flow_policy_ros.evaluation.latency import busyness, doubts, profile_for
from flow_policy_ros.evaluation.summary import delays_text
from flow_policy_ros.runtime.latency import LatencyProfile


def test_steady_work_shows_in_the_processor_time_and_in_the_load() -> None:
    steady = {"inference": [300.0] * 40}
    assert busyness(steady, {"inference": 12_000.0}, 1.2, 2) == ""
    assert busyness(steady, {"inference": 20_000.0}, 1.2, 2) == ""  # on two threads
    assert busyness(steady, {"inference": 1_200.0}, 1.2, 2) == "inference waited 90% of its time for a processor"
    assert busyness(steady, {"inference": 12_000.0}, 20.0, 2) == "20.0 tasks ran on 2 cores"
    uneven = {"inference": [3.0] * 38 + [90.0] * 2}
    assert "3.0 ms at the median and 90.0 ms" in busyness(uneven, {"inference": 294.0}, 1.2, 2)
    assert busyness({"perception": ()}, {"perception": 0.0}, 0.0, 2) == ""


def test_what_a_busy_machine_gave_is_used_once_with_a_warning_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []

    def wait(repetition: int) -> None:  # takes wall time and no processor time, as what waits for a processor
        measured.append(repetition)
        time.sleep(0.002)

    def profile(mode: str = "measured") -> LatencyProfile:
        path = profile_for(mode, {"steps": 4}, lambda: {"inference": wait})
        assert path is not None
        return LatencyProfile.load(path)

    for _ in range(2):  # measured each time
        first, measured[:] = profile(), []
        said = doubts(first)
        assert "measured on a busy machine: inference waited" in said and "--latency remeasure when it is quiet" in said
        text = delays_text({"mode": "injected", "ms": {"inference": {"p50": 2.1, "p99": 2.2}}, "doubts": said})
        assert text.startswith("measured ones injected: inference 2.1 ms (p50); measured on a busy machine")
    assert profile() and len(measured) > 1

    monkeypatch.setattr(latency, "busyness", lambda *facts: "")  # a quiet machine, which no test can have at will
    kept = profile()
    measured.clear()
    assert profile() == kept and not measured and doubts(kept) == ""
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert profile("remeasure").busy and measured
    assert profile() == kept  # a busy one does not replace it
