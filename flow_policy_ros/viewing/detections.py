"""Which picture is shown, and the boxes that were found in it: detections come later than the picture that they were found in."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.viewing.snapshot import Detection, Picture

BOXES = ("detections", "object_slots", "region_features")
"""Streams that have boxes; of further cameras with ``_CAMERA`` behind. Where in a row they stand, see ``_boxes``."""
KEPT = 24
"""Pictures that are known."""
FRESH_NS = 1_000_000_000
"""Detections of a picture that is older than the newest one by more are not waited for."""
MOST = 24
"""Boxes in one picture, the surest."""


class Sightings:
    """Pictures by stamp, and what was found in the newest that was looked at."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[int, int] = OrderedDict()  # stamp → number
        self._labels: dict[str, tuple[str, ...]] = {}
        self._drawn = False
        self._found: dict[str, tuple[int, tuple[Detection, ...]]] = {}  # by stream: stamp, boxes

    def seen(self, stamp: int, number: int, drawn: bool) -> None:
        """A picture came; ``drawn`` when what was found in it is drawn on it already."""
        self._numbers[stamp], self._drawn = number, drawn
        while len(self._numbers) > KEPT:
            self._numbers.popitem(last=False)

    def named(self, stream: str, text: str) -> None:
        """The extractor's JSON says what the rows of ``stream`` stand for. Raises ``ValueError`` for another text."""
        info = json.loads(text)
        if isinstance(info, dict):
            self._labels[stream] = _labels(info)

    def found(self, features: Features) -> None:
        """What an extractor saw in the picture of this stamp, on one of the streams that have ``BOXES``."""
        self._found[features.stream] = (features.stamp, _boxes(features, self._labels.get(features.stream, ())))

    def picture(self) -> Picture | None:
        """The newest picture that was looked at, with its boxes; the newest of all where nobody looks."""
        if not self._numbers:
            return None
        newest, number = next(reversed(self._numbers.items()))
        stamp = max((stamp for stamp, _ in self._found.values()), default=None)
        if stamp is None or self._drawn or newest - stamp > FRESH_NS:
            return Picture(number, newest)
        boxes = tuple(box for at, found in self._found.values() if at == stamp for box in found)
        if stamp in self._numbers:
            return Picture(self._numbers[stamp], stamp, boxes)
        return Picture(number, newest, boxes)


def _labels(info: dict[str, Any]) -> tuple[str, ...]:
    """Of each row: classes, or the class map's own names as often as it has slots."""
    mapped, slots = info.get("class_map"), info.get("slots", 1)
    if isinstance(mapped, dict) and isinstance(slots, int) and 0 < slots <= 100:
        return tuple(str(name) for name in mapped for _ in range(slots))
    classes = info.get("classes", ())
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()


def _boxes(features: Features, labels: tuple[str, ...]) -> tuple[Detection, ...]:
    """Rows (N, C): centre x, y, width, height, score come first, in region features last but the mask; rows of zeros are empty."""
    values = np.asarray(features.values, dtype=np.float64)
    columns = slice(-6, -1) if features.stream.startswith("region_features") else slice(0, 5)
    rows = values[:, columns]
    if rows.shape[1] != 5:
        return ()
    found = [k for k in np.flatnonzero(rows[:, 4] > 0.0).tolist() if np.isfinite(rows[k]).all()]
    found.sort(key=lambda k: -rows[k, 4])
    return tuple(
        Detection(labels[k] if k < len(labels) else f"row {k}", float(rows[k, 4]), tuple(rows[k, :4].tolist()))
        for k in found[:MOST]
    )
