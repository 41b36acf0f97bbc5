"""Training-time real-time chunking: how prefixes are drawn, and that a clean prefix stays exact under every solver."""

import math

import pytest
import torch

from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.prefix import CleanPrefix, draw_prefix, times_with_prefix
from flow_policy_ros.flow.solvers import SOLVERS, make_solver


def network(dtype=torch.float64):
    """v(x (B, 6, 2), t (B, 6)): every step's velocity depends on all steps and all times."""
    weights = torch.Generator().manual_seed(0)
    inner = (0.5 * torch.randn(18, 32, dtype=torch.float64, generator=weights)).to(dtype)
    outer = (0.15 * torch.randn(32, 12, dtype=torch.float64, generator=weights)).to(dtype)

    def velocity(x, t):
        assert t.shape == x.shape[:2], "time per step"
        return (torch.tanh(torch.cat((x.flatten(1), 3 * t), dim=1) @ inner) @ outer).view(x.shape)

    return velocity


def draw(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(3, 6, 2, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))


def test_the_delay_is_uniform_and_each_prefix_starts_at_the_first_step():
    prefix = draw_prefix(60_000, 8, 5, torch.Generator().manual_seed(0))
    assert prefix.shape == (60_000, 8) and prefix.dtype == torch.bool
    delay = prefix.sum(dim=1)
    assert torch.equal(prefix, torch.arange(8) < delay[:, None])
    counts = torch.bincount(delay, minlength=9)
    assert counts[6:].sum() == 0
    assert (counts[:6] / 60_000).tolist() == pytest.approx([1 / 6] * 6, abs=0.006)
    assert torch.equal(prefix, draw_prefix(60_000, 8, 5, torch.Generator().manual_seed(0)))
    assert not draw_prefix(100, 8, 0).any()


@pytest.mark.parametrize("longest", [-1, 8, 9])
def test_a_prefix_must_leave_a_step(longest):
    with pytest.raises(ValueError, match=f"longest prefix is {longest} steps, expected 0 to 7 with a horizon of 8"):
        draw_prefix(4, 8, longest)


def test_time_is_one_on_the_prefix_and_makes_it_clean():
    noise, actions = draw()
    t, prefix = torch.rand(3, dtype=torch.float64), torch.arange(6) < torch.tensor([[0], [2], [5]])
    times = times_with_prefix(t, prefix)
    assert times.dtype == torch.float64
    for b in range(3):
        for h in range(6):
            assert times[b, h] == (1.0 if prefix[b, h] else t[b])
    x, _ = straight_path(noise, actions, times)
    torch.testing.assert_close(x[prefix], actions[prefix])
    assert ((x - actions)[~prefix].abs() > 1e-6).all()


def test_times_and_prefix_never_broadcast():
    prefix = torch.zeros(3, 6, dtype=torch.bool)
    for shape in ((), (1,), (6,), (3, 1), (3, 6)):
        with pytest.raises(ValueError, match=r"time has shape .*, expected \(3,\)"):
            times_with_prefix(torch.zeros(shape), prefix)
    with pytest.raises(ValueError, match=r"prefix has shape \(6,\), expected \(B, H\)"):
        times_with_prefix(torch.zeros(3), prefix[0])
    with pytest.raises(ValueError, match=r"prefix is of type torch.float32, expected bool"):
        times_with_prefix(torch.zeros(3), prefix.float())


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("committed", [0, 2, 5])
def test_the_prefix_is_exact_for_every_solver_and_the_rest_follows_it(name, dtype, committed):
    noise, previous = draw(dtype)
    clean = CleanPrefix(network(dtype), previous, committed)
    result = make_solver(name).solve(clean, clean.start(noise), 40).x
    assert result.dtype == dtype
    assert torch.equal(result[:, :committed], previous[:, :committed])
    # The same initial value problem for the free steps alone, written out, by small classical Runge-Kutta steps.
    inner = network()

    def free(y, t):
        x = torch.cat((previous[:, :committed].double(), y), dim=1)
        times = torch.full((3, 6), t, dtype=torch.float64)
        times[:, :committed] = 1.0
        return inner(x, times)[:, committed:]

    y, h = noise[:, committed:].double(), 1 / 200
    for k in range(200):
        k1 = free(y, k * h)
        k2 = free(y + h / 2 * k1, k * h + h / 2)
        k3 = free(y + h / 2 * k2, k * h + h / 2)
        k4 = free(y + h * k3, k * h + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    torch.testing.assert_close(result[:, committed:].double(), y, rtol=0, atol=0.05 if name == "euler" else 1e-3)


def test_what_the_chunk_holds_on_the_prefix_or_the_previous_one_after_it_is_never_read():
    noise, previous = draw()
    spoiled = previous.clone()
    spoiled[:, 2:] = math.nan
    clean, same = CleanPrefix(network(), previous, 2), CleanPrefix(network(), spoiled, 2)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    moved = noise.clone()
    moved[:, :2] = 1e6
    assert torch.equal(clean(noise, t), same(moved, t))
    assert torch.equal(clean.start(noise), same.start(moved))
    assert (clean(noise, t)[:, :2] == 0).all() and (clean(noise, t)[:, 2:] != 0).all()
    per_step = t[:, None].expand(3, 6)
    assert torch.equal(clean(noise, per_step), clean(noise, t))


def test_a_prefix_that_changes_changes_the_rest():
    noise, previous = draw()
    t = torch.full((3,), 0.5, dtype=torch.float64)
    other = CleanPrefix(network(), previous + 1, 2)(noise, t)
    assert ((other - CleanPrefix(network(), previous, 2)(noise, t))[:, 2:].abs() > 1e-4).all()


def test_bad_input_is_named():
    noise, previous = draw()
    for committed in (-1, 6, 7):
        with pytest.raises(ValueError, match=f"committed is {committed} steps, expected 0 to 5 with a horizon of 6"):
            CleanPrefix(network(), previous, committed)
    with pytest.raises(ValueError, match=r"previous has shape \(6, 2\), expected \(B, H, A\)"):
        CleanPrefix(network(), previous[0], 2)
    clean = CleanPrefix(network(), previous, 2)
    with pytest.raises(ValueError, match=r"x0 has shape \(1, 6, 2\), expected \(3, 6, 2\)"):
        clean.start(noise[:1])
    with pytest.raises(ValueError, match=r"x has shape \(3, 5, 2\), expected \(3, 6, 2\)"):
        clean(noise[:, :5], torch.zeros(3))
    with pytest.raises(ValueError, match=r"time has shape \(1,\), expected \(3,\) or \(3, 6\)"):
        clean(noise, torch.zeros(1))
    previous[1, 1, 0] = math.nan
    with pytest.raises(ValueError, match="previous holds NaN or Inf in its 2 committed steps"):
        CleanPrefix(network(), previous, 2)
