"""Deep fusion with shared weights: state and action tokens go through the vision-language model's own layers.

No weights but the projections of the tokens. *Causal blocks*: the prefix does not see the suffix, and its keys and values serve
all steps. *Mutual*: everything sees everything in every layer (LLaVA-3D line), at the price of the whole decoder per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.models.expert import suffix_cache, through_layers
from flow_policy_ros.models.prefix import Embedded, Prefix, for_decoder
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.models.suffix import DeepFusion, FusionCache, SuffixTokens, added, suffix_positions


@dataclass(frozen=True)
class SharedConfig:
    """``vlm``: JSON text of the vision-language model's configuration; ``geometry``: width of the MLP for positions from depth, 0
    for none."""

    vlm: str = ""
    geometry: int = 0


class SharedCausal(DeepFusion[Prefix]):
    """Causal blocks; see the module. Raises ``ValueError`` as ``VlmPrefix`` and ``DeepFusion``."""

    seen_type = Prefix

    def __init__(self, shape: NetworkShape, config: SharedConfig) -> None:
        super().__init__(shape, config.vlm, config.geometry)
        self.tokens = SuffixTokens(shape, self.prefix.text.config.hidden_size)

    def see(self, inputs: PrefixInputs) -> Prefix:
        """See ``DeepFusion``."""
        return self.prefix(inputs)

    def _cache(self, seen: Prefix, state: torch.Tensor) -> FusionCache[Prefix]:
        return suffix_cache(seen, state, self.shape.horizon, seen.keys_values.dtype)

    def _hidden(self, suffix: torch.Tensor, cache: FusionCache[Prefix]) -> torch.Tensor:
        return through_layers(self.prefix.text, suffix, cache)


class SharedMutual(DeepFusion[Embedded]):
    """Everything sees everything; see the module. Raises ``ValueError`` as ``VlmPrefix`` and ``DeepFusion``.

    The vision tower runs once per observation, the decoder over prefix and suffix once per step.
    """

    seen_type = Embedded

    def __init__(self, shape: NetworkShape, config: SharedConfig) -> None:
        super().__init__(shape, config.vlm, config.geometry)
        self.tokens = SuffixTokens(shape, self.prefix.text.config.hidden_size)

    def see(self, inputs: PrefixInputs) -> Embedded:
        """See ``DeepFusion``."""
        return self.prefix.embed(inputs)

    def _cache(self, seen: Embedded, state: torch.Tensor) -> FusionCache[Embedded]:
        own = state.shape[1] + self.shape.horizon
        after = suffix_positions(seen.next_position, own)[:, None].expand(-1, seen.positions.shape[1], -1)
        visible = F.pad(seen.mask, (0, own), value=True)
        queries = visible[:, None, None, :].expand(-1, 1, visible.shape[1], -1)
        positions = torch.cat((seen.positions, after), dim=2)
        return FusionCache(seen, state, positions, added(queries, seen.tokens.dtype))

    def _hidden(self, suffix: torch.Tensor, cache: FusionCache[Embedded]) -> torch.Tensor:
        seen, own = cache.seen, suffix.shape[1]
        more: dict[str, Any] = {}
        if seen.deepstack.shape[1]:
            more["visual_pos_masks"] = F.pad(seen.image, (0, own), value=False)
            more["deepstack_visual_embeds"] = [layer[seen.image] for layer in seen.deepstack.unbind(dim=1)]
        output = self.prefix.text(
            inputs_embeds=torch.cat((seen.tokens, suffix.to(seen.tokens.dtype)), dim=1),
            attention_mask=cache.mask,
            position_ids=for_decoder(cache.positions),
            use_cache=False,
            **more,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[:, -own:]
