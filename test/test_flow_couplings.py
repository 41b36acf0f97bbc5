"""Couplings of noise and actions: the assignment is exact, masks count, and what it costs a conditional model."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from flow_policy_ros.flow.couplings import COUPLINGS, make_coupling


def draw(batch, seed, horizon=3, action=2):
    generator = torch.Generator().manual_seed(seed)
    noise, actions = (torch.randn(batch, horizon, action, generator=generator) for _ in range(2))
    mask = torch.rand(batch, horizon, action, generator=generator) < 0.7
    return noise, actions, mask


def total(noise, actions, mask):
    return sum(((noise[b] - actions[b]) ** 2)[mask[b]].sum().item() for b in range(len(noise)))


def order_of(paired, noise):
    """Which row of ``noise`` each row of ``paired`` is; each exactly once."""
    rows = [[i for i in range(len(noise)) if torch.equal(row, noise[i])] for row in paired]
    assert all(len(found) == 1 for found in rows)
    order = [found[0] for found in rows]
    assert sorted(order) == list(range(len(noise)))
    return order


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_optimal_transport_is_the_best_of_all_permutations(batch, seed):
    noise, actions, mask = draw(batch, seed)
    paired = make_coupling("optimal_transport").pair(noise, actions, mask)
    best = min(itertools.permutations(range(batch)), key=lambda order: total(noise[list(order)], actions, mask))
    assert order_of(paired, noise) == list(best)


@pytest.mark.parametrize("whole_steps", [True, False])
def test_optimal_transport_agrees_with_scipy_on_a_matrix_of_its_own(whole_steps):
    noise, actions, mask = draw(40, seed=11, horizon=8, action=5)
    mask = mask[:, :, 0] if whole_steps else mask
    full = (mask[:, :, None].expand(40, 8, 5) if whole_steps else mask).numpy()
    cost = np.zeros((40, 40))
    for i in range(40):
        for j in range(40):
            cost[i, j] = ((noise[j].numpy().astype(float) - actions[i].numpy()) ** 2)[full[i]].sum()
    rows, columns = linear_sum_assignment(cost)
    paired = make_coupling("optimal_transport").pair(noise, actions, mask)
    assert order_of(paired, noise) == columns.tolist()
    assert cost[rows, columns].sum() < 0.9 * cost.trace()


def test_optimal_transport_agrees_with_torchcfm():
    """Its plan between 16 and 16 samples is a permutation: the one with the same total cost."""
    sampler = pytest.importorskip("torchcfm.optimal_transport").OTPlanSampler(method="exact")
    noise, actions, _ = draw(16, seed=5)
    plan = sampler.get_map(noise, actions)
    paired = make_coupling("optimal_transport").pair(noise, actions, torch.ones(16, 3))
    order = order_of(paired, noise)
    assert plan[order, range(16)] == pytest.approx([1 / 16] * 16)


def test_padding_may_hold_anything_and_changes_nothing():
    noise, actions, mask = draw(12, seed=3)
    coupling = make_coupling("optimal_transport")
    expected = coupling.pair(noise, actions, mask)
    for filler in (np.nan, np.inf, 1e30):
        assert torch.equal(coupling.pair(noise, torch.where(mask, actions, filler), mask), expected)
    assert not torch.equal(coupling.pair(noise, actions, torch.ones(12, 3)), expected), "the mask does count"


def test_independent_leaves_the_noise_alone():
    noise, actions, mask = draw(6, seed=0)
    assert make_coupling("independent").pair(noise, actions, mask) is noise


def test_noise_given_the_observation_is_no_longer_normal_under_optimal_transport():
    """Two observations, each with its own action: -2 or 2. Given the observation, training noise is then half of a normal,
    with mean 0.8 instead of 0, while sampling draws all of it."""
    noise = torch.randn(256, 1, 1, generator=torch.Generator().manual_seed(0))
    observation = torch.arange(256) % 2 * 2.0 - 1.0
    actions = 2 * observation[:, None, None]
    for name, mean in (("independent", 0.0), ("optimal_transport", 0.8)):
        paired = make_coupling(name).pair(noise, actions, torch.ones(256, 1))
        assert paired[observation > 0].mean().item() == pytest.approx(mean, abs=0.2)
        assert paired[observation < 0].mean().item() == pytest.approx(-mean, abs=0.2)
        assert paired.std().item() == pytest.approx(1.0, abs=0.1), "over the whole batch it stays normal"


@pytest.mark.parametrize("name", list(COUPLINGS))
def test_bad_input_is_named(name):
    coupling = make_coupling(name)
    noise, actions, mask = draw(4, seed=0)
    with pytest.raises(ValueError, match=r"noise has shape \(1, 3, 2\), expected \(4, 3, 2\)"):
        coupling.pair(noise[:1], actions, mask)
    with pytest.raises(ValueError, match=r"mask has shape \(4, 1\), expected \(4, 3\)"):
        coupling.pair(noise, actions, torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"mask has shape \(4, 3, 1\), expected \(4, 3, 2\)"):
        coupling.pair(noise, actions, torch.ones(4, 3, 1))
    with pytest.raises(ValueError, match=r"actions have shape \(4, 6\), expected \(B, H, A\)"):
        coupling.pair(noise.flatten(1), actions.flatten(1), mask)


def test_not_a_number_where_it_counts_is_named():
    noise, actions, _ = draw(4, seed=0)
    for field, values in (("noise", (noise.clone(), actions)), ("actions", (noise, actions.clone()))):
        values[0 if field == "noise" else 1][1, 0, 0] = np.nan
        with pytest.raises(ValueError, match=f"{field} hold NaN or Inf where they are not masked"):
            make_coupling("optimal_transport").pair(*values, torch.ones(4, 3))


def test_an_unknown_coupling_is_named():
    with pytest.raises(ValueError, match="unknown coupling 'sinkhorn'; known: independent, optimal_transport"):
        make_coupling("sinkhorn")
