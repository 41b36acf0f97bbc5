"""Detections drawn on an image, for people to look at. Nothing here feeds a policy."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.detector import Detections

# Ten well separated colours (RGB); classes beyond them start again.
_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (240, 240, 240),
)  # fmt: skip


def draw(image: NDArray[np.uint8], found: Detections, classes: tuple[str, ...], scale: int = 1) -> NDArray[np.uint8]:
    """A copy of the RGB image (H, W, 3), enlarged ``scale`` times, with boxes, class names and scores."""
    height, width = image.shape[:2]
    canvas = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_NEAREST) if scale > 1 else image.copy()
    for box, score, c in zip(found.boxes, found.scores, found.classes, strict=True):
        colour = _COLOURS[int(c) % len(_COLOURS)]
        x1, y1, x2, y2 = (round(v * scale) for v in box.tolist())
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1)
        text = f"{classes[int(c)]} {score:.2f}"
        cv2.putText(canvas, text, (x1, max(8, y1 - 2)), cv2.FONT_HERSHEY_SIMPLEX, 0.3, colour, 1, cv2.LINE_AA)
    return np.asarray(canvas, dtype=np.uint8)
