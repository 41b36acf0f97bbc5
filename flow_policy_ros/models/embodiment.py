"""Layers with one set of weights per embodiment (GR00T N1, Bjorck et al. 2025: category-specific encoders and decoder).

Weights are selected once per chunk (``select``) and applied as often as wanted; the networks that hold these layers are
elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Selected:
    """One affine map per sample: ``weight`` (B, in, out), ``bias`` (B, 1, out)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, in) to (B, N, out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class CategoryLinear(nn.Module):
    """x W_e + b_e with weights (E, in, out) and biases (E, out), chosen by each sample's embodiment e."""

    def __init__(self, embodiments: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(max(inputs, 1))
        self.weight = nn.Parameter(torch.empty(embodiments, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(embodiments, outputs))

    def select(self, embodiment: torch.Tensor) -> Selected:
        """The weights for ``embodiment`` (B,) int64. Raises ``ValueError`` for one that is not in 0..E-1."""
        known = len(self.weight)
        if not torch.compiler.is_exporting() and ((embodiment < 0) | (embodiment >= known)).any():
            raise ValueError(
                f"embodiment is {sorted(set(embodiment.tolist()))}, expected numbers from 0 to {known - 1}: the network has "
                f"{known}; use the one trained for this robot."
            )
        # index_select and not weight[embodiment], whose gradient is much slower.
        return Selected(self.weight.index_select(0, embodiment), self.bias.index_select(0, embodiment)[:, None, :])

    def forward(self, x: torch.Tensor, embodiment: torch.Tensor) -> torch.Tensor:
        """(B, N, in) to (B, N, out) for ``embodiment`` (B,). Raises ``ValueError`` as ``select``."""
        return self.select(embodiment)(x)


@dataclass(frozen=True)
class SelectedMLP:
    """Two maps per sample with ReLU between."""

    first: Selected
    second: Selected

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, in) to (B, N, out)."""
        return self.second(F.relu(self.first(x)))


class CategoryMLP(nn.Module):
    """Two layers per embodiment: the state encoder, and the action decoder."""

    def __init__(self, embodiments: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = CategoryLinear(embodiments, inputs, hidden)
        self.second = CategoryLinear(embodiments, hidden, outputs)

    def select(self, embodiment: torch.Tensor) -> SelectedMLP:
        """The weights for ``embodiment`` (B,). Raises ``ValueError`` as ``CategoryLinear``."""
        return SelectedMLP(self.first.select(embodiment), self.second.select(embodiment))


@dataclass(frozen=True)
class SelectedActionEncoder:
    """W3 swish(W2 (W1 x, time features)) per sample."""

    w1: Selected
    w2: Selected
    w3: Selected

    def __call__(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """x (B, H, A) and time features (B, H, F) to action tokens (B, H, width)."""
        return self.w3(F.silu(self.w2(torch.cat((self.w1(x), time), dim=2))))


class ActionEncoder(nn.Module):
    """Action tokens of ``width`` from noisy actions and ``time`` features of each step."""

    def __init__(self, embodiments: int, action: int, time: int, width: int) -> None:
        super().__init__()
        self.w1 = CategoryLinear(embodiments, action, width)
        self.w2 = CategoryLinear(embodiments, width + time, width)
        self.w3 = CategoryLinear(embodiments, width, width)

    def select(self, embodiment: torch.Tensor) -> SelectedActionEncoder:
        """The weights for ``embodiment`` (B,). Raises ``ValueError`` as ``CategoryLinear``."""
        return SelectedActionEncoder(self.w1.select(embodiment), self.w2.select(embodiment), self.w3.select(embodiment))
