"""The flow maths beside torchcfm: same network, same batches, samples at least as near to the data; every mode covered."""

import pytest
import torch

from flow_policy_ros.evaluation import toy


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_toy_data_is_what_it_says():
    chunks, observation = toy.draw(4000, torch.Generator().manual_seed(0))
    for half in (0, 1):
        mine = chunks[observation.state[:, 0] == 2.0 * half - 1.0]
        assert toy.least_mode(mine, half) > 0.85 and toy.least_mode(mine, 1 - half) < 0.01
        three = mine[torch.cdist(mine.mean(dim=1), toy.centres()[half::2]).argmin(dim=1) != 2]
        assert toy.least_mode(three, half) == 0.0


@pytest.mark.parametrize("coupling", ["independent", "optimal_transport"])
def test_samples_are_no_farther_from_the_data_than_torchcfms(coupling):
    pytest.importorskip("torchcfm", reason="torchcfm, the opponent, is not installed")
    pytest.importorskip("torchdiffeq", reason="torchdiffeq, the opponent's solver, is not installed")
    row = toy.compare("residual_mlp", coupling, steps=120, seeds=1, samples=400)
    assert row.energy_ratio <= 1.05, row
    if coupling == "independent":
        assert row.least_mode_ours > 0.1, row
