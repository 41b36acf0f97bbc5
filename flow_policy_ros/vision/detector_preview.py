"""Pictures of what a detector finds beside what is labelled, for people to look at. Nothing here feeds a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.dataset import BOX, FloatRows, Image, LabelledImages
from flow_policy_ros.vision.detector import Detections, Detector, letterbox
from flow_policy_ros.vision.overlay import draw
from flow_policy_ros.vision.yolo_view import Yolo

PREVIEWS = 12
SIDE = 384
"""Pixels of a side of a picture in a preview."""
TITLE = 18
BACKGROUND, INK = 30, (230, 230, 230)


def write_previews(detector: Detector, data: LabelledImages, folder: Path, count: int = PREVIEWS) -> list[Path]:
    """``previews/<number>.jpg``, the truth on the left and what is found on the right, of ``count`` images spread evenly over
    ``data``, and ``preview.jpg``, all of them on one sheet. Earlier previews are removed. Returns the paths."""
    place = folder / "previews"
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("*.jpg"):
        old.unlink()
    chosen = sorted({round(i) for i in np.linspace(0, len(data.images) - 1, min(count, len(data.images)))})
    yolo = Yolo(detector) if data.keypoints else None
    pairs, paths = [], []
    for i in chosen:
        pairs.append(_pair(data.images[i], data.boxes[i], detector, yolo))
        paths.append(place / f"{i:06d}.jpg")
        _write(paths[-1], pairs[-1])
    columns = 2 if len(pairs) > 1 else 1
    pairs += [np.full_like(pairs[0], BACKGROUND)] * (-len(pairs) % columns)
    sheet = np.concatenate([np.concatenate(pairs[i : i + columns], axis=1) for i in range(0, len(pairs), columns)])
    _write(folder / "preview.jpg", sheet)
    return [*paths, folder / "preview.jpg"]


def _pair(image: Image, rows: FloatRows, detector: Detector, yolo: Yolo | None) -> Image:
    """Truth beside findings, each with its title."""
    truth = Detections(rows[:, BOX], np.ones(len(rows), np.float32), rows[:, 0].astype(np.int64))
    labelled = rows[:, 5:].reshape(len(rows), -1, 3)
    if yolo is None:
        found, points = detector.detect(image), np.zeros((0, 0, 3), np.float32)
    else:
        view = yolo.look(image)
        found, points = Detections(view.boxes, view.scores, view.classes), view.keypoints
    halves = [
        _titled(_drawn(image, shown, detector.classes, marks), title)
        for shown, marks, title in ((truth, labelled, "labelled"), (found, points, "found"))
    ]
    return np.concatenate(halves, axis=1)


def _drawn(image: Image, shown: Detections, classes: tuple[str, ...], points: NDArray[np.float32]) -> Image:
    """The image in a square, with boxes and keypoints."""
    square, scale, left, top = letterbox(image, SIDE)
    margin = np.array([left, top], dtype=np.float32)
    boxes = shown.boxes * np.float32(scale) + np.tile(margin, 2)
    canvas: Any = draw(square, Detections(boxes, shown.scores, shown.classes), classes)
    for x, y, sure in points.reshape(-1, 3):
        if sure > 0.5:
            cv2.circle(canvas, (round(float(x * scale + left)), round(float(y * scale + top))), 3, (255, 255, 0), -1, cv2.LINE_AA)
    return np.asarray(canvas, dtype=np.uint8)


def _titled(square: Image, title: str) -> Image:
    bar: Any = np.full((TITLE, square.shape[1], 3), BACKGROUND, dtype=np.uint8)
    cv2.putText(bar, title, (4, TITLE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.concatenate([bar, square])


def _write(path: Path, image: Image) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
