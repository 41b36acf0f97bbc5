"""One label file of the YOLO layout: its text to rows in pixels, and a name for everything that can be wrong with it.

Rows are ``class cx cy w h`` as fractions of the image, those of pose data sets followed by ``x y`` or ``x y visible`` of each
keypoint; a row of more numbers is a polygon ``class x y x y x y …``. Folders of such files are ``vision.yolo_folder``'s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.dataset import BOX, FloatRows

TOLERANCE = 0.01
"""How far a coordinate may lie outside [0, 1], as ultralytics has it: labels are rounded."""
BEYOND_PX = 1.0
"""A box that reaches further than this beyond the image is reported; what is less is rounding."""


class LabelFault(ValueError):
    """A label file that cannot be used. ``kind`` names the fault as a report counts it; the message says where and what."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


MALFORMED = "label files that are malformed"
UNKNOWN = "label files with a class that data.yaml does not name"
OUTSIDE = "label files with coordinates outside 0…1"
BEYOND = "boxes that reach beyond the image"
NO_AREA = "boxes without area"
REPEATED = "labels that are there twice"
POLYGONS = "polygons"


@dataclass(frozen=True)
class Keypoints:
    """``kpt_shape`` of a data.yaml: ``count`` keypoints of ``numbers`` each, 2 (x, y) or 3 (with visibility). None: count 0."""

    count: int = 0
    numbers: int = 3


@dataclass(frozen=True)
class Labels:
    """``rows`` (K, 5 + 3P) in pixels as in ``LabelledImages``; ``mended[kind]`` counts what was put right."""

    rows: FloatRows
    mended: Counter[str] = field(default_factory=Counter)


def parse(text: str, classes: int, keypoints: Keypoints, width: int, height: int) -> Labels:
    """The labels of an image ``width`` by ``height`` pixels. Raises ``LabelFault``."""
    mended: Counter[str] = Counter()
    lines = [line.split() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    distinct = list(dict.fromkeys(tuple(line) for line in lines))
    mended[REPEATED] += len(lines) - len(distinct)
    rows = [_row(i, words, classes, keypoints, mended) for i, words in enumerate(distinct, start=1)]
    table = np.array(rows, dtype=np.float64).reshape(-1, 5 + 3 * keypoints.count)
    table[:, [1, 3]] *= width
    table[:, [2, 4]] *= height
    table[:, 5::3] *= width
    table[:, 6::3] *= height
    centre, half = table[:, 1:3].copy(), table[:, 3:5] / 2
    table[:, BOX] = np.concatenate([centre - half, centre + half], axis=1)
    whole = table[:, BOX].copy()
    table[:, BOX] = np.clip(whole, 0, [width, height, width, height])
    mended[BEYOND] += int((np.abs(table[:, BOX] - whole).max(axis=1) > BEYOND_PX).sum()) if len(table) else 0
    solid = (table[:, 3:5] > table[:, 1:3]).all(axis=1)
    mended[NO_AREA] += int((~solid).sum())
    return Labels(table[solid].astype(np.float32), +mended)


def _row(i: int, words: tuple[str, ...], classes: int, keypoints: Keypoints, mended: Counter[str]) -> list[float]:
    """Class, centre, size and keypoints (x, y, 1 where labelled), as fractions."""
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise LabelFault(MALFORMED, f"line {i}: {error}; each must hold 'class cx cy w h'") from None
    if not np.isfinite(values).all():
        raise LabelFault(MALFORMED, f"line {i} holds NaN or infinity")
    if values[0] != int(values[0]) or not 0 <= values[0] < classes:
        raise LabelFault(UNKNOWN, f"line {i}: class {words[0]}, expected a whole number in 0…{classes - 1}")
    expected = 5 + keypoints.count * keypoints.numbers
    if not keypoints.count and len(values) >= 7 and len(values) % 2:
        mended[POLYGONS] += 1
        corners = _fractions(i, values[1:]).reshape(-1, 2)
        low, high = corners.min(axis=0), corners.max(axis=0)
        return [values[0], *((low + high) / 2), *(high - low)]
    if len(values) != expected:
        what = "'class cx cy w h'" + (f" and {keypoints.count} keypoints of {keypoints.numbers}" if keypoints.count else "")
        raise LabelFault(MALFORMED, f"line {i} holds {len(values)} numbers, expected {expected}: {what}")
    box = _fractions(i, values[1:5])
    if (box[2:] < 0).any():
        raise LabelFault(MALFORMED, f"line {i}: width or height is below 0")
    points = np.array(values[5:]).reshape(keypoints.count, keypoints.numbers)
    if keypoints.count:
        # Not labelled: visibility 0, or by the custom of data sets without visibility, a place at or before the corner.
        labelled = points[:, 2] > 0 if keypoints.numbers == 3 else np.any(points > 0, axis=1)
        _fractions(i, points[labelled, :2].ravel().tolist())
        points = np.concatenate([points[:, :2] * labelled[:, None], labelled[:, None]], axis=1)
    return [values[0], *box, *points.ravel()]


def _fractions(i: int, values: list[float]) -> NDArray[np.float64]:
    """The values, which must lie in [0, 1], give or take the tolerance."""
    array = np.array(values, dtype=np.float64)
    far = array[(array < -TOLERANCE) | (array > 1 + TOLERANCE)]
    if len(far):
        hint = "; are these pixels? Coordinates are fractions of the image" if far.max() > 2 else ""
        raise LabelFault(OUTSIDE, f"line {i}: {far[0]:g}, expected 0…1{hint}")
    return array
