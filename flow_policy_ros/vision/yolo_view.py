"""One pass of an ultralytics detection or pose network: boxes, keypoints, and the neck's maps, in the image's own pixels.

Rows of a feature stream are made of it in ``vision.yolo_tokens``. Boxes alone, with less ado, are ``vision.detector``'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.vision.detector import NMS_IOU, Detector, file_sha256, letterbox, load_detector
from flow_policy_ros.vision.preprocessing import check_rgb
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.torchvision_ops import greedy_nms
from flow_policy_ros.vision.ultralytics_setup import import_ultralytics


@dataclass(frozen=True)
class YoloView:
    """What the network saw in one image ``width`` by ``height``: N boxes, best first, and its L maps.

    ``boxes`` (N, 4) xyxy in pixels, ``scores`` (N,), ``classes`` (N,), ``keypoints`` (N, K, 3) x, y in pixels and confidence. Each
    of ``maps`` (C, h, w) spreads evenly over the rectangle ``frame`` (left, top, right, bottom) in pixels of the image, which is
    larger than it where the network's square was filled up with grey.
    """

    width: int
    height: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    keypoints: NDArray[np.float32]
    maps: tuple[torch.Tensor, ...]
    frame: tuple[float, float, float, float]


class Yolo:
    """A detector's network, seen through. ``keypoints`` is K of a pose model, 0 of others; ``widths`` are the maps' channels."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.classes = detector.classes
        head = detector.network.model[-1]
        shape = getattr(head, "kpt_shape", None)
        self.keypoints = int(shape[0]) if shape else 0
        self._per_keypoint = int(shape[1]) if shape else 0
        self._end_to_end = bool(getattr(head, "end2end", False))
        self._levels = [int(i) for i in head.f]
        self.widths: tuple[int, ...] = ()
        self.widths = tuple(len(m) for m in self.look(np.zeros((32, 32, 3), np.uint8)).maps)

    def identity(self) -> dict[str, Any]:
        """The detector's, with the number of keypoints."""
        return {**self.detector.identity(), "keypoints": self.keypoints}

    @torch.inference_mode()
    def look(self, image: NDArray[np.uint8]) -> YoloView:
        """One pass over an RGB image (H, W, 3) uint8. Raises ``ExtractorError`` for anything else."""
        check_rgb(image)
        size = self.detector.image_size
        square, scale, left, top = letterbox(image, size)
        pixels = torch.from_numpy(square).permute(2, 0, 1)[None].float().div_(255.0)
        with self._watched() as maps:
            raw = self.detector.network(pixels)
        rows = (raw[0] if isinstance(raw, tuple | list) else raw)[0].numpy()
        boxes, scores, classes, keypoints = self._decode(rows)
        keep = _suppress(boxes, scores, classes)
        height, width = image.shape[:2]
        margin = np.array([left, top, left, top], dtype=np.float32)
        found = np.clip((boxes[keep] - margin) / np.float32(scale), 0, np.array([width, height, width, height]))
        points = keypoints[keep]
        points[..., :2] = (points[..., :2] - margin[:2]) / np.float32(scale)
        frame = (-left / scale, -top / scale, (size - left) / scale, (size - top) / scale)
        levels = tuple(maps[i] for i in self._levels)
        return YoloView(width, height, found.astype(np.float32), scores[keep], classes[keep], points, levels, frame)

    @contextmanager
    def _watched(self) -> Iterator[dict[int, torch.Tensor]]:
        """The outputs (C, h, w) of the layers that the head reads, kept while the network runs."""
        kept: dict[int, torch.Tensor] = {}
        layers = self.detector.network.model
        hooks = [layers[i].register_forward_hook(lambda *a, i=i: kept.__setitem__(i, a[2][0].float())) for i in self._levels]
        try:
            yield kept
        finally:
            for hook in hooks:
                hook.remove()

    def _decode(self, rows: NDArray[np.float32]) -> tuple[Any, Any, Any, Any]:
        """Candidates above the confidence: boxes xyxy, scores, classes, keypoints, in pixels of the square."""
        confidence = self.detector.confidence
        if self._end_to_end:  # rows are (x1, y1, x2, y2, score, class, keypoints …)
            rows = rows[rows[:, 4] > confidence]
            return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), self._points(rows[:, 6:])
        named = 4 + len(self.classes)
        table = rows[4:named]
        classes, anchors = np.nonzero(table > confidence)
        x, y, w, h = rows[:4, anchors]
        boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
        return boxes, table[classes, anchors], classes, self._points(rows[named:, anchors].T)

    def _points(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K, 3) of what the head gives; a model without visibility is sure of all."""
        points = np.ones((len(values), self.keypoints, 3), dtype=np.float32)
        if self.keypoints:
            points[..., : self._per_keypoint] = values.reshape(len(values), self.keypoints, self._per_keypoint)
        return points


def _suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices kept by non-maximum suppression within each class, best first."""
    keep = []
    for c in np.unique(classes):
        of_class = np.flatnonzero(classes == c)
        keep.append(of_class[greedy_nms(boxes[of_class], scores[of_class], NMS_IOU)])
    best = np.concatenate(keep) if keep else np.zeros(0, dtype=np.int64)
    return best[np.argsort(-scores[best], kind="stable")]


def load_yolo(path: str | Path, allow_pickle: bool = False, confidence: float = 0.25, threads: int = 1) -> Yolo:
    """A detector folder, or with ``allow_pickle`` an ultralytics ``.pt`` file of a detection or pose model.

    Raises ``DetectorError`` as ``load_detector`` does, ``ExtractorError`` for a file of another task.
    """
    path = Path(path)
    if not (path.suffix == ".pt" and allow_pickle and path.is_file()):
        return Yolo(load_detector(path, allow_pickle, confidence, threads))
    torch.set_num_threads(threads)
    try:
        model = import_ultralytics().YOLO(str(path))
        network, task = model.model, str(model.task)
    except Exception as error:  # a foreign loader on a foreign file raises whatever it likes
        raise ExtractorError(f"{path} cannot be loaded as an ultralytics model: {error}.") from error
    if task not in ("detect", "pose"):
        raise ExtractorError(f"{path} is a model for the task '{task}', expected detect or pose; take one of those.")
    size = network.args.get("imgsz", 640) if isinstance(network.args, dict) else 640
    classes = tuple(str(network.names[i]) for i in range(len(network.names)))
    return Yolo(Detector(network, path.name, classes, int(size), file_sha256(path), confidence))


def class_map(wanted: Sequence[str] | Mapping[str, str], detector: tuple[str, ...]) -> dict[str, int]:
    """Our name of each class → its number in the detector; ``wanted`` are names, or {our name: the detector's name}.

    Raises ``ExtractorError`` naming every class that the detector lacks.
    """
    names = dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}
    if not names or (not isinstance(wanted, Mapping) and len(names) != len(wanted)):
        raise ExtractorError(f"classes are {list(wanted)}, expected at least one, each once.")
    lacking = sorted(set(names.values()) - set(detector))
    if lacking:
        near = {name: get_close_matches(name, detector, 1) for name in lacking}
        hints = "".join(f" Is '{close[0]}' meant by '{name}'?" for name, close in near.items() if close)
        shown = ", ".join(detector[:20]) + (f", … ({len(detector)} in all)" if len(detector) > 20 else "")
        raise ExtractorError(
            f"the detector lacks the classes {', '.join(lacking)}; it has {shown}.{hints} Correct the class map, or train a "
            "detector with them ('flow_policy train-detector')."
        )
    return {ours: detector.index(theirs) for ours, theirs in names.items()}
