"""From chunk to plan: on time and on the path where limits allow, slower along the path where not, joined without a jerk."""

from __future__ import annotations

import numpy as np
import pytest

from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.safety.shaper import SHARE, ChunkShaper, ShapedPlan
from flow_policy_ros.safety.spline import fit

PERIOD = 0.01
DT = 0.02
SHAPER = ChunkShaper(smoothing_s=0.0, splice_s=0.06, slow_down=True)


def make_limits(ticks=1.0, velocity=3.0, acceleration=40.0, joints=2, width=2.0) -> JointLimits:
    one = np.ones(joints)
    names = tuple(f"joint_{i}" for i in range(joints))
    jerk = 2.0 * acceleration / (np.asarray(ticks) * PERIOD) * one
    return JointLimits(names, -width * one, width * one, velocity * one, acceleration * one, np.inf * one, jerk)


def wave(count: int = 60, scale: float = 1.0, dt: float = DT) -> np.ndarray:
    """Begins and ends at rest; up to 0.6 rad/s and 1.3 rad/s² at scale 1."""
    time = np.arange(count) * dt
    ease = 1.0 - np.cos(2 * np.pi * time / time[-1])
    return 0.3 * scale * np.stack([ease * np.sin(time), ease], axis=1) / 1.5


def started(limits: JointLimits, at=(0.0, 0.0)) -> SetpointLimiter:
    limiter = SetpointLimiter(limits, PERIOD)
    limiter.start(np.array(at))
    return limiter


def moving(limits: JointLimits, ticks: int = 25) -> SetpointLimiter:
    limiter = started(limits)
    for k in range(ticks):
        limiter.step([0.001 * k**1.5, -0.0007 * k**1.5])
    return limiter


def publish(limiter: SetpointLimiter, plan: ShapedPlan) -> tuple[np.ndarray, int]:
    """Set-points (N, J) of the plan, and how many of their joints a limit acted on."""
    steps = [limiter.step(target) for target in plan.targets]
    acted = sum(int(step.interventions[kind].sum()) for step in steps for kind in ("position", "velocity", "acceleration"))
    return np.array([step.position for step in steps]), acted


def test_a_chunk_within_the_limits_is_met_at_its_instants() -> None:
    points = wave()
    limiter = started(make_limits())
    plan = SHAPER.shape(points, DT, 0.0, limiter)
    assert plan.too_fast == {} and plan.stretch < 1.02 and not plan.clipped.any() and len(plan.targets) == 119
    published, acted = publish(limiter, plan)
    assert acted == 0
    np.testing.assert_allclose(published[::2], points, atol=2e-5)
    np.testing.assert_allclose(published, fit(points, DT, 0.0).evaluate(np.arange(119) * PERIOD), atol=2e-5)


def test_with_an_average_set_points_are_not_late() -> None:
    """Nine ticks of average: within a tenth of what it would be late by without its lead."""
    limits = make_limits(ticks=np.array([9.0, 8.0]))
    path = fit(wave(), DT, 0.0)

    def error(limiter: SetpointLimiter) -> np.ndarray:
        published, _ = publish(limiter, SHAPER.shape(wave(), DT, 0.0, limiter))
        return np.abs(published - path.evaluate(np.arange(len(published)) * PERIOD))[:-10].max(axis=0)

    centred, late = started(limits), started(limits)
    with_lead, without = error(centred), np.zeros(2)
    for k in range(int(path.duration / PERIOD)):
        at = path.evaluate(np.array([k * PERIOD]))[0]
        without = np.maximum(without, np.abs(late.step(at).position - at))
    assert without.min() > 5e-3
    assert with_lead[0] < 0.1 * without[0]
    assert with_lead[1] < 0.1 * without[1]  # half ticks, too


@pytest.mark.parametrize("ticks", [1.0, 4.0, 9.0])
@pytest.mark.parametrize("since", [0.0, 0.033, 0.31])
def test_what_it_says_will_be_published_is_published(ticks: float, since: float) -> None:
    limiter = moving(make_limits(ticks, velocity=50.0, acceleration=4000.0))
    plan = SHAPER.shape(wave() + 0.02, DT, since, limiter)
    published, acted = publish(limiter, plan)
    assert acted == 0
    np.testing.assert_allclose(published, plan.published, atol=1e-12)


@pytest.mark.parametrize("scale", [6.0, 20.0])
def test_a_chunk_that_is_too_fast_is_slowed_and_keeps_its_path(scale: float) -> None:
    points = wave(scale=scale) * [1.0, 0.2]
    limits = make_limits(acceleration=20.0, width=20.0)
    limiter = started(limits)
    plan = SHAPER.shape(points, DT, 0.0, limiter)
    assert plan.too_fast["velocity"][0] and plan.stretch > 1.2
    dense = fit(points, DT, 0.0).evaluate(np.linspace(0, 59 * DT, 20000))
    away = np.array([np.abs(dense - target).max(axis=1).min() for target in plan.targets])
    assert away.max() < 2e-3 * scale  # the splice apart it is the path itself
    assert away[7:].max() < 1e-3 * scale / 6
    np.testing.assert_allclose(plan.targets[-1], points[-1], atol=0.02 * scale)
    rest = np.concatenate([np.zeros((2, 2)), plan.targets])
    velocity, acceleration = np.abs(np.diff(rest, axis=0)[1:]) / PERIOD, np.abs(np.diff(rest, 2, axis=0)) / PERIOD**2
    assert (velocity[8:] <= limits.velocity).all()
    assert np.mean((acceleration[8:] <= limits.acceleration).all(axis=1)) > 0.9
    assert velocity.max() > 0.8 * SHARE * 3.0  # not slower than needed either
    published, _ = publish(limiter, plan)
    unslowed = started(limits)
    raw, acted = publish(unslowed, ChunkShaper(0.0, 0.06, False).shape(points, DT, 0.0, unslowed))
    assert acted > 50
    near, far = (max(np.abs(dense - row).max(axis=1).min() for row in rows) for rows in (published, raw))
    assert near < 0.5 * far  # clamping cuts the corners


def test_only_the_fast_part_is_slowed() -> None:
    time = np.arange(120) * DT
    points = np.stack([np.where(time < 1.2, 0.3 * time, 0.36 + 6.0 * (time - 1.2))] * 2, axis=1)
    plan = SHAPER.shape(points, DT, 0.0, started(make_limits(width=20.0)))
    meant = fit(points, DT, 0.0).evaluate(np.arange(100) * PERIOD)
    np.testing.assert_allclose(plan.targets[20:100], meant[20:], atol=1e-4)
    assert plan.stretch > 1.3


@pytest.mark.parametrize("ticks", [1.0, 7.0])
def test_a_new_chunk_takes_over_without_a_step_in_the_motion(ticks: float) -> None:
    """The first targets go on with the present velocity and acceleration; after ``splice_s`` nothing is left of them."""
    limits = make_limits(ticks, acceleration=400.0)
    limiter = moving(limits)
    position, velocity, acceleration = limiter.averaged[-1]
    points = wave() + np.array([0.16, -0.13])
    plan = ChunkShaper(0.0, 0.2, True).shape(points, DT, 0.4, limiter)
    rows = np.concatenate([[position - velocity * PERIOD, position], plan.targets])
    speeds = np.diff(rows, axis=0) / PERIOD
    changes = np.diff(speeds, axis=0) / PERIOD
    assert (np.abs(changes[0] - acceleration) < 0.15 * limits.acceleration).all()
    jump = (points[20] - position) / PERIOD  # what it would be without
    assert (np.abs(speeds[1] - velocity) < 0.2 * np.abs(jump)).all()
    path = fit(points, DT, 0.0).evaluate(0.4 + (np.arange(len(plan.targets)) + limiter.lead[0]) * PERIOD)
    assert (np.abs(plan.targets[0] - path[0]) > 0.9 * np.abs(position - path[0])).all()
    np.testing.assert_allclose(plan.targets[20:], path[20:], atol=1e-12)
    without = ChunkShaper(0.0, 0.0, True).shape(points, DT, 0.4, limiter)
    np.testing.assert_allclose(without.targets, path, atol=1e-12)


def test_the_same_path_again_is_no_new_motion() -> None:
    """A later chunk of the same path, joined on the way, changes nothing."""
    path = wave(100)
    limiter = started(make_limits())
    first = SHAPER.shape(path[:60], DT, 0.0, limiter)
    for target in first.targets[:50]:
        limiter.step(target)
    again = SHAPER.shape(path[20:80], DT, 50 * PERIOD - 20 * DT, limiter)
    np.testing.assert_allclose(again.targets[:60], first.targets[50:110], atol=2e-5)


def test_points_out_of_range_are_clipped_and_named() -> None:
    points = wave()
    points[30:35, 1] = 5.0
    plan = SHAPER.shape(points, DT, 0.0, started(make_limits()))
    assert plan.clipped.tolist() == [False, True]
    assert plan.targets.max() <= 2.0


@pytest.mark.parametrize(
    ("dt", "count", "since"), [(1e-9, 64, 0.0), (1e-6, 64, 0.0), (1e6, 3, 0.0), (1e6, 64, 0.5), (0.02, 2, 0.02)]
)
@pytest.mark.parametrize("slow", [True, False])
def test_the_size_of_a_plan_is_bounded_whatever_the_spacing_of_points(dt: float, count: int, since: float, slow: bool) -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (count, 2))
    limiter = moving(make_limits(5.0))
    plan = ChunkShaper(1.0, 0.06, slow, longest_s=1.0).shape(points, dt, since, limiter)
    assert 1 <= len(plan.targets) <= 1.0 / PERIOD + 1 and np.isfinite(plan.targets).all()
    assert plan.targets.shape == plan.published.shape
