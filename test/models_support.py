"""What the tests of the networks share: small sizes of every family, random observations, networks that are awake."""

from __future__ import annotations

import torch

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.registry import make_network, network_config

SIZES = {
    "residual_mlp": {"width": 64, "blocks": 2, "expansion": 2, "time_width": 32, "observation_width": 32},
    "unet1d": {"width": 16, "levels": 3, "kernel": 3, "groups": 4, "time_width": 32, "observation_width": 32},
    "dit": {"width": 32, "blocks": 2, "heads": 2, "expansion": 2, "time_width": 32, "observation_width": 32},
    "dit_cross": {"width": 32, "blocks": 2, "heads": 2, "expansion": 2, "time_width": 32, "state_width": 32},
    "embodiment_dit": {"width": 32, "pairs": 2, "heads": 2, "expansion": 2, "future": 2, "time_width": 32},
    "deep_features": {"width": 32, "layers": 2, "heads": 2, "hidden": 48, "prefix_width": 16, "prefix_hidden": 24},
}
SHAPE = NetworkShape(state=5, horizon=4, action=3, tokens=3, channels=2, embodiments=2)


def asleep(name: str, shape: NetworkShape = SHAPE) -> VelocityNetwork:
    """A small network as it is made."""
    return make_network(name, network_config(name, SIZES[name]), shape)


def awake(name: str, shape: NetworkShape = SHAPE) -> VelocityNetwork:
    """A small network whose zero-initialised layers have random weights."""
    network = asleep(name, shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    return network


def observed(batch: int, shape: NetworkShape = SHAPE) -> Conditioning:
    """Random observations, all tokens real, embodiment 0."""
    return Conditioning.of(torch.randn(batch, shape.state), torch.randn(batch, shape.tokens, shape.channels))


def inputs(batch: int, shape: NetworkShape = SHAPE) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Random x (B, H, A), times (B,) and observations."""
    return torch.randn(batch, shape.horizon, shape.action), torch.rand(batch), observed(batch, shape)
