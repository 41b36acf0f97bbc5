"""From a folder of episodes to training and validation windows, and the codec made from the training part alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flow_policy_ros.data.episodes import EXTRACTOR_FILE, load_episodes, load_extractors
from flow_policy_ros.data.statistics import VectorStatistics
from flow_policy_ros.data.windows import Batch, Windows
from flow_policy_ros.policy.action_space import make_action_space
from flow_policy_ros.policy.codec import VectorCodec, raw_observation
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.training.config import TrainConfig, TrainError

SELECTABLE = "detections"
"""The stream whose tokens have names: the classes of its detector."""


@dataclass(frozen=True)
class TrainingData:
    """``train`` and ``held_out`` windows (None without validation) of one robot, the ``codec``, and a ``summary``."""

    train: Windows
    held_out: Windows | None
    codec: VectorCodec
    summary: dict[str, object]


def tensors_of(codec: VectorCodec, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Network actions (B, H, A), observation (B, S) and mask (B, H) of a batch."""
    position = torch.from_numpy(batch.joint_position)
    features = {name: torch.from_numpy(values) for name, values in batch.features.items()}
    actions = codec.encode(torch.from_numpy(batch.actions), position)
    return actions, codec.observation(position, features), torch.from_numpy(batch.mask)


def load_training_data(config: TrainConfig) -> TrainingData:
    """Read, split by episode, and take statistics. Raises ``EpisodeError``, ``TrainError`` or ``ValueError``."""
    episodes = load_episodes(config.data)
    robots = sorted({episode.robot or f"adroit_{episode.task}" for episode in episodes})
    if len(robots) > 1:
        raise TrainError(f"{config.data} mixes episodes of the robots {robots}; keep each in a folder of its own.")
    order = np.random.default_rng([config.seed, 3]).permutation(len(episodes))
    held_out = round(config.validation * len(episodes))
    if config.validation > 0:
        held_out = min(max(held_out, 1), len(episodes) - 1)
    chosen = {int(k) for k in order[:held_out]}
    delay = (config.delay_min, config.delay_max)
    parts = [
        [episode for k, episode in enumerate(episodes) if (k in chosen) == validation] for validation in (False, True)
    ]
    chunk_dt_ns = round(config.chunk_dt * 1e9)
    strangers = sorted(set(config.first) - set(config.streams))
    if strangers:
        raise TrainError(f"--first names {strangers}, which --streams {list(config.streams)} does not have; add them there.")
    train, validation = (
        Windows(part, config.streams, config.horizon, chunk_dt_ns, delay, config.first) if part else None for part in parts
    )
    assert train is not None  # at least one episode is left to train on
    extractors = load_extractors(config.data)
    rows = {SELECTABLE: _token_rows(config, train, extractors.get(SELECTABLE, {}))} if config.tokens else {}
    contract = Contract(
        robot=robots[0],
        joints=train.joints,
        action_joints=train.joints,
        dt_ns=chunk_dt_ns,
        horizon=config.horizon,
        streams=tuple(
            StreamContract(
                name, tokens, channels, extractors.get(name, {}), rows.get(name, ()), "first" if name in config.first else "newest"
            )
            for name, (tokens, channels) in train.streams.items()
        ),
    )
    samples = train.samples(config.seed, 0)
    summary: dict[str, object] = {
        "tasks": sorted({episode.task for episode in episodes}),
        "episodes": len(episodes),
        "held_out": held_out,
        "successes": sum(episode.success for episode in episodes),
        "samples": len(samples.ticks),
        "seconds": round(sum(len(episode.stamps) * episode.dt_ns for episode in episodes) / 1e9, 1),
    }
    if len(samples.ticks) == 0:
        raise TrainError(f"no tick of {config.data} has features of every stream {config.streams}; check --delay-max.")
    return TrainingData(train, validation, _fit_codec(contract, train.gather(samples), config), summary)


def _token_rows(config: TrainConfig, windows: Windows, extractor: dict[str, Any]) -> tuple[int, ...]:
    """Rows of the tokens that ``config.tokens`` names, ascending. Raises ``TrainError`` for a name that has none."""
    if SELECTABLE not in windows.streams:
        raise TrainError(
            f"--tokens selects from the stream '{SELECTABLE}', but --streams has only {list(config.streams)}. Add the "
            "stream or leave --tokens out."
        )
    classes, tokens = extractor.get("classes", []), windows.streams[SELECTABLE][0]
    if len(classes) != tokens:
        raise TrainError(
            f"--tokens needs the class names of '{SELECTABLE}' in {config.data / EXTRACTOR_FILE}: expected {tokens}, "
            f"one per token, given {classes}. Run `flow_policy featurize` again, or leave --tokens out."
        )
    unknown = [name for name in config.tokens if name not in classes]
    if unknown:
        raise TrainError(f"--tokens has {unknown}, unknown in '{SELECTABLE}' of {config.data}; known: {classes}.")
    return tuple(row for row, name in enumerate(classes) if name in config.tokens)


def _fit_codec(contract: Contract, batch: Batch, config: TrainConfig) -> VectorCodec:
    position = torch.from_numpy(batch.joint_position)
    features = {name: torch.from_numpy(values) for name, values in batch.features.items()}
    transform = make_action_space(config.action_space, contract)
    actions = transform.encode(torch.from_numpy(batch.actions), position)[torch.from_numpy(batch.mask)]
    observations = raw_observation(contract, position, features)
    return VectorCodec(
        contract,
        Normaliser.fit(VectorStatistics.of(observations.numpy()), config.normalisation),
        Normaliser.fit(VectorStatistics.of(actions.numpy()), config.normalisation),
        config.action_space,
    )
