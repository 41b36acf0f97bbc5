"""The shape check that every public function of the maths and the networks shares: nothing broadcasts by accident."""

from __future__ import annotations

import torch


def require_shape(field: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
    """Raise ``ValueError`` naming ``field``, the expected and the given shape, when they differ."""
    if tensor.shape != expected:
        raise ValueError(f"{field} has shape {tuple(tensor.shape)}, expected {expected}.")


def chunk_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """``mask`` (B, H) for whole steps or (B, H, A), bool or 0/1, as bool of ``shape`` (B, H, A). Raises ``ValueError``."""
    if mask.ndim == 2:
        require_shape("mask", mask, shape[:2])
        mask = mask[:, :, None].expand(shape)
    require_shape("mask", mask, shape)
    return mask.bool()


def require_time(t: torch.Tensor, x: torch.Tensor) -> None:
    """Times are (B,), or (B, H) for one time per step, for x (B, H, A). Raises ``ValueError``."""
    if t.shape != x.shape[:1] and t.shape != x.shape[:2]:
        raise ValueError(
            f"time has shape {tuple(t.shape)}, expected {tuple(x.shape[:1])} or {tuple(x.shape[:2])} (one per step)."
        )


def broadcast_time(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Times (B,) or (B, H) as (B, 1, 1) or (B, H, 1), to be multiplied with x (B, H, A). Raises ``ValueError``."""
    require_time(t, x)
    return t[:, None, None] if t.ndim == 1 else t[:, :, None]
