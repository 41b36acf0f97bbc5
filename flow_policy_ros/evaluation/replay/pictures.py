"""Small pictures inside the report that need no script: each joint at a glance, and the moments at which the policy erred most.

All is SVG or JPEG text that goes into the page as it is; names are escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from flow_policy_ros.evaluation.replay.traces import TraceData
from flow_policy_ros.evaluation.replay.worst import Moment

RECORDED = "#5b6675"
COMMANDED = ("#cf3f12", "#00796b", "#6a1b9a", "#9e7700")
"""Of each variant."""
MEASURED = "#1565c0"
GLANCE = (150.0, 46.0)
"""Width and height of one joint's picture."""
BUCKETS = 90
"""Of time, in one joint's picture: each shows its least and its largest value, so that no spike is lost."""
JOINTS = 8
"""Of a moment, the ones that erred most."""
SIDE = 480
"""Longest side of a camera picture, pixels."""


def glance(variants: Sequence[TraceData], joint: str) -> Markup:
    """Recorded (grey) and commanded (coloured) positions of one joint over the whole recording."""
    lines = []
    for number, data in enumerate(variants):
        if joint not in data.joints or not len(data.stamps):
            continue
        j = data.joints.index(joint)
        if number == 0:
            lines.append((RECORDED, 2.4, *_envelope(data.elapsed_s(), data.recorded[:, j])))
        lines.append((COMMANDED[number % len(COMMANDED)], 1.3, *_envelope(data.elapsed_s(), data.commanded[:, j])))
    return _graph(lines, *GLANCE)


def moment_graph(moment: Moment, joint: str, colour: str) -> Markup:
    """The chunk's course of one joint beside what was recorded."""
    j = moment.joints.index(joint)
    return _graph(
        [(RECORDED, 2.6, moment.ahead_s, moment.recorded[:, j]), (colour, 2.0, moment.ahead_s, moment.predicted[:, j])],
        220.0, 84.0,
    )  # fmt: skip


def worst_joints(moment: Moment) -> list[tuple[str, float]]:
    """The joints that erred most in this chunk with their mean error (rad or m), the one the moment names first."""
    difference = np.abs(moment.predicted - moment.recorded)
    known = np.isfinite(difference)
    mean = np.where(known, difference, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    order = sorted((j for j in range(len(moment.joints)) if known[:, j].any()),
                   key=lambda j: (moment.joints[j] != moment.joint, -mean[j]))  # fmt: skip
    return [(moment.joints[j], float(mean[j])) for j in order[:JOINTS]]


def camera_picture(moment: Moment) -> Markup:
    """The image that the policy had, with what the detector found in it; empty without one."""
    if moment.image is None or moment.image.size == 0:
        return Markup("")
    high, wide = moment.image.shape[:2]
    scale = min(1.0, SIDE / max(high, wide))
    boxes = moment.boxes if moment.boxes is not None else np.zeros((0, 4))
    parts = [_jpeg_element(moment.image, scale)]
    text = max(wide / 30.0, 5.0)
    taken: list[tuple[float, float, float]] = []
    for k, box in enumerate(boxes):
        if not np.isfinite(box).all():
            continue
        x0, y0, x1, y1 = (float(v) for v in box)
        label = moment.labels[k] if k < len(moment.labels) else ""
        x, y = _label_place(x0, y0, 0.56 * text * len(label), text, wide, high, taken)
        parts.append(Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" fill="none" stroke="#ffeb3b" stroke-width="{}"/>'
            '<text x="{}" y="{}" font-size="{}" fill="#ffeb3b" stroke="#000" stroke-width="{}" paint-order="stroke">{}</text>'
        ).format(
            f"{x0:.1f}", f"{y0:.1f}", f"{max(x1 - x0, 0.0):.1f}", f"{max(y1 - y0, 0.0):.1f}", f"{text / 6:.2f}",
            f"{x:.1f}", f"{y:.1f}", f"{text:.1f}", f"{text / 4:.2f}", label,
        ))  # fmt: skip
    found = ", ".join(moment.labels) or "nothing found by a detector"
    return Markup('<svg class="camera" viewBox="0 0 {} {}" role="img" aria-label="camera picture: {}">{}</svg>').format(
        wide, high, found, Markup("").join(parts)
    )


def _label_place(
    x: float, y: float, width: float, height: float, wide: int, high: int, taken: list[tuple[float, float, float]]
) -> tuple[float, float]:
    """Where a label's base line begins: above the corner (x, y), inside the picture, below the labels that are there already."""
    x = max(min(x, wide - width - height / 2), 0.0) + height / 4
    y = max(y - height / 3, height)
    while any(x < right and left < x + width and abs(y - at) < height for left, right, at in taken) and y + height < high:
        y += height / 2
    taken.append((x, x + width, y))
    return x, y


def _jpeg_element(image: NDArray[np.uint8], scale: float) -> Markup:
    high, wide = image.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(image))
    if scale < 1.0:
        picture = picture.resize((max(1, round(wide * scale)), max(1, round(high * scale))), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=88)
    return Markup('<image width="{}" height="{}" href="data:image/jpeg;base64,{}"/>').format(
        wide, high, base64.b64encode(data.getvalue()).decode()
    )


def _envelope(time: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most two points for each of the ``BUCKETS``: the least and the largest value, in the order in which they come."""
    if len(values) <= 2 * BUCKETS:
        return time, values
    rows: list[int] = []
    for part in np.array_split(np.arange(len(values)), BUCKETS):
        known = part[np.isfinite(values[part])]
        ends = {int(known[values[known].argmin()]), int(known[values[known].argmax()])} if len(known) else {int(part[0])}
        rows += sorted(ends)
    return time[rows], values[rows]


Line = tuple[str, float, NDArray[np.float64], NDArray[np.float64]]


def _graph(lines: Sequence[Line], width: float, height: float) -> Markup:
    """Lines (colour, thickness, x, y) in one frame that they fill; where y is NaN a line has a gap."""
    xs = np.concatenate([x for _, _, x, _ in lines]) if lines else np.zeros(0)
    ys = np.concatenate([y[np.isfinite(y)] for _, _, _, y in lines]) if lines else np.zeros(0)
    head = Markup('<svg class="graph" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">').format(
        f"{width:g}", f"{height:g}"
    )
    if not len(xs) or not len(ys):
        return head + Markup("</svg>")
    left, right, low, high = float(xs.min()), float(xs.max()), float(ys.min()), float(ys.max())
    middle, half = (low + high) / 2, max((high - low) / 2, 5e-4)  # a joint at rest is a straight line, not its noise
    parts = []
    for colour, thick, x, y in lines:
        across = 2 + (width - 4) * (x - left) / max(right - left, 1e-9)
        up = height / 2 - (height / 2 - 4) * (y - middle) / half
        points, pen = [], "M"
        for px, py in zip(across, up, strict=True):
            if not np.isfinite(py):
                pen = "M"
                continue
            points.append(f"{pen}{px:.1f} {py:.1f}")
            pen = "L"
        parts.append(Markup(
            '<path d="{}" fill="none" stroke="{}" stroke-width="{}" stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
        ).format("".join(points), colour, thick))  # fmt: skip
    return head + Markup("").join(parts) + Markup("</svg>")
