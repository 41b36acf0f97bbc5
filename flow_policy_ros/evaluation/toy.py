"""A toy with known answers: eight Gaussians on a circle as action chunks, of which the observation selects four.

Trained by this package and by torchcfm (Tong et al. 2024), the second implementation that the flow maths is held against:
same network, same initial weights, same batches, same seeds for what each draws itself.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from flow_policy_ros.flow.metrics import energy_distance, sliced_wasserstein
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel

RADIUS, SPREAD, HORIZON = 1.0, 0.08, 4
SHAPE = NetworkShape(state=1, horizon=HORIZON, action=2, tokens=1, channels=1)
SIZES: dict[str, dict[str, int]] = {
    "residual_mlp": {"width": 128, "blocks": 2, "expansion": 2, "observation_width": 32},
    "unet1d": {"width": 16, "levels": 2, "kernel": 3, "groups": 4, "observation_width": 32},
    "dit": {"width": 64, "blocks": 2, "heads": 2, "expansion": 2, "observation_width": 32},
    "dit_cross": {"width": 64, "blocks": 2, "heads": 2, "expansion": 2},
    "embodiment_dit": {"width": 64, "pairs": 1, "heads": 2, "expansion": 2, "future": 1},
    "deep_features": {"width": 64, "layers": 2, "heads": 2, "hidden": 128, "prefix_width": 32, "prefix_hidden": 64},
}
"""Small versions of the networks; one that is not here has its defaults."""
BATCH, LEARNING_RATE, STEPS = 256, 3e-3, 20


@dataclass(frozen=True)
class Row:
    """Mean distances of samples to fresh data, and the least share of the four modes among the samples."""

    name: str
    coupling: str
    energy_ours: float
    energy_theirs: float
    wasserstein_ours: float
    wasserstein_theirs: float
    least_mode_ours: float
    least_mode_theirs: float

    @property
    def energy_ratio(self) -> float:
        """Ours to theirs: below 1 is nearer to the data."""
        return self.energy_ours / self.energy_theirs

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        ratios = {"energy_ratio": self.energy_ratio, "wasserstein_ratio": self.wasserstein_ours / self.wasserstein_theirs}
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in (dataclasses.asdict(self) | ratios).items()}


def draw(count: int, generator: torch.Generator) -> tuple[torch.Tensor, Conditioning]:
    """Chunks (count, H, 2), every step the same point, and the observations that belong to them."""
    half = torch.randint(0, 2, (count,), generator=generator)
    mode = 2 * torch.randint(0, 4, (count,), generator=generator) + half
    point = centres()[mode] + SPREAD * torch.randn(count, 2, generator=generator)
    return point[:, None, :].repeat(1, HORIZON, 1), observe(half)


def centres() -> torch.Tensor:
    """The eight modes (8, 2); observation k has those of rows k, k + 2, k + 4, k + 6."""
    angle = torch.arange(8) * (math.pi / 4)
    return RADIUS * torch.stack((angle.cos(), angle.sin()), dim=1)


def observe(half: torch.Tensor) -> Conditioning:
    """The observation, as state and as token."""
    bit = 2.0 * half[:, None].float() - 1.0
    return Conditioning.of(bit, bit[:, :, None])


def least_mode(chunks: torch.Tensor, half: int) -> float:
    """Share of samples (N, H, 2) within 3.5 deviations of the rarest of the four modes of this half, times four."""
    distance = torch.cdist(chunks.mean(dim=1), centres()[half::2])
    near = distance.amin(dim=1) < 3.5 * SPREAD
    return 4.0 * float(torch.bincount(distance.argmin(dim=1)[near], minlength=4).min()) / len(chunks)


def compare(name: str, coupling: str, steps: int, seeds: int, samples: int = 2000) -> Row:
    """Train ``name`` both ways, ``seeds`` times, and judge ``samples`` chunks of each half.

    Raises ``ImportError`` where torchcfm or torchdiffeq is not installed.
    """
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for side, train, sample in (("ours", _train_ours, _sample_ours), ("theirs", _train_theirs, _sample_theirs)):
            torch.manual_seed(seed)
            model = FlowModel(name, SIZES.get(name, {}), SHAPE, FlowConfig(coupling=coupling))
            _fit(model, train(model), steps, seed)
            for key, value in _judge(model.eval(), sample, seed, samples).items():
                found.setdefault(f"{key}_{side}", []).append(value)
    return Row(name, coupling, **{key: statistics.fmean(values) for key, values in found.items()})


Loss = Callable[[torch.Tensor, Conditioning], torch.Tensor]
Sample = Callable[[FlowModel, Conditioning, torch.Tensor], torch.Tensor]


def _fit(model: nn.Module, loss_of: Loss, steps: int, seed: int) -> None:
    """Adam with a learning rate that falls to zero. What a loss draws itself is seeded by the step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(1000 + seed)
    for step in range(steps):
        actions, observation = draw(BATCH, generator)
        torch.manual_seed(seed * 1_000_003 + step)
        np.random.seed((seed * 1_000_003 + step) % 2**32)  # torchcfm draws its couplings from it
        loss = loss_of(actions, observation)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _train_ours(model: FlowModel) -> Loss:
    mask = torch.ones(BATCH, HORIZON, dtype=torch.bool)
    return lambda actions, observation: model.compute_loss(actions, observation, mask)


def _train_theirs(model: FlowModel) -> Loss:
    from torchcfm.conditional_flow_matching import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        ConditionalFlowMatcher,
        ExactOptimalTransportConditionalFlowMatcher,
    )

    plain = model.flow.coupling == "independent"
    matcher = (ConditionalFlowMatcher if plain else ExactOptimalTransportConditionalFlowMatcher)(sigma=0.0)

    def loss(actions: torch.Tensor, observation: Conditioning) -> torch.Tensor:
        noise = torch.randn(actions.shape)
        if plain:
            t, x, u = matcher.sample_location_and_conditional_flow(noise, actions)
        else:  # their plan draws pairs with replacement; the observation goes with its chunk
            numbers = torch.arange(len(actions))
            t, x, u, _, chosen = matcher.guided_sample_location_and_conditional_flow(noise, actions, y1=numbers)
            observation = observation.take(chosen)
        return (model.network.velocity(x, t, model.network.condition(observation)) - u).square().mean()

    return loss


def _sample_ours(model: FlowModel, observation: Conditioning, noise: torch.Tensor) -> torch.Tensor:
    return model.sample(observation, STEPS, noise, solver=make_solver("midpoint")).x


def _sample_theirs(model: FlowModel, observation: Conditioning, noise: torch.Tensor) -> torch.Tensor:
    from torchdiffeq import odeint  # type: ignore[import-not-found, import-untyped, unused-ignore]

    cache = model.network.condition(observation)
    grid = torch.linspace(0.0, 1.0, STEPS + 1)
    path = odeint(lambda t, x: model.network.velocity(x, t.expand(len(x)), cache), noise, grid, method="midpoint")
    result: torch.Tensor = path[-1]
    return result


@torch.no_grad()
def _judge(model: FlowModel, sample: Sample, seed: int, samples: int) -> dict[str, float]:
    """Distances to fresh data of the same size, mean over the two observations, and the rarest mode's share."""
    generator = torch.Generator().manual_seed(2000 + seed)
    energy, wasserstein, modes = [], [], []
    for half in (0, 1):
        data, observation = draw(2 * samples, generator)
        mine = observation.state[:, 0] == 2.0 * half - 1.0
        data = data[mine].flatten(1)
        same = observe(torch.full((samples,), half))
        chunks = sample(model, same, torch.randn((samples, HORIZON, 2), generator=generator))
        energy.append(energy_distance(chunks.flatten(1), data))
        wasserstein.append(sliced_wasserstein(chunks.flatten(1), data, 100, generator))
        modes.append(least_mode(chunks, half))
    return {"energy": statistics.fmean(energy), "wasserstein": statistics.fmean(wasserstein), "least_mode": min(modes)}
