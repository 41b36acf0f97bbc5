"""Images and instruction as a vision-language model takes them, batch first. What the model makes of them is ``prefix``'s."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.models.batched import Batched


@dataclass(frozen=True)
class PrefixInputs(Batched):
    """What a processor of ``transformers`` makes of camera images and an instruction.

    ``input_ids`` (B, T) int64, image placeholders among them; ``mask`` (B, T) bool, False where padded, on either side:
    such tokens may hold anything. ``pixels`` (B, N, 3, height, width) float, N images per sample, or (B, P, D) where the model
    takes flat patches; ``grid`` (B, N, 3) int64, their frames, rows and columns of patches there, else (B, 0, 3).
    ``points`` (B, n, 3) in m and ``known`` (B, n) bool: where each of the n image tokens lies in the world, and whether depth
    told it; n = 0 without depth. ``shown`` (B,) bool: False hides a sample from the policy, the null condition of guidance.
    """

    input_ids: torch.Tensor
    mask: torch.Tensor
    pixels: torch.Tensor
    grid: torch.Tensor
    points: torch.Tensor
    known: torch.Tensor
    shown: torch.Tensor

    @staticmethod
    def make(
        input_ids: torch.Tensor,
        mask: torch.Tensor,
        pixels: torch.Tensor,
        grid: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
    ) -> PrefixInputs:
        """What is not given: no flat patches, no depth; ``known`` where ``points`` is finite. All samples are shown."""
        batch, device = len(input_ids), input_ids.device
        grid = input_ids.new_zeros(batch, 0, 3) if grid is None else grid
        points = pixels.new_zeros(batch, 0, 3) if points is None else points
        known = torch.isfinite(points).all(dim=2) if known is None else known
        return PrefixInputs(input_ids, mask, pixels, grid, points, known, torch.ones(batch, dtype=torch.bool, device=device))

    @staticmethod
    def of(encoding: Mapping[str, torch.Tensor]) -> PrefixInputs:
        """From the output of a processor with ``return_tensors="pt"``, the same images sizes in every sample.

        Raises ``ValueError`` naming what is missing, or images that do not divide among the samples.
        """
        for name in ("input_ids", "attention_mask", "pixel_values"):
            if name not in encoding:
                raise ValueError(f"the encoding lacks {name}, given: {sorted(encoding)}; encode images and instruction together.")
        ids, pixels = encoding["input_ids"], encoding["pixel_values"]
        batch = len(ids)
        grid = encoding["image_grid_thw"] if "image_grid_thw" in encoding else ids.new_zeros(0, 3)
        if pixels.ndim != 5 and (len(pixels) % batch or len(grid) % batch):
            raise ValueError(f"{len(pixels)} images or patches do not divide among {batch} samples; give each as many.")
        grid = grid.reshape(batch, -1, 3)
        if (grid != grid[:1]).any():
            raise ValueError(f"images of different sizes in one batch (patches {grid.tolist()}); resize them alike.")
        if pixels.ndim != 5:
            pixels = pixels.reshape(batch, len(pixels) // batch, *pixels.shape[1:])
        return PrefixInputs.make(ids, encoding["attention_mask"].bool(), pixels, grid)

    @classmethod
    def cat(cls, batches: Sequence[PrefixInputs]) -> PrefixInputs:
        """Batches one after the other, padded on the right to the longest. Raises ``ValueError`` for images of different sizes."""
        longest = max(batch.mask.shape[1] for batch in batches)
        padded = []
        for batch in batches:
            more = (0, longest - batch.mask.shape[1])
            ids, mask = F.pad(batch.input_ids, more), F.pad(batch.mask, more, value=False)
            padded.append(dataclasses.replace(batch, input_ids=ids, mask=mask))
        return super().cat(padded)

    def hide(self, which: torch.Tensor) -> PrefixInputs:
        """See ``Batched``. The model still reads them, for it cannot read nothing."""
        return dataclasses.replace(self, shown=self.shown & ~which)

    def check(self, batch: int) -> None:
        """Raise ``ValueError`` naming the field that is of another shape or type than described, or holds NaN or Inf."""
        require_shape("input_ids", self.input_ids, (batch, *self.input_ids.shape[1:2]))
        require_shape("mask of the instruction", self.mask, tuple(self.input_ids.shape))
        require_shape("grid", self.grid, (batch, *self.grid.shape[1:2], 3))
        require_shape("points", self.points, (batch, *self.points.shape[1:2], 3))
        require_shape("known", self.known, tuple(self.points.shape[:2]))
        require_shape("shown", self.shown, (batch,))
        if self.pixels.ndim not in (3, 5) or len(self.pixels) != batch:
            raise ValueError(
                f"pixels has shape {tuple(self.pixels.shape)}, expected ({batch}, images, 3, height, width), or ({batch}, patches, "
                "values) for a model that takes flat patches."
            )
        types = {"input_ids": torch.int64, "mask": torch.bool, "grid": torch.int64, "known": torch.bool, "shown": torch.bool}
        for field, expected in types.items():
            given = getattr(self, field).dtype
            if given != expected:
                raise ValueError(f"{field} has type {given}, expected {expected}; convert it.")
        if not self.mask.any(dim=1).all():
            raise ValueError("a sample has no token at all, expected at least one; to hide a sample use hide().")
        if not torch.isfinite(self.pixels).all():
            raise ValueError("pixels hold NaN or Inf, expected finite numbers; leave the sample out.")
