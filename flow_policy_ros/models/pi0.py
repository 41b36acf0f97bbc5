"""Weights of ``transformers``' pi0 (``PI0ForConditionalGeneration``) as a ``DeepFusionExpert``; nothing of its own to compute."""

from __future__ import annotations

from typing import Any

import torch

from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.models.expert import DeepFusionExpert, ExpertConfig

LAYERS = {
    "model.vlm.": "prefix.vlm.",
    "model.dit.": "expert.",
    "embed_action_time.state_proj.": "tokens.state_in.",
    "embed_action_time.action_in_proj.": "tokens.action_in.",
    "embed_action_time.action_time_mlp_in.": "tokens.mix.",
    "embed_action_time.action_time_mlp_out.": "tokens.mixed.",
    "action_out_proj.": "tokens.out.",
}
MUST_AGREE = ("model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
              "rms_norm_eps", "rope_parameters")  # fmt: skip


def from_pi0(pi0: Any) -> DeepFusionExpert:
    """The same velocity field, in forward time: ``network.velocity(x, t, ...)`` is ``-pi0(x, 1 - t)``.

    That pi0 counts time from 1 (noise) to 0 goes into the weights, not into the code: its velocity's sign into the last layer,
    1 - t into ``SuffixTokens.time_map``. Raises ``ValueError`` for an expert that does not continue its language model's layers,
    and for other periods of the time embedding than 4e-3 to 4.
    """
    config = pi0.config
    text, expert = config.vlm_config.get_text_config(), config.dit_config
    for name in MUST_AGREE:
        ours, theirs = getattr(text, name, None), getattr(expert, name, None)
        if ours != theirs:
            raise ValueError(f"{name} of the expert is {theirs!r}, of the language model {ours!r}; expected the same.")
    if (config.min_period, config.max_period) != (4e-3, 4.0):
        raise ValueError(f"time periods are {config.min_period} to {config.max_period}, expected 0.004 to 4.0.")
    network = DeepFusionExpert(
        NetworkShape(state=config.max_state_dim, horizon=config.chunk_size, action=config.max_action_dim),
        ExpertConfig(config.vlm_config.to_json_string(use_diff=False), expert.hidden_size, expert.intermediate_size),
    )
    weights = {"tokens.time_map": torch.tensor([1.0, -1.0])}
    for name, tensor in pi0.state_dict().items():
        if name == "model.dit.embed_tokens.weight":
            continue  # the expert reads no words
        part = next(prefix for prefix in LAYERS if name.startswith(prefix))
        weights[LAYERS[part] + name[len(part) :]] = -tensor if part == "action_out_proj." else tensor
    network.load_state_dict(weights)
    return network.eval()
