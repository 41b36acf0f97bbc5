"""The temporal U-Net: its convolutions for few samples, and its lengths."""

import pytest
import torch
from models_support import awake
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.unet1d import _Convolution


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("length", [1, 2, 5, 16])
@pytest.mark.parametrize("batch", [1, _Convolution.few, _Convolution.few + 1])
def test_convolution_is_that_of_torch(kernel, stride, length, batch):
    mine = _Convolution(3, 4, kernel, stride=stride, padding=kernel // 2)
    reference = nn.Conv1d(3, 4, kernel, stride=stride, padding=kernel // 2)
    reference.load_state_dict(mine.state_dict())
    h = torch.randn(batch, 3, length)
    torch.testing.assert_close(mine(h), reference(h))


@pytest.mark.parametrize("horizon", [1, 2, 5, 16, 17])
def test_lengths_halve_rounded_up_and_return(horizon):
    network = awake("unet1d", NetworkShape(state=2, horizon=horizon, action=3))
    lengths = []
    for level in (*network.down, network.middle, *network.up):
        level.register_forward_hook(lambda _, __, h: lengths.append(h.shape[2]))
    network.velocity(torch.randn(2, horizon, 3), torch.rand(2), network.condition(Conditioning.of(torch.zeros(2, 2))))
    half = (horizon + 1) // 2
    quarter = (half + 1) // 2
    assert lengths == [horizon, half, quarter, quarter, half, horizon]


def test_the_blocks_see_the_earliest_time():
    """Clean steps beside noisy ones do not hide the noise: only the steps' own channel tells them apart."""
    network = awake("unet1d", NetworkShape(state=2, horizon=4, action=3))
    seen = []
    network.time.register_forward_hook(lambda _, t, __: seen.append(t[0].tolist()))
    cache = network.condition(Conditioning.of(torch.zeros(1, 2)))
    network.velocity(torch.randn(1, 4, 3), torch.tensor([[1.0, 1.0, 0.25, 0.5]]), cache)
    network.velocity(torch.randn(1, 4, 3), torch.tensor([0.75]), cache)
    assert seen == [[0.25], [0.75]]
