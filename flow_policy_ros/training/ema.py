"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """``model`` is the averaged copy, in eval mode, never trained itself. Buffers are copied, not averaged.

    Frozen weights are their own average: both models share them, so that there is one copy in memory and on disk.
    """

    def __init__(self, model: M, decay: float) -> None:
        frozen = {id(weights): weights for weights in model.parameters() if not weights.requires_grad}
        self._shared = frozenset(frozen)
        self.model: M = copy.deepcopy(model, frozen).eval().requires_grad_(False)  # fills its memo, which is what this is
        self.decay = decay

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Take in the weights after optimiser step number ``step`` (from 1).

        The decay rises as (1 + step) / (10 + step) to its greatest value, so that the first weights are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        ours = cast(list[torch.Tensor], [p for p in self.model.parameters() if id(p) not in self._shared])
        torch._foreach_lerp_(ours, [p for p in model.parameters() if id(p) not in self._shared], 1.0 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
