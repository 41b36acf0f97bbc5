"""The maths: path and loss."""

import math

import pytest
import torch

from flow_policy_ros.flow.losses import masked_mse
from flow_policy_ros.flow.paths import straight_path


def test_path_runs_from_noise_to_data():
    noise, actions = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    x, u = straight_path(noise, actions, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(x[0], noise[0])
    torch.testing.assert_close(x[1], 0.75 * noise[1] + 0.25 * actions[1])
    torch.testing.assert_close(x[2], actions[2])
    torch.testing.assert_close(u, actions - noise)


def test_path_takes_a_time_per_step():
    noise, actions = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    t = torch.rand(3, 4)
    x, _ = straight_path(noise, actions, t)
    torch.testing.assert_close(x[2, 1], (1 - t[2, 1]) * noise[2, 1] + t[2, 1] * actions[2, 1])


@pytest.mark.parametrize("t_shape", [(), (1,), (4,), (3, 1), (3, 4, 2)])
def test_path_never_broadcasts(t_shape):
    with pytest.raises(ValueError, match=r"time has shape .*, expected \(3,\) or \(3, 4\)"):
        straight_path(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), torch.zeros(t_shape))
    with pytest.raises(ValueError, match=r"noise has shape \(1, 4, 2\), expected \(3, 4, 2\)"):
        straight_path(torch.zeros(1, 4, 2), torch.zeros(3, 4, 2), torch.zeros(3))


def test_masked_loss_divides_by_the_mask_and_ignores_what_is_padded():
    target = torch.zeros(2, 2, 3)
    predicted = torch.full((2, 2, 3), 2.0)
    predicted[1] = math.nan
    mask = torch.tensor([[True, False], [False, False]])
    assert masked_mse(predicted, target, mask).item() == 4.0
    dims = torch.zeros(2, 2, 3)
    dims[0, 1, 0] = 1
    predicted[0, 1, 0] = 3.0
    assert masked_mse(predicted, target, dims).item() == 9.0
    assert masked_mse(predicted, target, torch.zeros(2, 2)).item() == 0.0


def test_masked_loss_passes_no_gradient_to_what_is_padded():
    predicted = torch.ones(1, 2, 1, requires_grad=True)
    masked_mse(predicted, torch.zeros(1, 2, 1), torch.tensor([[1, 0]])).backward()
    assert predicted.grad is not None
    assert predicted.grad.flatten().tolist() == [2.0, 0.0]


def test_loss_shapes_are_checked():
    with pytest.raises(ValueError, match=r"predicted has shape \(1, 2, 3\), expected \(2, 2, 3\)"):
        masked_mse(torch.zeros(1, 2, 3), torch.zeros(2, 2, 3), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1\), expected \(2, 2\)"):
        masked_mse(torch.zeros(2, 2, 3), torch.zeros(2, 2, 3), torch.ones(2, 1))
