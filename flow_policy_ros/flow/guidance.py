"""Classifier-free guidance at sampling. Condition dropout in training and the null condition itself are the policy's."""

from __future__ import annotations

import math

import torch

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.flow.solver import Velocity


def guided_velocity(velocity_of_pair: Velocity, scale: float) -> Velocity:
    """v_null + scale (v_cond - v_null) at x (B, H, A) and t (B,) or (B, H), with one evaluation of a doubled batch.

    ``velocity_of_pair`` takes (2B, H, A) and times (2B,) or (2B, H): the first half answers for the null condition, the
    second for the observation. Ho & Salimans 2022, eq. 6 with scale = 1 + w; for velocities Zheng et al. 2023. Scale 0 is the
    null condition, 1 the observation alone: then do not wrap, it would cost twice for the same number.

    Raises ``ValueError`` for a scale that is negative or not finite; the result raises it for a velocity of another shape.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"guidance scale is {scale}, expected a finite number of at least 0; 1 means no guidance.")

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = velocity_of_pair(torch.cat((x, x)), torch.cat((t, t)))
        require_shape("velocity of the doubled batch", v, (2 * x.shape[0], *x.shape[1:]))
        null, conditional = v.chunk(2)
        return null + scale * (conditional - null)

    return guided
