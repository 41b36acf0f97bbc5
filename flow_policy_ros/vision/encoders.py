"""Pretrained networks of `transformers` behind two calls: ``read`` an instruction, once, and ``look`` at images, with it.

``TowerEncoder`` serves image towers (DINOv2/3, SigLIP, CLIP vision) and image-text pairs (SigLIP/2, CLIP), ``PromptEncoder``
vision-language models that read images inside a prompt (SmolVLM, PaliGemma, Qwen-VL, LLaVA). Which rows of which stream they
become is for ``vision.vlm``; nothing here caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from flow_policy_ros.vision.preprocessing import Image
from flow_policy_ros.vision.pretrained import (
    ExtractorError,
    Pretrained,
    default_device,
    default_precision,
    import_transformers,
    load_network,
    load_part,
    locate,
)
from flow_policy_ros.vision.processors import ImageWay, Layout, Prompt, PromptWay, refuse_long


@dataclass(frozen=True)
class Seen:
    """Tokens of B images, float32: ``patches`` (B, n, d) row by row where they form a grid, ``summary`` (B, s, d) of each whole
    image, ``language`` (B, m, d). Narrower ones are padded with zeros to d."""

    patches: torch.Tensor
    summary: torch.Tensor
    language: torch.Tensor


class Words(Protocol):
    """An instruction as one network reads it; ``count`` is the number of language tokens that come of it, which ``grows`` with it
    or is one for any instruction (or none)."""

    @property
    def grows(self) -> bool: ...

    @property
    def count(self) -> int: ...


class Encoder(Protocol):
    """What ``vision.vlm`` needs of a network."""

    speaks: bool
    found: Pretrained

    def read(self, instruction: str, size: tuple[int, int]) -> Words:
        """The language side, for images of ``size`` (height, width); handed back to ``look``."""
        ...

    def look(self, images: list[Image], words: Any) -> Seen:
        """Tokens of RGB images (H, W, 3) uint8, all of one size, in one batch."""
        ...

    def layout(self, size: tuple[int, int]) -> Layout:
        """For images of ``size``. Raises ``ExtractorError`` for a processor that normalises twice or not at all."""
        ...

    def preprocessing(self) -> dict[str, Any]:
        """What is done to an image before the network, in plain JSON types."""
        ...


@dataclass(frozen=True)
class TowerWords:
    """Language tokens (m, d'): one of a pair of towers, none of a tower that knows no language."""

    tokens: torch.Tensor
    grows: bool = False

    @property
    def count(self) -> int:
        return len(self.tokens)


class _Network(ImageWay):
    """What both kinds share: the network, and what its processor makes, on the network's device."""

    def __init__(self, found: Pretrained, network: Any, image_processor: Any) -> None:
        super().__init__(found.name, image_processor)
        self.found = found
        self.network = network
        parameter = next(network.parameters())
        self.device, self.precision = parameter.device, parameter.dtype

    def pixels(self, samples: list[list[Image]]) -> dict[str, torch.Tensor]:
        """As in ``ImageWay``."""
        return {name: self._to(value) for name, value in super().pixels(samples).items()}

    def _to(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.device, self.precision) if value.is_floating_point() else value.to(self.device)


class TowerEncoder(_Network):
    """Patches, what the tower says of the whole image, and, of a pair of towers, the instruction as one token of their space."""

    def __init__(self, found: Pretrained, network: Any, image_processor: Any, tokenizer: Any | None) -> None:
        super().__init__(found, network, image_processor)
        self.speaks = tokenizer is not None
        self._tokenizer = tokenizer
        config = network.config
        self._patch_size = getattr(config, "vision_config", config).patch_size
        self._longest = int(config.text_config.max_position_embeddings) if self.speaks else 0

    @torch.inference_mode()
    def read(self, instruction: str, size: tuple[int, int]) -> TowerWords:
        """As in ``Encoder``. Raises ``ExtractorError`` for an instruction longer than the model takes."""
        if self._tokenizer is None:
            return TowerWords(torch.zeros(0, 0, device=self.device))
        most = self._longest
        refuse_long(instruction, len(self._tokenizer(instruction)["input_ids"]), most, self.found.name)
        siglip = self.network.config.model_type.startswith("siglip")  # trained on padded text, and to attend to the padding
        words = self._tokenizer(instruction, padding="max_length" if siglip else "longest", max_length=most, return_tensors="pt")
        known = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        return TowerWords(self.network.get_text_features(**{k: words[k].to(self.device) for k in known}).pooler_output.float())

    @torch.inference_mode()
    def look(self, images: list[Image], words: Any) -> Seen:
        """As in ``Encoder``."""
        pixels = self.pixels([[image] for image in images])
        said = self.network.get_image_features(**pixels) if self.speaks else self.network(**pixels)
        hidden, whole = said.last_hidden_state.float(), said.get("pooler_output")
        rows, columns = self._grid(pixels)
        if hidden.ndim != 3 or hidden.shape[1] < rows * columns:
            raise ExtractorError(
                f"model '{self.found.name}' makes {tuple(hidden.shape[1:])} of {rows} by {columns} patches, expected a token "
                "for each. Take a plain image transformer (dinov2, dinov3_vit, siglip, clip); convolutions are for vision.backbone."
            )
        first = 0 if "spatial_shapes" in pixels else hidden.shape[1] - rows * columns  # class and register tokens come first
        patches = hidden[:, first : first + rows * columns]  # and padding, where the network pads, last
        summary = hidden[:, :0] if whole is None else whole.float().flatten(1)[:, None]
        language = words.tokens[None].expand(len(images), -1, -1)
        width = max(part.shape[2] for part in (patches, summary, language))
        return Seen(widen(patches, width), widen(summary, width), widen(language, width))

    def _grid(self, pixels: dict[str, torch.Tensor]) -> tuple[int, int]:
        if "spatial_shapes" in pixels:
            rows, columns = (int(n) for n in pixels["spatial_shapes"][0])
            return rows, columns
        patch = self._patch_size
        high, wide = patch if isinstance(patch, list | tuple) else (patch, patch)
        return pixels["pixel_values"].shape[-2] // high, pixels["pixel_values"].shape[-1] // wide

    def layout(self, size: tuple[int, int]) -> Layout:
        """As in ``Encoder``."""
        area = self.covered(size)
        pixels = self.pixels([[np.zeros((*size, 3), np.uint8)]])
        whole = (0.0, 0.0, float(size[1]), float(size[0]))
        return Layout(self._grid(pixels), whole if "spatial_shapes" in pixels else area)


class PromptEncoder(_Network):
    """What a vision-language model makes of one image and the instruction: its last hidden states, the image's as patches."""

    speaks = True

    def __init__(self, found: Pretrained, network: Any, processor: Any) -> None:
        super().__init__(found, network, processor.image_processor)
        self._prompts = PromptWay(found.name, processor, network.config)

    def read(self, instruction: str, size: tuple[int, int], images: int = 1) -> Prompt:
        """As ``PromptWay.read``, on the network's device."""
        words = self._prompts.read(instruction, size, images)
        return Prompt({k: v.to(self.device) for k, v in words.inputs.items()}, words.is_image.to(self.device))

    def encoding(self, samples: list[list[Image]], words: Prompt) -> dict[str, torch.Tensor]:
        """All that the network takes, of samples of as many images as the prompt has places for: the prefix of a policy."""
        return {**{k: v.expand(len(samples), -1) for k, v in words.inputs.items()}, **self.pixels(samples)}

    @torch.inference_mode()
    def look(self, images: list[Image], words: Any) -> Seen:
        """As in ``Encoder``, each image a prompt of its own."""
        hidden = self.network(**self.encoding([[image] for image in images], words), use_cache=False).last_hidden_state.float()
        patches = hidden[:, words.is_image]
        return Seen(patches, patches[:, :0], hidden[:, ~words.is_image])

    def layout(self, size: tuple[int, int]) -> Layout:
        """As in ``Encoder``."""
        return self._prompts.layout(size)


def load_encoder(model: str, revision: str | None = None, device: str = "", precision: str = "") -> TowerEncoder | PromptEncoder:
    """The network of a folder or hub name (found on this machine), by what its configuration says it is.

    ``device`` and ``precision`` (``fp32``, ``bf16``) are chosen by the machine where empty. Raises ``ExtractorError`` naming
    the model, what is missing or not understood, and the remedy.
    """
    transformers = import_transformers()
    found = locate(model, revision)
    config = load_part(transformers.AutoConfig, found, "configuration")
    on = default_device(device)
    kind, kinds = config.model_type, transformers.models.auto.modeling_auto
    prompted = kind in kinds.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not getattr(config, "is_encoder_decoder", False)
    paired = hasattr(config, "text_config") and hasattr(config, "vision_config")
    image_only = hasattr(config, "patch_size")
    if not (prompted or paired or image_only):
        raise ExtractorError(
            f"model '{found.name}' is of the kind '{kind}', expected an image tower (dinov2, dinov3_vit), an image-text pair "
            "(siglip, siglip2, clip) or a vision-language model (smolvlm, paligemma, qwen2_5_vl, llava). For text alone there is "
            "vision.sentence."
        )
    network = load_network(transformers.AutoModel, found, on, default_precision(on, precision))
    if prompted:
        return PromptEncoder(found, network, load_part(transformers.AutoProcessor, found, "processor"))
    if paired and not hasattr(network, "get_text_features"):
        raise ExtractorError(f"model '{found.name}' of the kind '{kind}' has no text tower that could be read from outside.")
    tokenizer = load_part(transformers.AutoTokenizer, found, "tokenizer") if paired else None
    return TowerEncoder(found, network, load_part(transformers.AutoImageProcessor, found, "image processor"), tokenizer)


def widen(tokens: torch.Tensor, width: int) -> torch.Tensor:
    """(…, d) padded with zeros to (…, width)."""
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[-1]))
