"""What the transformers share: adaLN blocks, and the observation's tokens as keys and values computed once per chunk.

Blocks take h (B, N, width) and their factors, each (B, 1 or N, width). Which blocks follow each other, and what the factors
are made of, is each network's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.network import he_init

Factors = tuple[torch.Tensor, ...]


def require_heads(width: int, heads: int) -> None:
    """Raise ``ValueError`` unless the heads divide the width."""
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of its {heads} heads; choose one that is.")


def modulated(h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """LayerNorm(h) * (1 + scale) + shift, (B, N, width) (adaLN, Peebles & Xie 2023, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), scale + 1.0)


def open_gates(modulation: nn.Linear, width: int) -> nn.Linear:
    """The layer that makes (scale, shift, gate) of each sublayer and a last (scale, shift), with all gates starting at 1.

    Closed gates (adaLN-zero) are for deep stacks; a few blocks learn to tell observations apart sooner with open ones. That
    the velocity starts at zero is the last layer's doing.
    """
    nn.init.ones_(modulation.bias.data.view(-1, width)[2::3])
    return modulation


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k' / sqrt(D)) v for q (B, heads, N, D) and k, v (B, heads, M, D), where ``mask`` is true (Vaswani et al. 2017).

    Written out: on a CPU the library's fused kernel takes two to three times as long to train with so few tokens.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v


def self_attention(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of N tokens to each other, (B, N, width), from queries, keys and values side by side (B, N, 3 width)."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attention(q, k, v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Memory:
    """What cross-attentions attend to, fixed during a chunk.

    ``keys_values`` (blocks, 2, B, heads, M, width / heads); ``mask`` (B, 1, 1, M) bool, true in at least one place.
    """

    keys_values: torch.Tensor
    mask: torch.Tensor

    def attended(self, queries: torch.Tensor, block: int) -> torch.Tensor:
        """What the cross-attention number ``block`` reads for ``queries`` (B, N, width), as (B, N, width)."""
        keys, values = self.keys_values[block]
        q = queries.unflatten(2, (keys.shape[1], -1)).transpose(1, 2)
        return attention(q, keys, values, self.mask).transpose(1, 2).flatten(2)


class TokenMemory(nn.Module):
    """Keys and values of the observation's L tokens for ``blocks`` cross-attentions.

    The tokens are projected and given a learned embedding of their place. A sample without any real token (all masked, or
    L = 0) attends to a learned token instead, so a softmax always has something to choose; others do not see it. Raises
    ``ValueError`` for heads that do not divide the width.
    """

    def __init__(self, shape: NetworkShape, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        require_heads(width, heads)
        self.layout = (blocks, 2, heads, width // heads)
        # A plain matrix and not nn.Linear, which warns when there are no tokens and so no channels.
        self.project = nn.Parameter(torch.randn(shape.channels, width) / math.sqrt(max(shape.channels, 1)))
        self.place = nn.Parameter(0.02 * torch.randn(1, shape.tokens, width))
        self.nothing = nn.Parameter(torch.randn(1, 1, width))
        self.keys_values = nn.Linear(width, 2 * blocks * width)

    def forward(self, observation: Conditioning) -> Memory:
        """The memory of M = L + 1 tokens."""
        real = observation.visible_tokens @ self.project + self.place
        tokens = torch.cat((real, self.nothing.expand(len(real), 1, -1)), dim=1)
        mask = torch.cat((observation.token_mask, ~observation.token_mask.any(dim=1, keepdim=True)), dim=1)
        keys_values = self.keys_values(tokens).unflatten(2, self.layout).permute(2, 3, 0, 4, 1, 5)
        return Memory(keys_values.contiguous(), mask[:, None, None, :])


class SelfAttentionBlock(nn.Module):
    """Self-attention, then an MLP ``expansion`` times as wide; six factors: scale, shift and gate of either."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.up = he_init(nn.Linear(width, expansion * width))
        self.down = he_init(nn.Linear(expansion * width, width))

    def forward(self, h: torch.Tensor, factors: Factors) -> torch.Tensor:
        """h (B, N, width) to the next h."""
        scale1, shift1, gate1, scale2, shift2, gate2 = factors
        attended = self_attention(self.qkv(modulated(h, scale1, shift1)), self.heads)
        h = torch.addcmul(h, gate1, self.attended(attended))
        return torch.addcmul(h, gate2, self.down(F.silu(self.up(modulated(h, scale2, shift2)))))


class CrossAttentionBlock(nn.Module):
    """As ``SelfAttentionBlock``, attending to the cross-attention number ``block`` of a memory instead."""

    def __init__(self, width: int, expansion: int, block: int) -> None:
        super().__init__()
        self.block = block
        self.query = nn.Linear(width, width)
        self.attended = nn.Linear(width, width)
        self.up = he_init(nn.Linear(width, expansion * width))
        self.down = he_init(nn.Linear(expansion * width, width))

    def forward(self, h: torch.Tensor, factors: Factors, memory: Memory) -> torch.Tensor:
        """h (B, N, width) to the next h."""
        scale1, shift1, gate1, scale2, shift2, gate2 = factors
        attended = memory.attended(self.query(modulated(h, scale1, shift1)), self.block)
        h = torch.addcmul(h, gate1, self.attended(attended))
        return torch.addcmul(h, gate2, self.down(F.silu(self.up(modulated(h, scale2, shift2)))))
