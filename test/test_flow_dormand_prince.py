"""The adaptive solver: accuracy asked for and reached, and a step of one's own for every sample."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from flow_policy_ros.flow.dormand_prince import DormandPrince
from flow_policy_ros.flow.solvers import make_solver

NODES = (0.0, 0.2, 0.3, 0.8, 8 / 9, 1.0, 1.0)


def network(dtype):
    """A nonlinear velocity over (B, 3, 2) that mixes all entries and depends on time."""
    weights = torch.Generator().manual_seed(0)
    inner = torch.randn(7, 16, dtype=torch.float64, generator=weights).to(dtype)
    outer = (0.2 * torch.randn(16, 6, dtype=torch.float64, generator=weights)).to(dtype)

    def velocity(x, t):
        seen = torch.cat((x.flatten(1), t[:, None]), dim=1)
        return (torch.tanh(seen @ inner) @ outer).view(x.shape)

    return velocity


def noise(batch, dtype=torch.float64):
    return torch.randn(batch, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(batch)).to(dtype)


def scipy_solution(velocity, x0, method, tolerance):
    out = []
    for sample in x0:

        def rhs(t, y, sample=sample):
            return velocity(torch.from_numpy(y).view(1, *sample.shape), torch.tensor([t], dtype=torch.float64)).flatten().numpy()

        start = sample.flatten().numpy()
        out.append(solve_ivp(rhs, (0, 1), start, method=method, rtol=tolerance, atol=tolerance).y[:, -1])
    return torch.from_numpy(np.stack(out)).view(x0.shape)


def test_it_agrees_with_scipy_within_the_tolerance():
    """Against the solution itself (DOP853 at 1e-12), and against SciPy's RK45, the same pair at the same tolerance."""
    velocity, x0 = network(torch.float64), noise(6)
    exact = scipy_solution(velocity, x0, "DOP853", 1e-12)
    assert (exact - x0 - velocity(x0, torch.zeros(6, dtype=torch.float64))).abs().max() > 0.1, "the path is curved"
    errors, nfes = [], []
    for tolerance in (1e-4, 1e-6, 1e-8):
        result = DormandPrince(tolerance, tolerance).solve(velocity, x0, 10)
        theirs = scipy_solution(velocity, x0, "RK45", tolerance)
        errors.append((result.x - exact).abs().max().item())
        nfes.append(result.nfe)
        assert errors[-1] < 10 * tolerance, "errors of single steps add up, but not to more"
        assert errors[-1] < 2 * (theirs - exact).abs().max().item()
    assert errors[0] > 10 * errors[1] > 100 * errors[2], (errors, nfes)
    assert nfes[0] < nfes[1] < nfes[2], nfes


def test_it_agrees_with_torchdiffeq_within_the_tolerance():
    """Its dopri5 takes one step for the whole batch and errs by more at equal tolerance, so it is asked for more."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    velocity, x0 = network(torch.float64), noise(6)

    def rhs(t, x):
        return velocity(x, t.expand(len(x)))

    grid = torch.tensor([0.0, 1.0], dtype=torch.float64)
    theirs = torchdiffeq.odeint(rhs, x0, grid, method="dopri5", rtol=1e-10, atol=1e-10)[-1]
    for tolerance in (1e-4, 1e-5, 1e-7):
        ours = DormandPrince(tolerance, tolerance).solve(velocity, x0, 10).x
        torch.testing.assert_close(ours, theirs, rtol=0, atol=10 * tolerance)


def test_the_default_tolerance_holds_in_float32():
    velocity, x0 = network(torch.float64), noise(4)
    exact = scipy_solution(velocity, x0, "DOP853", 1e-12)
    x = DormandPrince().solve(network(torch.float32), x0.float(), 4).x
    assert (x.double() - exact).abs().max() < 1e-4


def test_the_pair_has_order_five():
    """Under a loose tolerance one step is taken, and one of length h errs like h^6: dx/dt = x + sin(3t) on [0, h]."""
    errors = []
    for h in (0.4, 0.2, 0.1):

        def stretched(x, t, h=h):
            return h * (x + torch.sin(3 * h * t)[:, None, None])

        result = DormandPrince(atol=1e3).solve(stretched, torch.ones(1, 1, 1, dtype=torch.float64), 1)
        assert result.nfe == 7
        exact = 1.3 * math.exp(h) - 0.1 * math.sin(3 * h) - 0.3 * math.cos(3 * h)
        errors.append(abs(result.x.item() - exact))
    measured = [math.log2(errors[k] / errors[k + 1]) for k in range(2)]
    assert measured == pytest.approx([6, 6], abs=0.4), errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_does_not_depend_on_its_batch(dtype):
    velocity, x0 = network(dtype), noise(8, dtype)
    together = DormandPrince().solve(velocity, x0, 3)
    alone = [DormandPrince().solve(velocity, x0[k : k + 1], 3) for k in range(8)]
    torch.testing.assert_close(together.x, torch.cat([result.x for result in alone]), rtol=0, atol=1e-6)
    assert together.nfe == max(result.nfe for result in alone)
    assert len({result.nfe for result in alone}) > 1, "the samples differ in difficulty, or this proves nothing"


def test_every_sample_has_its_own_time_and_waits_when_it_has_arrived():
    """dx/dt = -k x with k from 0 to 300: easy samples arrive first and stay exactly where they are."""
    k = torch.tensor([0.0, 1.0, 30.0, 300.0], dtype=torch.float64)
    seen = []

    def velocity(x, t):
        seen.append((t.clone(), x.clone()))
        return -k[:, None, None] * x

    result = DormandPrince(max_nfe=5000).solve(velocity, torch.ones(4, 2, 1, dtype=torch.float64), 4)
    torch.testing.assert_close(result.x[:, 0, 0], torch.exp(-k), rtol=0, atol=5e-5)
    assert len(seen) == result.nfe
    assert any((t > t[3]).any() for t, _ in seen)
    for sample in range(3):
        after = [x[sample] for t, x in seen[next(i for i, (t, _) in enumerate(seen) if t[sample] == 1.0) + 6 :]]
        assert after and all(torch.equal(x, result.x[sample]) for x in after)
    assert max(t.max().item() for t, _ in seen) == 1.0 and min(t.min().item() for t, _ in seen) == 0.0


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_the_first_step_tried_is_the_inverse_of_steps_and_the_last_slope_is_reused(steps):
    times = []

    def velocity(x, t):
        times.append(t[0].item())
        return torch.cos(t)[:, None, None] + 0 * x

    result = DormandPrince().solve(velocity, torch.zeros(1, 1, 1, dtype=torch.float64), steps)
    assert result.x.item() == pytest.approx(math.sin(1), abs=1e-5)
    assert times[:7] == pytest.approx([node / steps for node in NODES])
    assert result.nfe == len(times) and (result.nfe - 1) % 6 == 0
    if steps > 1:
        assert times[7] > times[6], "the next step starts with a new evaluation, not with one more at its start"


def test_a_step_too_long_is_taken_back():
    """A kick at t = 0.5, which a first step of half the way cannot resolve."""
    times = []

    def velocity(x, t):
        times.append(t[0].item())
        return 20 * torch.exp(-0.5 * ((t - 0.5) / 0.1) ** 2)[:, None, None] + 0 * x

    result = DormandPrince().solve(velocity, torch.zeros(1, 1, 1, dtype=torch.float64), 2)
    assert result.x.item() == pytest.approx(20 * 0.1 * math.sqrt(2 * math.pi) * math.erf(5 / math.sqrt(2)), abs=1e-4)
    assert times[6] == 0.5 and times[7] < 0.2, "the second attempt starts at 0 again, with a shorter step"


def test_what_is_not_finite_is_named():
    def broken(x, t):
        v = torch.ones_like(x)
        v[1] = torch.where(t[1] > 0.3, math.nan, 1.0)
        return v

    with pytest.raises(ValueError, match=r"velocity holds NaN or Inf in samples \[1\] at t = \[0\.\d+\]"):
        DormandPrince().solve(broken, torch.zeros(3, 2, 2), 4)
    x0 = torch.zeros(3, 2, 2)
    x0[2, 1, 1] = math.inf
    with pytest.raises(ValueError, match=r"x0 holds NaN or Inf in samples \[2\]"):
        DormandPrince().solve(lambda x, t: x, x0, 4)


def test_it_gives_up_by_name_and_not_silently():
    message = r"rk45 made 61 evaluations and reached t = 0\.\d+, expected to arrive within max_nfe = 61"
    with pytest.raises(ValueError, match=message):
        DormandPrince(max_nfe=61).solve(lambda x, t: -5000 * x, torch.ones(1, 1, 1), 1)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"atol": 0.0}, "atol"), ({"rtol": -1e-5}, "rtol"), ({"atol": math.nan}, "atol"), ({"max_nfe": 6}, "max_nfe")],
)
def test_bad_options_are_named(options, field):
    with pytest.raises(ValueError, match=f"{field} is "):
        DormandPrince(**options)


def test_it_has_no_fixed_grid():
    with pytest.raises(ValueError, match="rk45 has no fixed grid"):
        make_solver("rk45").times(10)
