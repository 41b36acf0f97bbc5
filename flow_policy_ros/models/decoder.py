"""Layers of Llama's kind (Touvron et al. 2023): RMSNorm, rotary positions (Su et al. 2021), attention, gated MLP, no biases.

Small ones, for networks with weights of their own: plain tensors, so that they compile, run in any precision and need nothing
besides torch. Decoders of pretrained models are those of ``transformers``, in ``prefix``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.attention import attention
from flow_policy_ros.models.network import he_init


@dataclass(frozen=True)
class DecoderSizes:
    """``layers``, ``heads`` of ``head_width`` (even) each, ``width`` of a token, ``hidden`` width of the MLPs."""

    layers: int
    heads: int
    head_width: int
    width: int
    hidden: int


class Attention(nn.Module):
    """``attention`` as a module, so that whoever wants to see what it is given can."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See ``attention``."""
        return attention(q, k, v, mask)


class RMSNorm(nn.Module):
    """h / rms(h), times a learned factor per channel (Zhang & Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same."""
        return h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + 1e-6) * self.weight


class Projection(nn.Module):
    """Norm, then queries, keys and values of the heads (``parts`` = 3) or keys and values (2), all but values turned."""

    def __init__(self, sizes: DecoderSizes, parts: int) -> None:
        super().__init__()
        self.layout = (parts, sizes.heads, sizes.head_width)
        self.norm = RMSNorm(sizes.width)
        self.project = nn.Linear(sizes.width, parts * sizes.heads * sizes.head_width, bias=False)

    def forward(self, h: torch.Tensor, turns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """h (B, N, width), ``turns`` (2, N, head width) to what is rotated, (parts - 1, B, heads, N, head width), and values."""
        projected = self.project(self.norm(h)).unflatten(2, self.layout).permute(2, 0, 3, 1, 4)
        return rotated(projected[:-1], turns), projected[-1]


class DecoderLayer(nn.Module):
    """One layer; see the module."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.qkv = Projection(sizes, 3)
        self.attend = Attention()
        self.attended = nn.Linear(sizes.heads * sizes.head_width, sizes.width, bias=False)
        self.norm = RMSNorm(sizes.width)
        self.gate_up = he_init(nn.Linear(sizes.width, 2 * sizes.hidden, bias=False))
        self.down = he_init(nn.Linear(sizes.hidden, sizes.width, bias=False))

    def forward(
        self, h: torch.Tensor, turns: torch.Tensor, mask: torch.Tensor, before: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """h (B, N, width) to the next h, and to keys and values (2, B, heads, N, head width) of its tokens.

        ``turns`` (2, N, head width) of their positions; ``before``, keys and values of T tokens, are attended to as well, where
        ``mask`` (B, 1, 1 or N, T + N) bool is true.
        """
        (q, keys), values = self.qkv(h, turns)
        own = torch.stack((keys, values))
        keys, values = own if before is None else torch.cat((before, own), dim=3)
        h = h + self.attended(self.attend(q, keys, values, mask).transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm(h)).chunk(2, dim=2)
        return h + self.down(F.silu(gate) * up), own


def turns(positions: int, head_width: int, base: float = 10000.0) -> torch.Tensor:
    """Cosines and sines (2, positions, head width) of positions from 0 on (Su et al. 2021, equation 34; halves, as in Llama).

    Raises ``ValueError`` for an odd width.
    """
    if head_width % 2:
        raise ValueError(f"heads are {head_width} wide, expected an even number, to rotate by position; choose another width.")
    frequencies = base ** -(torch.arange(0, head_width, 2) / head_width)
    angles = torch.outer(torch.arange(positions), frequencies).repeat(1, 2)
    return torch.stack((angles.cos(), angles.sin()))


def rotated(h: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """h (..., N, head width) turned by its positions."""
    first, second = h.chunk(2, dim=-1)
    cos, sin = turns
    return h * cos + torch.cat((-second, first), dim=-1) * sin
