"""Seams of trajectories that are known: where they are, how high the step, and that a smooth motion has none."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from flow_policy_ros.evaluation.seams import (
    SeamObserver,
    SeamSamples,
    Spread,
    acceleration,
    measure,
    position_jump,
    takeover_jump,
)
from flow_policy_ros.runtime.types import Chunk, Plan
from flow_policy_ros.safety.guard import GuardState

T = 0.01
LIMIT = np.array([100.0, 400.0])
SEAMS = [20, 44, 80]


def parabolas(steps: float = 0.0) -> np.ndarray:
    """(120, 2): joint 0 accelerates with 2, joint 1 with -4 rad/s², and joint 0 steps up at every seam."""
    t = T * np.arange(120)
    motion = np.stack([t**2, 1.0 - 2 * t**2], axis=1)
    for seam in SEAMS:
        motion[seam:, 0] += steps
    return motion


def test_a_step_is_found_as_high_as_it_is() -> None:
    jump = position_jump(parabolas(0.05))
    assert np.isnan(jump[:3]).all()
    assert jump[SEAMS, 0] == pytest.approx(0.05, abs=1e-12)
    assert np.nanmax(jump[:, 1]) < 1e-12
    others = np.setdiff1d(np.arange(3, 120), [s + k for s in SEAMS for k in range(3)])
    assert jump[others, 0].max() < 1e-12


def test_acceleration_is_the_second_difference() -> None:
    a = acceleration(parabolas(0.05), T)
    assert np.isnan(a[:2]).all()
    assert a[10] == pytest.approx([2.0, 4.0])
    assert a[20, 0] == pytest.approx(0.05 / T**2 + 2.0) and a[21, 0] == pytest.approx(0.05 / T**2 - 2.0)


def test_the_step_is_at_the_seams_and_nowhere_inside() -> None:
    figures = measure(parabolas(0.05), SEAMS, T, LIMIT).figures()
    assert figures.seams == 3
    assert figures.position_seam.count == 6 and figures.position_seam.max == pytest.approx(0.05)
    assert figures.position_inside.max < 1e-12
    assert figures.acceleration_seam.max == pytest.approx((500 + 2) / 100)
    assert figures.acceleration_inside.max == pytest.approx(0.02)
    assert figures.acceleration_inside.median == pytest.approx(0.015)  # 2 of 100, 4 of 400
    assert figures.acceleration_seam.count == 3 * 6 * 2 and figures.acceleration_inside.count == 2 * (118 - 18)
    assert figures.acceleration_ratio == pytest.approx((500 + 2) / 100 / 0.02, rel=0.02)
    json.dumps(figures.to_json(), allow_nan=False)


def test_a_seam_that_is_missed_is_blamed_on_the_inside() -> None:
    """The measure can fail: with one seam left out, its step counts as motion inside a chunk."""
    assert measure(parabolas(0.05), SEAMS[:2], T, LIMIT).figures().position_inside.max > 0.049


def test_a_smooth_motion_has_equal_figures_on_both_sides() -> None:
    t = T * np.arange(2000)
    motion = np.stack([np.sin(3 * t), np.cos(5 * t)], axis=1)
    figures = measure(motion, range(8, 2000, 13), T, LIMIT).figures()
    assert figures.position_ratio == pytest.approx(1.0, abs=0.05)
    assert figures.acceleration_ratio == pytest.approx(1.0, abs=0.05)


def test_noise_everywhere_is_no_seam() -> None:
    motion = np.random.default_rng(0).normal(scale=0.01, size=(4000, 2))
    figures = measure(motion, range(8, 4000, 13), T, LIMIT).figures()
    assert figures.position_ratio == pytest.approx(1.0, abs=0.08)
    assert figures.acceleration_ratio == pytest.approx(1.0, abs=0.05)


def test_ticks_without_set_points_do_not_count() -> None:
    motion = parabolas(0.05)
    motion[:30] = np.nan
    figures = measure(motion, SEAMS, T, LIMIT).figures()
    assert figures.position_seam.count == 4 and figures.position_inside.count == 2 * (120 - 33 - 6)


def test_seams_that_follow_closely_leave_an_inside() -> None:
    """Every 4 ticks: 2 of them are a seam's, and the step is in these alone."""
    motion = parabolas()
    seams = range(20, 120, 4)
    for seam in seams:
        motion[seam:, 0] += 0.05
    figures = measure(motion, seams, T, LIMIT).figures()
    assert figures.acceleration_seam.count == 24 * 2 * 2 + 4 * 2  # after the last one comes nothing
    assert figures.acceleration_inside.max == pytest.approx(0.02)
    assert figures.acceleration_ratio > 100


def test_no_seam_gives_no_ratio() -> None:
    figures = measure(parabolas(), [], T, LIMIT).figures()
    assert figures.position_seam == Spread(None, None, None, 0)
    assert figures.position_ratio is None and figures.acceleration_ratio is None
    json.dumps(figures.to_json(), allow_nan=False)


def test_episodes_are_put_together() -> None:
    parts = [measure(parabolas(h), SEAMS, T, LIMIT) for h in (0.02, 0.06)]
    pooled = SeamSamples.pool(parts).figures()
    assert pooled.seams == 6 and pooled.position_seam.count == 12 and pooled.position_seam.max == pytest.approx(0.06)
    assert SeamSamples.pool([]).figures().seams == 0


@pytest.mark.parametrize(("seams", "window", "words"), [([120], 6, "120"), ([-1], 6, "-1"), ([5], 1, "window is 1")])
def test_bad_arguments_are_refused(seams, window, words) -> None:
    with pytest.raises(ValueError, match=words):
        measure(parabolas(), seams, T, LIMIT, window=window)


DT = 10_000_000


def plan_of(stamp: int, positions: np.ndarray, chunk_stamp: int) -> Plan:
    return Plan(stamp, DT, ("a", "b"), positions, chunk_stamp)


def chunk_of(stamp: int, positions: np.ndarray) -> Chunk:
    """Columns the other way round than the plan's."""
    return Chunk(stamp, DT, ("b", "a"), positions[:, ::-1].copy(), 10, 0)


def test_take_over_compares_by_name_and_holds_the_end() -> None:
    old = plan_of(0, np.array([[0.0, 0.0], [1.0, 10.0]]), 0)
    new = chunk_of(0, np.array([[0.0, 0.0], [2.0, 10.5], [4.0, 10.5]]))
    assert takeover_jump(old, new, DT // 2) == pytest.approx([0.5, 0.25])
    assert takeover_jump(old, new, 2 * DT) == pytest.approx([3.0, 0.5])
    assert takeover_jump(old, new, 9 * DT) == pytest.approx([3.0, 0.5])


@dataclass
class Tick:
    """What the observer looks at."""

    state: GuardState
    plan: Plan | None


def test_the_observer_finds_take_overs_and_no_starts_from_rest() -> None:
    observer = SeamObserver()
    flat = np.zeros((60, 2))
    follow = {3: 1, 9: 7, 15: 12, 40: 36}  # tick → tick of the chunk's stamp
    for k in range(50):
        chunk = chunk_of(k * DT, flat + 0.01 * k) if k in follow.values() else None
        plan = plan_of(k * DT, flat + 0.01 * follow[k], follow[k] * DT) if k in follow else None
        state = GuardState.HOLDING if k < 3 or 25 <= k < 40 else GuardState.ACTIVE
        observer(None, None, chunk, Tick(state, plan))  # type: ignore[arg-type]
    assert observer.seams == [9, 15]
    assert observer.delays == [2 * DT, 2 * DT, 3 * DT, 4 * DT]
    samples = observer.samples(np.zeros((50, 2)), T, LIMIT)
    assert samples.seams == 2
    assert samples.takeover == pytest.approx([0.06, 0.06, 0.05, 0.05])
