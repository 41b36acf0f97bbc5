"""Training times: their distributions, their direction, their range."""

import math

import pytest
import torch

from flow_policy_ros.flow.time_samplers import TIME_SAMPLERS, LogitNormal, beta_draw, make_time_sampler

MANY = 400_000


def drawn(name: str) -> torch.Tensor:
    return make_time_sampler(name).sample(MANY, torch.Generator().manual_seed(0))


def test_the_raw_beta_draw_has_mean_three_fifths() -> None:
    """Beta(1.5, 1): mean 1.5 / 2.5, variance 0.6 * 0.4 / 3.5; against torch's own sampler too."""
    s = beta_draw(MANY, torch.Generator().manual_seed(0))
    assert s.mean().item() == pytest.approx(0.6, abs=2e-3)
    assert s.var().item() == pytest.approx(0.24 / 3.5, rel=0.01)
    torch.manual_seed(0)
    reference = torch.distributions.Beta(1.5, 1.0).sample((MANY,))
    levels = torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    torch.testing.assert_close(s.quantile(levels), reference.quantile(levels), atol=4e-3, rtol=0)


@pytest.mark.parametrize("name", ["beta", "groot_n1", "groot_n16"])
def test_forward_times_lie_nearer_to_noise(name: str) -> None:
    """The mirrored draw averages 0.3995: taking it for reversed time would give 0.6."""
    t = drawn(name)
    assert t.mean().item() == pytest.approx(0.3995, abs=1.5e-3)
    assert t.var().item() == pytest.approx(0.24 / 3.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("uniform", lambda u: u),
        ("beta", lambda u: 1 - (0.999 * u ** (2 / 3) + 0.001)),
        ("groot_n1", lambda u: min(1.0, max(0.0, (0.999 - u ** (2 / 3)) / 0.999))),
        ("groot_n16", lambda u: (1 - u ** (2 / 3)) * 0.999),
    ],
)
def test_the_published_formulas(name: str, formula) -> None:
    """Each draw by itself, from the same uniform numbers (the inverse of s^1.5), in Python's float64."""
    u = torch.rand(2000, generator=torch.Generator().manual_seed(3))
    t = make_time_sampler(name).sample(2000, torch.Generator().manual_seed(3))
    assert t.tolist() == pytest.approx([formula(value) for value in u.tolist()], abs=2e-6)


def test_the_clip_of_groot_n1_acts_and_only_at_noise() -> None:
    t = drawn("groot_n1")
    assert (t == 0).double().mean().item() == pytest.approx(1 - 0.999**1.5, abs=3e-4)
    assert (t == 1).sum() == 0


def test_logit_normal_is_the_logistic_of_a_normal() -> None:
    z = torch.logit(drawn("logit_normal").double())
    assert z.mean().item() == pytest.approx(0.0, abs=5e-3)
    assert z.std().item() == pytest.approx(1.0, abs=5e-3)
    late = LogitNormal(mean=1.0, std=0.5).sample(MANY, torch.Generator().manual_seed(0))
    assert late.median().item() == pytest.approx(1 / (1 + math.exp(-1)), abs=2e-3), "a positive mean is nearer to data"
    for values, field in (((math.nan, 1.0), "mean"), ((0.0, 0.0), "std"), ((0.0, math.inf), "std")):
        with pytest.raises(ValueError, match=f"{field} of the logit-normal times is"):
            LogitNormal(*values)


@pytest.mark.parametrize("name", list(TIME_SAMPLERS))
def test_the_support_is_reached_and_never_left(name: str) -> None:
    t, (low, high) = drawn(name), make_time_sampler(name).support
    assert t.shape == (MANY,) and t.dtype == torch.float32
    assert t.min().item() >= low - 1e-6 and t.max().item() <= high + 1e-6
    # 400 000 draws come near both ends; the normal's tails do not.
    margin = 0.02 if name == "logit_normal" else 0.002
    assert t.min().item() < low + margin and t.max().item() > high - margin


def test_times_come_from_the_generator_alone() -> None:
    for name in TIME_SAMPLERS:
        torch.manual_seed(1)
        first = make_time_sampler(name).sample(8, torch.Generator().manual_seed(5))
        torch.manual_seed(2)
        assert torch.equal(first, make_time_sampler(name).sample(8, torch.Generator().manual_seed(5)))
        assert not torch.equal(first, make_time_sampler(name).sample(8, torch.Generator().manual_seed(6)))


def test_an_unknown_sampler_is_named() -> None:
    with pytest.raises(ValueError, match="unknown time sampler 'cosine'; known: uniform, beta, groot_n1, groot_n16, logit_normal"):
        make_time_sampler("cosine")
