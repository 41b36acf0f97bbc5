"""Labelled images for a detector: in memory or in their files, how they become training squares, and their augmentation.

Reading a user's folder in the YOLO layout, and what may be wrong with one, is ``vision.yolo_folder``. Where simulated images
come from is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

FloatRows = NDArray[np.float32]
Image = NDArray[np.uint8]
BOX = slice(1, 5)
"""Columns of a label row that hold the box; those of keypoints (x, y, visible) follow, three for each."""
SQUARES_KEPT = 2 << 30
"""Bytes of training squares that are kept in memory; those beyond are read from their files each time."""


class DatasetError(ValueError):
    """Labelled images that cannot be used; the message names the file and the remedy."""


class PictureFiles(Sequence[Image]):
    """The pictures in ``paths``, read when asked for: RGB (H, W, 3) uint8. Raises ``DatasetError`` for one that is gone."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Image: ...
    @overload
    def __getitem__(self, i: slice) -> PictureFiles: ...
    def __getitem__(self, i: int | slice) -> Image | PictureFiles:
        if isinstance(i, slice):
            return PictureFiles(self.paths[i])
        picture = cv2.imread(str(self.paths[i]), cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{self.paths[i]} is not an image that OpenCV can read; remove or replace it.")
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@dataclass(frozen=True)
class LabelledImages:
    """``images`` RGB (H, W, 3) uint8; ``boxes[i]`` (K, 5 + 3P) float32 rows (class, x1, y1, x2, y2) in pixels of image i.

    P = ``keypoints`` points follow in each row: x, y in pixels, and 1 where the point is labelled, else 0.
    """

    classes: tuple[str, ...]
    images: Sequence[Image]
    boxes: list[FloatRows]
    keypoints: int = 0

    def split(self, held_out: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """Training and held-out part, drawn by ``seed``; at least one image each."""
        order = np.random.default_rng([seed, 1]).permutation(len(self.images))
        n = min(max(1, round(held_out * len(order))), len(order) - 1)
        return self.take(order[n:].tolist()), self.take(order[:n].tolist())

    def take(self, which: Sequence[int]) -> LabelledImages:
        """Some of the images."""
        if isinstance(self.images, PictureFiles):
            images: Sequence[Image] = PictureFiles([self.images.paths[i] for i in which])
        else:
            images = [self.images[i] for i in which]
        return LabelledImages(self.classes, images, [self.boxes[i] for i in which], self.keypoints)


class Squares:
    """The images of ``data`` as squares of ``size`` pixels with their rows (``fit``), kept in memory while there is room."""

    def __init__(self, data: LabelledImages, size: int, kept_bytes: int = SQUARES_KEPT) -> None:
        self._data, self._size = data, size
        self._room = kept_bytes // (3 * size * size)
        self._kept: dict[int, tuple[Image, FloatRows]] = {}

    def __len__(self) -> int:
        return len(self._data.images)

    def __getitem__(self, i: int) -> tuple[Image, FloatRows]:
        square = self._kept.get(i)
        if square is None:
            square = fit(self._data.images[i], self._data.boxes[i], self._size)
            if len(self._kept) < self._room:
                self._kept[i] = square
        return square


def write_yolo_folder(data: LabelledImages, folder: str | Path) -> None:
    """Write a dataset in the YOLO layout (PNG images)."""
    folder = Path(folder)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    described: dict[str, object] = {"path": ".", "train": "images", "val": "images", "names": list(data.classes)}
    if data.keypoints:
        described["kpt_shape"] = [data.keypoints, 3]
    (folder / "data.yaml").write_text(yaml.safe_dump(described))
    for i, (image, rows) in enumerate(zip(data.images, data.boxes, strict=True)):
        height, width = image.shape[:2]
        cv2.imwrite(str(folder / "images" / f"{i:06d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        lines = []
        for c, x1, y1, x2, y2, *points in rows.tolist():
            centre_and_size = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            scaled = [v / side for v, side in zip(points, (width, height, 1) * data.keypoints, strict=True)]
            lines.append(" ".join([str(int(c)), *(f"{v:.6f}" for v in (*centre_and_size, *scaled))]))
        (folder / "labels" / f"{i:06d}.txt").write_text("\n".join(lines))


def fit(image: Image, rows: FloatRows, size: int) -> tuple[Image, FloatRows]:
    """Scale an image with its rows into a grey square of ``size`` px, as the detector does."""
    from flow_policy_ros.vision.detector import letterbox

    square, scale, left, top = letterbox(image, size)
    return square, _moved(rows, scale, np.array([left, top], dtype=np.float32))


def _moved(rows: FloatRows, scale: float, shift: NDArray[np.floating]) -> FloatRows:
    """Rows whose boxes and keypoints are scaled, then shifted by (x, y)."""
    moved = rows.copy()
    moved[:, BOX] = rows[:, BOX] * scale + np.tile(shift, 2)
    for axis in (0, 1):
        moved[:, 5 + axis :: 3] = rows[:, 5 + axis :: 3] * scale + shift[axis]
    return moved


def augment(image: Image, rows: FloatRows, generator: np.random.Generator) -> tuple[Image, FloatRows]:
    """A slightly moved, scaled, relit copy of a square image (S, S, 3) with rows (K, 5 + 3P).

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
        rows = _within(_moved(rows, scale, shift + 0.5 - 0.5 * scale), size)
    gain = generator.uniform(0.85, 1.15) * generator.uniform(0.95, 1.05, size=3)  # brightness, then colour balance
    lit = image * gain.astype(np.float32) + np.float32(generator.uniform(-10, 10))
    lit += generator.uniform(0, 4) * generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8), rows


def _within(moved: FloatRows, size: int) -> FloatRows:
    """Boxes cut at the square's edges, without those of which less than 0.3 is left; keypoints beyond count as unlabelled."""
    clipped = moved.copy()
    clipped[:, BOX] = np.clip(moved[:, BOX], 0, size)
    left = (clipped[:, 3] - clipped[:, 1]) * (clipped[:, 4] - clipped[:, 2])
    whole = (moved[:, 3] - moved[:, 1]) * (moved[:, 4] - moved[:, 2])
    x, y = moved[:, 5::3], moved[:, 6::3]
    clipped[:, 7::3] *= (x >= 0) & (x <= size) & (y >= 0) & (y <= size)
    return np.asarray(clipped[left > 0.3 * whole], dtype=np.float32)
