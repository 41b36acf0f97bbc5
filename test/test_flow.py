"""The maths: path, loss, times, solvers."""

import math

import pytest
import torch

from flow_policy_ros.flow.losses import masked_mse
from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.solvers import Euler, Midpoint, make_solver
from flow_policy_ros.flow.time_samplers import make_time_sampler


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


def test_time_samplers_have_their_distribution():
    generator = torch.Generator().manual_seed(0)
    uniform = make_time_sampler("uniform").sample(200_000, generator)
    beta = make_time_sampler("beta").sample(200_000, generator)
    assert uniform.shape == beta.shape == (200_000,)
    assert uniform.mean().item() == pytest.approx(0.5, abs=5e-3)
    # s ~ Beta(1.5, 1) has mean 0.6 and variance 0.6 * 0.4 / 3.5.
    assert beta.mean().item() == pytest.approx(1 - (0.999 * 0.6 + 0.001), abs=3e-3)
    assert beta.var().item() == pytest.approx(0.999**2 * 0.24 / 3.5, rel=0.02)
    assert beta.min() >= 0 and beta.max() <= 1 - 0.001 + 1e-6
    with pytest.raises(ValueError, match="unknown time sampler 'cosine'; known: uniform, beta"):
        make_time_sampler("cosine")


def test_euler_is_exact_on_a_constant_velocity():
    x0, v = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for steps in (1, 7):
        result = Euler().solve(lambda x, t: v, x0, steps)
        assert result.nfe == steps
        torch.testing.assert_close(result.x, x0 + v)


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Midpoint(), 2)])
def test_order_of_convergence(solver, order):
    """dx/dt = x + t from x = 1 has the solution 2 exp(t) - t - 1."""
    x0 = torch.ones(1, 1, 1, dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64):
        result = solver.solve(lambda x, t: x + t[:, None, None], x0, steps)
        assert result.nfe == order * steps
        errors.append(abs(result.x.item() - (2 * math.e - 2)))
    measured = [math.log2(errors[k] / errors[k + 1]) for k in range(2)]
    assert all(abs(value - order) < 0.15 for value in measured), measured


def test_solver_passes_its_time_grid():
    times = []

    def velocity(x, t):
        assert t.shape == (2,)
        times.append(t[0].item())
        return torch.zeros_like(x)

    make_solver("midpoint").solve(velocity, torch.zeros(2, 1, 1), 2)
    assert times == [0.0, 0.25, 0.5, 0.75]


def test_solver_refuses_bad_input():
    with pytest.raises(ValueError, match=r"velocity has shape \(1, 1, 1\), expected \(2, 1, 1\)"):
        Euler().solve(lambda x, t: torch.zeros(1, 1, 1), torch.zeros(2, 1, 1), 1)
    with pytest.raises(ValueError, match="steps is 0"):
        Euler().solve(lambda x, t: x, torch.zeros(2, 1, 1), 0)
    with pytest.raises(ValueError, match="x0 has shape"):
        Euler().solve(lambda x, t: x, torch.zeros(2, 1), 1)
    with pytest.raises(ValueError, match="unknown solver 'rk9'; known: euler, midpoint"):
        make_solver("rk9")
