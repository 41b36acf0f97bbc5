"""How training times are drawn. All return forward time (0 noise, 1 data); adding one is a class and a line below."""

from __future__ import annotations

from typing import Protocol

import torch


class TimeSampler(Protocol):
    """Draws training times."""

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Times (batch,) float32 in [0, 1], on the CPU."""


class Uniform:
    """Uniform on [0, 1)."""

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return torch.rand(batch, generator=generator)


class BetaReversed:
    """1 - (0.999 s + 0.001) with s ~ Beta(1.5, 1): more weight near noise, mean 0.3995.

    Published (pi0) in reversed time, where 1 is noise and the raw draw has mean 0.6.
    """

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        # Beta(a, 1) has the distribution function s^a, so its inverse of a uniform draw is exact.
        s = torch.rand(batch, generator=generator) ** (1.0 / 1.5)
        return 1.0 - (0.999 * s + 0.001)


TIME_SAMPLERS: dict[str, type[TimeSampler]] = {"uniform": Uniform, "beta": BetaReversed}


def make_time_sampler(name: str) -> TimeSampler:
    """The sampler of this name. Raises ``ValueError`` listing the known ones."""
    if name not in TIME_SAMPLERS:
        raise ValueError(f"unknown time sampler {name!r}; known: {', '.join(TIME_SAMPLERS)}.")
    return TIME_SAMPLERS[name]()
