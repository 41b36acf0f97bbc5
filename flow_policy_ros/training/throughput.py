"""How fast training samples are made: cut, disturbed, and turned into tensors, as ahead of every optimiser step."""

from __future__ import annotations

import time

import numpy as np

from flow_policy_ros.training.augment import augment
from flow_policy_ros.training.config import TrainConfig
from flow_policy_ros.training.data import TrainingData


def window_throughput(data: TrainingData, config: TrainConfig, seconds: float = 2.0) -> dict[str, float]:
    """Samples per second of one process, over ``seconds`` at least and whole epochs, so that drawing is in it.

    ``windows_per_s`` is of cutting alone, ``tensors_per_s`` of everything before the network.
    """
    return {
        "windows_per_s": round(_rate(data, config, seconds, tensors=False), 1),
        "tensors_per_s": round(_rate(data, config, seconds, tensors=True), 1),
    }


def _rate(data: TrainingData, config: TrainConfig, seconds: float, tensors: bool) -> float:
    generator = np.random.default_rng(0)
    begin, samples, epoch = time.perf_counter(), 0, 0
    while time.perf_counter() - begin < seconds:
        for parts in data.train.batches(config.seed, epoch, config.batch):
            if tensors:
                data.tensors([(number, augment(batch, config, generator, data.contract(number))) for number, batch in parts])
            samples += sum(len(batch.mask) for _, batch in parts)
        epoch += 1
    return samples / (time.perf_counter() - begin)
