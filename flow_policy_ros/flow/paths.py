"""Probability paths between noise and data. Time runs from 0 (noise) to 1 (data) everywhere in this package."""

from __future__ import annotations

import torch

from flow_policy_ros.flow.shapes import broadcast_time, require_shape


def straight_path(
    noise: torch.Tensor, actions: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The point x_t = (1 - t) noise + t actions (B, H, A) and its velocity u = actions - noise (B, H, A).

    ``noise``, ``actions`` (B, H, A); ``t`` (B,) or (B, H), in [0, 1]. Raises ``ValueError`` for another shape.
    """
    if actions.ndim != 3:
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected (B, H, A).")
    require_shape("noise", noise, tuple(actions.shape))
    velocity = actions - noise
    return noise + broadcast_time(t, actions) * velocity, velocity
