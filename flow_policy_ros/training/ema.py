"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """``model`` is the averaged copy, in eval mode, never trained itself. Buffers are copied, not averaged."""

    def __init__(self, model: M, decay: float) -> None:
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Take in the weights after optimiser step number ``step`` (from 1).

        The decay rises as (1 + step) / (10 + step) to its greatest value, so that the first weights are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        ours = cast(list[torch.Tensor], list(self.model.parameters()))
        torch._foreach_lerp_(ours, list(model.parameters()), 1.0 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
