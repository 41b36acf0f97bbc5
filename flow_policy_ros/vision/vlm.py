"""Features of a pretrained vision or vision-language model: one stream of tokens with a mask, of fixed shape.

The shell of ``vision.encoders`` that makes them a ``FeatureExtractor``: fixed rows for any instruction, language read once until
the instruction changes, several cameras in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.encoders import Encoder, Seen, Words, load_encoder
from flow_policy_ros.vision.preprocessing import check_rgb
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.processors import refuse_wordless

LANGUAGE_TOKENS = 48


class VlmFeatures:
    """Values (tokens, channels): rows are the patches, what is said of the whole image, the language tokens; channels are the
    network's own, and last the mask: 1 where the row is real, 0 (as the whole row then is) where it is padding.

    ``size`` (height, width) is the camera's. ``grid`` (rows, columns) and ``covered`` say where the patches lie in the image, None
    where they form no grid. ``language_tokens`` rows are kept for the instruction of a vision-language model.
    Raises ``ExtractorError`` for an instruction that they cannot hold, or that the model cannot read.
    """

    def __init__(
        self,
        encoder: Encoder,
        size: tuple[int, int],
        instruction: str = "",
        stream: str = "vlm",
        language_tokens: int = LANGUAGE_TOKENS,
    ) -> None:
        self.stream = stream
        self.size = size
        self._encoder = encoder
        layout = encoder.layout(size)
        self.grid, self.covered = layout.grid, layout.covered
        self._words = encoder.read("", size)
        seen = encoder.look([np.zeros((*size, 3), np.uint8)], self._words)
        self._patches, self._summary = seen.patches.shape[1], seen.summary.shape[1]
        self._language = language_tokens if self._words.grows else self._words.count
        self.tokens = self._patches + self._summary + self._language
        self.channels = seen.patches.shape[2] + 1
        self._instruction = ""
        self._check(self._words, "")
        self.instruct(instruction)

    @property
    def speaks(self) -> bool:
        """Whether the model reads an instruction."""
        return self._encoder.speaks

    @property
    def instruction(self) -> str:
        """What the features are made for; see ``instruct``."""
        return self._instruction

    def instruct(self, instruction: str) -> None:
        """Look at the next images with this in mind, empty: with nothing. Raises ``ExtractorError`` and keeps the old one where it
        cannot be read."""
        if instruction == self._instruction:
            return
        if instruction:
            refuse_wordless(instruction)
        if not self._encoder.speaks:
            raise ExtractorError(
                f"model '{self._encoder.found.name}' knows no language, yet the instruction '{instruction}' was given. Take a "
                "vision-language model, or give the instruction to vision.sentence, a stream of its own."
            )
        words = self._encoder.read(instruction, self.size)
        self._check(words, instruction)
        self._words, self._instruction = words, instruction

    def _check(self, words: Words, instruction: str) -> None:
        if words.count > self._language:
            raise ExtractorError(
                f"the instruction '{instruction[:60]}' makes {words.count} tokens with its prompt, expected at most "
                f"{self._language}, which this stream keeps. Shorten it, or make features and checkpoint with more language_tokens."
            )

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``ExtractorError`` for another type or size, and for images already normalised."""
        return self.extract_batch([image], [stamp])[0]

    def extract_batch(self, images: Sequence[NDArray[np.uint8]], stamps: Sequence[int]) -> list[Features]:
        """Features of several cameras' images of one size in one pass of the network, each with its own stamp."""
        if len(images) != len(stamps):
            raise ExtractorError(f"{len(images)} images come with {len(stamps)} stamps, expected one each.")
        for image in images:
            check_rgb(image, self.size)
        if not images:
            return []
        values = self._rows(self._encoder.look(list(images), self._words))
        return [Features(stamp, self.stream, row) for stamp, row in zip(stamps, values, strict=True)]

    def _rows(self, seen: Seen) -> NDArray[np.float32]:
        tokens = torch.cat((seen.patches, seen.summary, seen.language), dim=1).cpu().numpy()
        values = np.zeros((len(tokens), self.tokens, self.channels), dtype=np.float32)
        values[:, : tokens.shape[1], :-1] = tokens
        values[:, : tokens.shape[1], -1] = 1.0
        return values

    def identity(self) -> dict[str, Any]:
        """What made the features. The instruction is no part of it, nor is the precision: the same weights are meant."""
        return {
            "extractor": "vlm",
            **self._encoder.found.identity(),
            "preprocessing": self._encoder.preprocessing(),
            "image_size": list(self.size),
            "rows": {"patches": self._patches, "summary": self._summary, "language": self._language},
            "grid": None if self.grid is None else list(self.grid),
            "mask_channel": self.channels - 1,
        }


def load_vlm(
    model: str,
    size: tuple[int, int],
    instruction: str = "",
    *,
    revision: str | None = None,
    device: str = "",
    precision: str = "",
    stream: str = "vlm",
    language_tokens: int = LANGUAGE_TOKENS,
) -> VlmFeatures:
    """Features of the model of this folder or hub name, found on this machine; see ``load_encoder`` and ``VlmFeatures``."""
    return VlmFeatures(load_encoder(model, revision, device, precision), size, instruction, stream, language_tokens)
