"""Frozen data classes of tensors whose first dimension is the batch: moved, chosen from and joined as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T", bound="Batched")


class Batched:
    """Base of a frozen data class that holds batch-first tensors only; ``mask`` (B, N) bool among them, what may be seen."""

    mask: torch.Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def to(self: T, device: torch.device | str) -> T:
        """On another device."""
        return type(self)(*(part.to(device) for part in self._parts()))

    def take(self: T, which: slice | torch.Tensor) -> T:
        """Some of the samples."""
        return type(self)(*(part[which] for part in self._parts()))

    def hide(self: T, which: torch.Tensor) -> T:
        """The same, with nothing to be seen in the samples ``which`` (B,) bool."""
        return dataclasses.replace(self, mask=self.mask & ~which[:, None])  # type: ignore[type-var]

    @classmethod
    def cat(cls: type[T], batches: Sequence[T]) -> T:
        """Batches one after the other. Raises ``ValueError`` for parts of different sizes."""
        columns = list(zip(*(batch._parts() for batch in batches), strict=True))
        for name, parts in zip(cls.names(), columns, strict=True):
            sizes = sorted({tuple(part.shape[1:]) for part in parts})
            if len(sizes) != 1:
                raise ValueError(f"{name} of the batches has sizes {sizes} per sample, expected one; pad or resize them alike.")
        return cls(*(torch.cat(parts) for parts in columns))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields, in order."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    def _parts(self) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(self, name) for name in self.names())
