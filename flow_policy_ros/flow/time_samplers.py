"""How training times are drawn. All return forward time (0 noise, 1 data); adding one is a class and a line below.

Beta(1.5, 1) is published in two directions. Its raw draw s has mean 0.6; pi0 uses s as *reversed* time, GR00T mirrors it
itself, and in forward time both lie nearer to noise, with mean 0.4.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch


class TimeSampler(Protocol):
    """Draws training times."""

    @property
    def support(self) -> tuple[float, float]:
        """The closed range of forward times that can be drawn, up to float32 rounding. What a solver asks for outside of
        it, the network has not learned."""

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Times (batch,) float32 in ``support``, on the CPU."""


class Uniform:
    """Uniform on [0, 1)."""

    support = (0.0, 1.0)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return torch.rand(batch, generator=generator)


class BetaReversed:
    """1 - (0.999 s + 0.001) with s ~ Beta(1.5, 1): pi0 (Black et al. 2024, appendix B), SmolVLA. Mean 0.3996.

    Published in reversed time, where 1 is noise and the raw draw has mean 0.6.
    """

    support = (0.0, 0.999)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return 1.0 - (0.999 * beta_draw(batch, generator) + 0.001)


class GrootN1:
    """(0.999 - s) / 0.999 clipped to [0, 1] with s ~ Beta(1.5, 1): GR00T N1 and N1.5, as in their code. Mean 0.3994.

    Already forward time. The clip concerns the 0.15% of draws above 0.999.
    """

    support = (0.0, 1.0)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return ((0.999 - beta_draw(batch, generator)) / 0.999).clamp(0.0, 1.0)


class GrootN16:
    """(1 - s) * 0.999 with s ~ Beta(1.5, 1): GR00T N1.6, as in its code. Already forward time, mean 0.3996."""

    support = (0.0, 0.999)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return (1.0 - beta_draw(batch, generator)) * 0.999


class LogitNormal:
    """sigmoid(z) with z ~ N(``mean``, ``std``): Stable Diffusion 3 (Esser et al. 2024, eq. 19). More weight in the middle.

    Published in reversed time; mirroring it is changing the sign of ``mean``, which here is that of forward time.
    Raises ``ValueError`` for a mean that is not finite and a standard deviation that is not positive.
    """

    support = (0.0, 1.0)

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if not math.isfinite(mean):
            raise ValueError(f"mean of the logit-normal times is {mean}, expected a finite number such as 0.")
        if not (math.isfinite(std) and std > 0):
            raise ValueError(f"std of the logit-normal times is {std}, expected a positive number such as 1.")
        self.mean, self.std = mean, std

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return torch.sigmoid(self.mean + self.std * torch.randn(batch, generator=generator))


def beta_draw(batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """s ~ Beta(1.5, 1), (batch,) float32 on the CPU: density 1.5 sqrt(s), mean 0.6."""
    # Beta(a, 1) has the distribution function s^a, so its inverse of a uniform draw is exact.
    return torch.rand(batch, generator=generator) ** (1.0 / 1.5)


class FromNoise:
    """Exactly 0 in three of four draws, else uniform: for a student that is mostly asked for its first step (one-step
    distillation, Liu et al. 2023 section 3.2) but still has to know the others."""

    support = (0.0, 1.0)
    at_noise = 0.75

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        t = torch.rand(batch, generator=generator)
        return torch.where(torch.rand(batch, generator=generator) < self.at_noise, 0.0, t)


TIME_SAMPLERS: dict[str, type[TimeSampler]] = {
    "uniform": Uniform,
    "beta": BetaReversed,
    "groot_n1": GrootN1,
    "groot_n16": GrootN16,
    "logit_normal": LogitNormal,
    "from_noise": FromNoise,
}


def make_time_sampler(name: str) -> TimeSampler:
    """The sampler of this name. Raises ``ValueError`` listing the known ones."""
    if name not in TIME_SAMPLERS:
        raise ValueError(f"unknown time sampler {name!r}; known: {', '.join(TIME_SAMPLERS)}.")
    return TIME_SAMPLERS[name]()
