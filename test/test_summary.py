"""The summary: its figures are those of the episodes, and only those."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from flow_policy_ros.evaluation.closed_loop import EpisodeResult
from flow_policy_ros.evaluation.summary import CONTROL_PERIOD, print_summary, summarise
from flow_policy_ros.runtime.latency import NO_LATENCY, LatencyProfile
from flow_policy_ros.safety.statistics import CommandStatistics

ROBOT = SimpleNamespace(joints=("a", "b"))
NO_DELAY = SimpleNamespace(profile=None, stack=SimpleNamespace(latency=NO_LATENCY), robot=ROBOT)


def statistics(episodes: int) -> CommandStatistics:
    """As after so many episodes: a command loop counts on and on."""
    interventions = {"position": {"a": 0, "b": 0}, "velocity": {"a": 3 * episodes, "b": 0}, "acceleration": {"a": 0, "b": 1}}
    return CommandStatistics(50 * episodes, 40 * episodes, 10 * episodes, interventions, {}, {}, 12 * episodes)


def outcome(seed: int, success_steps: int, episodes: int, **durations: list[float]) -> EpisodeResult:
    rows = np.random.default_rng(seed).normal(size=(2, 50, 2))
    states = ["STARTING"] * 10 + ["ACTIVE"] * 40
    return EpisodeResult(
        seed, success_steps > 0, success_steps, rows[0], rows[1], states, 6, ["too old"], statistics(episodes), durations
    )


def outcomes() -> list[EpisodeResult]:
    return [outcome(4, 30, 1, inference=[1.0, 2.0]), outcome(5, 25, 2, inference=[3.0]), outcome(6, 0, 3, camera=[])]


def test_figures() -> None:
    summary = summarise(outcomes(), NO_DELAY, wall_s=3.0, seed=4)
    assert (summary["successes"], summary["episodes"], summary["seed"]) == (2, 3, 4)
    assert summary["success_rate"] == pytest.approx(2 / 3)
    assert summary["strict_successes"] == 1  # 25 steps are not more than 25
    assert summarise(outcomes(), NO_DELAY, 3.0, 4, strict_steps=20)["strict_successes"] == 2
    assert summary["latency_ms"] == {"inference": {"p50": 2.0, "p99": pytest.approx(2.98)}}  # no samples, no figure
    assert summary["interventions"] == {"position": {}, "velocity": {"a": 9}, "acceleration": {"b": 1}}
    assert summary["intervention_rate"] == 0.25
    assert summary["joint_intervention_rate"] == pytest.approx(0.15)
    assert (summary["ticks"], summary["ticks_active"], summary["chunks"], summary["stale"]) == (150, 120, 18, 3)
    assert summary["realtime_factor"] == pytest.approx(0.5)  # 150 steps of 10 ms
    assert summary["latency_profile"] == {"mode": "none"}
    assert "control_period_ms" not in summary
    json.dumps(summary)


def test_the_hash_tells_runs_apart() -> None:
    def hash_of(results: list[EpisodeResult]) -> str:
        return summarise(results, NO_DELAY, 1.0, 4)["trajectory_sha256"]

    changed = outcomes()
    changed[1].commands[7, 1] = np.nextafter(changed[1].commands[7, 1], 2.0)
    assert hash_of(outcomes()) == hash_of(outcomes())
    assert hash_of(outcomes()) != hash_of(outcomes()[::-1])
    assert hash_of(outcomes()) != hash_of(changed)


def test_periods_are_no_latency() -> None:
    results = [outcome(4, 30, 1, **{CONTROL_PERIOD: [9.0, 10.0, 10.0, 13.0]})]
    summary = summarise(results, NO_DELAY, 1.0, 4, realtime=True, reported={"perception": {"p50": 1.0, "p99": 2.0}})
    assert summary["latency_ms"] == {"perception": {"p50": 1.0, "p99": 2.0}}
    assert summary["control_period_ms"]["max"] == 13.0
    assert summary["control_period_error_ms"]["p50"] == 0.5
    assert summary["latency_profile"] == {"mode": "real"}


def test_the_injected_delays_are_named(tmp_path: Path) -> None:
    profile = LatencyProfile({"inference": (5.0, 7.0)}, "a machine")
    loaded = SimpleNamespace(profile=tmp_path / "p.json", stack=SimpleNamespace(latency=profile), robot=ROBOT)
    figures = summarise(outcomes(), loaded, 1.0, 4)["latency_profile"]
    assert figures["mode"] == "injected" and figures["sha256"] == profile.sha256()
    assert figures["ms"]["inference"]["p50"] == 6.0


def test_no_active_tick_is_no_division() -> None:
    result = outcome(4, 0, 1)
    result.statistics = CommandStatistics(0, 0, 0, {"position": {}}, {}, {})
    assert summarise([result], NO_DELAY, 1.0, 4)["intervention_rate"] == 0.0
    with pytest.raises(ValueError, match="at least one episode"):
        summarise([], NO_DELAY, 1.0, 4)


def test_the_table_says_what_matters() -> None:
    text = io.StringIO()
    results = outcomes()
    results[-1].statistics.faults["stale_joint_state"] = 2
    print_summary(Console(file=text, width=140), {"task": "door", **summarise(results, NO_DELAY, 3.0, 4)})
    for words in ("2 of 3", "25.0% of 120", "velocity 9 (most: a 9)", "stale_joint_state 2", "none injected", "door"):
        assert words in text.getvalue()
