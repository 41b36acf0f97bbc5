"""3D positions of image patches, added to the patches' features (LLaVA-3D: position embedding through an MLP)."""

from __future__ import annotations

import torch
from torch import nn

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.models.network import zero_init


class PatchPositions(nn.Module):
    """tokens (B, n, ``width``) + MLP(position), position in metres and its sines at octaves of ``1 / reach``.

    The last layer starts at zero: features are unchanged until training says otherwise. A patch without a position is given
    a learned vector instead, which starts at zero too; what its position holds does not matter.
    """

    frequencies: torch.Tensor

    def __init__(self, width: int, hidden: int = 128, octaves: int = 6, reach: float = 4.0) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(octaves) / reach, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(3 + 6 * octaves, hidden), nn.SiLU(), zero_init(nn.Linear(hidden, width)))
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """``positions`` (B, n, 3) metres, ``known`` (B, n) bool. Raises ``ValueError`` for other shapes."""
        batch, count = tokens.shape[:2]
        require_shape("tokens", tokens, (batch, count, self.width))
        require_shape("positions", positions, (batch, count, 3))
        require_shape("known", known, (batch, count))
        # where() before the network: an unknown position may be NaN, and its gradient would be too.
        at = torch.where(known[..., None], positions, 0.0)
        angles = (at[..., None] * self.frequencies).flatten(-2)
        added = self.mlp(torch.cat((at, angles.sin(), angles.cos()), dim=-1).to(self.unknown.dtype))
        return tokens + torch.where(known[..., None], added, self.unknown).to(tokens.dtype)
