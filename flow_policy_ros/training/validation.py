"""How good a model is on held-out episodes: loss, and distance of sampled chunks from the recorded ones."""

from __future__ import annotations

import torch

from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.training.data import TrainingData

SAMPLES, SAMPLES_WITH_IMAGES = 1024, 64
STEPS = 10


@torch.inference_mode()
def validate(model: FlowModel, data: TrainingData, seed: int) -> dict[str, float]:
    """``loss``, and ``chunk_rmse`` in rad or m of chunks sampled with ``STEPS`` steps; {} without held-out episodes.

    The same samples, noise and times every time, so that figures of one run are comparable.
    """
    if data.held_out is None:
        return {}
    parts = next(data.held_out.batches(seed, 0, SAMPLES if data.vlm is None else SAMPLES_WITH_IMAGES))
    batch = data.tensors(parts).to(next(model.parameters()).device)
    generator = torch.Generator().manual_seed(seed)
    loss = model.compute_loss(batch.actions, batch.observation, batch.mask, generator)
    sampled = model.sample(batch.observation, STEPS, generator=generator).x.cpu()
    squares, count, row = 0.0, 0, 0
    for number, part in parts:
        chunk = data.codecs[number].decode(sampled[row : row + len(part.mask)], torch.from_numpy(part.joint_position))
        error = (chunk - torch.from_numpy(part.actions))[torch.from_numpy(part.mask)]
        squares, count, row = squares + float(error.square().sum()), count + error.numel(), row + len(part.mask)
    return {"loss": float(loss), "chunk_rmse": (squares / count) ** 0.5}
