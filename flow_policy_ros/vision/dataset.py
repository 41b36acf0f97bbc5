"""Labelled images for a detector: in memory, read from and written to the YOLO folder layout, and their augmentation.

YOLO layout: ``images/*.png|jpg``, ``labels/<same stem>.txt`` with rows ``class cx cy w h`` divided by the image size,
and a ``data.yaml`` whose ``names`` lists the classes. Where simulated images come from is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

FloatRows = NDArray[np.float32]


class DatasetError(ValueError):
    """A folder of labelled images that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class LabelledImages:
    """``images`` RGB (H, W, 3) uint8; ``boxes[i]`` (K, 5) float32 rows (class, x1, y1, x2, y2) in pixels of image i."""

    classes: tuple[str, ...]
    images: list[NDArray[np.uint8]]
    boxes: list[FloatRows]

    def split(self, held_out: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Training and held-out part, drawn by ``seed``; at least one image each."""
        order = np.random.default_rng([seed, 1]).permutation(len(self.images))
        n = min(max(1, round(held_out * len(order))), len(order) - 1)
        parts = (order[n:], order[:n])
        first, second = (
            LabelledImages(self.classes, [self.images[i] for i in part], [self.boxes[i] for i in part]) for part in parts
        )
        return first, second


def read_yolo_folder(folder: str | Path) -> LabelledImages:
    """Read a dataset in the YOLO layout. Raises ``DatasetError`` naming the file at fault."""
    folder = Path(folder)
    try:
        names = yaml.safe_load((folder / "data.yaml").read_text())["names"]
        classes = tuple(str(names[i]) for i in range(len(names)))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder / 'data.yaml'} cannot be read ({error!r}); it must list the classes under 'names'.") from error
    paths = sorted(p for p in (folder / "images").glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if len(paths) < 2:
        raise DatasetError(f"{folder / 'images'} holds {len(paths)} images (.png, .jpg), expected at least 2.")
    images, boxes = [], []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{path} is not an image that OpenCV can read; remove or replace it.")
        images.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8))
        boxes.append(_read_label(folder / "labels" / f"{path.stem}.txt", len(classes), picture.shape[1], picture.shape[0]))
    return LabelledImages(classes, images, boxes)


def _read_label(path: Path, classes: int, width: int, height: int) -> FloatRows:
    if not path.is_file():  # the layout's way to say: nothing in this image
        return np.zeros((0, 5), dtype=np.float32)
    try:
        rows = np.array([[float(v) for v in line.split()] for line in path.read_text().splitlines() if line.strip()])
        rows = rows.reshape(-1, 5)
    except ValueError as error:
        raise DatasetError(f"{path} is malformed ({error}); each line must hold 'class cx cy w h'.") from error
    if not ((rows[:, 0] >= 0) & (rows[:, 0] < classes)).all() or not ((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1)).all():
        raise DatasetError(f"{path}: a class outside 0…{classes - 1} or a coordinate outside 0…1; coordinates are fractions.")
    c, x, y, w, h = rows.T
    return np.stack([c, (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], axis=1).astype(
        np.float32
    )


def write_yolo_folder(data: LabelledImages, folder: str | Path) -> None:
    """Write a dataset in the YOLO layout (PNG images)."""
    folder = Path(folder)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"path": ".", "train": "images", "val": "images", "names": list(data.classes)})
    )
    for i, (image, rows) in enumerate(zip(data.images, data.boxes, strict=True)):
        height, width = image.shape[:2]
        cv2.imwrite(str(folder / "images" / f"{i:06d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        lines = []
        for c, x1, y1, x2, y2 in rows.tolist():
            centre_and_size = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(int(c)), *(f"{v:.6f}" for v in centre_and_size)]))
        (folder / "labels" / f"{i:06d}.txt").write_text("\n".join(lines))


def fit(image: NDArray[np.uint8], rows: FloatRows, size: int) -> tuple[NDArray[np.uint8], FloatRows]:
    """Scale an image with its boxes into a grey square of ``size`` px, as the detector does."""
    from flow_policy_ros.vision.detector import letterbox

    square, scale, left, top = letterbox(image, size)
    moved = rows.copy()
    moved[:, 1:] = moved[:, 1:] * scale + np.array([left, top, left, top], dtype=np.float32)
    return square, moved


def augment(image: NDArray[np.uint8], rows: FloatRows, generator: np.random.Generator) -> tuple[NDArray[np.uint8], FloatRows]:
    """A slightly moved, scaled, relit copy of a square image (S, S, 3) with boxes (K, 5).

    Never mirrored: a mirrored right hand is a left hand, and thumb and fingers would change places. Half of the copies
    stay in place, so that what a fixed camera sees is learnt exactly.
    """
    size = image.shape[0]
    if generator.random() < 0.5:
        scale = np.exp(generator.uniform(-0.08, 0.08))
        shift = generator.uniform(-0.04, 0.04, size=2) * size + (1 - scale) * size / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        image = np.asarray(
            cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
            dtype=np.uint8,
        )
        # Pixel i covers [i, i + 1): an image warped about pixel centres moves edges by (scale − 1)/2 less.
        moved = rows.copy()
        moved[:, 1:] = (rows[:, 1:] - 0.5) * scale + np.tile(shift, 2) + 0.5
        clipped = moved.copy()
        clipped[:, 1:] = np.clip(moved[:, 1:], 0, size)
        left = (clipped[:, 3] - clipped[:, 1]) * (clipped[:, 4] - clipped[:, 2])
        whole = (moved[:, 3] - moved[:, 1]) * (moved[:, 4] - moved[:, 2])
        rows = clipped[left > 0.3 * whole].astype(np.float32)
    gain = generator.uniform(0.85, 1.15) * generator.uniform(0.95, 1.05, size=3)  # brightness, then colour balance
    lit = image * gain.astype(np.float32) + np.float32(generator.uniform(-10, 10))
    lit += generator.uniform(0, 4) * generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8), rows
