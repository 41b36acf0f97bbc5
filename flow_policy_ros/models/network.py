"""What every velocity network offers, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flow_policy_ros.flow.shapes import require_shape, require_time


@dataclass(frozen=True)
class NetworkShape:
    """Sizes given by the data: S observed values, H steps per chunk, A action dimensions."""

    observation: int
    horizon: int
    action: int


class VelocityNetwork(nn.Module, ABC):
    """v(x, t | observation). What depends on the observation alone is computed once per chunk, by ``condition``."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape

    def condition(self, observation: torch.Tensor) -> Any:
        """A cache for ``velocity`` from the normalised observation (B, S). Raises ``ValueError`` for another shape."""
        if observation.ndim != 2:
            raise ValueError(
                f"observation has shape {tuple(observation.shape)}, expected (B, {self.shape.observation})."
            )
        require_shape("observation", observation, (len(observation), self.shape.observation))
        return self._condition(observation)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, cache: Any) -> torch.Tensor:
        """Velocity (B, H, A) at x (B, H, A) and time t, (B,) or one per step (B, H), in [0, 1].

        Raises ``ValueError`` naming field, expected and given shape.
        """
        require_shape("x", x, (len(x), self.shape.horizon, self.shape.action))
        require_time(t, x)
        return self._velocity(x, t, cache)

    @abstractmethod
    def _condition(self, observation: torch.Tensor) -> Any:
        """As ``condition``, shapes already checked."""

    @abstractmethod
    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: Any) -> torch.Tensor:
        """As ``velocity``, shapes already checked."""


def zero_init(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias of zero: what it feeds starts as the identity (or as zero)."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
