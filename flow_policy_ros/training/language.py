"""What robots were told, as the streams that a policy observes: recordings hold words, their streams are made here, at load.

What reads words is ``policy.instruction``'s; which words a recording holds is ``data``'s.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flow_policy_ros.data.recording import Recording, Stream
from flow_policy_ros.policy.instruction import SENTENCES, InstructionReader, PromptReader, SentenceReader
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.runtime.types import FeatureArray
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.training.sources import Source
from flow_policy_ros.vision.pretrained import ExtractorError, locate
from flow_policy_ros.vision.processors import refuse_wordless
from flow_policy_ros.vision.sentence import SentenceEncoder, packaged, same_model

ROOM = 16
"""Tokens by which a prompt may be longer than the longest of the data, unless ``--prompt-length`` says otherwise."""


def instructed(sources: Sequence[Source], config: TrainConfig, prompter: Prompter | None) -> tuple[list[Source], tuple[str, ...]]:
    """The sources with the streams that are made of the instruction, and the names of these; none where the policy observes none.

    Every recording has an instruction then, its own or ``config.instruction``. Raises ``TrainError`` naming those that have none,
    ``ExtractorError`` for a model that cannot read them.
    """
    if not config.language and prompter is None:
        return list(sources), ()
    told = _told(sources, config)
    texts = list(dict.fromkeys(text for source in told for recording in source.recordings for _, text in recording.instructions))
    reader = _reader(prompter, told, texts, config)
    read = _read(reader, texts)
    return [_with_stream(source, reader, read) for source in told], (reader.stream,)


def keep_encoder(config: TrainConfig, folder: Path) -> None:
    """Copy a sentence model that was given as a folder into the checkpoint ``folder``, so that the robot finds it there. One that
    has a name is found by it. Another model that is there, of a training before, goes: the robot would take it."""
    if not config.language:
        return
    source, target = locate(packaged(config.language)).folder, folder / SENTENCES
    if same_model(source, target):
        return
    if not Path(config.language).expanduser().is_dir():
        _remove(target)
        return
    partial = folder / f"{SENTENCES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".txt", ".model", ".safetensors"):
            (partial / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, partial / path.relative_to(source))
    _remove(target)
    partial.replace(target)


def _remove(folder: Path) -> None:
    """A folder, or the link to one that somebody has put in its place."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def _told(sources: Sequence[Source], config: TrainConfig) -> list[Source]:
    """With ``config.instruction`` where a recording has none."""
    silent = [recording.source for source in sources for recording in source.recordings if not recording.instructions]
    if silent and not config.instruction:
        count = sum(len(source.recordings) for source in sources)
        raise TrainError(
            f"{len(silent)} of {count} recordings have no instruction, the first is {silent[0]}, but the policy is to observe one. "
            "Say what the robot was told in them with --instruction, or leave them out."
        )
    if config.instruction and not silent:
        raise TrainError("--instruction is of no use: every recording says itself what the robot was told; leave it out.")
    return [
        replace(source, recordings=tuple(r if r.instructions else r.told(config.instruction) for r in source.recordings))
        for source in sources
    ]


def _reader(
    prompter: Prompter | None, sources: Sequence[Source], texts: Sequence[str], config: TrainConfig
) -> InstructionReader:
    if prompter is None:
        return SentenceReader(SentenceEncoder(config.language))
    sizes = sorted({tuple(source.extractors[name]["size"]) for source in sources for name in source.frames})
    if len(sizes) != 1:
        raise TrainError(f"the images have the sizes {sizes} (height, width), expected one for all; resize them alike.")
    size, images = sizes[0], len(config.frames)
    length = config.prompt_length
    if not length:
        lengths = [len(prompter.ids("", size, images)[0])]
        for text in texts:
            try:
                refuse_wordless(text)
                lengths.append(len(prompter.ids(text, size, images)[0]))
            except ExtractorError:
                continue  # ``_read`` says so
        length = max(lengths) + ROOM
    return PromptReader(prompter, length=length, size=size, images=images)


def _read(reader: InstructionReader, texts: Sequence[str]) -> dict[str, FeatureArray]:
    """What each of the instructions is to the policy, read once; one that a robot would refuse is left out, and that is said."""
    read = {}
    for text in texts:
        try:
            read[text] = reader.read(text, 0).values
        except ExtractorError as error:
            print(f"warning: the instruction {text[:60]!r} is left out, as a robot would refuse it: {error}", file=sys.stderr)
    return read


def _with_stream(source: Source, reader: InstructionReader, read: dict[str, FeatureArray]) -> Source:
    recordings = tuple(_spoken(recording, reader, read) for recording in source.recordings)
    return replace(source, recordings=recordings, extractors={**source.extractors, reader.stream: reader.identity()})


def _spoken(recording: Recording, reader: InstructionReader, read: dict[str, FeatureArray]) -> Recording:
    """The recording with the reader's stream: an instruction holds from its receipt on."""
    heard = [(received, read[text]) for received, text in recording.instructions if text in read]
    if not heard:
        raise TrainError(
            f"{recording.source} has no instruction that can be read (see the warnings), but the policy is to observe one. Record "
            "it with one that can be, or leave it out."
        )
    received = np.array([instant for instant, _ in heard], dtype=np.int64)
    stream = Stream(received, received, np.stack([values for _, values in heard]))
    return replace(recording, streams={**recording.streams, reader.stream: stream})
