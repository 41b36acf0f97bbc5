"""How straight a flow is, which says how few steps it can be sampled with. Distilling one is ``training``'s."""

from __future__ import annotations

import torch

from flow_policy_ros.flow.solver import Velocity
from flow_policy_ros.flow.solvers import Euler


def straightness(velocity: Velocity, x0: torch.Tensor, steps: int) -> torch.Tensor:
    """Per sample (B,): mean over the path of |v(x_t, t) - (x1 - x0)|^2, divided by |x1 - x0|^2; 0 is straight.

    S(Z) of Liu et al. 2023 ("Flow straight and fast", rectified flow), made free of units by the division. The path from ``x0``
    (B, H, A) is Euler's over ``steps``, so the number approaches its integral in first order; norms run over H and A. A flow
    that moves and returns has an infinite value, one at rest 0. Raises ``ValueError`` for another shape, and for fewer than
    two steps: a single one is straight by construction.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}, expected at least 2: the path of a single step is always straight.")
    slopes: list[torch.Tensor] = []

    def recorded(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        slopes.append(velocity(x, t))
        return slopes[-1]

    displacement = Euler().solve(recorded, x0, steps).x - x0
    bend = torch.stack([(v - displacement).square().sum(dim=(1, 2)) for v in slopes]).mean(dim=0)
    return torch.where(bend > 0, bend / displacement.square().sum(dim=(1, 2)), bend)
