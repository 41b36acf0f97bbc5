"""Diffusion transformer over the H action tokens: self-attention, modulated by time and observation (adaLN-zero).

Peebles & Xie 2023, section 3.2, on action chunks. The observation is one vector here; ``dit_cross`` attends to its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from flow_policy_ros.models.attention import SelfAttentionBlock, modulated, require_heads
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import time_features, vector_features
from flow_policy_ros.models.network import VelocityNetwork, zero_init


@dataclass(frozen=True)
class DiTConfig:
    """Sizes: token ``width``, ``blocks``, ``heads`` (which divide the width), MLPs ``expansion`` times as wide."""

    width: int = 256
    blocks: int = 6
    heads: int = 4
    expansion: int = 4
    time_width: int = 64
    observation_width: int = 256


class DiT(VelocityNetwork):
    """See the module. The cache is the observation's share of all modulations, (B, 1, (6 blocks + 2) width).

    Time may differ per token: each token is modulated by its own. Raises ``ValueError`` for heads that do not divide the width.
    """

    def __init__(self, shape: NetworkShape, config: DiTConfig) -> None:
        super().__init__(shape)
        require_heads(config.width, config.heads)
        modulation = (6 * config.blocks + 2) * config.width
        self.observe = vector_features(shape.vector, config.observation_width)
        self.observation_modulation = zero_init(nn.Linear(config.observation_width, modulation))
        self.time = time_features(config.time_width)
        self.time_modulation = zero_init(nn.Linear(config.time_width, modulation, bias=False))
        self.x_in = nn.Linear(shape.action, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(1, shape.horizon, config.width))
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(config.width, config.heads, config.expansion) for _ in range(config.blocks)
        )
        self.out = zero_init(nn.Linear(config.width, shape.action))

    def _condition(self, observation: Conditioning) -> torch.Tensor:
        return self.observation_modulation(self.observe(observation.vector))[:, None, :]

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        per_token = t if t.ndim == 2 else t[:, None]
        factors = (self.time_modulation(self.time(per_token)) + cache).chunk(6 * len(self.blocks) + 2, dim=2)
        h = self.x_in(x) + self.position
        for k, block in enumerate(self.blocks):
            h = block(h, factors[6 * k : 6 * k + 6])
        return self.out(modulated(h, factors[-2], factors[-1]))
