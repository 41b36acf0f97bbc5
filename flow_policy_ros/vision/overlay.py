"""What an extractor saw, drawn on its image for people to look at. Nothing here feeds a policy."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.detector import Detector
from flow_policy_ros.vision.heat_map import Box, draw_strength, enlarged

# Ten well separated colours (RGB); classes beyond them start again.
_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (240, 240, 240),
)  # fmt: skip
SURE = 0.3
"""Keypoints below this confidence are left out."""


class Found(Protocol):
    """N boxes of one image: ``Detections``, or a ``YoloView``, which may have keypoints (N, K, 3)."""

    @property
    def boxes(self) -> NDArray[np.float32]: ...

    @property
    def scores(self) -> NDArray[np.float32]: ...

    @property
    def classes(self) -> NDArray[np.int64]: ...


@runtime_checkable
class Detecting(Protocol):
    """An extractor whose newest detections can be shown."""

    @property
    def detector(self) -> Detector: ...

    @property
    def last(self) -> Any: ...


@runtime_checkable
class Gridded(Protocol):
    """An extractor whose first rows are the cells of a ``grid`` (rows, columns) over the rectangle ``covered`` of the image
    (left, top, right, bottom in pixels, None: all of it); with ``levels``, once for each of them."""

    @property
    def grid(self) -> tuple[int, int] | None: ...

    @property
    def covered(self) -> Box | None: ...


def draw_seen(
    image: NDArray[np.uint8], extractor: object, values: NDArray[Any], mask_channel: int | None = None, scale: int = 1
) -> NDArray[np.uint8] | None:
    """The RGB image (H, W, 3), enlarged ``scale`` times, with what ``extractor`` made of it: the strength of the tokens ``values``
    (tokens, channels) where they form a grid, boxes where it detects. None where there is neither."""
    gridded = isinstance(extractor, Gridded) and extractor.grid is not None
    detecting = isinstance(extractor, Detecting) and extractor.last is not None
    if gridded:
        assert isinstance(extractor, Gridded) and extractor.grid is not None
        levels = len(getattr(extractor, "levels", (0,)))
        image = draw_strength(image, token_norms(values, extractor.grid, levels, mask_channel), extractor.covered)
    if detecting:
        assert isinstance(extractor, Detecting)
        return draw(image, extractor.last, extractor.detector.classes, scale)
    return enlarged(image, scale) if gridded else None


def draw(image: NDArray[np.uint8], found: Found, classes: tuple[str, ...], scale: int = 1) -> NDArray[np.uint8]:
    """A copy of the RGB image (H, W, 3), enlarged ``scale`` times, with boxes, class names and scores, and keypoints."""
    canvas = enlarged(image, scale)
    for i, (box, score, c) in enumerate(zip(found.boxes, found.scores, found.classes, strict=True)):
        colour = _COLOURS[int(c) % len(_COLOURS)]
        x1, y1, x2, y2 = (round(v * scale) for v in box.tolist())
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1)
        text = f"{classes[int(c)]} {score:.2f}"
        cv2.putText(canvas, text, (x1, max(8, y1 - 2)), cv2.FONT_HERSHEY_SIMPLEX, 0.3, colour, 1, cv2.LINE_AA)
        for x, y, sure in getattr(found, "keypoints", np.zeros((len(found.scores), 0, 3)))[i].tolist():
            if sure >= SURE:
                cv2.circle(canvas, (round(x * scale), round(y * scale)), 2, colour, -1)
    return np.asarray(canvas, dtype=np.uint8)


def token_norms(
    values: NDArray[Any], grid: tuple[int, int], levels: int = 1, mask_channel: int | None = None
) -> NDArray[np.float32]:
    """(rows, columns): the length of each cell's token, NaN where its mask is 0; the mean of several levels'.

    ``values`` (tokens, channels) begin with the cells, row by row, of one level after another.
    """
    tokens = np.asarray(values[: levels * grid[0] * grid[1]], dtype=np.float64)
    real = np.ones(len(tokens), dtype=bool)
    if mask_channel is not None:
        real = tokens[:, mask_channel] > 0.5
        tokens = np.delete(tokens, mask_channel, axis=1)
    norms = np.where(real, np.linalg.norm(tokens, axis=1), np.nan).reshape(levels, *grid)
    with np.errstate(invalid="ignore"):
        return np.asarray(norms.mean(axis=0), dtype=np.float32)
