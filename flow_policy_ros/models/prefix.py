"""A vision-language model run once over images and instruction: what it lets the action tokens attend to in every layer.

Any model of ``transformers`` with a vision tower and a decoder: SmolVLM, Idefics3, PaliGemma, LLaVA, Qwen-VL. Its code is
neither changed nor repeated here: it runs until it calls its own decoder, and what it hands over there is taken. The action
tokens themselves are in ``expert`` and ``shared``.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.batched import Batched
from flow_policy_ros.models.patch_positions import PatchPositions
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.vision.pretrained import import_transformers

TB = TypeVar("TB", bound="TokenBatch")


class TokenBatch(Batched):
    """Base of what was made of sequences; ``along`` names the dimension of each field that runs along their tokens."""

    along: ClassVar[dict[str, int]]

    @classmethod
    def cat(cls: type[TB], batches: Sequence[TB]) -> TB:
        """Batches one after the other, padded on the right to the longest."""
        longest = max(batch.mask.shape[1] for batch in batches)
        return super().cat([batch._lengthened(longest) for batch in batches])

    def _lengthened(self: TB, length: int) -> TB:
        more = length - self.mask.shape[1]
        parts = {name: getattr(self, name) for name in self.along}
        padding = {name: (0, 0) * (part.ndim - 1 - self.along[name]) + (0, more) for name, part in parts.items()}
        longer = {name: F.pad(part, padding[name]) for name, part in parts.items()}
        return dataclasses.replace(self, **longer)  # type: ignore[type-var]


@dataclass(frozen=True)
class Embedded(TokenBatch):
    """What goes into the decoder's first layer, image features in their places.

    ``tokens`` (B, T, D); ``mask`` (B, T) bool, what may be seen; ``positions`` (B, axes, T) int64, three axes with M-RoPE, else
    one; ``image`` (B, T) bool, the image tokens; ``deepstack`` (B, layers, T, D), what the first layers add to their outputs
    (Qwen3-VL), else no layers.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    image: torch.Tensor
    deepstack: torch.Tensor
    along: ClassVar[dict[str, int]] = {"tokens": 1, "mask": 1, "positions": 2, "image": 1, "deepstack": 2}

    @property
    def next_position(self) -> torch.Tensor:
        """(B,) int64: where the sequence goes on."""
        return self.positions.amax(dim=(1, 2)) + 1


@dataclass(frozen=True)
class Prefix(TokenBatch):
    """What every layer of the decoder computed of its input, positions rotated in.

    ``keys_values`` (B, layers, 2, key heads, T, head width); ``mask`` (B, T) bool, what may be seen;
    ``next_position`` (B,) int64, where the sequence goes on; ``image`` (B, T) bool, the image tokens.
    """

    keys_values: torch.Tensor
    mask: torch.Tensor
    next_position: torch.Tensor
    image: torch.Tensor
    along: ClassVar[dict[str, int]] = {"keys_values": 4, "mask": 1, "image": 1}

    def cache(self) -> Any:
        """A ``DynamicCache`` of these keys and values, to be passed to a decoder: what that adds is not kept here."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        cache = DynamicCache()
        for keys_values in self.keys_values.unbind(dim=1):
            layer = DynamicLayer()
            layer.keys, layer.values = keys_values.unbind(dim=1)
            layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
            cache.layers.append(layer)
        return cache


class VlmPrefix(nn.Module):
    """A vision-language model of random weights, as ``config`` says: the JSON text of its ``transformers`` configuration.

    ``geometry`` above 0: positions of the image tokens are added to their features, by an MLP so wide.
    ``requires_grad_(False)`` freezes it; nothing then trains, and it stays in eval mode.

    Raises ``ValueError`` for text that is none, or without an image token.
    """

    def __init__(self, config: str, geometry: int = 0) -> None:
        super().__init__()
        self.config = vlm_config(config)
        self.vlm = import_transformers().AutoModel.from_config(self.config, attn_implementation="sdpa")
        width = self.text.config.hidden_size
        self.geometry = PatchPositions(width, geometry) if geometry else None
        self._takes = frozenset(inspect.signature(self.vlm.forward).parameters)

    @property
    def text(self) -> Any:
        """The decoder."""
        return self.vlm.get_decoder()

    @property
    def frozen(self) -> bool:
        """Whether no weight is to be learned."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> VlmPrefix:
        """As torch's; what is frozen, all of it or a tower, stays as deployed."""
        super().train(mode and not self.frozen)
        for child in self.children():
            _rest(child)
        return self

    def embed(self, inputs: PrefixInputs) -> Embedded:
        """Vision tower and embeddings only. Raises ``ValueError`` for inputs that do not fit the model."""
        return self._embedded(inputs, self._handed_over(inputs))

    def forward(self, inputs: PrefixInputs) -> Prefix:
        """One pass of the whole model, attending as it was made to (SmolVLM, LLaVA, Qwen-VL causally, PaliGemma to all of its
        prefix). Raises ``ValueError`` for inputs that do not fit the model."""
        from transformers.cache_utils import DynamicCache

        arguments = self._handed_over(inputs)
        embedded = self._embedded(inputs, arguments)
        cache = DynamicCache()
        arguments |= {"position_ids": for_decoder(embedded.positions), "past_key_values": cache, "use_cache": True}
        self.text(**arguments)
        keys_values = torch.stack([torch.stack((layer.keys, layer.values), dim=1) for layer in cache.layers], dim=1)
        return Prefix(keys_values, embedded.mask, embedded.next_position, embedded.image)

    def require_room(self, tokens: int) -> None:
        """Raise ``ValueError`` for more tokens than a layer of the decoder attends to."""
        text = self.config.get_text_config()
        sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ())
        if sliding and tokens > text.sliding_window:
            raise ValueError(
                f"prefix and chunk have {tokens} tokens, layers of {self.config.model_type} attend to the last "
                f"{text.sliding_window} only; use fewer or smaller images, or a shorter instruction."
            )

    def _handed_over(self, inputs: PrefixInputs) -> dict[str, Any]:
        """The arguments that the model gives its decoder."""
        inputs.check(len(inputs))
        arguments = self._arguments(inputs)
        here = threading.get_ident()

        # Another thread may be running action tokens through the same decoder. While a hook comes or goes, torch calls it there
        # without keywords.
        def stop(module: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> None:
            if threading.get_ident() == here:
                raise _ReachedDecoder(kwargs or {})

        hook = self.text.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.vlm(**arguments)
        except _ReachedDecoder as reached:
            return reached.arguments | {"inputs_embeds": self._placed(reached.arguments["inputs_embeds"], inputs)}
        finally:
            hook.remove()
        raise ValueError(f"{type(self.vlm).__name__} does not call its decoder {type(self.text).__name__}; use another model.")

    def _arguments(self, inputs: PrefixInputs) -> dict[str, Any]:
        """What the model's ``forward`` takes."""
        image = self.config.image_token_id
        ids = inputs.input_ids.masked_fill(~inputs.mask, 0 if image else 1)
        pixels = inputs.pixels
        if inputs.pixels.ndim == 3 or self.config.model_type not in ("smolvlm", "idefics3", "idefics2"):
            pixels = pixels.flatten(0, 1)
        arguments = {"input_ids": ids, "attention_mask": inputs.mask.long(), "pixel_values": pixels, "use_cache": False}
        if inputs.grid.shape[1]:
            arguments["image_grid_thw"] = inputs.grid.flatten(0, 1)
        if "mm_token_type_ids" in self._takes:
            arguments["mm_token_type_ids"] = (ids == image).int()
        if self.config.model_type == "paligemma":
            arguments["token_type_ids"] = torch.zeros_like(ids)  # all of it is prefix, in PaliGemma's sense
        if not hasattr(self.vlm, "get_rope_index"):  # with M-RoPE positions are the model's own affair
            arguments["position_ids"] = _places(inputs.mask)
        return arguments

    def _embedded(self, inputs: PrefixInputs, arguments: dict[str, Any]) -> Embedded:
        tokens = arguments["inputs_embeds"]
        positions = arguments.get("position_ids")
        positions = _places(inputs.mask) if positions is None else positions
        positions = positions[:, None] if positions.ndim == 2 else positions[-3:].transpose(0, 1)
        image = self._image(inputs)
        deepstack = tokens.new_zeros(len(tokens), 0, *tokens.shape[1:])
        if arguments.get("deepstack_visual_embeds"):
            added = arguments["deepstack_visual_embeds"]
            deepstack = torch.stack([torch.zeros_like(tokens).masked_scatter(image[:, :, None], a) for a in added], dim=1)
        return Embedded(tokens, inputs.mask & inputs.shown[:, None], positions, image, deepstack)

    def _image(self, inputs: PrefixInputs) -> torch.Tensor:
        """Which tokens (B, T) are the images'."""
        return (inputs.input_ids == self.config.image_token_id) & inputs.mask

    def _placed(self, tokens: torch.Tensor, inputs: PrefixInputs) -> torch.Tensor:
        """Embeddings (B, T, D) with those of the image tokens told where they lie."""
        if self.geometry is None and not inputs.points.shape[1]:
            return tokens
        if self.geometry is None:
            raise ValueError("the observation has positions from depth, which this network was not made for; leave them out.")
        image = self._image(inputs)
        counts = image.sum(dim=1).tolist()
        if set(counts) != {inputs.points.shape[1]}:
            raise ValueError(
                f"{inputs.points.shape[1]} image tokens have a position from depth, expected {sorted(set(counts))}, all of them: "
                "this network was trained with depth; give it the depth image, or train one without."
            )
        features = tokens[image].view(*inputs.points.shape[:2], -1)
        placed = self.geometry(features, inputs.points, inputs.known)
        return tokens.masked_scatter(image[:, :, None], placed)


def _rest(module: nn.Module) -> None:
    """Put the parts that have weights, but none to be learned, in eval mode."""
    weights = list(module.parameters())
    if weights and not any(weight.requires_grad for weight in weights):
        module.eval()
        return
    for child in module.children():
        _rest(child)


class _ReachedDecoder(Exception):
    """Not an error: ends a pass at the decoder, carrying its arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__("a vision-language model reached its decoder")
        self.arguments = dict(arguments)


def vlm_config(text: str) -> Any:
    """The ``transformers`` configuration in JSON ``text``. Raises ``ValueError`` for text that is none, or without images."""
    transformers = import_transformers()
    try:
        content = json.loads(text)
        config = transformers.AutoConfig.for_model(content.pop("model_type"), **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        shown = text if len(text) < 60 else text[:57] + "..."
        raise ValueError(
            f"vlm is {shown!r}, expected the JSON text of a transformers configuration with its model_type ({error}); make it "
            "with AutoConfig.from_pretrained(name).to_json_string(use_diff=False)."
        ) from error
    if getattr(config, "image_token_id", None) is None:
        raise ValueError(f"a model of type {config.model_type} has no image token; use a vision-language model, such as SmolVLM.")
    return config


def for_decoder(positions: torch.Tensor) -> torch.Tensor:
    """Positions (B, axes, T) as decoders take them: (B, T), or (3, B, T) with M-RoPE."""
    return positions[:, 0] if positions.shape[1] == 1 else positions.transpose(0, 1)


def _places(seen: torch.Tensor) -> torch.Tensor:
    """Positions (B, T) of the tokens that are ``seen`` (B, T), counted from 0 whatever padding lies before."""
    return (seen.long().cumsum(dim=1) - 1).clamp(min=0)
