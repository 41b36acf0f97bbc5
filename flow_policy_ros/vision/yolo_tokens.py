"""Feature streams of a YOLO network: slots of detections per class, what the neck shows within them, or the neck's maps as tokens.

The last channel of each is the mask: 1 where the row is real, 0 (as the whole row then is) where nothing was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.detector import Detector
from flow_policy_ros.vision.preprocessing import check_proportions, check_rgb
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.tracking import SlotTracker, Tracking
from flow_policy_ros.vision.yolo_view import Yolo, YoloView, class_map

BOX_CHANNELS = ("centre_x", "centre_y", "width", "height", "score")


class _Slots:
    """Which detection goes into which row: ``slots`` rows for each class in the order of ``classes``, best detection first, or
    where ``tracking`` is given each object in the row that it had."""

    def __init__(
        self, yolo: Yolo, classes: Sequence[str] | Mapping[str, str], slots: int, tracking: Tracking | None = None
    ) -> None:
        if slots < 1:
            raise ExtractorError(f"slots per class are {slots}, expected at least 1.")
        self.classes = class_map(classes, yolo.classes)
        self.slots = slots
        self.rows = len(self.classes) * slots
        self._tracking = tracking
        self._trackers = [SlotTracker(slots, tracking) for _ in self.classes] if tracking else []

    def assign(self, view: YoloView, stamp: int) -> list[tuple[int, int]]:
        """(row, detection) of each that has a place. ``stamp`` is the image's, ns."""
        pairs = []
        for position, number in enumerate(self.classes.values()):
            mine = np.flatnonzero(view.classes == number)  # the view is best first
            if self._trackers:
                placed = self._trackers[position].assign(view.boxes[mine], stamp)
            else:
                placed = [(i, i) for i in range(min(self.slots, len(mine)))]
            pairs += [(position * self.slots + slot, int(mine[i])) for slot, i in placed]
        return pairs

    def ids(self) -> NDArray[np.int64]:
        """(rows,) number of the object in each row, 0 where there is none or nothing is tracked."""
        found = [number for tracker in self._trackers for number in tracker.ids]
        return np.array(found if self._trackers else [0] * self.rows, dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        tracked = {"tracking": self._tracking.identity()} if self._tracking else {}
        return {"class_map": dict(self.classes), "slots": self.slots, **tracked}


def _identity(extractor: str, yolo: Yolo, slots: _Slots, channels: int) -> dict[str, Any]:
    """Of what fills slots: the network's, the slots', and the mask's place, the last of ``channels``."""
    return {
        "extractor": extractor,
        **yolo.identity(),
        **slots.identity(),
        "confidence": yolo.detector.confidence,
        "mask_channel": channels - 1,
    }


class DetectionSlots:
    """Values (classes * slots, channels): ``BOX_CHANNELS``, then x, y, confidence of each keypoint, then the mask.

    Positions and sizes are divided by the image's width and height; keypoints may lie outside [0, 1]. ``classes`` are names, or
    {our name: the detector's}. With ``tracking`` an object keeps its row from image to image. ``last`` is the newest view, for
    drawing. Images have to be of ``size`` (height, width) where it is given. Raises ``ExtractorError`` for classes that it lacks.
    """

    def __init__(
        self, yolo: Yolo, classes: Sequence[str] | Mapping[str, str], slots: int = 1, stream: str = "object_slots",
        size: tuple[int, int] | None = None, tracking: Tracking | None = None,
    ) -> None:
        self.stream = stream
        self.size = size
        self._yolo = yolo
        self._slots = _Slots(yolo, classes, slots, tracking)
        self.tokens = self._slots.rows
        self.channels = len(BOX_CHANNELS) + 3 * yolo.keypoints + 1
        self.last: YoloView | None = None

    @property
    def detector(self) -> Detector:
        """The network's; its confidence may be changed."""
        return self._yolo.detector

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``ExtractorError`` for an image of another type or size."""
        check_rgb(image)
        check_proportions(image, self.size)
        self.last = self._yolo.look(image)
        return Features(stamp, self.stream, self.values(self.last, stamp))

    @property
    def ids(self) -> NDArray[np.int64]:
        """(tokens,) number of the tracked object in each row, 0 for none. A name, not a quantity: it is in no channel."""
        return self._slots.ids()

    def values(self, view: YoloView, stamp: int = 0) -> NDArray[np.float32]:
        """The rows of a view, seen at ``stamp`` (ns; of no account without tracking)."""
        values = np.zeros((self.tokens, self.channels), dtype=np.float32)
        for row, detection in self._slots.assign(view, stamp):
            points = view.keypoints[detection] / np.array([view.width, view.height, 1], dtype=np.float32)
            values[row] = [*box_values(view, detection), *points.ravel(), 1.0]
        return values

    def identity(self) -> dict[str, Any]:
        """The network's, the slots', and the mask's place."""
        return _identity("object_slots", self._yolo, self._slots, self.channels)


class RegionFeatures:
    """Values (classes * slots, channels): the mean of every neck map within the box, ``BOX_CHANNELS``, then the mask.

    Cells count by the share of them that lies in the box, so small boxes move smoothly. Slots as in ``DetectionSlots``.
    """

    def __init__(
        self, yolo: Yolo, classes: Sequence[str] | Mapping[str, str], slots: int = 1, stream: str = "region_features",
        size: tuple[int, int] | None = None, tracking: Tracking | None = None,
    ) -> None:
        self.stream = stream
        self.size = size
        self._yolo = yolo
        self._slots = _Slots(yolo, classes, slots, tracking)
        self.tokens = self._slots.rows
        self.channels = sum(yolo.widths) + len(BOX_CHANNELS) + 1
        self.last: YoloView | None = None

    @property
    def detector(self) -> Detector:
        """The network's; its confidence may be changed."""
        return self._yolo.detector

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``ExtractorError`` for an image of another type or size."""
        check_rgb(image)
        check_proportions(image, self.size)
        self.last = view = self._yolo.look(image)
        values = np.zeros((self.tokens, self.channels), dtype=np.float32)
        for row, detection in self._slots.assign(view, stamp):
            inside = [box_mean(level, view.boxes[detection], view.frame) for level in view.maps]
            values[row] = [*np.concatenate(inside), *box_values(view, detection), 1.0]
        return Features(stamp, self.stream, values)

    def identity(self) -> dict[str, Any]:
        """The network's, the slots', and the mask's place."""
        return _identity("region_features", self._yolo, self._slots, self.channels)


class NeckTokens:
    """Values (levels * rows * columns, channels): each of the neck's ``levels`` averaged to ``grid`` cells, row by row.

    Channels are those of the widest level (others end in zeros), one that says which level it is for each of them, and the
    mask: 0 where a cell's centre lies beside the image. ``size`` (height, width) is the camera's.
    """

    def __init__(
        self,
        yolo: Yolo,
        size: tuple[int, int],
        grid: tuple[int, int] = (5, 5),
        levels: Sequence[int] = (0, 1, 2),
        stream: str = "yolo_tokens",
    ) -> None:
        self.stream = stream
        self.size = size
        self._yolo = yolo
        if not levels or not set(levels) <= set(range(len(yolo.widths))) or len(set(levels)) != len(levels):
            raise ExtractorError(f"neck levels are {list(levels)}, expected some of {list(range(len(yolo.widths)))}, each once.")
        self.levels = tuple(levels)
        self._width = max(yolo.widths[level] for level in levels)
        self.grid = grid
        self.tokens = len(self.levels) * grid[0] * grid[1]
        self.channels = self._width + len(self.levels) + 1
        view = yolo.look(np.zeros((*size, 3), np.uint8))
        least = min(min(view.maps[level].shape[1:]) for level in levels)
        if min(grid) < 1 or max(grid) > least:
            raise ExtractorError(f"grid is {grid}, expected at most {least} cells each way, which the coarsest level has.")
        self.covered = view.frame
        self.last: YoloView | None = None

    @property
    def detector(self) -> Detector:
        """The network's; its confidence may be changed."""
        return self._yolo.detector

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``ExtractorError`` for an image of another type or size."""
        check_rgb(image, self.size)
        self.last = view = self._yolo.look(image)
        values = np.zeros((len(self.levels), self.grid[0] * self.grid[1], self.channels), dtype=np.float32)
        for k, level in enumerate(self.levels):
            cells = torch.nn.functional.adaptive_avg_pool2d(view.maps[level], self.grid).flatten(1)
            values[k, :, : len(cells)] = cells.T.numpy()
            values[k, :, self._width + k] = 1.0
        values[..., -1] = 1.0
        values[:, ~inside_image(view, self.grid)] = 0.0
        return Features(stamp, self.stream, values.reshape(self.tokens, self.channels))

    def identity(self) -> dict[str, Any]:
        """The network's, and how its maps were cut."""
        return {
            "extractor": "yolo_tokens",
            **self._yolo.identity(),
            "levels": list(self.levels),
            "grid": list(self.grid),
            "camera_size": list(self.size),
            "mask_channel": self.channels - 1,
        }


def box_values(view: YoloView, detection: int) -> list[float]:
    """``BOX_CHANNELS`` of one detection."""
    left, top, right, bottom = (float(edge) for edge in view.boxes[detection])
    centre = [(left + right) / 2 / view.width, (top + bottom) / 2 / view.height]
    return [*centre, (right - left) / view.width, (bottom - top) / view.height, float(view.scores[detection])]


def box_mean(level: torch.Tensor, box: NDArray[np.float32], frame: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """Mean (C,) of a map (C, h, w), which spreads over ``frame``, within a box xyxy in the same pixels."""
    height, width = level.shape[1:]
    across = _shares(box[0], box[2], frame[0], frame[2], width)
    down = _shares(box[1], box[3], frame[1], frame[3], height)
    return np.einsum("chw,h,w->c", level.numpy(), down, across).astype(np.float32)


def _shares(low: float, high: float, start: float, end: float, cells: int) -> NDArray[np.float64]:
    """(cells,) how much of [low, high] lies in each of the cells of [start, end]; sums to 1. A point lies in one cell."""
    edges = np.linspace(start, end, cells + 1)
    overlap = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
    if overlap.sum() > 0:
        return overlap / overlap.sum()
    one = np.zeros(cells)
    one[int(np.clip((low - start) / (end - start) * cells, 0, cells - 1))] = 1.0
    return one


def inside_image(view: YoloView, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """(rows * columns,) whether the centre of each cell of the network's square lies in the image."""
    left, top, right, bottom = view.frame
    rows, columns = grid
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
    return (((y >= 0) & (y <= view.height))[:, None] & ((x >= 0) & (x <= view.width))[None]).ravel()
