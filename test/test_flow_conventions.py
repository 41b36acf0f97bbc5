"""Reversed time (1 noise, 0 data) through the adapter: same network, same chunk, same loss."""

import pytest
import torch

from flow_policy_ros.flow.conventions import reversed_velocity
from flow_policy_ros.flow.losses import masked_mse
from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.solvers import make_solver


class Network(torch.nn.Module):
    """u(x (B, 4, 3), t (B,) or (B, 4)), nonlinear in both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 12))

    def forward(self, x, t):
        per_step = t if t.ndim == 2 else t[:, None].expand(-1, 4)
        return self.layers(torch.cat((x.flatten(1), torch.sin(3 * per_step)), dim=1)).view(x.shape)


@pytest.fixture
def network():
    return Network().double()


def pi0_sample(network, noise, steps):
    """The sampling loop of pi0 as its code has it: time starts at 1, dt is negative, stop when time passes 0."""
    dt = torch.tensor(-1.0 / steps, dtype=noise.dtype)
    x, time = noise, torch.tensor(1.0, dtype=noise.dtype)
    while time >= -dt / 2:
        x = x + dt * network(x, time.expand(len(noise)))
        time = time + dt
    return x


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_the_same_noise_gives_the_chunk_of_pi0s_own_loop(network, dtype, atol, steps):
    network = network.to(dtype)
    noise = torch.randn(5, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(steps))
    ours = make_solver("euler").solve(reversed_velocity(network), noise, steps)
    assert ours.nfe == steps
    torch.testing.assert_close(ours.x, pi0_sample(network, noise, steps), rtol=0, atol=atol)
    assert (make_solver("euler").solve(network, noise, steps).x - ours.x).abs().max() > 0.1, "without the adapter it differs"


@torch.no_grad()
@pytest.mark.parametrize("name", ["midpoint", "heun", "rk4"])
def test_the_other_methods_agree_with_themselves_run_backwards(network, name):
    """The same tableaux, written out with negative steps in reversed time."""
    noise = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, steps = noise, 6
    for k in range(steps):
        h, t = -1.0 / steps, 1.0 - k / steps

        def u(x, t):
            return network(x, torch.full((5,), t, dtype=torch.float64))

        k1 = u(x, t)
        if name == "midpoint":
            x = x + h * u(x + h / 2 * k1, t + h / 2)
        elif name == "heun":
            x = x + h / 2 * (k1 + u(x + h * k1, t + h))
        else:
            k2 = u(x + h / 2 * k1, t + h / 2)
            k3 = u(x + h / 2 * k2, t + h / 2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + u(x + h * k3, t + h))
    ours = make_solver(name).solve(reversed_velocity(network), noise, steps).x
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("per_step", [False, True])
def test_the_loss_and_its_gradient_are_the_same_in_both_conventions(network, per_step):
    generator = torch.Generator().manual_seed(2)
    noise, actions = (torch.randn(5, 4, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    reversed_time = torch.rand((5, 4) if per_step else (5,), dtype=torch.float64, generator=generator)

    x, target = straight_path(noise, actions, 1.0 - reversed_time)
    ours = masked_mse(reversed_velocity(network)(x, 1.0 - reversed_time), target, torch.ones(5, 4))
    gradient = torch.autograd.grad(ours, network.layers[0].weight)[0]

    tau = reversed_time[:, :, None] if per_step else reversed_time[:, None, None]
    theirs = ((network(tau * noise + (1 - tau) * actions, reversed_time) - (noise - actions)) ** 2).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12) and theirs.item() > 0.1
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, network.layers[0].weight)[0], rtol=1e-10, atol=1e-12)


def test_twice_reversed_is_the_network_itself(network):
    x, t = torch.randn(2, 4, 3, dtype=torch.float64), torch.tensor([0.25, 1.0], dtype=torch.float64)
    assert torch.equal(reversed_velocity(reversed_velocity(network))(x, t), network(x, t))


def test_shapes_are_checked(network):
    x = torch.zeros(2, 4, 3, dtype=torch.float64)
    for shape in ((), (1,), (4,), (2, 1), (2, 3)):
        with pytest.raises(ValueError, match=r"time has shape .*, expected \(2,\) or \(2, 4\)"):
            reversed_velocity(network)(x, torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"velocity has shape \(1, 4, 3\), expected \(2, 4, 3\)"):
        reversed_velocity(lambda x, t: torch.zeros(1, 4, 3))(x, torch.zeros(2))
