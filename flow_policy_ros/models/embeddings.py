"""Embeddings of time."""

from __future__ import annotations

import math

import torch
from torch import nn


class SinusoidalTime(nn.Module):
    """Times (...) in [0, 1] to ``width`` sines and cosines (..., width), periods from 4e-3 to 4 geometrically."""

    frequencies: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"width of the time embedding is {width}, expected an even number of at least 4.")
        periods = torch.logspace(math.log10(4e-3), math.log10(4.0), width // 2)
        self.register_buffer("frequencies", 2.0 * math.pi / periods, persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Times (...) to (..., width)."""
        angles = t[..., None] * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)
