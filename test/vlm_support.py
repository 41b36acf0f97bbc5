"""What the tests of deep fusion share: tiny random vision-language models of every class, and inputs for them."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import pytest
import torch

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.models.registry import make_network, network_config
from flow_policy_ros.models.suffix import DeepFusion

pytest.importorskip("transformers")

IMAGE = 49
SHAPE = NetworkShape(state=4, horizon=5, action=3)
FORMS = ("deep_expert", "deep_causal", "deep_mutual")

_TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0}
VLMS: dict[str, dict[str, Any]] = {
    "smolvlm": {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "smolvlm_vision", **_TOWER, "image_size": 16},
        "scale_factor": 2, "image_token_id": IMAGE, "pad_token_id": 0,
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", **_TEXT, "head_dim": 8},
        "vision_config": {"model_type": "siglip_vision_model", **_TOWER, "image_size": 8, "vision_use_head": False},
        "projection_dim": 32, "image_token_id": IMAGE,
    },
    "qwen2_5_vl": {
        "text_config": {"model_type": "qwen2_5_vl_text", **_TEXT, "rope_parameters": {**_MROPE, "mrope_section": [2, 1, 1]}},
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1], "out_hidden_size": 32,
        },
        "image_token_id": IMAGE, "video_token_id": 48, "vision_start_token_id": 47,
    },
    "qwen3_vl": {
        "text_config": {
            "model_type": "qwen3_vl_text", **_TEXT, "head_dim": 8,
            "rope_parameters": {**_MROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        },
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
        },
        "image_token_id": IMAGE, "video_token_id": 48, "vision_start_token_id": 47, "vision_end_token_id": 46,
    },
    "llava": {
        "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_TOWER, "image_size": 8, "projection_dim": 16},
        "image_token_id": IMAGE, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    },
}  # fmt: skip


def vlm_json(name: str) -> str:
    """The configuration of a tiny model, as text."""
    return json.dumps({"model_type": name, **VLMS[name]})


def randomised(module: torch.nn.Module, std: float = 0.2) -> torch.nn.Module:
    """With random weights everywhere, also where they start at zero or one."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module.eval()


def fused(form: str, vlm: str, shape: NetworkShape = SHAPE, geometry: int = 0) -> DeepFusion[Any]:
    """A small network of a form upon a tiny model, with random weights."""
    return randomised(copy.deepcopy(_made(form, vlm, shape, geometry)))  # type: ignore[return-value]


@functools.cache
def _made(form: str, vlm: str, shape: NetworkShape, geometry: int) -> DeepFusion[Any]:
    """As it is made, once per test run: four times as slow as a copy of it."""
    sizes = {"width": 16, "hidden": 24} if form == "deep_expert" else {}
    with torch.random.fork_rng():  # a test draws the same numbers whether or not it is the first to ask
        return make_network(form, network_config(form, {"vlm": vlm_json(vlm), "geometry": geometry, **sizes}), shape)  # type: ignore[return-value]


def sentence(vlm: str, words: list[int], left: int = 0, right: int = 0, images: int = 1) -> PrefixInputs:
    """A word; of each image four tokens and a word; the words given; padding of arbitrary content on either side."""
    ids = [5, *([IMAGE] * 4 + [8]) * images, *words]
    padding = [IMAGE, 7, 48, 9, IMAGE, 11]
    ids = [*padding[:left], *ids, *padding[:right]]
    mask = torch.tensor([[left <= i < len(ids) - right for i in range(len(ids))]])
    if vlm.startswith("qwen"):
        pixels = torch.randn(1, 16 * images, 3 * 2 * 4 * 4)
        grid = torch.tensor([[[1, 4, 4]] * images])
    else:
        size = VLMS[vlm]["vision_config"]["image_size"]
        pixels, grid = torch.randn(1, images, 3, size, size), None
    return PrefixInputs.make(torch.tensor([ids]), mask, pixels, grid)


def observed(inputs: PrefixInputs, shape: NetworkShape = SHAPE) -> Conditioning:
    """Random states beside images and instruction."""
    return Conditioning.of(torch.randn(len(inputs), shape.state), prefix=inputs)


def noisy(batch: int, shape: NetworkShape = SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    """Random x (B, H, A) and times (B,)."""
    return torch.randn(batch, shape.horizon, shape.action), torch.rand(batch)
