"""How good a detector is on labelled images: average precision, and how far box centres and keypoints are off, in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.vision.dataset import BOX, LabelledImages
from flow_policy_ros.vision.detector import Detections, Detector
from flow_policy_ros.vision.yolo_view import Yolo, YoloView

_IOU_LEVELS = np.linspace(0.5, 0.95, 10)


LEAST_SCORE = 0.001
"""Detections from this score on count for average precision, as is the custom, whatever the detector's own threshold."""
MOST_FOUND = 300


def measure(detector: Detector, data: LabelledImages) -> dict[str, Any]:
    """``map50``, ``map50_95``, and per class: ``ap50``, ``ap50_95``, ``recall`` and ``precision`` of the class's best detection
    above the detector's own threshold, and ``centre_error_px`` (``median``, ``mean``, ``p95``) where the class is both there and
    found. For keypoints the same of ``keypoint_error_px``, over those that are labelled, of the class's best detection.

    Average precision is the area under the precision-recall curve, made monotone. A class without labels is left out of the
    means.
    """
    confidence, yolo = detector.confidence, Yolo(detector) if data.keypoints else None
    detector.confidence = LEAST_SCORE
    try:
        everything = [_first(detector.detect(image)) for image in data.images]
    finally:
        detector.confidence = confidence
    found = [_above(detections, confidence) for detections in everything]
    views = [yolo.look(image) for image in data.images] if yolo is not None else []
    per_class: dict[str, Any] = {}
    precisions = []
    for c, name in enumerate(data.classes):
        labels = [rows[rows[:, 0] == c, BOX] for rows in data.boxes]
        entry = _best_of_class(found, labels, c)
        if sum(len(rows) for rows in labels):
            levels = average_precision(everything, labels, c)
            precisions.append(levels)
            entry["ap50"], entry["ap50_95"] = float(levels[0]), float(levels.mean())
        errors = [e for view, rows in zip(views, data.boxes, strict=True) for e in _keypoint_errors(view, rows, c)] if views else []
        if errors:
            entry["keypoint_error_px"] = _spread(errors)
        per_class[name] = entry
    table = np.array(precisions) if precisions else np.zeros((1, len(_IOU_LEVELS)))
    return {
        "images": len(data.images),
        "map50": float(table[:, 0].mean()),
        "map50_95": float(table.mean()),
        "classes": per_class,
    }


def _first(found: Detections) -> Detections:
    return Detections(found.boxes[:MOST_FOUND], found.scores[:MOST_FOUND], found.classes[:MOST_FOUND])


def _above(found: Detections, confidence: float) -> Detections:
    keep = found.scores > confidence  # what scores less never suppressed what scores more
    return Detections(found.boxes[keep], found.scores[keep], found.classes[keep])


def _keypoint_errors(view: YoloView, rows: NDArray[np.float32], c: int) -> list[float]:
    """Distances in pixels between labelled keypoints and those of the best detection of class ``c``, of the nearest such object."""
    mine, truth = np.flatnonzero(view.classes == c), rows[rows[:, 0] == c]
    if not len(mine) or not len(truth):
        return []
    wanted = truth[:, 5:].reshape(len(truth), -1, 3)
    overlap = iou(view.boxes[mine[:1]], truth[:, BOX])[0]
    target = wanted[int(overlap.argmax())]
    distance = np.linalg.norm(view.keypoints[mine[0], :, :2] - target[:, :2], axis=1)
    return [float(d) for d in distance[target[:, 2] > 0]]


def _spread(errors: list[float]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "mean": float(np.mean(errors)), "p95": float(np.percentile(errors, 95))}


def iou(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4), xyxy."""
    a, b = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    shared = np.prod(np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0), axis=-1)
    total = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - shared
    return np.asarray(shared / np.maximum(total, 1e-12))


def average_precision(found: list[Detections], labels: list[NDArray[np.float32]], c: int) -> NDArray[np.float64]:
    """Average precision (10,) of class ``c`` at IoU 0.5, 0.55 … 0.95; ``labels[i]`` (K, 4) xyxy of image i."""
    scores: list[float] = []
    hits: list[NDArray[np.bool_]] = []
    for detections, truth in zip(found, labels, strict=True):
        mine = detections.classes == c
        overlap = iou(detections.boxes[mine], truth)
        taken = np.zeros((len(_IOU_LEVELS), len(truth)), dtype=bool)
        for row, score in zip(overlap, detections.scores[mine], strict=True):  # best score first
            hit = np.zeros(len(_IOU_LEVELS), dtype=bool)
            for k, level in enumerate(_IOU_LEVELS):
                free = np.where(taken[k], -1.0, row)
                if len(free) and free.max() >= level:
                    taken[k, free.argmax()] = hit[k] = True
            scores.append(float(score))
            hits.append(hit)
    if not hits:
        return np.zeros(len(_IOU_LEVELS))
    ranked = np.array(hits)[np.argsort(-np.array(scores), kind="stable")].astype(np.float64)
    true = np.cumsum(ranked, axis=0)
    recall = true / max(1, sum(len(rows) for rows in labels))
    precision = true / np.arange(1, len(ranked) + 1)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    steps = np.diff(recall, axis=0, prepend=0.0)
    return np.asarray((envelope * steps).sum(axis=0))


def _best_of_class(found: list[Detections], labels: list[NDArray[np.float32]], c: int) -> dict[str, Any]:
    """Presence and centre error of the best detection of a class, which is what a policy's features hold."""
    errors: list[float] = []
    present = reported = both = 0
    for detections, truth in zip(found, labels, strict=True):
        mine = np.flatnonzero(detections.classes == c)
        present += len(truth) > 0
        reported += len(mine) > 0
        if len(mine) and len(truth):
            both += 1
            box, target = detections.boxes[mine[0]].astype(np.float64), truth.astype(np.float64)
            offsets = (box[:2] + box[2:]) / 2 - (target[:, :2] + target[:, 2:]) / 2
            errors.append(float(np.linalg.norm(offsets, axis=1).min()))
    entry: dict[str, Any] = {"labelled": present, "recall": both / present if present else None}
    entry["precision"] = both / reported if reported else None
    if errors:
        entry["centre_error_px"] = _spread(errors)
    return entry
