"""Solvers over one velocity callable: what all of them keep, and the convergence of those with a fixed grid."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from flow_policy_ros.flow.solvers import RK4, SOLVERS, Euler, Heun, Midpoint, make_solver

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}
fixed = pytest.mark.parametrize("name", list(ORDERS))
every = pytest.mark.parametrize("name", list(SOLVERS))


def network(dtype=torch.float64):
    """A nonlinear velocity over (B, 3, 2) that mixes all entries and depends on time."""
    torch.manual_seed(0)
    inner, outer = torch.randn(7, 16, dtype=dtype), torch.randn(16, 6, dtype=dtype) / 4

    def velocity(x, t):
        seen = torch.cat((x.flatten(1), t[:, None]), dim=1)
        return (torch.tanh(seen @ inner) @ outer).view(x.shape)

    return velocity


def reference(velocity, x0):
    """Each sample by SciPy's DOP853 at 1e-12."""
    out = []
    for sample in x0:

        def rhs(t, y, sample=sample):
            x = torch.from_numpy(y).view(1, *sample.shape)
            return velocity(x, torch.tensor([t], dtype=torch.float64)).flatten().numpy()

        out.append(solve_ivp(rhs, (0, 1), sample.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1])
    return torch.from_numpy(np.stack(out)).view(x0.shape)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_velocity_is_exact(name, dtype):
    torch.manual_seed(1)
    x0, v = torch.randn(2, 3, 4, dtype=dtype), torch.randn(2, 3, 4, dtype=dtype)
    for steps in (1, 7):
        result = make_solver(name).solve(lambda x, t: v, x0, steps)
        assert result.x.dtype == dtype
        torch.testing.assert_close(result.x, x0 + v, rtol=0, atol=1e-6)


@every
def test_a_velocity_of_time_and_state_is_followed(name):
    """dx/dt = x + t from x0 has the solution (x0 + 1) exp(t) - t - 1; each sample from its own x0."""
    x0 = torch.linspace(-2, 2, 6, dtype=torch.float64).view(3, 2, 1)
    result = make_solver(name).solve(lambda x, t: x + t[:, None, None], x0, 200)
    exact = (x0 + 1) * math.e - 2
    torch.testing.assert_close(result.x, exact, rtol=0, atol={1: 0.03, 2: 5e-5, 4: 1e-9, None: 2e-4}[ORDERS.get(name)])
    assert (result.x - (x0 + x0)).abs().min() > 0.1, "one step of the first velocity would not do"


@fixed
@pytest.mark.parametrize("problem", ["logistic", "network"])
def test_order_of_convergence(name, problem):
    """The error falls by 2^order when the step is halved."""
    if problem == "logistic":  # dx/dt = 2 x (1 - x)
        x0 = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64).view(3, 1, 1)
        velocity, exact = lambda x, t: 2 * x * (1 - x), x0 * math.exp(2) / (1 - x0 + x0 * math.exp(2))
    else:
        x0, velocity = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), network()
        exact = reference(velocity, x0)
    counts = (64, 128, 256) if ORDERS[name] < 4 else (32, 64, 128)
    errors = [(make_solver(name).solve(velocity, x0, n).x - exact).abs().max().item() for n in counts]
    measured = [math.log2(errors[k] / errors[k + 1]) for k in range(2)]
    assert measured == pytest.approx([ORDERS[name]] * 2, abs=0.15), errors


@fixed
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_the_times_are_known_beforehand_and_counted(name, steps):
    solver, seen = make_solver(name), []

    def velocity(x, t):
        assert t.shape == (2,) and t[0] == t[1]
        seen.append(t[0].item())
        return x * t[:, None, None]

    result = solver.solve(velocity, torch.ones(2, 1, 1, dtype=torch.float64), steps)
    assert tuple(seen) == solver.times(steps)
    assert result.nfe == len(seen) == steps * solver.evaluations == steps * EVALUATIONS[name]


def test_the_times_of_each_method():
    assert Euler().times(4) == (0.0, 0.25, 0.5, 0.75)
    assert Midpoint().times(2) == (0.0, 0.25, 0.5, 0.75)
    assert Heun().times(2) == (0.0, 0.5, 0.5, 1.0)
    assert RK4().times(2) == (0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0)
    for solver in (Heun(), RK4()):
        for steps in range(1, 60):
            assert solver.times(steps)[-1] == 1.0, "never past the data, where a network has not been trained"


@pytest.mark.parametrize(("name", "method"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")])
def test_fixed_grids_agree_with_torchdiffeq(name, method):
    """Its rk4 is the 3/8 rule, another method of the same order."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    velocity, x0 = network(), torch.randn(4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    theirs = torchdiffeq.odeint(
        lambda t, x: velocity(x, t.expand(len(x))), x0, torch.linspace(0, 1, 6, dtype=torch.float64), method=method
    )[-1]
    torch.testing.assert_close(make_solver(name).solve(velocity, x0, 5).x, theirs, rtol=0, atol=1e-12)


def test_one_step_of_each_method_by_hand():
    """dx/dt = x: 1 + h + h^2/2 + ..., cut at the order."""
    x0 = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    for name, factor in (("euler", 2.0), ("midpoint", 2.5), ("heun", 2.5), ("rk4", 1 + 1 + 1 / 2 + 1 / 6 + 1 / 24)):
        assert make_solver(name).solve(lambda x, t: x, x0, 1).x.item() == pytest.approx(2 * factor, rel=1e-14)


@fixed
def test_not_a_number_stays_in_its_sample(name):
    x0 = torch.ones(3, 2, 1)
    x0[1, 0, 0] = math.nan
    x = make_solver(name).solve(lambda x, t: -x, x0, 4).x
    assert x[1].isnan().any() and torch.equal(x[0], x[2]) and x[0].isfinite().all()


@every
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (2, 1, 4), (1, 3, 4), (2, 3, 4, 1)])
def test_a_velocity_never_broadcasts(name, shape):
    with pytest.raises(ValueError, match=r"velocity has shape .*, expected \(2, 3, 4\)"):
        make_solver(name).solve(lambda x, t: torch.zeros(shape), torch.zeros(2, 3, 4), 1)


@every
def test_bad_input_is_named(name):
    solver = make_solver(name)
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"steps is {steps}, expected at least 1"):
            solver.solve(lambda x, t: x, torch.zeros(2, 1, 1), steps)
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 1\), expected \(B, H, A\)"):
        solver.solve(lambda x, t: x, torch.zeros(2, 1), 1)
    with pytest.raises(ValueError, match=r"x0 is of type torch.int64, expected float32 or float64"):
        solver.solve(lambda x, t: x, torch.zeros(2, 1, 1, dtype=torch.int64), 1)
    if name in ORDERS:
        with pytest.raises(ValueError, match="steps is 0"):
            solver.times(0)


def test_an_unknown_solver_is_named():
    assert list(SOLVERS) == ["euler", "midpoint", "heun", "rk4", "rk45"]
    with pytest.raises(ValueError, match="unknown solver 'rk9'; known: euler, midpoint, heun, rk4, rk45"):
        make_solver("rk9")
