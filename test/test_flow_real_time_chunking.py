"""Real-time chunking: the exact vector-Jacobian product, the bounded factor, and what guidance achieves."""

import math

import pytest
import torch

from flow_policy_ros.flow.guidance import guided_velocity
from flow_policy_ros.flow.real_time_chunking import JacobianFreeGuidance, RealTimeGuidance, rtc_weights
from flow_policy_ros.flow.solvers import SOLVERS, make_solver

both = pytest.mark.parametrize("guidance", [RealTimeGuidance, JacobianFreeGuidance])


class Network(torch.nn.Module):
    """v(x (B, 4, 2), t (B,)), nonlinear, mixing all entries of a sample; its parameters ask for gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(9, 24), torch.nn.Tanh(), torch.nn.Linear(24, 8)).double()

    def forward(self, x, t):
        return self.layers(torch.cat((x.flatten(1), t[:, None]), dim=1)).view(x.shape)


def draw(batch=5):
    generator = torch.Generator().manual_seed(1)
    x, previous = (torch.randn(batch, 4, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    return x, previous, torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=torch.float64)


T = torch.tensor([0.0, 0.1, 0.5, 0.93, 1.0], dtype=torch.float64)


# ---- the formula ----


def by_the_formula(network, x, t, previous, weights, beta, jacobian):
    """v + min(beta, ...) g for one sample, in plain numbers, with the explicit Jacobian of x -> x_hat."""
    def estimate(flat):
        at = flat.view(1, 4, 2)
        return (at + (1 - t) * network(at, torch.full((1,), t, dtype=torch.float64))).flatten()

    v = network(x[None], torch.full((1,), t, dtype=torch.float64)).detach().flatten()
    e = ((previous - estimate(x.flatten()).detach().view(4, 2)) * weights[:, None]).flatten()
    g = torch.func.jacrev(estimate)(x.flatten()).detach().T @ e if jacobian else e
    factor = beta if t in (0.0, 1.0) else min(beta, (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2)
    return (v + factor * g).view(4, 2)


@both
@pytest.mark.parametrize("beta", [0.0, 2.5, 5.0, 100.0])
def test_guided_velocity_is_the_published_formula(guidance, beta):
    """Every sample at its own time, both ends included; against the explicit Jacobian in float64."""
    network, (x, previous, weights) = Network(), draw()
    v = guidance(network, previous, weights, beta)(x, T)
    exact = guidance is RealTimeGuidance
    expected = [by_the_formula(network, x[k], T[k].item(), previous[k], weights, beta, exact) for k in range(5)]
    torch.testing.assert_close(v, torch.stack(expected), rtol=0, atol=1e-10)


def test_the_two_variants_differ_where_the_jacobian_is_not_the_identity():
    network, (x, previous, weights) = Network(), draw()
    exact, free = (guidance(network, previous, weights)(x, T) for guidance in (RealTimeGuidance, JacobianFreeGuidance))
    assert (exact - free)[:4].abs().amax(dim=(1, 2)).min() > 1e-2
    torch.testing.assert_close(exact[4], free[4], msg="at t = 1 the estimate is x itself")
    # What is not held moves too, through the network, and only in the exact variant.
    plain = network(x, T).detach()
    assert ((exact - plain)[:4, 3].abs() > 1e-4).all()
    torch.testing.assert_close(free[:, 3], plain[:, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [5.0, 1e4])
def test_the_factor_is_bounded_and_finite_over_all_times(dtype, beta):
    """With a velocity of 0 the guided one is factor * weights * (previous - x), for g = e. Time may round to above 1."""
    ends = torch.tensor([0.0, 1e-38, 1e-20, 1e-7, 1e-3, 0.999, 1 - 6e-8, 1.0, 1 + 2e-7])
    times = torch.cat((ends, torch.linspace(0.01, 0.99, 99))).to(dtype)
    x = torch.zeros(len(times), 1, 1, dtype=dtype)
    guided = JacobianFreeGuidance(lambda x, t: torch.zeros_like(x), x + 1, torch.ones(1), beta)(x, times)[:, 0, 0]
    for t, factor in zip(times.tolist(), guided.tolist(), strict=True):
        exact = beta if t == 0 or t >= 1 else min(beta, (t**2 + (1 - t) ** 2) / (t * (1 - t)))
        assert factor == pytest.approx(exact, rel=1e-4 if dtype == torch.float32 else 1e-9)
    assert guided.min().item() == pytest.approx(2.0) and guided.max().item() == beta


@both
def test_weight_zero_is_no_guidance_and_the_previous_chunk_is_not_read_there(guidance):
    network, (x, previous, weights) = Network(), draw()
    plain = network(x, T).detach()
    assert torch.equal(guidance(network, previous, torch.zeros(4))(x, T), plain)
    assert torch.equal(guidance(network, previous * math.nan, torch.zeros(4))(x, T), plain)
    tail = previous.clone()
    tail[:, 3] = math.nan
    assert torch.equal(guidance(network, tail, weights)(x, T), guidance(network, previous, weights)(x, T))


def test_dimensions_that_are_padded_with_zeros_stay_zero():
    network, (x, previous, weights) = Network(), draw()
    real = torch.tensor([True, False])

    def masked(x, t):
        return torch.where(real, network(torch.where(real, x, 0.0), t), 0.0)

    x, previous = torch.where(real, x, 0.0), torch.where(real, previous, 0.0)
    result = make_solver("euler").solve(RealTimeGuidance(masked, previous, weights), x, 10).x
    assert (result[:, :, 1] == 0).all() and (result[:, :, 0] != 0).all()


# ---- with and without gradients ----


def test_exact_guidance_works_under_no_grad_and_leaves_nothing_behind():
    network, (x, previous, weights) = Network(), draw()
    guided = RealTimeGuidance(network, previous, weights)
    free = guided(x, T)
    with torch.no_grad():
        held = guided(x, T)
        assert not torch.is_grad_enabled()
    assert torch.equal(free, held)
    assert not free.requires_grad and not held.requires_grad and not x.requires_grad
    assert all(p.grad is None for p in network.parameters())
    with torch.no_grad():
        frozen = network.requires_grad_(False)
        assert torch.equal(RealTimeGuidance(frozen, previous, weights)(x, T), held)


def test_exact_guidance_refuses_inference_mode_by_name_and_the_other_does_not():
    network, (x, previous, weights) = Network(), draw()
    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"RealTimeGuidance .* torch.inference_mode forbids; sample under torch.no_grad"):
            RealTimeGuidance(network, previous, weights)(x, T)
        free = JacobianFreeGuidance(network, previous, weights)(x, T)
        made_there = x + 0
    torch.testing.assert_close(free, JacobianFreeGuidance(network, previous, weights)(x, T))
    with pytest.raises(ValueError, match=r"sample under torch\.no_grad"):
        RealTimeGuidance(network, previous, weights)(made_there, T)


def detached(x, t):
    """A velocity as of an exported graph: numbers out, no graph behind them."""
    with torch.no_grad():
        return torch.tanh(x)


def only_parameters(x, t, network=Network()):  # noqa: B008
    """A graph that leads to the parameters but not to x."""
    return network(x.detach(), t)


@pytest.mark.parametrize("velocity", [detached, only_parameters])
def test_a_velocity_without_gradient_is_refused_by_name(velocity):
    x, previous, weights = draw()
    message = rf"RealTimeGuidance: no gradient flows from x through the velocity \({velocity.__name__}\), as through an exported"
    with pytest.raises(ValueError, match=message):
        RealTimeGuidance(velocity, previous, weights)(x, T)
    assert JacobianFreeGuidance(velocity, previous, weights)(x, T).isfinite().all()


@both
def test_it_goes_with_classifier_free_guidance_and_every_solver(guidance):
    network, (x, previous, weights) = Network(), draw()

    def pair(x, t):
        return network(x, t) * torch.cat((torch.ones(5), torch.full((5,), 1.2)))[:, None, None]

    for name in SOLVERS:
        solver = make_solver(name)
        with torch.no_grad():
            result = solver.solve(guidance(guided_velocity(pair, 2.0), previous, weights), x, 20).x
            plain = solver.solve(guided_velocity(pair, 2.0), x, 20).x
        near, far = ((chunk[:, 0] - previous[:, 0]).abs().mean().item() for chunk in (result, plain))
        assert near < 0.2 * far


# ---- what it achieves ----

PATTERN = torch.stack((torch.linspace(0.5, 1.5, 16), torch.linspace(1.5, 0.5, 16)), dim=1).double()  # (H, A)
WIDTH = 0.3


def two_modes(x, t):
    """The exact velocity towards two equally likely modes, +PATTERN and -PATTERN, each a normal of standard deviation WIDTH.

    Of a mode m, x_t ~ N(t m, s^2) with s^2 = (1 - t)^2 + t^2 WIDTH^2; v = E[actions | x] - E[noise | x].
    """
    t = t[:, None, None]
    spread = (1 - t) ** 2 + (t * WIDTH) ** 2
    away = torch.stack([x - t * sign * PATTERN for sign in (1.0, -1.0)])  # (2, B, H, A)
    odds = torch.softmax(-away.square().sum(dim=(2, 3), keepdim=True) / (2 * spread), dim=0)
    modes = torch.stack([sign * PATTERN.expand_as(x) for sign in (1.0, -1.0)])
    return (odds * (modes + (t * WIDTH**2 - (1 - t)) / spread * away)).sum(dim=0)


@pytest.mark.parametrize(("guidance", "bound"), [(RealTimeGuidance, 0.15), (JacobianFreeGuidance, 0.1)])
def test_the_new_chunk_continues_the_previous_one(guidance, bound):
    """Unguided, half of the chunks jump to the other mode. Guided, the committed part stays near what is being executed,
    and the free part, which nothing pulls at directly, goes on in the same mode."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 16, 2, dtype=torch.float64, generator=generator)
    previous = (PATTERN + WIDTH * torch.randn(200, 16, 2, dtype=torch.float64, generator=generator)) * (
        torch.arange(200) % 2 * 2 - 1
    )[:, None, None]
    weights = rtc_weights(16, delay=4, execute=8)
    with torch.no_grad():
        plain = make_solver("euler").solve(two_modes, noise, 10).x
        guided = make_solver("euler").solve(guidance(two_modes, previous, weights), noise, 10).x

    def jump(chunk):
        return (chunk[:, :4] - previous[:, :4]).square().mean().sqrt().item()

    def same_mode(chunk):
        return ((chunk * previous).sum(dim=(1, 2)) > 0).double().mean().item()

    assert 0.4 < same_mode(plain) < 0.6 and same_mode(guided) > 0.98
    assert jump(guided) < bound * jump(plain)
    free = guided[:, 8:] * (torch.arange(200) % 2 * 2 - 1)[:, None, None] - PATTERN[8:]
    assert free.std().item() == pytest.approx(WIDTH, rel=0.35), "the free part is still a sample of its mode"


@both
def test_bad_input_is_named(guidance):
    network, (x, previous, weights) = Network(), draw()
    with pytest.raises(ValueError, match=r"weights has shape \(1,\), expected \(4,\)"):
        guidance(network, previous, weights[:1])
    with pytest.raises(ValueError, match=r"weights has shape \(4, 1\), expected \(4,\)"):
        guidance(network, previous, weights[:, None])
    with pytest.raises(ValueError, match=r"previous has shape \(4, 2\), expected \(B, H, A\)"):
        guidance(network, previous[0], weights)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected numbers from 0 to 1"):
            guidance(network, previous, torch.tensor([1.0, bad, 0.0, 0.0]))
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta is "):
            guidance(network, previous, weights, beta)
    guided = guidance(network, previous, weights)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 2\), expected \(5, 4, 2\)"):
        guided(x[:1], T[:1])
    for shape in ((), (1,), (4,), (5, 1)):
        with pytest.raises(ValueError, match=r"time has shape .*, expected \(5,\) or \(5, 4\)"):
            guided(x, torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"velocity has shape \(1, 4, 2\), expected \(5, 4, 2\)"):
        guidance(lambda x, t: network(x, t)[:1], previous, weights)(x, T)
    previous[0, 1, 1] = math.inf
    with pytest.raises(ValueError, match="previous holds NaN or Inf in steps of weight above 0"):
        guidance(network, previous, weights)
