"""Deep fusion without a vision-language model: action tokens meet the observation's feature tokens in every layer.

A small decoder reads the tokens of all feature streams, each with a learned embedding of its row, which tells streams apart;
layer k of a second one, the action expert of ``expert``, attends to the keys and values of its layer k and to its own.
The features do not see state and actions, so their keys and values serve all steps of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.decoder import DecoderLayer, DecoderSizes, Projection, RMSNorm, turns
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.suffix import SuffixTokens, suffix_sees


@dataclass(frozen=True)
class DeepFeaturesConfig:
    """Sizes: ``layers`` and ``heads`` (which divide the width) of both decoders, ``width`` (even) of a state or action token,
    at least the action dimensions so that noise passes, ``hidden`` width of its MLPs, and both of the feature tokens."""

    layers: int = 4
    heads: int = 4
    width: int = 192
    hidden: int = 512
    prefix_width: int = 128
    prefix_hidden: int = 256


@dataclass(frozen=True)
class FeatureCache:
    """What stays over the steps of a chunk, of L feature tokens, n = 1 + H (or H, where S = 0) tokens of state and actions.

    ``keys_values`` (layers, 2, B, heads, L, head width) of the features; ``state`` (B, 0 or 1, width); ``mask``
    (B, 1, n, L + n) bool, what state and actions see.
    """

    keys_values: torch.Tensor
    state: torch.Tensor
    mask: torch.Tensor


class FeaturePrefix(nn.Module):
    """The feature tokens, run once per observation. All see all real ones, as in PaliGemma's prefix: features have no order."""

    def __init__(self, shape: NetworkShape, sizes: DecoderSizes) -> None:
        super().__init__()
        # A plain matrix and not nn.Linear, which warns when there are no channels.
        self.project = nn.Parameter(torch.randn(shape.channels, sizes.width) / math.sqrt(max(shape.channels, 1)))
        self.row = nn.Parameter(0.02 * torch.randn(1, shape.tokens, sizes.width))
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.layers - 1))
        self.last = Projection(sizes, 2)  # nothing reads more of the last layer

    def forward(self, observation: Conditioning, turns: torch.Tensor) -> torch.Tensor:
        """Keys and values (layers, 2, B, heads, L, head width) of the L tokens, masked ones among them."""
        h = observation.visible_tokens @ self.project + self.row
        # A masked token sees itself, for a softmax needs something to see. No other sees it.
        own = torch.eye(h.shape[1], dtype=torch.bool, device=h.device)
        mask = observation.token_mask[:, None, None, :] | own
        keys_values = []
        for layer in self.layers:
            h, of_layer = layer(h, turns, mask)
            keys_values.append(of_layer)
        keys, values = self.last(h, turns)
        return torch.stack([*keys_values, torch.cat((keys, values[None]))])


class DeepFeatures(VelocityNetwork):
    """See the module. Without a real token (all masked, or L = 0) the actions see the state and each other only.

    The order of tokens is features, state (where S > 0), actions. Raises ``ValueError`` for heads that do not divide the width
    into even parts.
    """

    turns: torch.Tensor

    def __init__(self, shape: NetworkShape, config: DeepFeaturesConfig) -> None:
        super().__init__(shape)
        if config.width % (2 * config.heads):
            raise ValueError(
                f"width {config.width} is not a multiple of its {config.heads} heads, each an even number wide; choose one that is."
            )
        self.heads, head = config.heads, config.width // config.heads
        prefix = DecoderSizes(config.layers, config.heads, head, config.prefix_width, config.prefix_hidden)
        expert = DecoderSizes(config.layers, config.heads, head, config.width, config.hidden)
        self.prefix = FeaturePrefix(shape, prefix) if shape.tokens else None
        self.tokens = SuffixTokens(shape, config.width)
        self.layers = nn.ModuleList(DecoderLayer(expert) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.register_buffer("turns", turns(shape.tokens + bool(shape.state) + shape.horizon, head), persistent=False)

    def _condition(self, observation: Conditioning) -> FeatureCache:
        features, state = self.shape.tokens, self.tokens.state(observation.state)
        if self.prefix is None:
            keys_values = state.new_zeros(len(self.layers), 2, len(state), self.heads, 0, self.turns.shape[2])
        else:
            keys_values = self.prefix(observation, self.turns[:, :features])
        sees = suffix_sees(observation.token_mask, state.shape[1], self.shape.horizon)
        return FeatureCache(keys_values, state, sees[:, None])

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: FeatureCache) -> torch.Tensor:
        h = torch.cat((cache.state, self.tokens.actions(x, t)), dim=1)
        for layer, before in zip(self.layers, cache.keys_values.unbind(), strict=True):
            h, _ = layer(h, self.turns[:, self.shape.tokens :], cache.mask, before)
        return self.tokens.velocity(self.norm(h[:, -self.shape.horizon :]))
