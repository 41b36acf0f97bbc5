"""Diffusion transformer over the H action tokens that also attends to the observation's tokens in each block.

Cross-attention conditioning as in Peebles & Xie 2023, section 3.2, beside adaLN, which carries time and state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.attention import (
    Factors,
    Memory,
    TokenMemory,
    modulated,
    open_gates,
    require_heads,
    self_attention,
)
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import time_features, vector_features
from flow_policy_ros.models.network import VelocityNetwork, he_init, zero_init


@dataclass(frozen=True)
class DiTCrossConfig:
    """Sizes: token ``width``, ``blocks``, ``heads`` (which divide the width), MLPs ``expansion`` times as wide."""

    width: int = 192
    blocks: int = 4
    heads: int = 4
    expansion: int = 4
    time_width: int = 64
    state_width: int = 128


class _Block(nn.Module):
    """Self-attention, cross-attention number ``block`` of a memory, MLP on h (B, H, width): nine factors."""

    def __init__(self, config: DiTCrossConfig, block: int) -> None:
        super().__init__()
        width = config.width
        self.heads, self.block = config.heads, block
        self.qkv = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.seen = nn.Linear(width, width)
        self.up = he_init(nn.Linear(width, config.expansion * width))
        self.down = he_init(nn.Linear(config.expansion * width, width))

    def forward(self, h: torch.Tensor, factors: Factors, memory: Memory) -> torch.Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2, scale3, shift3, gate3 = factors
        attended = self_attention(self.qkv(modulated(h, scale1, shift1)), self.heads)
        h = torch.addcmul(h, gate1, self.attended(attended))
        seen = memory.attended(self.query(modulated(h, scale2, shift2)), self.block)
        h = torch.addcmul(h, gate2, self.seen(seen))
        return torch.addcmul(h, gate3, self.down(F.silu(self.up(modulated(h, scale3, shift3)))))


class DiTCross(VelocityNetwork):
    """See the module. The cache is the state's share of all modulations (B, 1, (9 blocks + 2) width), and the memory.

    Time may differ per token: each token is modulated by its own. Without a real token the network sees the state only.
    Raises ``ValueError`` for heads that do not divide the width.
    """

    def __init__(self, shape: NetworkShape, config: DiTCrossConfig) -> None:
        super().__init__(shape)
        require_heads(config.width, config.heads)
        modulation = (9 * config.blocks + 2) * config.width
        self.observe = vector_features(shape.state, config.state_width)
        self.state_modulation = open_gates(zero_init(nn.Linear(config.state_width, modulation)), config.width)
        self.memory = TokenMemory(shape, config.width, config.heads, config.blocks)
        self.time = time_features(config.time_width)
        self.time_modulation = zero_init(nn.Linear(config.time_width, modulation, bias=False))
        self.x_in = nn.Linear(shape.action, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(1, shape.horizon, config.width))
        self.blocks = nn.ModuleList(_Block(config, k) for k in range(config.blocks))
        self.out = zero_init(nn.Linear(config.width, shape.action))

    def _condition(self, observation: Conditioning) -> tuple[torch.Tensor, Memory]:
        return self.state_modulation(self.observe(observation.state))[:, None, :], self.memory(observation)

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: tuple[torch.Tensor, Memory]) -> torch.Tensor:
        modulation, memory = cache
        per_token = t if t.ndim == 2 else t[:, None]
        factors = (self.time_modulation(self.time(per_token)) + modulation).chunk(9 * len(self.blocks) + 2, dim=2)
        h = self.x_in(x) + self.position
        for k, block in enumerate(self.blocks):
            h = block(h, factors[9 * k : 9 * k + 9], memory)
        return self.out(modulated(h, factors[-2], factors[-1]))
