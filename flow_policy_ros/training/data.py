"""From recordings to training and validation windows, and the codecs made from the training part alone.

What ``--data`` may name is ``training.sources``';
what a codec does is ``policy.codec``'s; the maths of a loss is ``policy.flow_model``'s.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from flow_policy_ros.data.episodes import EXTRACTOR_FILE
from flow_policy_ros.data.mixture import Mixture
from flow_policy_ros.data.statistics import StatisticsBuilder
from flow_policy_ros.data.windows import Batch, Samples, Windows
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.action_space import make_action_space
from flow_policy_ros.policy.codec import Codec, network_shape, raw_mask, raw_observation, vector_streams
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.runtime.contract import SAID, Contract, StreamContract
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.training.frames import frame_streams
from flow_policy_ros.training.language import instructed
from flow_policy_ros.training.sources import Source, read_sources
from flow_policy_ros.training.tuning import VlmSource

SELECTABLE = "detections"
"""The stream whose tokens have names: the classes of its detector."""
STILL = 1e-6
"""Commands that differ by no more, in rad or m, are the same."""
MOST_TOLD = 16
"""Instructions that the checkpoint's notes name."""
GATHERED = 16384
"""Samples whose statistics are taken at a time."""


@dataclass(frozen=True)
class TrainingBatch:
    """Network tensors: ``actions`` (B, H, A), ``observation``, ``mask`` (B, H) false past the end of what was commanded."""

    actions: torch.Tensor
    observation: Conditioning
    mask: torch.Tensor

    def take(self, which: slice) -> TrainingBatch:
        """Some of the samples."""
        return TrainingBatch(self.actions[which], self.observation.take(which), self.mask[which])

    def to(self, device: torch.device) -> TrainingBatch:
        """On another device."""
        return TrainingBatch(self.actions.to(device), self.observation.to(device), self.mask.to(device))


@dataclass(frozen=True)
class TrainingData:
    """``train`` and ``held_out`` windows (None without validation), one set per source, one codec per robot, a ``summary``, and the
    vision-language model that training begins with, None without any."""

    train: Mixture
    held_out: Mixture | None
    codecs: tuple[Codec, ...]
    summary: dict[str, object]
    vlm: VlmSource | None = None

    def contract(self, number: int) -> Contract:
        """What the policy of robot ``number`` observes."""
        return self.codecs[number].contract

    def tensors(self, parts: Iterable[tuple[int, Batch]]) -> TrainingBatch:
        """A batch of the mixtures as network tensors, robot by robot."""
        batches = [tensors_of(self.codecs[number], batch) for number, batch in parts]
        return TrainingBatch(
            torch.cat([batch.actions for batch in batches]),
            Conditioning.cat([batch.observation for batch in batches]),
            torch.cat([batch.mask for batch in batches]),
        )


def tensors_of(codec: Codec, batch: Batch) -> TrainingBatch:
    """Network tensors of one robot's batch."""
    position, features, history = _raw(batch)
    actions = codec.encode(torch.from_numpy(batch.actions), position)
    return TrainingBatch(actions, codec.observation(position, features, history), torch.from_numpy(batch.mask))


def _raw(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor | None]:
    """What a codec takes for an observation."""
    features = {name: torch.from_numpy(values) for name, values in batch.features.items()}
    history = None if batch.joint_history is None else torch.from_numpy(batch.joint_history)
    return torch.from_numpy(batch.joint_position), features, history


@dataclass(frozen=True)
class _Part:
    """One source, split: windows to ``train`` on and ``held_out`` ones, and the samples ``drawn`` for statistics."""

    source: Source
    train: Windows
    held_out: Windows | None
    held: int
    drawn: Samples


def load_training_data(config: TrainConfig, codecs: Sequence[Codec] = ()) -> TrainingData:
    """Read, split by recording, and take statistics, unless ``codecs`` has those of a checkpoint to be used instead.

    Raises ``EpisodeError``, ``BagError``, ``TrainError`` or ``ValueError``.
    """
    observed = (*config.streams, *frame_streams(config).values())
    strangers = sorted(set(config.first) - set(observed))
    if strangers:
        raise TrainError(f"--first names {strangers}, which --streams {list(config.streams)} does not have; add them there.")
    vlm = VlmSource.read(config.vlm) if config.vlm else None
    sources, standing = instructed(read_sources(config), config, None if vlm is None else vlm.prompter)
    names = list(dict.fromkeys(source.robot for source in sources))
    joints: dict[str, tuple[str, ...]] = {}
    parts = [
        _part(source, config, joints.setdefault(source.robot, source.recordings[0].joints), standing) for source in sources
    ]
    robots = [[part for part in parts if part.source.robot == name] for name in names]
    contracts = [_contract(robot, config) for robot in robots]
    if codecs:
        _check_contracts(contracts, codecs)
    else:
        shape = network_shape(contracts)
        codecs = [
            _fitted(contract, robot, config, shape, number, None if vlm is None else vlm.prompter)
            for number, (robot, contract) in enumerate(zip(robots, contracts, strict=True))
        ]
    recordings = [recording for source in sources for recording in source.recordings]
    told = sorted({text for recording in recordings for _, text in recording.instructions}) if standing else []
    summary: dict[str, object] = {
        "tasks": sorted({recording.task or recording.robot for recording in recordings}),
        "robots": names,
        "episodes": len(recordings),
        "held_out": sum(part.held for part in parts),
        "successes": sum(recording.success is True for recording in recordings),
        "success_noted": sum(recording.success is not None for recording in recordings),
        "samples": sum(len(part.drawn.ticks) for part in parts),
        "left_out": _left_out(parts),
        "seconds_used": round(sum(part.train.seconds(part.drawn) for part in parts), 1),
        "seconds": round(sum(recording.seconds for recording in recordings), 1),
    }
    if standing:
        summary["instructions"] = {"different": len(told), "some": told[:MOST_TOLD]}
    if vlm is not None:
        summary["vlm"] = vlm.summary(config.vlm_tuning)
    checked = [part for part in parts if part.held_out is not None]
    return TrainingData(
        _mixture(parts, [part.train for part in parts], names),
        _mixture(checked, [part.held_out for part in checked if part.held_out is not None], names) if checked else None,
        tuple(codecs),
        summary,
        vlm,
    )


def _left_out(parts: Sequence[_Part]) -> dict[str, int]:
    """Joint states of the training part that are no samples, by reason."""
    total: dict[str, int] = {}
    for part in parts:
        for reason, count in part.train.left_out(part.drawn).items():
            total[reason] = total.get(reason, 0) + count
    return total


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count} because {reason}" for reason, count in reasons.items())


def samples_described(summary: dict[str, Any]) -> str:
    """How many samples the joint states to train on gave, and why not more."""
    samples, reasons = summary["samples"], summary["left_out"]
    left = sum(reasons.values())
    why = next(iter(reasons)) if len(reasons) == 1 else _counted(reasons)
    return f"{samples} samples from {samples + left} joint states" + (f"; {left} left out: {why}" if left else "")


def _mixture(parts: Sequence[_Part], windows: Sequence[Windows], names: Sequence[str]) -> Mixture:
    given = [part.source.weight for part in parts]
    weights = [1.0 if weight is None else weight for weight in given] if any(given) else []
    return Mixture(windows, [names.index(part.source.robot) for part in parts], weights)


def _part(source: Source, config: TrainConfig, joints: tuple[str, ...], standing: tuple[str, ...]) -> _Part:
    sources = list(dict.fromkeys(recording.source for recording in source.recordings))
    held = _held_out(len(sources), config)
    order = np.random.default_rng([config.seed, 3]).permutation(len(sources))
    chosen = {sources[int(k)] for k in order[:held]}
    split = [[r for r in source.recordings if (r.source in chosen) == held_out] for held_out in (False, True)]
    train, held_out = (
        Windows(
            part, (*config.streams, *source.frames, *standing), config.horizon, round(config.chunk_dt * 1e9),
            (config.delay_min, config.delay_max), config.first, history_ns=config.history_ns(), ages=source.ages,
            max_gap_s=config.max_gap, joints=joints, standing=standing,
        ) if part else None
        for part in split
    )  # fmt: skip
    assert train is not None  # at least one recording is left to train on
    drawn = train.samples(config.seed, 0)
    if len(drawn.ticks) == 0:
        raise TrainError(
            f"no tick of {source.path} can be learned from: {_counted(train.left_out(drawn))}. "
            "`flow_policy inspect` says more."
        )
    return _Part(source, train, held_out if held_out and len(held_out.samples(0, 0).ticks) else None, len(split[1]), drawn)


def _held_out(recordings: int, config: TrainConfig) -> int:
    count = round(config.validation * recordings)
    return min(max(count, 1), recordings - 1) if config.validation > 0 else count


def _contract(robot: Sequence[_Part], config: TrainConfig) -> Contract:
    first = robot[0]
    extractors = _extractors(robot)
    for part in robot[1:]:
        if part.train.streams != first.train.streams:
            raise TrainError(
                f"the streams of {part.source.path} have {part.train.streams} (tokens, channels), those of {first.source.path} "
                f"{first.train.streams}; compute all features of a robot with the same extractor."
            )
    rows = {SELECTABLE: _token_rows(first, extractors, config)} if config.tokens else {}
    return Contract(
        robot=first.source.robot,
        joints=first.train.joints,
        action_joints=first.train.joints,
        dt_ns=first.train.chunk_dt_ns,
        horizon=config.horizon,
        streams=tuple(
            StreamContract(
                name,
                tokens,
                channels,
                extractors.get(name, {}),
                rows.get(name, ()),
                first.train.moment(name),
            )
            for name, (tokens, channels) in first.train.streams.items()
        ),
        history_ns=first.train.history_ns,
    )


def _extractors(robot: Sequence[_Part]) -> dict[str, dict[str, Any]]:
    """What made the streams. Raises ``TrainError`` where two sources name different extractors."""
    found: dict[str, dict[str, Any]] = {}
    for source in (part.source for part in robot):
        for name, extractor in source.extractors.items():
            if found.setdefault(name, extractor) != extractor:
                raise TrainError(
                    f"the stream '{name}' of {source.path} was made by another extractor than that of {robot[0].source.path}; "
                    f"compute all features of robot '{source.robot}' with the same."
                )
    return found


def _token_rows(robot: _Part, extractors: dict[str, dict[str, Any]], config: TrainConfig) -> tuple[int, ...]:
    """Rows of the tokens that ``config.tokens`` names, ascending. Raises ``TrainError`` for a name that has none."""
    if SELECTABLE not in robot.train.streams:
        raise TrainError(
            f"--tokens selects from the stream '{SELECTABLE}', but --streams has only {list(config.streams)}. Add the "
            "stream or leave --tokens out."
        )
    classes, tokens = extractors.get(SELECTABLE, {}).get("classes", []), robot.train.streams[SELECTABLE][0]
    if len(classes) != tokens:
        raise TrainError(
            f"--tokens needs the class names of '{SELECTABLE}' in {robot.source.path / EXTRACTOR_FILE}: expected {tokens}, "
            f"one per token, given {classes}. Run `flow_policy featurize` again, or leave --tokens out."
        )
    unknown = [name for name in config.tokens if name not in classes]
    if unknown:
        raise TrainError(f"--tokens has {unknown}, unknown in '{SELECTABLE}' of {robot.source.path}; known: {classes}.")
    return tuple(row for row, name in enumerate(classes) if name in config.tokens)


def _fitted(
    contract: Contract,
    robot: Sequence[_Part],
    config: TrainConfig,
    shape: NetworkShape,
    number: int,
    prompter: Prompter | None,
) -> Codec:
    """The codec with the statistics of all samples drawn, each counted once whatever the weights."""
    transform = make_action_space(config.action_space, contract)
    observed, learned = StatisticsBuilder(), StatisticsBuilder()
    least, most = np.full(len(contract.action_joints), np.inf), np.full(len(contract.action_joints), -np.inf)
    vectors = [stream.name for stream in vector_streams(contract)]  # images and prompts have no statistics
    for part in robot:
        drawn = part.drawn.of(vectors)
        for start in range(0, len(drawn.ticks), GATHERED):
            batch = part.train.gather(drawn.take(slice(start, start + GATHERED)))
            position, features, history = _raw(batch)
            told = batch.actions[batch.mask]
            least, most = np.minimum(least, told.min(axis=0)), np.maximum(most, told.max(axis=0))
            counted = raw_mask(contract, features)
            raw = raw_observation(contract, position, features, history).numpy()
            observed.add(raw, None if counted is None else counted.numpy())
            learned.add(transform.encode(torch.from_numpy(batch.actions), position)[torch.from_numpy(batch.mask)].numpy())
    _check_motion(contract, most - least, [str(part.source.path) for part in robot])
    return Codec(
        contract,
        Normaliser.fit(observed.result(), config.normalisation),
        Normaliser.fit(learned.result(), config.normalisation),
        config.action_space,
        shape,
        number,
        prompter,
    )


def _check_motion(contract: Contract, ranges: FloatArray, paths: Sequence[str]) -> None:
    """Warn of joints whose commands never change, by their ``ranges`` (A,) in rad or m; raises ``TrainError`` if that is all."""
    still = [joint for joint, span in zip(contract.action_joints, ranges, strict=True) if span <= STILL]
    if len(still) == len(ranges):
        raise TrainError(
            f"there is nothing to learn in {', '.join(paths)}: over all samples the command is one and the same, for every joint "
            f"({', '.join(still)}). See with `flow_policy inspect` which topic moved the robot, and name it in the robot file "
            "(robot.recorded.command_topic), or record the robot in motion."
        )
    if still:
        print(
            f"warning: {', '.join(paths)}: the commands of {', '.join(still)} never change; the policy will command what they are.",
            file=sys.stderr,
        )


def _nameless(contract: Contract, known: Contract) -> Contract:
    """Without the names of what reads instructions: the same model may lie elsewhere, its hashes tell. Of these, those that
    ``known`` tells: older checkpoints tell fewer."""
    told = {stream.name: set(stream.extractor) - {"model", "revision"} for stream in known.streams}
    return replace(contract, streams=tuple(
        replace(stream, extractor={k: v for k, v in stream.extractor.items() if k in told.get(stream.name, ())})
        if stream.kind in SAID else stream
        for stream in contract.streams
    ))  # fmt: skip


def _check_contracts(contracts: Sequence[Contract], codecs: Sequence[Codec]) -> None:
    """Raise ``TrainError`` when the episodes are not of the robots and streams that the codecs are for."""
    theirs = [_nameless(codec.contract, codec.contract) for codec in codecs]
    if len(contracts) == len(theirs):
        contracts = [_nameless(contract, codec.contract) for contract, codec in zip(contracts, codecs, strict=True)]
    if list(contracts) != theirs:
        differ = [
            field for field in ("robot", "joints", "action_joints", "dt_ns", "horizon", "streams", "history_ns")
            if [getattr(c, field) for c in contracts] != [getattr(c, field) for c in theirs]
        ]  # fmt: skip
        raise TrainError(
            f"the episodes do not fit the checkpoint: {', '.join(differ) or 'number of robots'} differ (episodes of "
            f"{[c.robot for c in contracts]}, checkpoint for {[c.robot for c in theirs]}). Give the episodes that it was "
            "trained with."
        )
