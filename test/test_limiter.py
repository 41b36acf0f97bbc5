"""Jerk, lead and live limits of the limiter. Range, velocity and acceleration alone: ``test_acceleration_limiter``.

What is checked is recomputed from the published positions, never read from the limiter.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.safety.acceleration_limiter import AccelerationLimiter
from flow_policy_ros.safety.limiter import KINDS, MOST_TICKS, SetpointLimiter, averaged_ticks

PERIOD = 0.01
FEW = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def make_limits(ticks=4.0, velocity=3.0, acceleration=40.0, lower=-2.0, upper=2.0, joints=1) -> JointLimits:
    """``ticks``: over how many a change from full acceleration to full deceleration is spread."""
    one = np.ones(joints)
    names = tuple(f"joint_{i}" for i in range(joints))
    jerk = 2.0 * acceleration / (np.asarray(ticks) * PERIOD) * one
    return JointLimits(names, lower * one, upper * one, velocity * one, acceleration * one, np.inf * one, jerk)


def breaches(limits: list[JointLimits], positions: np.ndarray) -> list[str]:
    """What set-points (K, J), begun at rest, break of the limits in force at each (K); tolerance as the limiter states it."""
    rest = np.concatenate([np.repeat(positions[:1], 3, axis=0), positions])
    ulp = np.spacing(np.abs(positions).max(axis=0))
    found = []
    if not ((positions >= limits[0].lower) & (positions <= limits[0].upper)).all():
        found.append("position")
    for power, (kind, ulps) in enumerate((("velocity", 4), ("acceleration", 4), ("jerk", 8)), start=1):
        values = np.diff(rest, power, axis=0)[3 - power :] / PERIOD**power
        limit = np.array([getattr(each, kind) for each in limits])
        if not (np.abs(values) <= limit * (1 + 1e-9) + ulps * ulp / PERIOD**power).all():
            found.append(kind)
    return found


def play(limiter: SetpointLimiter, start, targets, changes: dict[int, JointLimits] | None = None):
    """Set-points (K + 1, J) with the limits in force at each; NaN stands for a tick of stopping."""
    positions, force = [limiter.start(start).position], [limiter.limits]
    for k, target in enumerate(np.atleast_2d(targets)):
        if changes and k in changes:
            limiter.change(changes[k])
        step = limiter.stop_step() if np.isnan(target).any() else limiter.step(target)
        positions.append(step.position)
        force.append(limiter.limits)
    return np.array(positions), force


def violent(rng: np.random.Generator, ticks: int, joints: int) -> np.ndarray:
    """Jumps across and beyond the range that last 1 to 40 ticks, stops in between."""
    held = np.repeat(rng.uniform(-4, 4, (ticks, joints)), rng.integers(1, 40, ticks), axis=0)[:ticks]
    held[(rng.random(ticks // 20 + 1) < 0.2).repeat(20)[:ticks]] = np.nan
    return held


@settings(FEW, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_target_breaks_a_limit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    limits = make_limits(10.0 ** rng.uniform(-1, 2, 6), rng.uniform(0.1, 20, 6), 10.0 ** rng.uniform(0, 3, 6), joints=6)
    positions, force = play(SetpointLimiter(limits, PERIOD), rng.uniform(-2, 2, 6), violent(rng, 500, 6))
    assert breaches(force, positions) == []


@settings(FEW, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_live_limits_are_kept_from_the_tick_on_at_which_they_are_in_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    limits = make_limits(rng.uniform(1, 12, 3), 5.0, rng.uniform(5, 300, 3), joints=3)
    changes = {int(k): limits.scaled(10.0 ** rng.uniform(-2, 1, 3)) for k in rng.integers(0, 600, 12)}
    positions, force = play(SetpointLimiter(limits, PERIOD), rng.uniform(-2, 2, 3), violent(rng, 600, 3), changes)
    assert breaches(force, positions) == []


@settings(FEW, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 0.9))
def test_lower_limits_are_in_force_as_soon_as_a_stop_would_have_ended(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    limits = make_limits(rng.uniform(1, 12, 3), 5.0, rng.uniform(5, 300, 3), joints=3)
    limiter = SetpointLimiter(limits, PERIOD)
    play(limiter, rng.uniform(-2, 2, 3), np.repeat(rng.uniform(-4, 4, (4, 3)), 30, axis=0)[: int(rng.integers(1, 120))])
    lower = limits.scaled(factor)
    limiter.change(lower)
    bound = int((np.ceil(limits.velocity / (limits.acceleration * PERIOD)) + averaged_ticks(limits, PERIOD)).max()) + 2
    for _ in range(bound):
        limiter.step(rng.uniform(-4, 4, 3))  # whatever the target
    assert limiter.limits is lower


def test_higher_or_equal_limits_are_in_force_at_once_and_disturb_nothing() -> None:
    """Rounding must not make a motion at its limit seem to break the very limits that it keeps."""
    for acceleration in np.geomspace(1.0, 300.0, 60):
        limits = make_limits(acceleration=acceleration)
        disturbed, alone = SetpointLimiter(limits, PERIOD), SetpointLimiter(limits, PERIOD)
        disturbed.start([0.1]), alone.start([0.1])
        for k in range(80):
            same = limits.scaled(1.0)
            disturbed.change(same)
            assert disturbed.limits is same
            target = [3.0 if k < 40 else -3.0]
            assert np.array_equal(disturbed.step(target).position, alone.step(target).position)
        higher = limits.scaled(2.0)
        disturbed.change(higher)
        assert disturbed.limits is higher


@pytest.mark.parametrize("seed", range(5))
def test_without_a_jerk_limit_it_is_the_inner_limiter(seed: int) -> None:
    """Bit for bit; so it is with a jerk that one tick's change of acceleration keeps."""
    rng = np.random.default_rng(seed)
    targets = violent(rng, 400, 4)
    for ticks in (1e-12, 1.0):
        limits = make_limits(ticks, joints=4)
        outer, inner = SetpointLimiter(limits, PERIOD), AccelerationLimiter(limits, PERIOD)
        outer.start(np.zeros(4)), inner.start(np.zeros(4))
        for target in targets:
            one, other = (x.stop_step() if np.isnan(target).any() else x.step(target) for x in (outer, inner))
            assert np.array_equal(one.position, other.position) and np.array_equal(one.velocity, other.velocity)
            assert all(np.array_equal(one.interventions[kind], other.interventions[kind]) for kind in other.interventions)


@pytest.mark.parametrize("seed", range(8))
def test_at_rest_means_that_nothing_moves_any_more(seed: int) -> None:
    """Set-points repeat to the last bit from the tick on at which it is said."""
    rng = np.random.default_rng(seed)
    limits = make_limits(rng.uniform(1, 30, 5), joints=5)
    limiter = SetpointLimiter(limits, PERIOD)
    assert limiter.at_rest
    positions, _ = play(limiter, rng.uniform(-2, 2, 5), np.repeat(rng.uniform(-2, 2, (3, 5)), 15, axis=0))
    assert not limiter.at_rest
    tail = [positions[-1]]
    while not limiter.at_rest:
        tail.append(limiter.stop_step().position)
        assert len(tail) < 200
    assert np.array_equal(tail[-1], tail[-2])
    assert all(np.array_equal(limiter.stop_step().position, tail[-1]) for _ in range(40))
    limiter.forget()
    assert limiter.at_rest and not limiter.started


def test_the_average_is_centred_with_its_lead() -> None:
    """An even acceleration, read ``lead`` ticks ahead: what is published is not late, whether n is odd or even."""
    ticks = np.array([1.0, 2.0, 3.0, 8.0, 9.0])
    limits = make_limits(ticks, velocity=100.0, acceleration=40.0, lower=-1e3, upper=1e3, joints=5)
    limiter = SetpointLimiter(limits, PERIOD)
    assert limiter.averaged_ticks.tolist() == ticks.tolist() and limiter.lead.tolist() == [0.0, 0.5, 1.0, 3.5, 4.0]
    time = np.arange(300)[:, None] * PERIOD
    positions, _ = play(limiter, np.zeros(5), 5.0 * (time + limiter.lead * PERIOD) ** 2)
    late = (5.0 * time**2 - positions[1:])[100:280] / (10.0 * time[100:280] * PERIOD)  # in ticks of the motion
    curvature = 10.0 * (ticks * PERIOD) ** 2 / 24.0 / (10.0 * time[100:280] * PERIOD)
    assert (np.abs(late) < 1.1 * curvature + 0.01).all()


def test_reported_velocity_and_acceleration_are_differences_down_to_rest() -> None:
    rng = np.random.default_rng(3)
    limiter = SetpointLimiter(make_limits(np.array([1.0, 5.0, 12.0]), joints=3), PERIOD)
    limiter.start(np.zeros(3))
    before, velocity = np.zeros(3), np.zeros(3)
    for target in [*np.repeat(rng.uniform(-2, 2, (20, 3)), 7, axis=0), *np.full((200, 3), np.nan)]:
        step = limiter.stop_step() if np.isnan(target).any() else limiter.step(target)
        np.testing.assert_allclose(step.velocity, (step.position - before) / PERIOD, atol=1e-12)
        np.testing.assert_allclose(step.acceleration, (step.velocity - velocity) / PERIOD, atol=1e-9)
        before, velocity = step.position, step.velocity
    assert limiter.at_rest


def test_jerk_counts_as_an_intervention_where_the_average_acts() -> None:
    limiter = SetpointLimiter(make_limits(np.array([1.0, 6.0]), joints=2), PERIOD)
    limiter.start([0.0, 0.0])
    step = limiter.step([1.0, 1.0])
    assert set(step.interventions) == set(KINDS) and step.interventions["jerk"].tolist() == [False, True]
    for _ in range(400):
        step = limiter.step([1.0, 1.0])
    assert not any(step.interventions[kind].any() for kind in KINDS)


ruckig = pytest.importorskip("ruckig")


@settings(FEW, max_examples=80)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_stop_takes_no_longer_than_the_fastest_possible_and_the_average(seed: int) -> None:
    """Braking at full deceleration takes v / A, the average n T more: at most the time-optimal stop (which has to reach the
    deceleration first, under the same jerk) from the same speed at the greatest acceleration, plus 2 n T, and 2 T of rounding
    to whole ticks."""
    rng = np.random.default_rng(seed)
    ticks = float(rng.uniform(1, 20))
    limits = make_limits(ticks, velocity=rng.uniform(0.5, 10), acceleration=rng.uniform(5, 300))
    limiter = SetpointLimiter(limits, PERIOD)
    steps = int(rng.integers(2, 80))
    positions, _ = play(limiter, [0.0], np.full((steps, 1), 2.5))
    present = copy.deepcopy(limiter)
    velocity, acceleration = np.diff(positions[-2:, 0])[0] / PERIOD, np.diff(positions[-3:, 0], 2)[0] / PERIOD**2
    taken = 0
    while not present.at_rest:
        present.stop_step()
        taken += 1
    span = averaged_ticks(limits, PERIOD)[0] * PERIOD
    assert taken * PERIOD <= fastest_stop(velocity, acceleration, limits) + 2 * span + 2 * PERIOD + 1e-9


def fastest_stop(velocity: float, acceleration: float, limits: JointLimits) -> float:
    """Time of the time-optimal stop, s."""
    given_state = ruckig.InputParameter(1)
    given_state.control_interface = ruckig.ControlInterface.Velocity
    given_state.current_position, given_state.current_velocity = [0.0], [float(velocity)]
    given_state.current_acceleration = [float(np.clip(acceleration, -limits.acceleration[0], limits.acceleration[0]))]
    given_state.target_velocity, given_state.target_acceleration = [0.0], [0.0]
    given_state.max_acceleration, given_state.max_jerk = [float(limits.acceleration[0])], [float(limits.jerk[0])]
    trajectory = ruckig.Trajectory(1)
    assert ruckig.Ruckig(1).calculate(given_state, trajectory) in (ruckig.Result.Working, ruckig.Result.Finished)
    return float(trajectory.duration)


def test_bad_limits_are_refused_by_name() -> None:
    for ticks in (-4.0, np.nan):
        with pytest.raises(ValueError, match=r"joint_0.*jerk must be above zero"):
            SetpointLimiter(make_limits(ticks), PERIOD)
    with pytest.raises(ValueError, match=rf"joint_1.*{MOST_TICKS} control periods"):
        SetpointLimiter(make_limits(np.array([4.0, MOST_TICKS + 1.0]), joints=2), PERIOD)
    limiter = SetpointLimiter(make_limits(4.0), PERIOD)
    with pytest.raises(ValueError, match="alike"):
        limiter.change(make_limits(5.0))
    with pytest.raises(RuntimeError, match="start"):
        limiter.step([0.0])


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [0.0, 0.0]])
def test_a_bad_target_is_refused_and_changes_nothing(bad) -> None:
    limiter, untouched = (SetpointLimiter(make_limits(), PERIOD) for _ in range(2))
    for each in (limiter, untouched):
        each.start([0.0])
        each.step([1.0])
    with pytest.raises(ValueError, match="finite"):
        limiter.step(bad)
    assert np.array_equal(limiter.step([1.0]).position, untouched.step([1.0]).position)
