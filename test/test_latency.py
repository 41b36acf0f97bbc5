"""Delay as data, and the figures of measured durations."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from flow_policy_ros.runtime.latency import NO_LATENCY, LatencyProfile
from flow_policy_ros.runtime.latency_tracker import LatencyTracker

PROFILE = LatencyProfile({"perception": (30.0, 40.0, 50.5), "inference": (3.0,)}, "a desk")


def test_a_delay_depends_on_seed_stage_and_stamp_alone() -> None:
    stamps = range(0, 100_000, 7)
    forward = [PROFILE.delay("perception", s) for s in stamps]
    backward = [PROFILE.delay("perception", s) for s in reversed(stamps)]
    assert forward == backward[::-1]
    assert forward != [PROFILE.delay("perception", s, seed=1) for s in stamps]


def test_delays_are_the_measured_ones_in_equal_shares() -> None:
    drawn = Counter(PROFILE.delay("perception", s) for s in range(3000))
    assert set(drawn) == {30_000_000, 40_000_000, 50_500_000}
    assert min(drawn.values()) > 850
    assert PROFILE.delay("inference", 5) == 3_000_000


def test_an_absent_stage_costs_nothing() -> None:
    assert NO_LATENCY.delay("perception", 1) == 0
    assert LatencyProfile({"inference": ()}).delay("inference", 1) == 0


def test_a_profile_survives_its_file(tmp_path) -> None:
    path = tmp_path / "profile.json"
    PROFILE.save(path)
    assert LatencyProfile.load(path) == PROFILE
    assert LatencyProfile.load(path).sha256() == PROFILE.sha256() != NO_LATENCY.sha256()


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "{}",
        json.dumps({"samples_ms": {"inference": 3}}),
        json.dumps({"samples_ms": {"inference": ["fast"]}}),
        json.dumps({"samples_ms": {"cooking": [1.0]}}),
        json.dumps({"samples_ms": {"inference": [-1.0]}}),
        json.dumps({"samples_ms": {"inference": [float("nan")]}}),
        json.dumps({"samples_ms": {"inference": [1e9]}}),
    ],
)
def test_a_bad_profile_is_refused_by_its_path(tmp_path, content) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"profile\.json"):
        LatencyProfile.load(path)


def test_a_missing_profile_is_refused_by_its_path(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json.*flow_policy evaluate"):
        LatencyProfile.load(tmp_path / "nowhere.json")


def test_tracker_knows_the_window_and_counts_everything() -> None:
    tracker = LatencyTracker(window=100)
    assert tracker.summary() is None
    for duration in (9999.0, *range(1, 101)):
        tracker.add(float(duration))
    summary = tracker.summary()
    assert summary is not None
    assert summary.count == 101 and summary.max_ms == 100.0
    assert summary.p50_ms == pytest.approx(np.percentile(np.arange(1, 101), 50))
    assert summary.p99_ms == pytest.approx(np.percentile(np.arange(1, 101), 99))
