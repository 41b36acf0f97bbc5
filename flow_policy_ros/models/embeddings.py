"""Features of time and of the observation vector, as the networks are modulated by them; not the modulation itself."""

from __future__ import annotations

import math

import torch
from torch import nn


class SinusoidalTime(nn.Module):
    """Times (...) in [0, 1] to ``width`` sines and cosines (..., width), periods from 4e-3 to 4 geometrically.

    The positional encoding of Vaswani et al. 2017, section 3.5, on the unit interval. Raises ``ValueError`` for a width
    that is odd or below 4.
    """

    frequencies: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"width of the time embedding is {width}, expected an even number of at least 4.")
        # On the CPU also while a checkpoint's sizes are tried without memory: there this one line would import a second's worth.
        periods = torch.logspace(math.log10(4e-3), math.log10(4.0), width // 2, device="cpu")
        self.register_buffer("frequencies", 2.0 * math.pi / periods, persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Times (...) of any float type to (..., width), in the type of the network."""
        angles = t.to(self.frequencies.dtype)[..., None] * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


def discretised(t: torch.Tensor, buckets: int = 1000) -> torch.Tensor:
    """Times in [0, 1] to the lower end of their bucket, floor(t * buckets) / buckets (GR00T N1, Bjorck et al. 2025)."""
    return torch.floor(t * buckets) / buckets


def time_features(width: int) -> nn.Sequential:
    """Times (...) to learned features (..., width)."""
    return nn.Sequential(SinusoidalTime(width), nn.Linear(width, width), nn.SiLU())


def vector_features(inputs: int, width: int) -> nn.Sequential:
    """Vectors (B, inputs) to learned features (B, width)."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
