"""What the action tokens look at: how much of their attention each token of the observation gets, layer by layer.

For people who want to see it, on demand: the step is computed once more, by a copy of the network's modules that shares its
weights and keeps the shares that fast attention never writes down. The network itself, which others may be running, is not
touched. Drawing is ``vision.heat_map``'s.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flow_policy_ros.models.attention import Memory
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.decoder import Attention
from flow_policy_ros.models.dit_cross import DiTCross
from flow_policy_ros.models.embodiment_dit import EmbodimentDiT
from flow_policy_ros.models.expert import DeepFusionExpert
from flow_policy_ros.models.feature_prefix import DeepFeatures
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.suffix import DeepFusion


@dataclass(frozen=True)
class AttentionMap:
    """``layers`` (B, layers, H, L): the share of its attention that each of the H action tokens gives each of the L tokens of the
    observation, averaged over heads; 0 for masked ones. What is missing to 1 went to state and action tokens, or, in
    networks with cross-attention and for a sample without a real token, to the learned one that stands for none."""

    layers: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """(B, H, L): averaged over layers."""
        return self.layers.mean(dim=1)


def attention_map(network: VelocityNetwork, x: torch.Tensor, t: torch.Tensor, cache: Any) -> AttentionMap:
    """The attention of one call of ``network.velocity``, of the same arguments.

    Tokens are the observation's feature tokens, or those of the prefix (images and words) in deep fusion with a vision-language
    model. Raises ``ValueError`` for a network that attends to no observation, and as ``velocity``.
    """
    horizon = network.shape.horizon
    with torch.no_grad():
        if isinstance(network, DeepFusion):
            tokens = cache.seen.mask.shape[1]
            shares = _of_transformers(network, x, t, cache)
        elif isinstance(network, DeepFeatures):
            tokens = network.shape.tokens
            shares = _of_decoder(network, x, t, cache)
        elif isinstance(network, (DiTCross, EmbodimentDiT)):
            tokens = network.shape.tokens
            shares = _of_memory(network, x, t, cache)
        else:
            raise ValueError(
                f"{type(network).__name__} takes the observation as one vector and attends to none of its tokens; use dit_cross, "
                "embodiment_dit, deep_features, or deep fusion with a vision-language model."
            )
        return AttentionMap(torch.stack([share[:, :, -horizon:, :tokens].float().mean(dim=1) for share in shares], dim=1))


def attention_at(network: VelocityNetwork, observation: Conditioning, noise: torch.Tensor, time: float, steps: int) -> AttentionMap:
    """The attention at solver time ``time`` in [0, 1) of a chunk that ``steps`` Euler steps make of ``noise`` (B, H, A).

    Of the step that begins there, or of the last one before; after 0, of a network whose output is the velocity. Raises
    ``ValueError`` for another time, and as ``attention_map``.
    """
    if not 0.0 <= time < 1.0:
        raise ValueError(f"solver time is {time}, expected at least 0 (noise) and less than 1, where the chunk is finished.")
    with torch.no_grad():
        cache = network.condition(observation)
        x, first = noise, int(time * steps + 1e-9)
        for k in range(first):
            x = x + network.velocity(x, noise.new_full((len(x),), k / steps), cache) / steps
        return attention_map(network, x, noise.new_full((len(x),), first / steps), cache)


def heat_maps(attention: torch.Tensor, rows: slice | torch.Tensor, grid: tuple[int, int], images: int = 1) -> torch.Tensor:
    """The shares (B, H, L) of the tokens of ``images`` images, averaged over the actions, as (B, images, rows, columns).

    ``rows``: which tokens are the images', a slice of the L (the place of their stream), or (B, L) bool (the ``image`` of what a
    vision-language model has seen). They lie one image after the other, each row by row, ``grid`` (rows, columns) of them.
    Raises ``ValueError`` naming expected and given where their number is another.
    """
    mean = attention.mean(dim=1)
    if isinstance(rows, slice):
        chosen = torch.zeros(mean.shape, dtype=torch.bool, device=mean.device)
        chosen[:, rows] = True
    else:
        chosen = rows
    expected, counts = images * grid[0] * grid[1], sorted(set(chosen.sum(dim=1).tolist()))
    if counts != [expected]:
        raise ValueError(
            f"{counts} tokens are images', expected {expected}: {images} of {grid[0]} rows and {grid[1]} columns; give the grid "
            "of the tokens, not of pixels or patches."
        )
    return mean[chosen].view(len(mean), images, *grid)


def _of_memory(network: DiTCross | EmbodimentDiT, x: torch.Tensor, t: torch.Tensor, cache: Any) -> list[torch.Tensor]:
    """Of cross-attention: what the memory is asked in each block."""
    shares: list[torch.Tensor] = []
    if isinstance(network, DiTCross):
        modulation, memory = cache
        network.velocity(x, t, (modulation, _Watched(memory.keys_values, memory.mask, shares)))
    else:
        memory = _Watched(cache.memory.keys_values, cache.memory.mask, shares)
        network.velocity(x, t, dataclasses.replace(cache, memory=memory))
    return shares


@dataclass(frozen=True)
class _Watched(Memory):
    """A memory that notes the shares (B, heads, N, M) of each attention."""

    shares: list[torch.Tensor]

    def attended(self, queries: torch.Tensor, block: int) -> torch.Tensor:
        """See ``Memory``."""
        keys = self.keys_values[block, 0]
        self.shares.append(_shares(queries.unflatten(2, (keys.shape[1], -1)).transpose(1, 2), keys, self.mask))
        return super().attended(queries, block)


def _of_decoder(network: DeepFeatures, x: torch.Tensor, t: torch.Tensor, cache: Any) -> list[torch.Tensor]:
    """Of this package's own decoder: what each attention is given."""
    shares: list[torch.Tensor] = []
    twin = _twin(network)
    for layer in twin.layers:
        assert isinstance(layer.attend, Attention)
        layer.attend.register_forward_pre_hook(lambda _, given: shares.append(_shares(given[0], given[1], given[3])))
    twin.velocity(x, t, cache)
    return shares


def _of_transformers(network: DeepFusion[Any], x: torch.Tensor, t: torch.Tensor, cache: Any) -> list[torch.Tensor]:
    """Of a decoder of ``transformers``: its own shares, which only its plain attention returns."""
    shares: list[torch.Tensor] = []
    twin = _twin(network)
    decoder = twin.expert if isinstance(twin, DeepFusionExpert) else twin.prefix.text
    decoder.set_attn_implementation("eager")
    for layer in decoder.layers:
        layer.self_attn.register_forward_hook(lambda module, given, output: shares.append(output[1]))
    twin.velocity(x, t, cache)
    return shares


def _shares(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """softmax(q k' / sqrt(D)) where ``mask`` is true, (B, heads, N, M) for q (B, heads, N, D) and k (B, heads, M, D)."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def _twin(network: Any) -> Any:
    """Modules of their own with the same weights: hooks and settings of the one do not reach the other."""
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin: nn.Module = copy.deepcopy(network, kept)
    return twin.eval()
