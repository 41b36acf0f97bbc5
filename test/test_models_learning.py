"""Every family learns a distribution with several modes that depends on the observation, by the loss that training uses."""

import math

import pytest
import torch
from models_support import SIZES

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.registry import NETWORKS
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel

RADIUS, SIGMA, HORIZON = 1.4, 0.15, 2
ANGLE = torch.arange(8) * math.pi / 4
MODES = RADIUS * torch.stack((ANGLE.cos(), ANGLE.sin()), dim=1)

# Transformers need more to tell the halves apart than to find the circle: larger batches or more steps.
LARGER = {
    "dit": {"width": 64, "expansion": 4},
    "dit_cross": {"width": 64, "expansion": 4},
    "embodiment_dit": {"width": 64, "expansion": 4, "pairs": 1, "future": 1},
    "unet1d": {"levels": 2},
    "deep_features": {"width": 64, "hidden": 128, "prefix_width": 32, "prefix_hidden": 64},
}
BATCH_AND_STEPS = {
    "residual_mlp": (256, 400),
    "unet1d": (128, 300),
    "dit": (256, 500),
    "dit_cross": (128, 450),
    "embodiment_dit": (128, 400),
    "deep_features": (128, 450),
}


def observed(bit: torch.Tensor, generator: torch.Generator) -> Conditioning:
    """The bit (B,) as a token of -1 or 1, beside a masked token and a state that say nothing."""
    tokens = torch.stack((2.0 * bit[:, None] - 1.0, torch.randn(len(bit), 1, generator=generator)), dim=1)
    mask = torch.tensor([True, False]).expand(len(bit), 2)
    return Conditioning.of(torch.zeros(len(bit), 1), tokens, mask)


def demonstrated(bit: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Chunks (B, H, 2) that stay near a point of one of the four Gaussians with even (bit 0) or odd (bit 1) number."""
    which = 2 * torch.randint(0, 4, (len(bit),), generator=generator) + bit
    point = MODES[which] + SIGMA * torch.randn(len(bit), 2, generator=generator)
    return point[:, None] + 0.02 * torch.randn(len(bit), HORIZON, 2, generator=generator)


@pytest.mark.parametrize(("name", "predicts"), [(name, "velocity") for name in NETWORKS] + [("residual_mlp", "chunk")])
def test_learns_eight_gaussians_half_by_half(name: str, predicts: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    batch, steps = BATCH_AND_STEPS[name]
    steps *= 3 if predicts == "chunk" else 1
    model = FlowModel(
        name,
        SIZES[name] | LARGER.get(name, {}),
        NetworkShape(state=1, horizon=HORIZON, action=2, tokens=2, channels=1),
        FlowConfig(time_sampler="logit_normal", predicts=predicts),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.99), fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / 50, 3.0 * (1.0 - k / steps)))
    mask = torch.ones(batch, HORIZON, dtype=torch.bool)
    for _ in range(steps):
        bit = torch.randint(0, 2, (batch,), generator=generator)
        loss = model.compute_loss(demonstrated(bit, generator), observed(bit, generator), mask, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    for half in (0, 1):
        with torch.inference_mode():
            observation = observed(torch.full((800,), half), generator)
            chunk = model.sample(observation, 10, generator=generator).x
        point = chunk.mean(dim=1)
        distance, mode = torch.cdist(point, MODES[half::2]).min(dim=1)
        near = distance < 3.5 * SIGMA
        assert near.float().mean() > 0.85, "samples lie near a mode of their own half"
        assert torch.bincount(mode[near], minlength=4).min() >= 80, "all four modes are covered"
        spread = (chunk - point[:, None]).norm(dim=2).amax(dim=1)
        assert (spread < 2 * SIGMA).float().mean() > 0.95, "a chunk keeps to its point"
