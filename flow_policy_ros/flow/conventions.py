"""Networks trained in reversed time (1 noise, 0 data) as forward velocities. The package itself knows forward time only."""

from __future__ import annotations

import torch

from flow_policy_ros.flow.shapes import require_shape, require_time
from flow_policy_ros.flow.solver import Velocity


def reversed_velocity(velocity: Velocity) -> Velocity:
    """v(x, t) = -velocity(x, 1 - t): the same network, the same chunk from the same noise, the same loss.

    ``velocity`` follows the published code of pi0 and SmolVLA: x_t = t noise + (1 - t) actions, target noise - actions,
    integrated from t = 1 to 0 with negative steps. (The paper of pi0, Black et al. 2024, writes time forward.) Takes
    x (B, H, A) and t (B,) or one time per step (B, H). The result raises ``ValueError`` for another shape of time or
    velocity.
    """

    def forward(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        require_time(t, x)
        v = velocity(x, 1.0 - t)
        require_shape("velocity", v, tuple(x.shape))
        return -v

    return forward
