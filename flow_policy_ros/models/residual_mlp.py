"""Residual MLP over the chunk: LayerNorm and SiLU blocks, each scaled and shifted by time and observation (FiLM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import time_features, vector_features
from flow_policy_ros.models.network import VelocityNetwork, zero_init


@dataclass(frozen=True)
class ResidualMLPConfig:
    """Sizes: ``width`` of the trunk, ``blocks`` of it, hidden layers ``expansion`` times as wide, embedding widths."""

    width: int = 512
    blocks: int = 3
    expansion: int = 4
    time_width: int = 64
    observation_width: int = 256


class _Block(nn.Module):
    """h (B, width) + MLP(LayerNorm(h) * (1 + scale) + shift); the last layer starts at zero."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width = (width,)
        self.up = nn.Linear(width, hidden)
        self.down = zero_init(nn.Linear(hidden, width))

    def forward(self, h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        modulated = torch.addcmul(shift, F.layer_norm(h, self.width), scale + 1.0)
        return h + self.down(F.silu(self.up(modulated)))


class ResidualMLP(VelocityNetwork):
    """See the module. The cache is what the observation adds: (first layer (B, width), modulation (B, 2 blocks width)).

    Time per step enters as an extra channel of each step; the blocks are modulated by the chunk's *earliest* time, so
    steps that are already clean (time 1) do not change what the network knows of the noisy ones.
    """

    def __init__(self, shape: NetworkShape, config: ResidualMLPConfig) -> None:
        super().__init__(shape)
        modulation = 2 * config.blocks * config.width
        self.observe = vector_features(shape.vector, config.observation_width)
        self.observation_in = nn.Linear(config.observation_width, config.width)
        self.observation_modulation = zero_init(nn.Linear(config.observation_width, modulation))
        self.time = time_features(config.time_width)
        self.time_modulation = zero_init(nn.Linear(config.time_width, modulation, bias=False))
        self.x_in = nn.Linear(shape.horizon * (shape.action + 1), config.width, bias=False)
        self.blocks = nn.ModuleList(_Block(config.width, config.expansion * config.width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.out = zero_init(nn.Linear(config.width, shape.horizon * shape.action))

    def _condition(self, observation: Conditioning) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.observe(observation.vector)
        return self.observation_in(seen), self.observation_modulation(seen)

    def _velocity(
        self, x: torch.Tensor, t: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        per_step = t if t.ndim == 2 else t[:, None].expand(-1, self.shape.horizon)
        earliest = t if t.ndim == 1 else t.amin(dim=1)
        into, modulation = cache
        h = self.x_in(torch.cat((x, per_step[:, :, None]), dim=2).flatten(1)) + into
        factors = (self.time_modulation(self.time(earliest)) + modulation).chunk(2 * len(self.blocks), dim=1)
        for k, block in enumerate(self.blocks):
            h = block(h, factors[2 * k], factors[2 * k + 1])
        return self.out(self.norm(h)).view(x.shape)
