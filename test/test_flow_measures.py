"""Straightness of a flow and distances between sample sets, against closed forms and against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance as scipy_energy
from scipy.stats import wasserstein_distance

from flow_policy_ros.flow.metrics import energy_distance, sliced_wasserstein
from flow_policy_ros.flow.reflow import straightness
from flow_policy_ros.flow.solvers import make_solver


def draw(count, dims, seed, shift=0.0):
    return torch.randn(count, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


# ---- straightness ----


@pytest.mark.parametrize("angle", [0.5, 2.0, math.pi])
def test_a_rotation_is_as_bent_as_geometry_says(angle):
    """|v| = r angle and |x1 - x0| = 2 r sin(angle / 2), so S / |x1 - x0|^2 = (angle / 2 / sin(angle / 2))^2 - 1, for any r."""
    x0 = draw(5, 2, seed=0).view(5, 1, 2)

    def turn(x, t):
        return angle * torch.stack((-x[:, :, 1], x[:, :, 0]), dim=2)

    exact = (angle / 2 / math.sin(angle / 2)) ** 2 - 1
    values = straightness(turn, x0, 400)
    assert values.shape == (5,)
    assert values.tolist() == pytest.approx([exact] * 5, rel=1e-3)


def test_straight_is_zero_also_at_uneven_direction_and_size():
    v = draw(4, 6, seed=1).view(4, 3, 2)
    assert straightness(lambda x, t: v, draw(4, 6, seed=2).view(4, 3, 2), 10).max().item() < 1e-28
    assert (straightness(lambda x, t: torch.zeros_like(x), v, 10) == 0).all(), "at rest"


def test_uneven_speed_on_a_line_is_not_straight():
    """v = 2 t: S is the integral of (2t - 1)^2 = 1/3; with n steps (n + 1) / (3 (n - 1)). Whatever the sample's scale."""
    scale = torch.tensor([1.0, -5.0, 1e-3], dtype=torch.float64)[:, None, None]
    for n in (2, 5, 100):
        values = straightness(lambda x, t: 2 * t[:, None, None] * scale, torch.zeros(3, 1, 1, dtype=torch.float64), n)
        assert values.tolist() == pytest.approx([(n + 1) / (3 * (n - 1))] * 3, rel=1e-10)


def test_a_flow_that_returns_is_infinitely_bent():
    """Forth in the first half and back in the second, by numbers that binary floats hold exactly."""
    x0 = torch.zeros(1, 1, 1, dtype=torch.float64)
    assert straightness(lambda x, t: torch.where(t < 0.5, 1.0, -1.0)[:, None, None].double(), x0, 8).item() == math.inf


def test_a_straight_flow_needs_one_step_and_a_bent_one_more():
    """What the number is for: the error of a single Euler step grows with it."""
    x0 = draw(3, 2, seed=0).view(3, 1, 2)
    bends, errors = [], []
    for angle in (0.1, 0.5, 1.5):

        def turn(x, t, angle=angle):
            return angle * torch.stack((-x[:, :, 1], x[:, :, 0]), dim=2)

        bends.append(straightness(turn, x0, 200).mean().item())
        full, one = make_solver("rk4").solve(turn, x0, 50).x, make_solver("euler").solve(turn, x0, 1).x
        errors.append(((one - full).norm() / (full - x0).norm()).item())
    assert bends == sorted(bends) and errors == sorted(errors) and errors[-1] > 5 * errors[0]


def test_straightness_refuses_bad_input():
    with pytest.raises(ValueError, match="steps is 1, expected at least 2"):
        straightness(lambda x, t: x, torch.zeros(2, 1, 1), 1)
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 1\)"):
        straightness(lambda x, t: x, torch.zeros(2, 1), 4)
    with pytest.raises(ValueError, match=r"velocity has shape \(1, 1, 1\), expected \(2, 1, 1\)"):
        straightness(lambda x, t: x[:1], torch.zeros(2, 1, 1), 4)


# ---- energy distance ----


def test_energy_distance_is_scipys_squared_in_one_dimension():
    a, b = draw(50, 1, seed=0), draw(31, 1, seed=1, shift=0.4)
    assert energy_distance(a, b) == pytest.approx(scipy_energy(a[:, 0], b[:, 0]) ** 2, rel=1e-9)


def test_energy_distance_by_pairs_in_several_dimensions():
    a, b = draw(12, 5, seed=0), draw(9, 5, seed=1, shift=0.3)

    def mean(x, y):
        return np.mean([[np.linalg.norm(p - q) for q in y.numpy()] for p in x.numpy()])

    assert energy_distance(a, b) == pytest.approx(2 * mean(a, b) - mean(a, a) - mean(b, b), rel=1e-12)
    assert energy_distance(a, b) == pytest.approx(energy_distance(b, a), rel=1e-12)
    assert energy_distance(a.float(), b.float()) == pytest.approx(energy_distance(a, b), rel=1e-5)


def test_energy_distance_sees_a_lost_mode_that_mean_and_spread_may_hide():
    sign = (torch.arange(600) % 2 * 2 - 1)[:, None]
    two, again = (0.1 * draw(600, 3, seed=s) + sign for s in (0, 1))
    normal = draw(600, 3, seed=2) * two.std(dim=0)
    same = energy_distance(two, again)
    assert same < 0.01 and energy_distance(two, normal) > 10 * same
    assert energy_distance(two, again[sign[:, 0] > 0]) > 50 * same
    assert energy_distance(two, two.flip(0)) < 1e-12


# ---- sliced Wasserstein ----


def test_sliced_wasserstein_of_a_shift():
    """A set and its copy moved by c: along a direction the distance is |c . direction|, in mean square |c|^2 / D."""
    a, c = draw(40, 3, seed=0), torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    value = sliced_wasserstein(a, a + c, 20_000, torch.Generator().manual_seed(0))
    assert value == pytest.approx(3 / math.sqrt(3), rel=0.02)
    assert sliced_wasserstein(a, a.flip(0), 50, torch.Generator().manual_seed(0)) < 1e-12


def test_sliced_wasserstein_in_one_dimension_is_the_distance_of_quantiles():
    """Sets of 6 and 4, made equally many by repeating each to 12; all directions of a line are alike."""
    a, b = draw(6, 1, seed=0), draw(4, 1, seed=1, shift=1.0)
    twelve_a, twelve_b = (np.repeat(np.sort(x[:, 0].numpy()), 12 // len(x)) for x in (a, b))
    exact = math.sqrt(np.mean((twelve_a - twelve_b) ** 2))
    assert sliced_wasserstein(a, b, 3, torch.Generator().manual_seed(0)) == pytest.approx(exact, rel=1e-12)
    assert exact >= wasserstein_distance(a[:, 0], b[:, 0])


def test_sliced_wasserstein_agrees_with_pot():
    ot = pytest.importorskip("ot")
    a, b = draw(30, 4, seed=0), draw(45, 4, seed=1, shift=0.5)
    directions = torch.randn(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    directions = (directions / directions.norm(dim=0)).numpy()
    theirs = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), projections=directions, p=2)
    assert sliced_wasserstein(a, b, 64, torch.Generator().manual_seed(7)) == pytest.approx(float(theirs), rel=1e-9)


def test_directions_come_from_the_generator_alone():
    a, b = draw(30, 4, seed=0), draw(45, 4, seed=1, shift=0.5)
    values = [sliced_wasserstein(a, b, 8, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("distance", [energy_distance, lambda a, b: sliced_wasserstein(a, b, 8)])
def test_distances_refuse_bad_input(distance):
    a = torch.zeros(4, 3)
    for b, message in (
        (torch.zeros(4, 2), "a has 3 dimensions and b 2, expected the same"),
        (torch.zeros(3), r"b has shape \(3,\), expected \(N, D\)"),
        (torch.zeros(0, 3), r"b has shape \(0, 3\), expected \(N, D\) with at least one sample"),
        (torch.full((4, 3), math.nan), "b holds NaN or Inf"),
    ):
        with pytest.raises(ValueError, match=message):
            distance(a, b)
    with pytest.raises(ValueError, match="projections is 0, expected at least 1"):
        sliced_wasserstein(a, a, 0)
