"""The limiter keeps its limits whatever the target does, and otherwise does nothing.

What is checked is recomputed from the published positions alone, never read from the limiter.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow_policy_ros.runtime.robot import JointLimits
from flow_policy_ros.safety.acceleration_limiter import KINDS
from flow_policy_ros.safety.acceleration_limiter import AccelerationLimiter as SetpointLimiter

PERIOD = 0.01
FEW = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def make_limits(lower=-2.0, upper=2.0, velocity=3.0, acceleration=40.0, joints=1) -> JointLimits:
    one = np.ones(joints)
    names = tuple(f"joint_{i}" for i in range(joints))
    return JointLimits(names, lower * one, upper * one, velocity * one, acceleration * one, np.inf * one)


def breaches(limits: JointLimits, period: float, positions: np.ndarray) -> list[str]:
    """What consecutive set-points (K, J), begun at rest, break; the tolerance is the one that the limiter states."""
    positions = np.concatenate([positions[:1], positions[:1], positions])  # at rest before
    ulp = np.spacing(np.abs(positions).max(axis=0))
    velocity = np.diff(positions, axis=0) / period
    acceleration = np.diff(velocity, axis=0) / period
    found = []
    if not ((positions >= limits.lower) & (positions <= limits.upper)).all():
        found.append("position")
    if not (np.abs(velocity) <= limits.velocity * (1 + 1e-9) + 4 * ulp / period).all():
        found.append("velocity")
    if not (np.abs(acceleration) <= limits.acceleration * (1 + 1e-9) + 4 * ulp / period**2).all():
        found.append("acceleration")
    return found


def follow(limiter: SetpointLimiter, start, targets: np.ndarray) -> np.ndarray:
    """Set-points (K + 1, J), the start among them; a target of NaN stands for a tick of stopping."""
    limiter.start(start)
    positions = [np.array(start, dtype=np.float64)]
    for target in targets:
        step = limiter.stop_step() if np.isnan(target).any() else limiter.step(target)
        positions.append(step.position)
    return np.array(positions)


def adversary(kind: str, rng: np.random.Generator, limits: JointLimits, period: float, ticks: int) -> np.ndarray:
    """Targets (ticks, J) made to break the limits."""
    joints, width = limits.lower.size, limits.upper - limits.lower
    if kind == "jumps":
        return limits.lower + width * rng.uniform(-3, 4, (ticks, joints))
    if kind == "reversing":
        return np.where(np.arange(ticks)[:, None] % 2 == 0, limits.lower - 1.0, limits.upper + 1.0)
    if kind == "edges":
        return np.where(rng.random((ticks, joints)) < 0.03, 1, 0).cumsum(axis=0) % 2 * width + limits.lower
    if kind == "huge":
        return rng.choice([-1e300, 1e300, 0.0, 1e-300], (ticks, joints))
    if kind == "walk":
        return np.cumsum(rng.normal(size=(ticks, joints)) * limits.velocity * period, axis=0)
    if kind == "just too fast":  # at 1 to 1.2 times the speed limit from stop to stop
        phase = np.arange(ticks)[:, None] * period * limits.velocity * rng.uniform(1.0, 1.2, joints) / width
        return limits.lower + width * np.abs((phase + 1) % 2 - 1)
    targets = limits.lower + width * rng.uniform(-0.5, 1.5, (ticks, joints)).round(1)
    targets[(rng.random(ticks) < 0.3).repeat(7)[:ticks]] = np.nan  # "interrupted": stops in between
    return targets


ADVERSARIES = ("jumps", "reversing", "edges", "huge", "walk", "just too fast", "interrupted")


def attack(limiter_class: type[SetpointLimiter], seed: int, kind: str, ticks: int = 900) -> list[str]:
    rng = np.random.default_rng(seed)
    joints = 12
    lower = rng.uniform(-3, 2, joints)
    limits = JointLimits(
        tuple(f"joint_{i}" for i in range(joints)),
        lower,
        lower + 10.0 ** rng.uniform(-3, 1, joints),
        10.0 ** rng.uniform(-2, 1.5, joints),
        10.0 ** rng.uniform(-1, 3, joints),
        np.full(joints, np.inf),
    )
    period = float(rng.choice([0.002, 0.01, 0.04]))
    start = limits.lower + (limits.upper - limits.lower) * rng.choice([0.0, 0.3, 1.0], joints)
    positions = follow(limiter_class(limits, period), start, adversary(kind, rng, limits, period, ticks))
    return breaches(limits, period, positions)


@settings(FEW, max_examples=70)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(ADVERSARIES))
def test_no_target_breaks_a_limit(seed: int, kind: str) -> None:
    assert attack(SetpointLimiter, seed, kind) == []  # 63,000 ticks of 12 joints


@settings(FEW, max_examples=150)
@given(
    targets=st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), min_size=1, max_size=60),
    start=st.floats(-2, 2),
    velocity=st.floats(0.05, 20),
    acceleration=st.floats(0.5, 2000),
)
def test_no_written_sequence_breaks_a_limit(targets, start, velocity, acceleration) -> None:
    limits = make_limits(velocity=velocity, acceleration=acceleration)
    positions = follow(SetpointLimiter(limits, PERIOD), [start], np.array(targets)[:, None])
    assert breaches(limits, PERIOD, positions) == []


class BrakesTooLate(SetpointLimiter):
    def _approach_speed(self, distance):
        return 1.02 * super()._approach_speed(distance)


class ForgetsTheStop(SetpointLimiter):
    def _approach_speed(self, distance):
        speed = super()._approach_speed(distance)
        speed[:2] = np.inf
        return speed


class ForgetsVelocity(SetpointLimiter):
    def __init__(self, limits, period_s):
        super().__init__(limits, period_s)
        self._max_speed = self._max_speed * 1.01


class ForgetsAcceleration(SetpointLimiter):
    def _advance(self, chosen):
        return super()._advance(1.001 * chosen)


@pytest.mark.parametrize("wrong", [BrakesTooLate, ForgetsTheStop, ForgetsVelocity, ForgetsAcceleration])
def test_the_adversaries_find_a_wrong_limiter(wrong) -> None:
    assert any(attack(wrong, seed, kind, 300) for seed in range(3) for kind in ADVERSARIES)


@settings(FEW, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(ADVERSARIES))
def test_every_stop_ends_inside_within_the_limits(seed: int, kind: str) -> None:
    """From any tick of any motion a stop brakes at full deceleration to a standstill, and then stands."""
    rng = np.random.default_rng(seed)
    limits = make_limits(joints=4, acceleration=rng.uniform(1, 100))
    limiter = SetpointLimiter(limits, PERIOD)
    start = rng.uniform(-2, 2, 4)
    targets = adversary(kind, rng, limits, PERIOD, int(rng.integers(1, 120)))
    positions = follow(limiter, start, targets)
    expected_ticks = int(np.ceil(round(np.abs(limiter._velocity).max() / (limits.acceleration[0] * PERIOD), 6)))
    stop = copy.deepcopy(limiter)
    tail = [stop.stop_step().position for _ in range(expected_ticks)]
    tail.append(stop.stop_step().position)
    assert np.abs(tail[-1] - ([*positions, *tail[:-1]])[-1]).max() < 1e-15  # one tick more is for rounding
    assert stop.at_rest
    assert breaches(limits, PERIOD, np.concatenate([positions, np.array(tail).reshape(-1, 4)])) == []
    assert np.array_equal(stop.stop_step().position, tail[-1])


def test_stopping_speed_is_exact() -> None:
    """The closed form agrees with braking tick by tick: the stop ends on the point, neither before nor beyond."""
    limits = make_limits(acceleration=30.0, joints=400)
    limiter = SetpointLimiter(limits, PERIOD)
    distance = np.tile(np.linspace(0, 1.5, 400), (3, 1))
    speed = limiter._approach_speed(distance)[0]
    way = np.zeros(400)
    while (speed > 0).any():
        way += speed * PERIOD
        speed = np.maximum(speed - 30.0 * PERIOD, 0.0)
    np.testing.assert_allclose(way, distance[0], atol=1e-13)


@pytest.mark.parametrize("hz", [0.2, 1.0, 3.0])
def test_a_target_within_the_limits_is_met_exactly(hz: float) -> None:
    """Eased-in sines that use up to 99% of the tightest limit: no delay, no change, no intervention."""
    limits = make_limits()
    time = np.arange(1, 800) * PERIOD
    shape = np.sin(2 * np.pi * hz * time) * np.minimum(time / 2, 1) ** 2
    whole = np.concatenate([[0, 0], shape])
    speed = np.abs(np.diff(whole)).max() / PERIOD
    change = np.abs(np.diff(whole, 2)).max() / PERIOD**2
    targets = 0.99 * shape * min(3.0 / speed, 40.0 / change, 2.0)
    limiter = SetpointLimiter(limits, PERIOD)
    limiter.start([0.0])
    for target in targets:
        step = limiter.step([target])
        assert abs(step.position[0] - target) < 1e-12
        assert not any(step.interventions[kind].any() for kind in KINDS)


@settings(FEW, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_target_that_keeps_the_limits_is_met_exactly(seed: int) -> None:
    """What one limiter made of noise keeps the limits, so a second one must pass it on unchanged."""
    rng = np.random.default_rng(seed)
    limits = make_limits(joints=6)
    start = rng.uniform(-2, 2, 6)
    kind = str(rng.choice(ADVERSARIES))
    feasible = follow(SetpointLimiter(limits, PERIOD), start, adversary(kind, rng, limits, PERIOD, 200))
    again = follow(SetpointLimiter(limits, PERIOD), start, feasible[1:])
    np.testing.assert_allclose(again, feasible, atol=1e-12)


@settings(FEW, max_examples=60)
@given(
    start=st.floats(-2, 2), goal=st.floats(-1.9, 1.9), velocity=st.floats(0.1, 10), acceleration=st.floats(1, 500)
)
def test_a_step_is_reached_without_overshoot_and_kept(start, goal, velocity, acceleration) -> None:
    limits = make_limits(velocity=velocity, acceleration=acceleration)
    way = abs(goal - start)
    shortest = way / velocity + 2 * velocity / acceleration + 2 * np.sqrt(way / acceleration)
    ticks = int(1.5 * shortest / PERIOD) + 5
    positions = follow(SetpointLimiter(limits, PERIOD), [start], np.full((ticks, 1), goal))[:, 0]
    remaining = (goal - positions) * np.sign(goal - start)
    assert remaining.min() > -1e-12
    assert (np.diff(positions) * np.sign(goal - start) > -1e-12).all()
    assert abs(positions[-1] - goal) < 1e-12


@pytest.mark.parametrize("speed", [0.3, 1.0, 2.5])
def test_an_even_motion_is_caught_up_without_overshoot(speed: float) -> None:
    """A target that jumps ahead and moves on evenly is joined from behind and then met exactly."""
    ticks = int(2.2 / speed / PERIOD)
    targets = -0.9 + speed * PERIOD * np.arange(ticks)
    positions = follow(SetpointLimiter(make_limits(), PERIOD), [-1.0], targets[:, None])[1:, 0]
    assert (positions - targets).max() < 1e-12
    assert np.abs(positions[-10:] - targets[-10:]).max() < 1e-12


def test_a_target_beyond_the_limits_makes_no_limit_cycle() -> None:
    """After a violent target has come to rest the set-point comes to rest on it."""
    time = np.arange(600) * PERIOD
    targets = np.where(time < 4, 1.5 * np.sin(2 * np.pi * 3 * time), 0.7)
    positions = follow(SetpointLimiter(make_limits(), PERIOD), [0.0], targets[:, None])[:, 0]
    assert (np.abs(positions[-60:] - 0.7) < 1e-12).all()


def test_interventions_name_the_limit() -> None:
    limits = make_limits(velocity=1.0, acceleration=10.0)
    limiter = SetpointLimiter(limits, PERIOD)

    def acted(step) -> set[str]:
        return {kind for kind in KINDS if step.interventions[kind][0]}

    limiter.start([0.0])
    assert acted(limiter.step([0.0005])) == set()
    limiter.start([0.0])
    assert acted(limiter.step([0.5])) == {"acceleration"}
    for _ in range(12):
        step = limiter.step([0.5])
    assert acted(step) == {"velocity"}
    limiter.start([2.0])
    assert acted(limiter.step([2.5])) == {"position"}
    # Towards the stop with the target moving on beyond it: at the end the stop decides.
    limiter.start([1.5])
    kinds = [acted(limiter.step([min(1.5 + 0.01 * k, 2.0)])) for k in range(55)]
    assert {"position"} in kinds and kinds[-1] <= {"position", "acceleration"}


def test_reported_velocity_and_acceleration_are_differences() -> None:
    rng = np.random.default_rng(3)
    limiter = SetpointLimiter(make_limits(joints=3), PERIOD)
    limiter.start(np.zeros(3))
    before, velocity = np.zeros(3), np.zeros(3)
    for target in rng.uniform(-2, 2, (50, 3)):
        step = limiter.step(target)
        np.testing.assert_allclose(step.velocity, (step.position - before) / PERIOD, atol=1e-12)
        np.testing.assert_allclose(step.acceleration, (step.velocity - velocity) / PERIOD, atol=1e-12)
        before, velocity = step.position, step.velocity


def test_results_are_the_callers_own() -> None:
    limiter = SetpointLimiter(make_limits(), PERIOD)
    first = limiter.start([0.0])
    first.position[:] = 9.0
    step = limiter.step([0.0])
    step.position[:] = 9.0
    step.velocity[:] = 9.0
    assert limiter.stop_step().position[0] == 0.0


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [0.0, 0.0]])
def test_a_bad_target_is_refused_and_changes_nothing(bad) -> None:
    limiter, untouched = (SetpointLimiter(make_limits(), PERIOD) for _ in range(2))
    for each in (limiter, untouched):
        each.start([0.0])
        each.step([1.0])
    with pytest.raises(ValueError, match="finite"):
        limiter.step(bad)
    assert np.array_equal(limiter.step([1.0]).position, untouched.step([1.0]).position)


def test_a_bad_start_and_bad_limits_are_refused_by_name() -> None:
    limiter = SetpointLimiter(make_limits(joints=2), PERIOD)
    with pytest.raises(ValueError, match="joint_1"):
        limiter.start([0.0, 2.1])
    with pytest.raises(ValueError, match="joint_0"):
        limiter.start([np.nan, 0.0])
    assert not limiter.started
    with pytest.raises(RuntimeError, match="start"):
        limiter.step([0.0, 0.0])
    with pytest.raises(ValueError, match="joint_0"):
        SetpointLimiter(make_limits(upper=np.inf), PERIOD)
    with pytest.raises(ValueError, match="period"):
        SetpointLimiter(make_limits(), 0.0)
