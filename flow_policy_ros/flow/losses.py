"""Losses on velocities."""

from __future__ import annotations

import torch

from flow_policy_ros.flow.shapes import chunk_mask, require_shape


def masked_mse(predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scalar mean of squared errors over the entries where ``mask`` is 1: divided by the mask's sum, not by the size.

    ``predicted``, ``target`` (B, H, A); ``mask`` (B, H) for whole steps or (B, H, A) for dimensions, bool or 0/1.
    A mask without any entry gives 0. Raises ``ValueError`` for another shape.
    """
    if target.ndim != 3:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected (B, H, A).")
    require_shape("predicted", predicted, tuple(target.shape))
    keep = chunk_mask(mask, tuple(target.shape))
    # where() and not a product: a padded entry may hold anything, and NaN * 0 is NaN.
    squared = torch.where(keep, predicted - target, 0.0).square()
    return squared.sum() / keep.sum().clamp(min=1)
