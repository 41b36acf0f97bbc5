"""Deep fusion with weights of its own (pi0's action expert, Black et al. 2024; SmolVLA, Shukor et al. 2025).

A narrower transformer of the vision-language model's kind, with as many layers and the same heads: its layer k attends to the
keys and values of that model's layer k and to its own. The prefix never sees it, so one prefix serves all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.models.prefix import Prefix
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.models.suffix import DeepFusion, FusionCache, SuffixTokens, suffix_mask, suffix_positions
from flow_policy_ros.vision.pretrained import import_transformers

# Decoders with M-RoPE by their text-only kin: for tokens that have one position on all axes both rotate alike.
TEXT_KIN = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}


@dataclass(frozen=True)
class ExpertConfig:
    """``vlm``: JSON text of the vision-language model's configuration; sizes of the expert: ``width`` (even) of a token, ``hidden``
    width of its MLPs; ``geometry``: width of the MLP for positions from depth, 0 for none."""

    vlm: str = ""
    width: int = 256
    hidden: int = 1024
    geometry: int = 0


class DeepFusionExpert(DeepFusion[Prefix]):
    """See the module. Raises ``ValueError`` as ``VlmPrefix`` and ``DeepFusion``."""

    seen_type = Prefix

    def __init__(self, shape: NetworkShape, config: ExpertConfig) -> None:
        super().__init__(shape, config.vlm, config.geometry)
        self.expert = import_transformers().AutoModel.from_config(
            expert_config(self.prefix.config.get_text_config(), config.width, config.hidden), attn_implementation="sdpa"
        )
        self.expert.embed_tokens = None  # it reads no words
        self.tokens = SuffixTokens(shape, config.width)

    def see(self, inputs: PrefixInputs) -> Prefix:
        """See ``DeepFusion``."""
        return self.prefix(inputs)

    def _cache(self, seen: Prefix, state: torch.Tensor) -> FusionCache[Prefix]:
        return suffix_cache(seen, state, self.shape.horizon, next(self.expert.parameters()).dtype)

    def _hidden(self, suffix: torch.Tensor, cache: FusionCache[Prefix]) -> torch.Tensor:
        return through_layers(self.expert, suffix, cache)


def suffix_cache(seen: Prefix, state: torch.Tensor, horizon: int, dtype: torch.dtype) -> FusionCache[Prefix]:
    """The cache of tokens that attend to a prefix which does not attend to them; keys and values in ``dtype``."""
    seen = Prefix(seen.keys_values.to(dtype), seen.mask, seen.next_position, seen.image)
    tokens = state.shape[1]
    return FusionCache(
        seen,
        state,
        suffix_positions(seen.next_position, tokens + horizon),
        suffix_mask(seen.mask, tokens, horizon, dtype),
    )


def through_layers(decoder: Any, suffix: torch.Tensor, cache: FusionCache[Prefix]) -> torch.Tensor:
    """The last hidden states (B, n, width) of the suffix (B, n, width), run through a decoder after the prefix."""
    output = decoder(
        inputs_embeds=suffix.to(cache.mask.dtype),
        attention_mask=cache.mask,
        position_ids=cache.positions,
        past_key_values=cache.seen.cache(),
        use_cache=True,
    )
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def expert_config(text: Any, width: int, hidden: int) -> Any:
    """The configuration of an expert ``width`` wide beside a decoder of configuration ``text``: same kind, layers and heads."""
    values = text.to_dict()
    kind = values.pop("model_type")
    layers, heads = values["num_hidden_layers"], values["num_attention_heads"]
    rope = {name: value for name, value in (values.get("rope_parameters") or {}).items() if not name.startswith("mrope")}
    # What names words, what is told anew below, and what follows from it.
    for name in ("layer_types", "sliding_window", "use_sliding_window", "dtype"):
        values.pop(name, None)
    values |= {
        "hidden_size": width,
        "intermediate_size": hidden,
        "vocab_size": 1,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "num_key_value_heads": values.get("num_key_value_heads") or heads,
        "head_dim": values.get("head_dim") or text.hidden_size // heads,
        "layer_types": ["full_attention"] * layers,
        "rope_parameters": rope,
    }
    return import_transformers().AutoConfig.for_model(TEXT_KIN.get(kind, kind), **values)
