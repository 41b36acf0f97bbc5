"""The ways of images and words into pretrained networks of `transformers`: their processors, measured and without any network.

What a network makes of it is ``encoders``'; a policy that runs the network itself needs these alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.runtime.instruction_text import require_words
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.vision.preprocessing import Image, Normalisation, check_once, covered
from flow_policy_ros.vision.pretrained import ExtractorError

_SETTINGS = (
    "resample",
    "size",
    "crop_size",
    "rescale_factor",
    "image_mean",
    "image_std",
    "patch_size",
    "merge_size",
    "min_pixels",
    "max_pixels",
    "max_image_size",
    "max_num_patches",
    "image_seq_length",
)


@dataclass(frozen=True)
class Layout:
    """How a network divides images of one size: ``grid`` (rows, columns) of the patches and the rectangle ``covered`` (left, top,
    right, bottom) of the image that they tile, in pixels; None where they tile none."""

    grid: tuple[int, int] | None
    covered: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Prompt:
    """An instruction as the network reads it, its images' places included: ``inputs`` (1, T) each, ``is_image`` (T,)."""

    inputs: dict[str, torch.Tensor]
    is_image: torch.Tensor
    grows: bool = True

    @property
    def count(self) -> int:
        return int((~self.is_image).sum())


class ImageWay:
    """The images' way into the model ``name``, through its image processor."""

    def __init__(self, name: str, image_processor: Any) -> None:
        self.name = name
        self.image_processor = image_processor

    def preprocessing(self) -> dict[str, Any]:
        """What is done to an image before the network, in plain JSON types."""
        settings = self.image_processor.to_dict()
        kept = {k: _plain(v) for k, v in sorted(settings.items()) if k.startswith("do_") or k in _SETTINGS}
        return {k: v for k, v in kept.items() if v is not None}

    def pixels(self, samples: list[list[Image]]) -> dict[str, torch.Tensor]:
        """The images of each sample, scaled and normalised once, as the network's arguments."""
        made = self.image_processor(images=samples, return_tensors="pt", input_data_format="channels_last")
        return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}

    def picture(self, image: Image) -> NDArray[np.float64]:
        """The network's pixels (3, h, w) of one image; where they are no one picture, (3, values, 1)."""
        made = self.image_processor(images=[[image]], return_tensors="pt", input_data_format="channels_last")
        pixels = made["pixel_values"].double()
        if pixels.ndim == 2:  # patches, each (3, …)
            return pixels.unflatten(1, (3, -1)).transpose(0, 1).reshape(3, -1, 1).numpy()
        if pixels.ndim == 3:  # (1, patches, values of (…, 3))
            mask = made["pixel_attention_mask"][0].bool()
            return pixels[0][mask].unflatten(1, (-1, 3)).permute(2, 0, 1).reshape(3, -1, 1).numpy()
        pixels = pixels.flatten(0, -4)
        return (pixels[0] if len(pixels) == 1 else pixels.transpose(0, 1).reshape(3, -1, 1)).numpy()

    def check_once(self, size: tuple[int, int]) -> None:
        """Raises ``ExtractorError`` unless images of ``size`` (height, width) are scaled and normalised exactly once."""
        processor = self.image_processor
        normalises = getattr(processor, "do_normalize", True)
        mean, std = (processor.image_mean, processor.image_std) if normalises else ((0.0,) * 3, (1.0,) * 3)
        check_once(self.picture, Normalisation(tuple(mean), tuple(std)), size, f"model '{self.name}'")

    def covered(self, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """The part of an image of ``size`` that the network sees (see ``preprocessing.covered``), after ``check_once``."""
        self.check_once(size)
        return covered(self.picture, size) if self.picture(np.zeros((*size, 3), np.uint8)).shape[2] > 1 else None


class PromptWay(ImageWay):
    """The way of images and an instruction into a vision-language model of this ``config``, through its ``processor``."""

    def __init__(self, name: str, processor: Any, config: Any) -> None:
        super().__init__(name, processor.image_processor)
        self._processor = processor
        self._image_token = int(getattr(config, "image_token_id", None) or config.image_token_index)
        text_config = getattr(config, "text_config", config)
        self._longest = getattr(text_config, "max_position_embeddings", None)
        self.vocabulary = int(text_config.vocab_size)
        tokenizer = processor.tokenizer
        special = {str(t) for t in (*tokenizer.all_special_tokens, *_added_special(tokenizer), processor.image_token)}
        self._special = sorted(special, key=len, reverse=True)

    def read(self, instruction: str, size: tuple[int, int], images: int = 1) -> Prompt:
        """Tokenise prompt and the places of so many images of ``size`` (height, width).

        Raises ``ExtractorError`` for more than the model takes, and for words that mean something else to it.
        """
        token = self._processor.image_token
        if token in instruction:
            raise ExtractorError(f"the instruction holds '{token}', which stands for an image; leave it out.")
        found = next((special for special in self._special if special and special in instruction), None)
        if found is not None:
            raise ExtractorError(
                f"the instruction holds '{found}', which is no word but a sign to model '{self.name}'; leave it out."
            )
        text = token * images + instruction
        if getattr(self._processor, "chat_template", None):
            content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": instruction}]
            text = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        black = [np.zeros((*size, 3), np.uint8)] * images
        made = self._processor(images=[black], text=[text], return_tensors="pt", input_data_format="channels_last")
        count = made["input_ids"].shape[1]
        refuse_long(instruction, count, count if self._longest is None else int(self._longest), self.name)
        inputs = {k: v for k, v in made.items() if isinstance(v, torch.Tensor) and v.shape == (1, count)}
        inputs.pop("labels", None)
        return Prompt(inputs, made["input_ids"][0] == self._image_token)

    def layout(self, size: tuple[int, int]) -> Layout:
        """Where the image tokens of an image of ``size`` (height, width) lie in it. Raises as ``check_once``."""
        area = self.covered(size)
        pixels = self.pixels([[np.zeros((*size, 3), np.uint8)]])
        if "image_grid_thw" in pixels:
            merge = int(self.image_processor.merge_size)
            _, rows, columns = (int(n) for n in pixels["image_grid_thw"][0])
            return Layout((rows // merge, columns // merge), (0.0, 0.0, float(size[1]), float(size[0])))
        count = int(self.read("", size).is_image.sum())
        side = round(count**0.5)
        one_picture = area is not None and side * side == count
        return Layout((side, side), area) if one_picture else Layout(None, None)


def refuse_wordless(instruction: str) -> None:
    """``require_words``, as ``ExtractorError``: before any model looks at the instruction."""
    try:
        require_words(instruction)
    except BadInput as error:
        raise ExtractorError(str(error)) from error


def refuse_long(instruction: str, count: int, most: int, model: str) -> None:
    """Raises ``ExtractorError`` where an instruction's ``count`` tokens are more than ``most``."""
    if count > most:
        shown = instruction if len(instruction) < 60 else instruction[:57] + "…"
        raise ExtractorError(
            f"the instruction '{shown}' makes {count} tokens, expected at most {most}, which model '{model}' takes. Shorten it; "
            "nothing is cut off silently."
        )


def _added_special(tokenizer: Any) -> list[str]:
    """Tokens that text is searched for before it is divided into words."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [str(token) for token in added.values() if getattr(token, "special", False)]


def _plain(value: Any) -> Any:
    """A setting in JSON types; objects of transformers (sizes) as dictionaries."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return _plain(dict(value)) if hasattr(value, "keys") else str(value)
