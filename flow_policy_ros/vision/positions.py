"""The 3D positions of an image's patches as a feature stream of their own, beside the stream of the patches' features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.geometry import Box, DepthBuffer, DepthError, Intrinsics, check_transform, metres, patch_positions


class PositionFeatures:
    """Values (rows * columns, 4): x, y, z in metres and the mask, 1 where the patch has a position; else the row is zero.

    ``grid`` and ``covered`` are those of the extractor whose patches these are. ``camera`` is the colour camera's, in whose
    optical frame ``frame`` the depth must come. ``transform`` (4, 4) leads from there to the frame ``target``; without it
    positions are the camera's. Depth may lie ``tolerance_ns`` from the image. Raises ``DepthError`` for parts that do not fit.
    """

    channels = 4

    def __init__(
        self,
        camera: Intrinsics,
        grid: tuple[int, int] | None,
        covered: Box | None,
        *,
        frame: str = "",
        transform: NDArray[np.float64] | None = None,
        target: str = "",
        scale: float | None = None,
        tolerance_ns: int = 20_000_000,
        stream: str = "points",
    ) -> None:
        if grid is None:
            raise DepthError(
                "the model's patches form no one grid over the image, so they have no positions. Use one that sees the image whole "
                "(do_image_splitting off), or leave the depth out."
            )
        if transform is not None:
            check_transform(transform)
        self.stream = stream
        self.tokens = grid[0] * grid[1]
        self._camera, self._grid, self._covered = camera, grid, covered
        self._transform, self._target = transform, target or frame
        self._scale = scale
        self._depth = DepthBuffer(tolerance_ns, frame)

    def add_depth(self, depth: NDArray[np.generic], stamp: int, frame: str = "") -> None:
        """A depth image (H, W) as it came. Raises ``DepthError`` for what is no depth aligned with the colour image."""
        self._depth.add(stamp, metres(depth, self._scale), frame)

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``: positions for the image of this stamp. Raises ``DepthError`` where its depth is missing."""
        _, depth = self._depth.nearest(stamp)
        points, known = patch_positions(depth, self._camera, self._grid, self._covered, self._transform)
        return Features(stamp, self.stream, np.concatenate([points, known[:, None]], axis=1).astype(np.float32))

    def identity(self) -> dict[str, Any]:
        """What the positions mean. Calibration is no part of it: another camera of the same kind measures the same metres."""
        return {
            "extractor": "points",
            "frame": self._target,
            "grid": list(self._grid),
            "needs": "depth",
            "mask_channel": 3,
        }
