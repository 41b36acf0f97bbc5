"""How good a model is on held-out episodes: loss, and distance of sampled chunks from the recorded ones."""

from __future__ import annotations

import torch

from flow_policy_ros.policy.vector_flow import VectorFlowModel
from flow_policy_ros.training.data import TrainingData, tensors_of

SAMPLES = 1024
STEPS = 10


@torch.inference_mode()
def validate(model: VectorFlowModel, data: TrainingData, seed: int) -> dict[str, float]:
    """``loss``, and ``chunk_rmse`` in rad or m of chunks sampled with ``STEPS`` steps; {} without held-out episodes.

    The same samples, noise and times every time, so that figures of one run are comparable.
    """
    if data.held_out is None:
        return {}
    batch = next(data.held_out.batches(seed, 0, SAMPLES))
    device = next(model.parameters()).device
    actions, observation, mask = (tensor.to(device) for tensor in tensors_of(data.codec, batch))
    generator = torch.Generator().manual_seed(seed)
    loss = model.compute_loss(actions, observation, mask, generator)
    sampled = model.sample(observation, STEPS, generator=generator).x.cpu()
    error = data.codec.decode(sampled, torch.from_numpy(batch.joint_position)) - torch.from_numpy(batch.actions)
    return {"loss": float(loss), "chunk_rmse": float(error[torch.from_numpy(batch.mask)].square().mean().sqrt())}
