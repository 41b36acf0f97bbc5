"""From an instruction in words to the streams that a policy observes: what standing streams hold, made in the policy's process.

Which words a policy was given, and when they take effect, is ``runtime.policy_loop``'s affair; pretrained encoders are
``vision``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flow_policy_ros.policy.prompt import FOLDER, Prompter
from flow_policy_ros.runtime.contract import PROMPT, SENTENCE, Contract, StreamContract
from flow_policy_ros.runtime.types import FeatureArray, Features
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.processors import refuse_wordless
from flow_policy_ros.vision.sentence import SentenceEncoder

SENTENCES = "sentence"
"""Sub-folder of a checkpoint with the sentence encoder, where someone has put it there for a robot without the package."""


class InstructionReader(Protocol):
    """Makes one stream of an instruction."""

    stream: str
    tokens: int
    channels: int

    def read(self, instruction: str, stamp: int) -> Features:
        """What the instruction is to the policy, from ``stamp`` (ns) on. Raises ``ExtractorError`` for one that it cannot read."""
        ...

    def identity(self) -> dict[str, Any]:
        """What makes the stream, in plain JSON types: the ``extractor`` of its contract."""
        ...


class SentenceReader:
    """The instruction as one vector (1, d) of a sentence encoder."""

    tokens = 1

    def __init__(self, encoder: SentenceEncoder, stream: str = "instruction") -> None:
        self.stream = stream
        self.channels = encoder.channels
        self._encoder = encoder

    def read(self, instruction: str, stamp: int) -> Features:
        """As in ``InstructionReader``; refuses an instruction without words."""
        return self._encoder.features(instruction, stamp, self.stream)

    def identity(self) -> dict[str, Any]:
        """As in ``InstructionReader``."""
        return self._encoder.identity()


class PromptReader:
    """The prompt of a vision-language model: values (length, 2) of token ids and mask, the places of ``images`` images of ``size``
    (height, width) among them, padded at the end.

    Raises ``ExtractorError`` for a processor that scales or normalises twice, and a length that holds no instruction at all.
    """

    channels = 2

    def __init__(
        self, processor: Prompter, stream: str = "prompt", *, length: int, size: tuple[int, int], images: int = 1
    ) -> None:
        self.stream = stream
        self.tokens = length
        self._prompter, self._size, self._images = processor, size, images
        processor.check_size(size)
        self._blank = self._values("")
        self._last = "", self._blank

    def read(self, instruction: str, stamp: int) -> Features:
        """As in ``InstructionReader``; refuses an instruction without words, more tokens than ``length``, and words that stand for
        images or other signs."""
        refuse_wordless(instruction)
        if self._last[0] != instruction:
            self._last = instruction, self._values(instruction)
        return Features(stamp, self.stream, self._last[1].copy())

    def _values(self, instruction: str) -> FeatureArray:
        ids, mask = self._prompter.ids(instruction, self._size, self._images)
        if len(ids) > self.tokens:
            raise ExtractorError(
                f"the instruction '{instruction[:60]}' makes {len(ids)} tokens with its prompt, expected at most {self.tokens}, "
                "which the stream keeps. Shorten it; nothing is cut off silently."
            )
        values = np.zeros((self.tokens, 2), dtype=np.float32)
        values[: len(ids), 0], values[: len(ids), 1] = ids, mask
        return values

    def identity(self) -> dict[str, Any]:
        """As in ``InstructionReader``. ``blank`` is the prompt of an empty instruction, as runs of (token, number)."""
        runs = [[int(token), len(list(run))] for token, run in groupby(self._blank[self._blank[:, 1] > 0.5, 0].tolist())]
        return {
            "extractor": PROMPT,
            **self._prompter.identity(),
            "images": self._images,
            "size": list(self._size),
            "blank": runs,
        }


def reader_for(
    stream: StreamContract, folder: str | Path, prompter: Prompter | None = None, device: str = ""
) -> InstructionReader | None:
    """What makes ``stream`` of an instruction, for the checkpoint in ``folder``; None for streams that come from elsewhere.

    ``prompter`` where the checkpoint's is loaded already. Raises ``ExtractorError`` for one that is missing, or is not the one that
    the checkpoint was trained with.
    """
    if stream.kind == SENTENCE:
        own = Path(folder) / SENTENCES
        encoder = SentenceEncoder(str(own) if own.is_dir() else str(stream.extractor.get("model", "")), device=device)
        reader: InstructionReader = SentenceReader(encoder, stream.name)
    elif stream.kind == PROMPT:
        try:
            images, (height, width) = int(stream.extractor["images"]), (int(n) for n in stream.extractor["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ExtractorError(
                f"the contract of stream '{stream.name}' lacks images and size of the prompt ({error!r}); train again."
            ) from error
        prompter = prompter or Prompter.load(Path(folder) / FOLDER)
        reader = PromptReader(prompter, stream.name, length=stream.tokens, size=(height, width), images=images)
    else:
        return None
    require_same(stream, reader)
    return reader


def readers_for(
    contract: Contract, folder: str | Path, prompter: Prompter | None = None, device: str = ""
) -> tuple[InstructionReader, ...]:
    """The readers of all streams that are made of the instruction; see ``reader_for``."""
    found = (reader_for(stream, folder, prompter, device) for stream in contract.streams)
    return tuple(reader for reader in found if reader is not None)


def require_same(stream: StreamContract, reader: InstructionReader) -> None:
    """Raise ``ExtractorError`` where ``reader`` is not what the checkpoint was trained with. Names and revisions may differ: the
    same files may lie elsewhere."""
    if (reader.tokens, reader.channels) != (stream.tokens, stream.channels):
        raise ExtractorError(
            f"what reads the instruction makes {(reader.tokens, reader.channels)} of it, expected "
            f"{(stream.tokens, stream.channels)} (tokens, channels) for stream '{stream.name}'; use the model that the checkpoint "
            "was trained with."
        )
    different = differences(stream.extractor, reader.identity())
    if different:
        raise ExtractorError(
            f"what reads the instruction for stream '{stream.name}' is not what the checkpoint was trained with; different: "
            f"{', '.join(different)} ({stream.extractor.get('model', 'unnamed')}). Copy the whole checkpoint again, or install the "
            "same model."
        )


def differences(trained: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Where two identities differ, names and revisions aside; what the first does not tell, as older ones do not, is not
    compared."""
    return [key for key in trained if key not in ("model", "revision") and trained[key] != given.get(key)]


def blank(stream: StreamContract) -> FeatureArray:
    """Values (tokens, channels) that a policy can be run with before there are any: zeros, of a prompt the empty instruction.

    Raises ``ExtractorError`` for the contract of a prompt that does not tell it.
    """
    values: FeatureArray = np.zeros((stream.tokens, stream.channels), dtype=stream.dtype)
    if stream.kind == PROMPT:
        try:
            ids = [token for token, count in stream.extractor["blank"] for _ in range(count)]
            values[: len(ids), 0], values[: len(ids), 1] = ids, 1.0
        except (KeyError, TypeError, ValueError) as error:
            raise ExtractorError(
                f"the contract of stream '{stream.name}' lacks the prompt of an empty instruction ({error!r}); train again."
            ) from error
    return values
