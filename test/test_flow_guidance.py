"""Classifier-free guidance: the formula, one call, and what it does to a distribution known in closed form."""

import math

import pytest
import torch

from flow_policy_ros.flow.guidance import guided_velocity
from flow_policy_ros.flow.solvers import make_solver


class Pair:
    """A doubled batch: v = sin(x + t) + shift, shift -1 for the null half and +2 for the conditional one. Counts calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x, t):
        self.calls += 1
        half = len(x) // 2
        time = t[:, None, None] if t.ndim == 1 else t[:, :, None]
        shift = torch.cat((torch.full((half,), -1.0), torch.full((half,), 2.0)))
        return torch.sin(x + time) + shift[:, None, None] * x.abs()


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_the_formula_in_one_call(scale, per_step):
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.rand((3, 4) if per_step else (3,), generator=torch.Generator().manual_seed(1))
    time = t[:, :, None] if per_step else t[:, None, None]
    null, conditional = torch.sin(x + time) - x.abs(), torch.sin(x + time) + 2 * x.abs()
    pair = Pair()
    v = guided_velocity(pair, scale)(x, t)
    assert pair.calls == 1
    torch.testing.assert_close(v, (1 - scale) * null + scale * conditional)


def test_the_solver_evaluates_the_pair_once_per_evaluation():
    pair = Pair()
    result = make_solver("midpoint").solve(guided_velocity(pair, 2.0), torch.ones(3, 4, 2), 5)
    assert pair.calls == result.nfe == 10


def test_guidance_scales_the_difference_of_two_normals():
    """Data N(m, 1): v = (x_t's posterior) is linear and differs by (1 - t)/s^2 m between null (m = 0) and condition (m = 1),
    s^2 = (1 - t)^2 + t^2. So scale w samples around w instead of 1, the noise being the same."""
    noise = torch.randn(64, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def pair(x, t):
        mean = torch.cat((torch.zeros(64), torch.ones(64))).double()[:, None, None]
        t = t[:, None, None]
        spread = (1 - t) ** 2 + t**2
        return mean + (2 * t - 1) / spread * (x - t * mean)

    for scale in (0.0, 1.0, 2.5):
        x = make_solver("rk4").solve(guided_velocity(pair, scale), noise, 50).x
        torch.testing.assert_close(x, noise + scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf])
def test_a_scale_that_means_nothing_is_refused(scale):
    with pytest.raises(ValueError, match=r"guidance scale is .*, expected a finite number of at least 0"):
        guided_velocity(Pair(), scale)


@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 4, 2), (6, 1, 2), (6, 4, 2, 1)])
def test_a_pair_never_broadcasts(shape):
    with pytest.raises(ValueError, match=r"velocity of the doubled batch has shape .*, expected \(6, 4, 2\)"):
        guided_velocity(lambda x, t: torch.zeros(shape), 2.0)(torch.zeros(3, 4, 2), torch.zeros(3))
