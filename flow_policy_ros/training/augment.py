"""Disturbances of training observations: what a real sensor or detector would have got wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.windows import Batch
from flow_policy_ros.runtime.contract import SEEN, Contract, StreamContract
from flow_policy_ros.training.config import TrainConfig


def augment(batch: Batch, config: TrainConfig, generator: np.random.Generator, contract: Contract | None = None) -> Batch:
    """A batch with noise on joint positions and features, with dropped tokens and hidden joints, as ``config`` says.

    A token of zeros means "not seen" and stays so; so is one that is dropped, its mask with it, which noise leaves alone. What is
    standing (an instruction) and what a vision-language model reads as it is (images, prompts, positions) is not disturbed;
    ``contract`` tells which these are, None: none.
    """
    position = batch.joint_position
    if config.joint_noise > 0:
        position = position + config.joint_noise * generator.standard_normal(position.shape)
    known = {} if contract is None else {stream.name: stream for stream in contract.streams}
    features = {name: _disturb(values, config, generator, known.get(name)) for name, values in batch.features.items()}
    history = batch.joint_history
    if config.joint_noise > 0 and history is not None:
        history = history + config.joint_noise * generator.standard_normal(history.shape)
    if config.state_dropout > 0:
        hidden = generator.random(len(position)) < config.state_dropout
        position = _hide(position, hidden)
        history = None if history is None else _hide(history, hidden)
    return replace(batch, joint_position=position, features=features, joint_history=history)


def _hide(values: NDArray[Any], hidden: NDArray[np.bool_]) -> NDArray[Any]:
    """``values`` (B, ...) with the batch's mean in place of the samples that are ``hidden`` (B,) bool: it tells nothing of them."""
    return np.where(hidden.reshape(-1, *[1] * (values.ndim - 1)), values.mean(axis=0, keepdims=True), values)


def _disturb(
    values: NDArray[Any], config: TrainConfig, generator: np.random.Generator, stream: StreamContract | None
) -> NDArray[Any]:
    if stream is not None and (stream.moment == "standing" or stream.kind in SEEN):
        return values
    mask = None if stream is None else stream.mask_channel
    seen = values.any(axis=2, keepdims=True) if mask is None else values[:, :, mask, None] > 0.5
    if config.feature_noise > 0:
        noise = generator.standard_normal(values.shape, dtype=np.float32)
        if mask is not None:
            noise[:, :, mask] = 0.0
        values = np.where(seen, values + np.float32(config.feature_noise) * noise, values)
    if config.feature_dropout > 0:
        values = np.where(generator.random(seen.shape) < config.feature_dropout, np.float32(0), values)
    return values
