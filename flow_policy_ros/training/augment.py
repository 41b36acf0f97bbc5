"""Disturbances of training observations: what a real sensor or detector would have got wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.windows import Batch
from flow_policy_ros.training.config import TrainConfig


def augment(batch: Batch, config: TrainConfig, generator: np.random.Generator) -> Batch:
    """A batch with noise on joint positions and features and with dropped tokens, as ``config`` says.

    A token of zeros means "not seen" and stays so.
    """
    position = batch.joint_position
    if config.joint_noise > 0:
        position = position + config.joint_noise * generator.standard_normal(position.shape)
    features = {name: _disturb(values, config, generator) for name, values in batch.features.items()}
    history = batch.joint_history
    if config.joint_noise > 0 and history is not None:
        history = history + config.joint_noise * generator.standard_normal(history.shape)
    return replace(batch, joint_position=position, features=features, joint_history=history)


def _disturb(
    values: NDArray[np.float32], config: TrainConfig, generator: np.random.Generator
) -> NDArray[np.float32]:
    seen = values.any(axis=2, keepdims=True)
    if config.feature_noise > 0:
        noise = generator.standard_normal(values.shape, dtype=np.float32)
        values = np.where(seen, values + np.float32(config.feature_noise) * noise, values)
    if config.feature_dropout > 0:
        values = np.where(generator.random(seen.shape) < config.feature_dropout, np.float32(0), values)
    return values
