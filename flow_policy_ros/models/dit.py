"""Diffusion transformer over the H action tokens: self-attention, modulated by time and observation (adaLN-zero)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.embeddings import SinusoidalTime
from flow_policy_ros.models.network import NetworkShape, VelocityNetwork, zero_init


@dataclass(frozen=True)
class DiTConfig:
    """Sizes: token ``width``, ``blocks``, ``heads`` (which divide the width), MLPs ``expansion`` times as wide."""

    width: int = 256
    blocks: int = 6
    heads: int = 4
    expansion: int = 4
    time_width: int = 64
    observation_width: int = 256


class _Block(nn.Module):
    """Self-attention and MLP on h (B, H, width), each with scale, shift and gate (B, 1 or H, width)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.width = (config.width,)
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, config.expansion * config.width)
        self.down = nn.Linear(config.expansion * config.width, config.width)

    def forward(self, h: torch.Tensor, factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = factors
        batch, horizon, width = h.shape
        qkv = self.qkv(torch.addcmul(shift1, F.layer_norm(h, self.width), scale1 + 1.0))
        q, k, v = qkv.view(batch, horizon, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(h.shape)
        h = torch.addcmul(h, gate1, self.attended(attended))
        modulated = torch.addcmul(shift2, F.layer_norm(h, self.width), scale2 + 1.0)
        return torch.addcmul(h, gate2, self.down(F.silu(self.up(modulated))))


class DiT(VelocityNetwork):
    """See the module. The cache is the observation's share of all modulations, (B, 1, (6 blocks + 2) width).

    Time may differ per token: each token is modulated by its own.
    """

    def __init__(self, shape: NetworkShape, config: DiTConfig) -> None:
        super().__init__(shape)
        if config.width % config.heads:
            raise ValueError(f"DiT width {config.width} is not a multiple of its {config.heads} heads.")
        modulation = (6 * config.blocks + 2) * config.width
        self.observe = nn.Sequential(
            nn.Linear(shape.observation, config.observation_width),
            nn.SiLU(),
            nn.Linear(config.observation_width, config.observation_width),
            nn.SiLU(),
        )
        self.observation_modulation = zero_init(nn.Linear(config.observation_width, modulation))
        self.time = nn.Sequential(
            SinusoidalTime(config.time_width), nn.Linear(config.time_width, config.time_width), nn.SiLU()
        )
        self.time_modulation = nn.Linear(config.time_width, modulation, bias=False)
        nn.init.zeros_(self.time_modulation.weight)
        self.x_in = nn.Linear(shape.action, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(1, shape.horizon, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.width = (config.width,)
        self.out = zero_init(nn.Linear(config.width, shape.action))

    def _condition(self, observation: torch.Tensor) -> torch.Tensor:
        return self.observation_modulation(self.observe(observation))[:, None, :]

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        per_token = t if t.ndim == 2 else t[:, None]
        factors = (self.time_modulation(self.time(per_token)) + cache).chunk(6 * len(self.blocks) + 2, dim=2)
        h = self.x_in(x) + self.position
        for k, block in enumerate(self.blocks):
            h = block(h, factors[6 * k : 6 * k + 6])
        return self.out(torch.addcmul(factors[-1], F.layer_norm(h, self.width), factors[-2] + 1.0))
