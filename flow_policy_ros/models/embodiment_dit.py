"""Cross-attention action head for many embodiments, after GR00T N1 (Bjorck et al. 2025, section 2.1).

Queries are (state token, F learned future tokens, H action tokens). Blocks alternate cross-attention to the observation's
tokens and self-attention among the queries; time, discretised, enters through adaLN and through the action encoder. State
encoder, action encoder and action decoder have weights of their own per embodiment.

Where an embodiment has fewer dimensions than S and A, state and x are zero there (codec and model see to it), so the
weights of these dimensions neither act nor learn; the model sets the velocity there to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from flow_policy_ros.models.attention import (
    CrossAttentionBlock,
    Memory,
    SelfAttentionBlock,
    TokenMemory,
    modulated,
    open_gates,
)
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import SinusoidalTime, discretised
from flow_policy_ros.models.embodiment import ActionEncoder, CategoryMLP, SelectedActionEncoder, SelectedMLP
from flow_policy_ros.models.network import VelocityNetwork, zero_init


@dataclass(frozen=True)
class EmbodimentDiTConfig:
    """Sizes: token ``width``, ``pairs`` of blocks (one cross-, one self-attention), ``heads`` (which divide the width),
    MLPs ``expansion`` times as wide, ``future`` tokens, ``time_width`` features of time."""

    width: int = 192
    pairs: int = 2
    heads: int = 4
    expansion: int = 4
    future: int = 4
    time_width: int = 64


@dataclass(frozen=True)
class ChunkCache:
    """What stays over the steps of a chunk: state and future tokens (B, 1 + F, width), keys and values, chosen weights."""

    tokens: torch.Tensor
    memory: Memory
    encode: SelectedActionEncoder
    decode: SelectedMLP


class EmbodimentDiT(VelocityNetwork):
    """See the module. Raises ``ValueError`` for heads that do not divide the width, and ``condition`` for an embodiment that
    is not in 0..E-1, saying how many there are.

    Time is floor(1000 t) / 1000 in training and in sampling alike. Where it differs per step, each action token has its own;
    state and future tokens have the earliest.
    """

    def __init__(self, shape: NetworkShape, config: EmbodimentDiTConfig) -> None:
        super().__init__(shape)
        width = config.width
        self.state_encoder = CategoryMLP(shape.embodiments, shape.state, width, width)
        self.action_encoder = ActionEncoder(shape.embodiments, shape.action, config.time_width, width)
        self.action_decoder = CategoryMLP(shape.embodiments, width, width, shape.action)
        nn.init.zeros_(self.action_decoder.second.weight)
        self.future = nn.Parameter(0.02 * torch.randn(1, config.future, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, shape.horizon, width))
        self.memory = TokenMemory(shape, width, config.heads, config.pairs)
        self.sinusoid = SinusoidalTime(config.time_width)
        self.time = nn.Sequential(nn.Linear(config.time_width, config.time_width), nn.SiLU())
        self.time_modulation = open_gates(zero_init(nn.Linear(config.time_width, (12 * config.pairs + 2) * width)), width)
        self.cross = nn.ModuleList(CrossAttentionBlock(width, config.expansion, k) for k in range(config.pairs))
        self.within = nn.ModuleList(SelfAttentionBlock(width, config.heads, config.expansion) for _ in range(config.pairs))

    def _condition(self, observation: Conditioning) -> ChunkCache:
        state = self.state_encoder.select(observation.embodiment)(observation.state[:, None, :])
        return ChunkCache(
            torch.cat((state, self.future.expand(len(state), -1, -1)), dim=1),
            self.memory(observation),
            self.action_encoder.select(observation.embodiment),
            self.action_decoder.select(observation.embodiment),
        )

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: ChunkCache) -> torch.Tensor:
        before, horizon = cache.tokens.shape[1], self.shape.horizon
        earliest = t[:, None] if t.ndim == 1 else t.amin(dim=1, keepdim=True)
        times = earliest if t.ndim == 1 else torch.cat((earliest.expand(-1, before), t), dim=1)
        features = self.sinusoid(discretised(times))  # (B, 1 or 1 + F + H, time_width)
        factors = self.time_modulation(self.time(features)).chunk(12 * len(self.cross) + 2, dim=2)
        actions = cache.encode(x, features[:, -horizon:].expand(-1, horizon, -1)) + self.position
        h = torch.cat((cache.tokens, actions), dim=1)
        for k, (cross, within) in enumerate(zip(self.cross, self.within, strict=True)):
            h = cross(h, factors[12 * k : 12 * k + 6], cache.memory)
            h = within(h, factors[12 * k + 6 : 12 * k + 12])
        scale, shift = (factor[:, -horizon:] for factor in factors[-2:])
        return cache.decode(modulated(h[:, -horizon:], scale, shift))
