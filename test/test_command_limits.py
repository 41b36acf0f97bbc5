"""Limits by factors, and changed while running."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from command_support import LIMITS, Bench, way_to

from flow_policy_ros.runtime.robot import RobotFileError
from flow_policy_ros.safety.guard import GuardState


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.8])
def test_the_limit_scale_is_a_factor_on_velocity_acceleration_and_jerk(scale: float) -> None:
    bench = Bench(limit_scale=scale, splice_s=0.0)
    bench.moving()
    bench.tick(20)
    in_force = bench.in_force[-1]
    for name in ("velocity", "acceleration", "jerk"):
        np.testing.assert_allclose(getattr(in_force, name), scale * getattr(LIMITS, name))
    assert np.array_equal(in_force.lower, LIMITS.lower) and np.array_equal(in_force.upper, LIMITS.upper)
    bench.check_limits()
    assert np.abs(bench.differences(2)).max(axis=0) == pytest.approx(scale * LIMITS.acceleration, rel=0.3)


def test_group_scales_apply_to_their_joints_on_top_of_the_limit_scale() -> None:
    bench = Bench(limit_scale=0.5, group_scale="hand=0.4")
    bench.moving()
    np.testing.assert_allclose(bench.in_force[-1].velocity, LIMITS.velocity * [0.5, 0.2, 0.2])
    bench.check_limits()


def test_raised_limits_are_in_force_at_once() -> None:
    bench = Bench(limit_scale=0.3)
    bench.moving()
    bench.update(limit_scale=1.0, group_scale="arm=0.5")
    bench.go([0.9, 0.9, 0.4])
    assert bench.tick().state is GuardState.ACTIVE
    np.testing.assert_allclose(bench.shares(0)[-2:], [0.3, 0.5])
    np.testing.assert_allclose(bench.shares(1)[-2:], [0.3, 1.0])
    bench.tick(10)
    bench.check_limits()


@pytest.mark.parametrize("wish", [{"limit_scale": 2.0}, {"group_scale": "hand=2.0"}, {"limit_scale": float("nan")}])
def test_no_parameter_raises_limits_above_the_robot_files(wish: dict[str, Any]) -> None:
    """Neither at a start nor in passing, whoever made the parameters; and what is refused changes nothing."""
    with pytest.raises(ValueError, match=r"at most 1.* robot file"):
        Bench(**wish)
    bench = Bench(limit_scale=0.5)
    bench.moving()
    with pytest.raises(ValueError, match=r"at most 1.* robot file"):
        bench.update(**wish)
    bench.tick(3)
    np.testing.assert_allclose(bench.in_force[-1].velocity, 0.5 * LIMITS.velocity)
    bench.check_limits()


def test_cut_limits_brake_the_motion_first_and_are_then_in_force() -> None:
    """Safety invariant 1: also while limits change no set-point breaks those in force."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.moving()
    bench.tick(5)
    fast = np.abs(bench.differences(1)[-1])
    assert (fast > 0.5 * LIMITS.velocity).all()
    bench.update(limit_scale=0.2)
    share = []
    for _ in range(20):
        bench.go([0.9, 0.9, 0.4])
        assert bench.tick().state is GuardState.ACTIVE
        share.append(bench.shares(0)[-1])
    assert set(np.round(share, 6)) == {1.0, 0.2} and (np.diff(share) <= 0).all()
    until = share.index(share[-1])
    assert 1 < until < 15
    speeds = np.abs(bench.differences(1))[-20:]
    assert (np.diff(speeds[:until], axis=0) <= 1e-9).all()  # it only brakes, whatever the chunks say
    bench.tick(30)
    assert (np.abs(bench.differences(1))[-40 + until :] <= 0.2 * LIMITS.velocity + 1e-9).all()
    assert (np.abs(bench.differences(1))[-30:].max(axis=0) > 0.15 * LIMITS.velocity).any()  # and goes on, slowly
    bench.check_limits()


def test_a_cut_that_the_motion_obeys_already_is_in_force_at_once() -> None:
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.05, 0.05, 0.05], points=200))
    bench.tick(30)
    bench.update(limit_scale=0.5)
    assert bench.tick().state is GuardState.ACTIVE
    np.testing.assert_allclose(bench.shares(0)[-1], 0.5)
    assert bench.loop.statistics().ticks_limited == 0


def test_an_unknown_group_is_refused_and_nothing_is_changed() -> None:
    bench = Bench(limit_scale=0.5, joint_state_max_age_s=1.0)
    bench.moving()
    with pytest.raises(RobotFileError, match="leg"):
        bench.update(limit_scale=0.1, group_scale="leg=0.5", joint_state_max_age_s=0.01)
    bench.tick(5, feed=False)  # the age limit, too, is the one of before
    assert bench.loop.state is GuardState.ACTIVE
    np.testing.assert_allclose(bench.shares(0), 0.5)
    with pytest.raises(RobotFileError, match="leg"):
        Bench(group_scale="leg=0.5")


@pytest.mark.parametrize("change", [{"smoothing": 0.1}, {"splice_s": 0.0}, {"slow_down": False}])
def test_how_chunks_are_shaped_changes_while_running_from_the_next_chunk_on(change: dict[str, object]) -> None:
    changed, unchanged = Bench(), Bench()
    for bench in (changed, unchanged):
        bench.tick()
        bench.play(way_to([0.2, 0.2, 0.1]))
        bench.tick(20)
    changed.update(**change)
    for bench in (changed, unchanged):
        bench.tick(5)
    assert np.array_equal(changed.positions, unchanged.positions)
    late = np.maximum(np.arange(40) - 10, 0)  # slowly at first, then too fast
    for bench in (changed, unchanged):
        bench.play(bench.positions[-1] + 0.02 + 0.3 * np.sin(0.5 * late)[:, None] * np.array([1.0, 1.0, 0.5]))
        bench.tick(30)
        bench.check_limits()
    assert np.abs(np.array(changed.positions) - np.array(unchanged.positions)).max() > 1e-3
