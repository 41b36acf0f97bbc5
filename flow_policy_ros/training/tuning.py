"""The vision-language model of a network in training: where its weights begin, which of them are learned, how they are saved.

What the model does is ``models.prefix``'s; reading its images and words is ``policy.prompt``'s.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flow_policy_ros.models.prefix import VlmPrefix
from flow_policy_ros.models.suffix import DeepFusion
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.vision.pretrained import Pretrained, import_transformers, load_network, load_part, locate

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class VlmSource:
    """A vision-language model to begin with: its processor, the JSON text of its ``config``, and where its weights are, None
    without any."""

    prompter: Prompter
    config: str
    weights: Pretrained | None

    @property
    def name(self) -> str:
        """As the folder, or the hub, calls it."""
        return self.prompter.found.name

    @staticmethod
    def read(name: str) -> VlmSource:
        """Of a folder, or a hub name that is on this machine. Raises ``ExtractorError`` naming what is missing."""
        prompter = Prompter.load(name)
        found = prompter.found
        if not found.sha256 and (found.folder / INDEX).is_file():
            found = locate(name)  # which says what parts of the weights are missing
        config = load_part(import_transformers().AutoConfig, found, "configuration").to_json_string(use_diff=False)
        return VlmSource(prompter, str(config), found if found.sha256 else None)

    def described(self, tuning: str) -> str:
        """What a run begins with, in a sentence."""
        learned = {"frozen": "and stays as it is", "lora": "its attention is adapted (LoRA)", "full": "all of it is learned"}
        if self.weights is None:
            return f"vision-language model {self.name}: the folder has no weights, it begins at random, {learned[tuning]}"
        return f"vision-language model {self.name}: begins with its weights (sha256 {self.weights.sha256[:12]}), {learned[tuning]}"

    def summary(self, tuning: str) -> dict[str, Any]:
        """The same for the checkpoint, in plain JSON types."""
        begun = {"model": self.name, "weights": "random"} if self.weights is None else self.weights.identity()
        return {**begun, "tuning": tuning}


def begin(model: FlowModel, source: VlmSource, config: TrainConfig) -> None:
    """Give the network's model its weights and say which parts of it are learned. Raises ``ExtractorError`` or ``TrainError``."""
    prefix = prefix_of(model)
    if source.weights is not None:
        loaded = load_network(import_transformers().AutoModel, source.weights, torch.device("cpu"), torch.float32)
        prefix.vlm.load_state_dict(loaded.state_dict())
    if config.vlm_tuning != "full":
        prefix.vlm.requires_grad_(False)
    if config.vlm_tuning == "lora":
        add_lora(prefix, config.lora_rank)
    model.train()


def prefix_of(model: FlowModel) -> VlmPrefix:
    """The vision-language model of a deep-fusion network."""
    assert isinstance(model.network, DeepFusion)
    return model.network.prefix


def add_lora(prefix: VlmPrefix, rank: int) -> None:
    """Additions of low rank (LoRA, Hu et al. 2022) in the decoder's attention; they begin at zero and alone are learned.

    Raises ``TrainError`` without peft, and for a decoder whose attention has no linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TrainError(f"--vlm-tuning lora needs peft, which cannot be imported ({error}): pip install peft.") from error
    decoder = prefix.text
    inside = [name for name, module in decoder.named_modules() if "attention" in type(module).__name__.lower()]
    layers = [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and any(name.startswith(f"{attention}.") for attention in inside)
    ]
    if not layers:
        raise TrainError(f"--vlm-tuning lora: {type(decoder).__name__} has no linear layers in its attention; use frozen or full.")
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=layers), decoder)


def merged(model: FlowModel) -> FlowModel:
    """The model without additions: they are in its weights, as a checkpoint has them. Others are shared with ``model``."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    if not adapted:
        return model
    own = {id(weights) for module in adapted.values() for weights in module.parameters()}
    plain = copy.deepcopy(model, {id(weights): weights for weights in model.parameters() if id(weights) not in own})
    for name in adapted:
        layer: Any = plain.get_submodule(name)
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    return plain
