"""The path through a chunk's points: where it passes, how smooth it is, where it stays."""

from __future__ import annotations

import numpy as np
import pytest

from flow_policy_ros.safety.spline import Path, fit

DT = 0.02


def points(count: int = 20, joints: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, joints))


@pytest.mark.parametrize("count", [2, 3, 4, 16, 64])
def test_without_smoothing_it_goes_through_every_point(count: int) -> None:
    given = points(count)
    path = fit(given, DT, 0.0)
    assert path.duration == pytest.approx((count - 1) * DT)
    np.testing.assert_allclose(path.evaluate(np.arange(count) * DT), given, atol=1e-5)


def test_position_and_both_derivatives_are_continuous() -> None:
    path = fit(points(), DT, 0.01)
    knots = np.arange(1, 19) * DT
    for derivative, atol in ((0, 1e-9), (1, 1e-6), (2, 1e-3)):
        left, right = (path.evaluate(knots + side, derivative) for side in (-1e-12, 1e-12))
        np.testing.assert_allclose(left, right, atol=atol)
    jerk = np.diff(path.evaluate(np.array([0.9, 0.99, 1.01, 1.1]) * DT, 2), axis=0)
    assert np.abs(jerk[0] / 0.09 - jerk[2] / 0.09).max() > 1.0  # and no more than these: the third derivative jumps


@pytest.mark.parametrize("derivative", [1, 2])
def test_derivatives_are_those_of_the_positions(derivative: int) -> None:
    path = fit(points(), DT, 0.0)
    times = np.linspace(0.1, 17.9, 50) * DT
    step = 1e-6
    below, above = (path.evaluate(times + s, derivative - 1) for s in (-step, step))
    size = 1.0 / DT**derivative
    np.testing.assert_allclose(path.evaluate(times, derivative) / size, (above - below) / (2 * step) / size, atol=1e-4)
    at_points = path.at_points(derivative)[1:-1]
    np.testing.assert_allclose(at_points / size, path.evaluate(np.arange(1, 19) * DT, derivative) / size, atol=1e-12)


def test_outside_its_time_it_stays_at_its_ends() -> None:
    path = fit(points(), DT, 0.0)
    ends = path.evaluate(np.array([-5.0, 0.0, path.duration, 99.0]))
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[2], ends[3])


def test_clipped_it_lies_within_the_range_everywhere() -> None:
    """Between points, too, where the unclipped path swings beyond them."""
    given = np.where(np.arange(24)[:, None] % 6 < 3, 1.0, -1.0)
    path = fit(given, DT, 0.0)
    times = np.linspace(0.0, path.duration, 2000)
    lower, upper = np.array([-1.0]), np.array([1.0])
    assert np.abs(path.evaluate(times)).max() > 1.05
    clipped = path.clipped(lower, upper).evaluate(times)
    assert clipped.min() >= -1.0 - 1e-15 and clipped.max() <= 1.0 + 1e-15


@pytest.mark.parametrize("smoothing_s", [0.01, 0.05, 1.0, 1e3, 1e9])
@pytest.mark.parametrize("count", [4, 16, 64])
def test_an_even_acceleration_passes_unchanged_however_strong_the_smoothing(smoothing_s: float, count: int) -> None:
    time = np.arange(count) * DT
    given = np.stack([0.3 + 0.5 * time - 0.7 * time**2, 2.0 * time**2], axis=1)
    np.testing.assert_allclose(fit(given, DT, smoothing_s).evaluate(time), given, atol=1e-6)


def test_smoothing_halves_motion_of_its_period_and_keeps_slower_motion() -> None:
    time = np.arange(400) * DT
    smoothing_s = 0.08
    middle = slice(100, 300)

    def kept(period: float) -> float:
        given = np.sin(2 * np.pi * time / period)[:, None]
        return float(np.std(fit(given, DT, smoothing_s).evaluate(time)[middle]) / np.std(given[middle]))

    assert kept(2 * np.pi * smoothing_s) == pytest.approx(0.5, abs=0.05)
    assert kept(4 * np.pi * smoothing_s) > 0.95
    assert kept(np.pi * smoothing_s) < 0.05


def test_joints_do_not_mix() -> None:
    given = points()
    other = given.copy()
    other[:, 1] += 5.0
    times = np.linspace(0, 0.38, 30)
    difference = fit(other, DT, 0.05).evaluate(times) - fit(given, DT, 0.05).evaluate(times)
    assert np.abs(difference[:, [0, 2]]).max() == 0.0


def test_a_path_of_equal_control_points_stands_still() -> None:
    path = Path(np.full((6, 2), 0.4), DT)
    times = np.linspace(-1, 1, 50)
    np.testing.assert_allclose(path.evaluate(times), 0.4, atol=1e-15)
    assert np.abs(path.evaluate(times, 1)).max() < 1e-12 and np.abs(path.evaluate(times, 2)).max() < 1e-10
