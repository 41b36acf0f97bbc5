"""The scaling benchmark as a picture: an .svg for documents, a panel per axis, both scales logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from flow_policy_ros.evaluation.latency_plot import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH


def svg(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """``rows`` of ``flow_policy bench scaling``, side by side by axis."""
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    colours = {network: COLOURS[k % len(COLOURS)] for k, network in enumerate(networks)}
    wide = WIDTH * max(1, len(axes))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {HEIGHT}" width="{wide}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1c2430">',
        f'<title>{escape(title)}</title><rect width="{wide}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for k, axis in enumerate(axes):
        own = [row for row in rows if row["axis"] == axis]
        parts.append(f'<g transform="translate({k * WIDTH} 0)">{_panel(axis, own, colours)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(axis: str, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    sizes = [float(size) for row in rows for size in row["sizes"]]
    times = [float(ms) for row in rows for ms in row["ms"]]
    left, right = math.log10(min(sizes)), math.log10(max(sizes))
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    right, high = max(right, left + 0.1), max(high, low + 1)

    def at(size: float, ms: float) -> tuple[float, float]:
        across = (math.log10(size) - left) / (right - left)
        up = (math.log10(ms) - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT - 12) * across, TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - up)

    parts = [f'<text x="{LEFT}" y="18" font-weight="600">chunk (ms) over {escape(axis.replace("_", " "))}</text>']
    for decade in range(low, high + 1):
        _, y = at(min(sizes), 10.0**decade)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dde3ea"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    for size in sorted(set(sizes)):
        x, _ = at(size, min(times))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{size:g}</text>')
    for k, row in enumerate(rows):
        colour = colours[row["network"]]
        places = [at(float(size), float(ms)) for size, ms in zip(row["sizes"], row["ms"], strict=True)]
        joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        told = escape(f"{row['network']}, exponent {row['exponent']:.2f}")
        parts.append(f'<text x="{LEFT + 8}" y="{TOP + 14 + 15 * k}" fill="{colour}">{told}</text>')
    return "\n".join(parts)
