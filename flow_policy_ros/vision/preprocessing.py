"""Images into a pretrained model exactly once: what is refused, and proof that its processor normalises once and only once.

A processor silently accepts images that are already scaled or normalised, and does it again; the features are then wrong and look
right. Here only bytes are accepted, and the processor itself is measured when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.pretrained import ExtractorError

Image = NDArray[np.uint8]
Preprocess = Callable[[Image], NDArray[np.float64]]
"""RGB (H, W, 3) uint8 to the network's pixels (3, h, w)."""


def check_rgb(image: Any, size: tuple[int, int] | None = None) -> None:
    """Raises ``ExtractorError`` unless ``image`` is (H, W, 3) uint8, of ``size`` (height, width) where that is given.

    Floats are named for what they seem to be: scaled to [0, 1], or normalised already.
    """
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        low, high = (float(np.min(image)), float(np.max(image))) if image.size else (0.0, 0.0)
        seems = "scaled to [0, 1] already" if low >= 0 and high <= 1 else "normalised already" if low < 0 else "unscaled floats"
        raise ExtractorError(
            f"image is {image.dtype} from {low:.3g} to {high:.3g}, which seems {seems}; expected uint8 RGB as the camera gave it. "
            "The extractor scales and normalises once, itself; give it the image from before that."
        )
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ExtractorError(f"image is {given}, expected uint8 of shape (height, width, 3), RGB; decode it first.")
    if size is not None and image.shape[:2] != size:
        raise ExtractorError(
            f"image has {image.shape[1]} by {image.shape[0]} pixels, expected {size[1]} by {size[0]}, which this extractor was "
            "made for. Correct the camera's size in the robot file, or make the features (and the checkpoint) anew."
        )


def check_proportions(image: Image, size: tuple[int, int] | None) -> None:
    """Raises ``ExtractorError`` unless ``image`` (H, W, 3) has the proportions of ``size`` (height, width) to a pixel or a
    hundredth, where that is given: what is measured in shares of width and height would mean other things."""
    if size is None:
        return
    height, width = image.shape[:2]
    off = abs(width * size[0] - height * size[1])  # in pixels, times the size
    if off > max(0.01 * height * size[1], size[0], size[1]) and image.shape[:2] != size:
        raise ExtractorError(
            f"image has {width} by {height} pixels, expected the proportions of {size[1]} by {size[0]}, as the robot file says of "
            "the camera. Let the driver send that, or correct the robot file and make features and checkpoint anew."
        )


@dataclass(frozen=True)
class Normalisation:
    """What a processor does to a byte b of each channel: (b / 255 − mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def _extremes(preprocess: Preprocess, size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The network's pixels (3, h, w) of a black and of a white image of ``size``, and where (h, w) the image shows at all."""
    black = np.zeros((*size, 3), dtype=np.uint8)
    low, high = preprocess(black), preprocess(255 - black)
    span = np.abs(high - low).max(axis=0)
    return low, high, span > 0.5 * span.max()


def check_once(preprocess: Preprocess, expected: Normalisation, size: tuple[int, int], who: str) -> None:
    """Raises ``ExtractorError`` unless black becomes −mean/std and white (1 − mean)/std: scaled once, normalised once."""
    mean, std = np.array(expected.mean), np.array(expected.std)
    black, white, shown = _extremes(preprocess, size)
    low, high = (np.median(pixels[:, shown], axis=1) if shown.any() else pixels.mean(axis=(1, 2)) for pixels in (black, white))
    for name, given, wanted in (("black", low, -mean / std), ("white", high, (1 - mean) / std)):
        if not np.allclose(given, wanted, atol=0.02 * float(np.max(1 / std))):
            raise ExtractorError(
                f"the processor of {who} makes {np.round(given, 3).tolist()} of {name}, expected {np.round(wanted, 3).tolist()}: "
                "images are scaled or normalised twice, or not at all. Correct do_rescale, rescale_factor, do_normalize, "
                "image_mean and image_std in its preprocessor_config.json."
            )


def covered(preprocess: Preprocess, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The rectangle (left, top, right, bottom) of an image of ``size`` (height, width) that the network's pixels show, in pixels.

    Measured with ramps, so it holds for any resizing, cropping or padding; beyond the image where padded. None where the pixels
    are not one picture of it.
    """
    height, width = size
    low, high, shown = _extremes(preprocess, size)
    span = np.where(shown, high[0] - low[0], np.nan)
    edges = []
    for axis, extent in ((0, width), (1, height)):
        ramp = np.rint(np.linspace(0, 255, extent)).astype(np.uint8)
        plane = np.broadcast_to(ramp[None] if axis == 0 else ramp[:, None], size)
        share = (preprocess(np.repeat(plane[..., None], 3, axis=2))[0] - low[0]) / span
        at = share * (extent - 1) + 0.5  # pixel i spans i to i + 1
        lines = np.flatnonzero(np.isfinite(at).any(axis=axis))  # along the ramp, without padding
        along = np.nanmedian(at[:, lines] if axis == 0 else at[lines], axis=axis)
        inner = (along > 0.05 * extent) & (along < 0.95 * extent)
        if inner.sum() < 4:
            return None
        slope, start = np.polyfit(lines[inner] + 0.5, along[inner], 1)
        if slope <= 0 or np.abs(np.polyval((slope, start), lines[inner] + 0.5) - along[inner]).max() > 0.05 * extent + 1:
            return None
        edges.append((float(start), float(start + slope * at.shape[1 - axis])))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]
