"""Boxes for training a detector, projected from the simulator's geometry: what is where in the camera's image.

A box is the extent of the whole object within the image, also where something stands before it, so that its centre does
not jump as a hand passes; an object of which too little can be seen gets no box. Which geoms are which class is
``sim.parts``; the masks that tell hidden from visible come from ``sim.segmentation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.gl import SimError
from flow_policy_ros.sim.parts import CLASSES, PARTS, Part
from flow_policy_ros.sim.shapes import surface_points

__all__ = ["CLASSES", "Label", "label_boxes", "project"]

MIN_AREA_PX = 9.0
MIN_IN_IMAGE = 0.15
MIN_VISIBLE = 0.15


@dataclass(frozen=True)
class Label:
    """One labelled object: ``xyxy`` in pixels, x to the right, y down, (0, 0) the corner of the image."""

    class_name: str
    xyxy: tuple[float, float, float, float]


def project(model: Any, data: Any, camera_id: int, width: int, height: int, points: FloatArray) -> FloatArray:
    """World points (N, 3) in m to image positions (N, 2) in pixels; NaN for points not before the camera."""
    local = (points - data.cam_xpos[camera_id]) @ data.cam_xmat[camera_id].reshape(3, 3)  # looks along −z, y up
    focal = 0.5 * height / np.tan(0.5 * np.deg2rad(model.cam_fovy[camera_id]))
    depth = np.where(local[:, 2] < -1e-3, -local[:, 2], np.nan)
    return np.stack([width / 2 + focal * local[:, 0] / depth, height / 2 - focal * local[:, 1] / depth], axis=1)


def label_boxes(
    model: Any,
    data: Any,
    camera_id: int,
    width: int,
    height: int,
    task_name: str,
    visible: dict[str, NDArray[np.bool_]] | None = None,
) -> list[Label]:
    """Labels of the task's objects as the camera sees them, in the order of ``CLASSES[task_name]``.

    ``visible`` holds a mask (height, width) per class of the pixels that show it (``Segmentation.masks``); with it,
    objects mostly hidden get no label. Without it hidden objects are labelled too. Raises ``SimError`` for an unknown
    task.
    """
    if task_name not in CLASSES:
        raise SimError(f"no labels for task '{task_name}', expected one of {', '.join(CLASSES)}.")
    labels = []
    for name in CLASSES[task_name]:
        hulls = [_hull(model, data, camera_id, width, height, part) for part in PARTS[task_name][name]]
        if any(hull is None for hull in hulls):  # reaches behind the camera
            continue
        clipped = [_clip(hull, width, height) for hull in hulls if hull is not None]
        total = sum(_area(hull) for hull in hulls if hull is not None)
        inside = sum(_area(hull) for hull in clipped)
        if inside < MIN_AREA_PX or inside < MIN_IN_IMAGE * total:
            continue
        if visible is not None:
            whole = np.any([_fill(hull, width, height) for hull in clipped], axis=0)
            if (visible[name] & whole).sum() < MIN_VISIBLE * max(1, whole.sum()):
                continue
        points = np.concatenate(clipped)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        labels.append(Label(name, (x1, y1, x2, y2)))
    return labels


def _hull(model: Any, data: Any, camera_id: int, width: int, height: int, part: Part) -> FloatArray | None:
    """Outline (K, 2) of a part in the image plane, convex; None when it reaches behind the camera."""
    points = project(model, data, camera_id, width, height, surface_points(model, data, part))
    return None if np.isnan(points).any() else _convex_hull(points)


def _convex_hull(points: FloatArray) -> FloatArray:
    """Hull (K, 2) of points (N, 2), K ≥ 3, in the order that makes ``_area`` positive (Andrew's monotone chain)."""

    def chain(ordered: list[list[float]]) -> list[list[float]]:
        kept: list[list[float]] = []
        for px, py in ordered:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2], kept[-1]
                if (bx - ax) * (py - ay) - (by - ay) * (px - ax) > 0:
                    break
                kept.pop()
            kept.append([px, py])
        return kept[:-1]

    ordered = np.unique(points, axis=0).tolist()
    return np.array(chain(ordered) + chain(ordered[::-1]))


def _clip(polygon: FloatArray, width: int, height: int) -> FloatArray:
    """The part (K, 2) of a convex polygon inside the image; K = 0 when none is (Sutherland and Hodgman 1974)."""
    for axis, sign, bound in ((0, 1, 0), (0, -1, width), (1, 1, 0), (1, -1, height)):
        kept = []
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            inner_a, inner_b = sign * (a[axis] - bound), sign * (b[axis] - bound)
            if inner_a >= 0:
                kept.append(a)
            if inner_a * inner_b < 0:
                kept.append(a + (b - a) * inner_a / (inner_a - inner_b))
        if not kept:
            return np.zeros((0, 2))
        polygon = np.array(kept)
    return polygon


def _area(polygon: FloatArray) -> float:
    """Area of a polygon (K, 2) in px²; 0 for fewer than 3 corners."""
    following = np.roll(polygon, -1, axis=0)
    return float(0.5 * np.sum(polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]))


def _fill(polygon: FloatArray, width: int, height: int) -> NDArray[np.bool_]:
    """Pixels (height, width) whose centre lies in a convex polygon of ``_convex_hull``'s orientation."""
    mask = np.zeros((height, width), dtype=bool)
    if len(polygon) < 3:
        return mask
    x1, y1 = np.maximum(np.floor(polygon.min(axis=0)), 0).astype(int)  # clipping may leave −1e-15
    x2, y2 = np.minimum(np.ceil(polygon.max(axis=0)), [width, height]).astype(int)
    x, y = np.meshgrid(np.arange(x1, x2) + 0.5, np.arange(y1, y2) + 0.5)
    inside = np.ones(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    mask[y1:y2, x1:x2] = inside
    return mask
