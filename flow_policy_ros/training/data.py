"""From folders of episodes to training and validation windows, and the codecs made from the training part alone.

What a codec does is ``policy.codec``'s; the maths of a loss is ``policy.flow_model``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow_policy_ros.data.episodes import EXTRACTOR_FILE, Episode, load_episodes, load_extractors
from flow_policy_ros.data.mixture import Mixture
from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.data.windows import Batch, Windows
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.action_space import make_action_space
from flow_policy_ros.policy.codec import Codec, network_shape, raw_observation
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.training.config import TrainConfig, TrainError

SELECTABLE = "detections"
"""The stream whose tokens have names: the classes of its detector."""


@dataclass(frozen=True)
class TrainingBatch:
    """Network tensors: ``actions`` (B, H, A), ``observation``, ``mask`` (B, H) false past an episode's end."""

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
    """``train`` and ``held_out`` windows (None without validation), one set and one codec per robot, and a ``summary``."""

    train: Mixture
    held_out: Mixture | None
    codecs: tuple[Codec, ...]
    summary: dict[str, object]

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
    position = torch.from_numpy(batch.joint_position)
    features = {name: torch.from_numpy(values) for name, values in batch.features.items()}
    actions = codec.encode(torch.from_numpy(batch.actions), position)
    return TrainingBatch(actions, codec.observation(position, features), torch.from_numpy(batch.mask))


@dataclass(frozen=True)
class _Robot:
    """The episodes of one robot, split; ``folder`` is named in errors."""

    name: str
    folder: Path
    train: Windows
    held_out: Windows | None
    episodes: Sequence[Episode]
    extractors: dict[str, dict[str, Any]]


def load_training_data(config: TrainConfig, codecs: Sequence[Codec] = ()) -> TrainingData:
    """Read, split by episode, and take statistics, unless ``codecs`` has those of a checkpoint to be used instead.

    Raises ``EpisodeError``, ``TrainError`` or ``ValueError``.
    """
    strangers = sorted(set(config.first) - set(config.streams))
    if strangers:
        raise TrainError(f"--first names {strangers}, which --streams {list(config.streams)} does not have; add them there.")
    robots = [_read(folder, config) for folder in config.data]
    names = [robot.name for robot in robots]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TrainError(f"--data has several folders of the robots {twice}; put the episodes of a robot into one folder.")
    contracts = [_contract(robot, config) for robot in robots]
    drawn = [robot.train.samples(config.seed, 0) for robot in robots]
    for robot, samples in zip(robots, drawn, strict=True):
        if len(samples.ticks) == 0:
            raise TrainError(f"no tick of {robot.folder} has features of every stream {config.streams}; check --delay-max.")
    if codecs:
        _check_contracts(contracts, codecs)
    else:
        shape = network_shape(contracts)
        codecs = [
            _fitted(contract, robot.train.gather(samples), config, shape, number)
            for number, (robot, contract, samples) in enumerate(zip(robots, contracts, drawn, strict=True))
        ]
    episodes = [episode for robot in robots for episode in robot.episodes]
    held_out = [robot.held_out for robot in robots if robot.held_out is not None]
    complete = len(held_out) == len(robots)  # numbers in a mixture are those of the codecs
    summary: dict[str, object] = {
        "tasks": sorted({episode.task for episode in episodes}),
        "robots": names,
        "episodes": len(episodes),
        "held_out": sum(_held_out(len(robot.episodes), config) for robot in robots),
        "successes": sum(episode.success for episode in episodes),
        "samples": sum(len(samples.ticks) for samples in drawn),
        "seconds": round(sum(len(episode.stamps) * episode.dt_ns for episode in episodes) / 1e9, 1),
    }
    return TrainingData(
        Mixture([robot.train for robot in robots]), Mixture(held_out) if complete else None, tuple(codecs), summary
    )


def _read(folder: Path, config: TrainConfig) -> _Robot:
    episodes = load_episodes(folder)
    robots = sorted({episode.robot or f"adroit_{episode.task}" for episode in episodes})
    if len(robots) > 1:
        raise TrainError(f"{folder} mixes episodes of the robots {robots}; keep each in a folder of its own.")
    order = np.random.default_rng([config.seed, 3]).permutation(len(episodes))
    chosen = {int(k) for k in order[: _held_out(len(episodes), config)]}
    parts = [[episode for k, episode in enumerate(episodes) if (k in chosen) == held_out] for held_out in (False, True)]
    delay = (config.delay_min, config.delay_max)
    train, validation = (
        Windows(part, config.streams, config.horizon, round(config.chunk_dt * 1e9), delay, config.first) if part else None
        for part in parts
    )
    assert train is not None  # at least one episode is left to train on
    return _Robot(robots[0], folder, train, validation, episodes, load_extractors(folder))


def _held_out(episodes: int, config: TrainConfig) -> int:
    count = round(config.validation * episodes)
    return min(max(count, 1), episodes - 1) if config.validation > 0 else count


def _contract(robot: _Robot, config: TrainConfig) -> Contract:
    rows = {SELECTABLE: _token_rows(robot, config)} if config.tokens else {}
    return Contract(
        robot=robot.name,
        joints=robot.train.joints,
        action_joints=robot.train.joints,
        dt_ns=robot.train.chunk_dt_ns,
        horizon=config.horizon,
        streams=tuple(
            StreamContract(
                name,
                tokens,
                channels,
                robot.extractors.get(name, {}),
                rows.get(name, ()),
                "first" if name in config.first else "newest",
            )
            for name, (tokens, channels) in robot.train.streams.items()
        ),
    )


def _token_rows(robot: _Robot, config: TrainConfig) -> tuple[int, ...]:
    """Rows of the tokens that ``config.tokens`` names, ascending. Raises ``TrainError`` for a name that has none."""
    if SELECTABLE not in robot.train.streams:
        raise TrainError(
            f"--tokens selects from the stream '{SELECTABLE}', but --streams has only {list(config.streams)}. Add the "
            "stream or leave --tokens out."
        )
    classes, tokens = robot.extractors.get(SELECTABLE, {}).get("classes", []), robot.train.streams[SELECTABLE][0]
    if len(classes) != tokens:
        raise TrainError(
            f"--tokens needs the class names of '{SELECTABLE}' in {robot.folder / EXTRACTOR_FILE}: expected {tokens}, "
            f"one per token, given {classes}. Run `flow_policy featurize` again, or leave --tokens out."
        )
    unknown = [name for name in config.tokens if name not in classes]
    if unknown:
        raise TrainError(f"--tokens has {unknown}, unknown in '{SELECTABLE}' of {robot.folder}; known: {classes}.")
    return tuple(row for row, name in enumerate(classes) if name in config.tokens)


def _fitted(contract: Contract, batch: Batch, config: TrainConfig, shape: NetworkShape, number: int) -> Codec:
    """The codec with the statistics of ``batch``."""
    position = torch.from_numpy(batch.joint_position)
    features = {name: torch.from_numpy(values) for name, values in batch.features.items()}
    transform = make_action_space(config.action_space, contract)
    actions = transform.encode(torch.from_numpy(batch.actions), position)[torch.from_numpy(batch.mask)]
    observations = raw_observation(contract, position, features)
    return Codec(
        contract,
        Normaliser.fit(VectorStatistics.of(observations.numpy()), config.normalisation),
        Normaliser.fit(VectorStatistics.of(actions.numpy()), config.normalisation),
        config.action_space,
        shape,
        number,
    )


def _check_contracts(contracts: Sequence[Contract], codecs: Sequence[Codec]) -> None:
    """Raise ``TrainError`` when the episodes are not of the robots and streams that the codecs are for."""
    theirs = [codec.contract for codec in codecs]
    if list(contracts) != theirs:
        differ = [
            field for field in ("robot", "joints", "action_joints", "dt_ns", "horizon", "streams")
            if [getattr(c, field) for c in contracts] != [getattr(c, field) for c in theirs]
        ]  # fmt: skip
        raise TrainError(
            f"the episodes do not fit the checkpoint: {', '.join(differ) or 'number of robots'} differ (episodes of "
            f"{[c.robot for c in contracts]}, checkpoint for {[c.robot for c in theirs]}). Give the episodes that it was "
            "trained with."
        )
