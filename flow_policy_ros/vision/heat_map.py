"""Heat maps drawn over images, for people to look at: the cells of a grid, spread over the part of the image that they cover.

Two of them: where the action tokens' attention lies (``models.attention_maps``), and how strong an extractor's tokens are
(``overlay``). Nothing here feeds a policy.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""A rectangle of an image in pixels: left, top, right, bottom. It may reach beyond the image."""
MOST = 0.7
"""Share of the colour where attention is greatest."""
STRENGTH = 0.5
"""Share of the colour where tokens have a strength."""
ENLARGED = 2
SMALL = 640
"""Narrower images are enlarged so many times, for people to see what was drawn on them."""


def draw_attention(
    image: NDArray[np.uint8], heat: NDArray[np.floating], scale: int = 1, top: float | None = None, covered: Box | None = None
) -> NDArray[np.uint8]:
    """A copy of an RGB image (H, W, 3), ``scale`` times as large, under ``heat`` (rows, columns) from 0 on, spread smoothly over
    the rectangle ``covered`` of it (None: all).

    The hotter, the less of the image and the more of the colour shows, yellow at ``top`` (default: the largest value) and
    above. Where there is no heat the image stays as it is. Raises ``ValueError`` for an image or heat of another shape or type,
    and for heat below 0, NaN or Inf.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image has shape {image.shape} of {image.dtype}, expected (height, width, 3) of uint8.")
    if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all() or (heat < 0).any():
        raise ValueError(
            f"the heat has shape {heat.shape} and values from {np.min(heat, initial=0.0)} to {np.max(heat, initial=0.0)}, expected "
            "(rows, columns) of finite values of at least 0; give the map of one image."
        )
    canvas = enlarged(image, scale)
    hottest = float(heat.max()) if top is None else top
    if hottest <= 0:
        return canvas
    box = None if covered is None else (covered[0] * scale, covered[1] * scale, covered[2] * scale, covered[3] * scale)
    share = _spread(np.minimum(heat / hottest, 1.0), canvas, box, cv2.INTER_LINEAR)
    return _painted(canvas, share, MOST * np.sqrt(share), cv2.COLORMAP_INFERNO)  # the root: a tenth of the largest still shows


def draw_strength(image: NDArray[np.uint8], strength: NDArray[np.floating], covered: Box | None = None) -> NDArray[np.uint8]:
    """A copy of the RGB image (H, W, 3) under the cells of ``strength`` (rows, columns), which tile the rectangle ``covered`` of it
    (None: all); colours run from the weakest to the strongest. Cells that are not finite stay as they are."""
    known = np.isfinite(strength)
    low, high = (float(strength[known].min()), float(strength[known].max())) if known.any() else (0.0, 1.0)
    level = _spread(np.where(known, (strength - low) / max(high - low, 1e-9), np.nan), image, covered, cv2.INTER_NEAREST)
    return _painted(image, level, np.full_like(level, STRENGTH), cv2.COLORMAP_VIRIDIS)


def enlarged(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """A copy of the image (H, W, 3), ``scale`` times as large, its pixels as squares."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def scale_of(image: NDArray[np.uint8]) -> int:
    """How many times an image (H, W, 3) is enlarged for people to look at."""
    return ENLARGED if image.shape[1] < SMALL else 1


def _spread(cells: NDArray[np.floating], image: NDArray[np.uint8], covered: Box | None, between: int) -> NDArray[np.float32]:
    """The value of ``cells`` (rows, columns) at each pixel (H, W) of ``image``, NaN beside ``covered``; ``between`` cells, cv2 says
    how."""
    height, width = image.shape[:2]
    left, top, right, bottom = covered or (0.0, 0.0, float(width), float(height))
    rows, columns = cells.shape
    x = (np.arange(width, dtype=np.float32) + 0.5 - left) / (right - left) * columns
    y = (np.arange(height, dtype=np.float32) + 0.5 - top) / (bottom - top) * rows
    inside = ((y >= 0) & (y < rows))[:, None] & ((x >= 0) & (x < columns))[None]
    at = np.meshgrid((x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32))  # a cell's value is that of its centre
    spread = cv2.remap(cells.astype(np.float32), at[0], at[1], between, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside, spread, np.float32(np.nan))


def _painted(image: NDArray[np.uint8], level: NDArray[np.float32], share: NDArray[np.floating], colours: int) -> NDArray[np.uint8]:
    """The image with a ``share`` (H, W) of the colour of ``level`` (H, W), 0 to 1; as it is where that is NaN."""
    known = np.isfinite(level)
    shades = cv2.applyColorMap(np.rint(255 * np.where(known, level, 0.0)).astype(np.uint8), colours)[:, :, ::-1]
    opacity = np.where(known, share, 0.0)[:, :, None]
    return np.rint(image * (1 - opacity) + shades * opacity).astype(np.uint8)
