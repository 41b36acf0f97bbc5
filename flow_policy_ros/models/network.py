"""What every velocity network offers, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from flow_policy_ros.flow.shapes import require_shape, require_time
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape


class VelocityNetwork(nn.Module, ABC):
    """v(x, t | observation). What depends on the observation alone is computed once per chunk, by ``condition``.

    ``differentiable``: whether gradients flow from the velocity to x; ``time_per_step``: whether t may be (B, H).
    """

    differentiable: ClassVar[bool] = True
    time_per_step: ClassVar[bool] = True

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape

    def condition(self, observation: Conditioning) -> Any:
        """A cache for ``velocity``, computed once per chunk. Raises ``ValueError`` for what does not fit ``shape``."""
        observation.check(self.shape)
        return self._condition(observation)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, cache: Any) -> torch.Tensor:
        """Velocity (B, H, A) at x (B, H, A) and time t, (B,) or one per step (B, H), in [0, 1]; ``cache`` stays as it is.

        Raises ``ValueError`` naming field, expected and given shape.
        """
        require_shape("x", x, (len(x), self.shape.horizon, self.shape.action))
        require_time(t, x)
        return self._velocity(x, t, cache)

    @abstractmethod
    def _condition(self, observation: Conditioning) -> Any:
        """As ``condition``, shapes already checked."""

    @abstractmethod
    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: Any) -> torch.Tensor:
        """As ``velocity``, shapes already checked."""


def zero_init(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias (if any) of zero: what it feeds starts as the identity (or as zero)."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def he_init(layer: nn.Linear) -> nn.Linear:
    """The layer with weights of variance 2 / inputs (He et al. 2015).

    In the MLPs of few transformer blocks torch's own, a sixth of it, makes learning to tell observations apart take half as
    long again, or never begin.
    """
    nn.init.kaiming_normal_(layer.weight)
    return layer
