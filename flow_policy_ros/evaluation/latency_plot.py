"""The latency benchmark as a picture: a page to explore (.html, opens without a network) or one for documents (.svg)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

COLOURS = ("#c62828", "#5b6675", "#8e5ea2", "#1565c0", "#00838f", "#2e7d32", "#ef6c00")
FLOOR = 1e-4
"""Of a logarithmic axis: what is less is drawn here."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 300, 56, 10, 34, 44


@dataclass(frozen=True)
class Panel:
    """One graph: what of a row is drawn over the delay, None where there is nothing."""

    title: str
    unit: str
    value: Callable[[Mapping[str, Any]], float | None]
    logarithmic: bool


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


PANELS = (
    Panel("success", "% of episodes", lambda row: 100.0 * row["success_rate"], False),
    Panel("jump of the set-point at seams, p95", "mrad or mm", lambda row: _scaled(row["seam"]["position_seam"]["p95"], 1e3), True),
    Panel("acceleration at seams / inside chunks", "ratio of p95", lambda row: row["seam"]["acceleration_ratio"], True),
)


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw ``rows`` of ``flow_policy bench latency``; the name's end says how. Raises ``ValueError`` for another one."""
    if path.suffix not in WRITERS:
        raise ValueError(f"plot {path}: unknown kind '{path.suffix}', expected one of {', '.join(WRITERS)}.")
    path.write_text(WRITERS[path.suffix](rows, title), encoding="utf-8")


def lines(rows: Sequence[Mapping[str, Any]], panel: Panel) -> dict[str, list[tuple[float, float]]]:
    """Points (delay in ms, value) of each mode, in the order of the delays."""
    found: dict[str, list[tuple[float, float]]] = {row["mode"]: [] for row in rows}
    for row in sorted(rows, key=lambda row: float(row["delay_ms"])):
        value = panel.value(row)
        if value is not None:
            found[row["mode"]].append((float(row["delay_ms"]), float(value)))
    return found


def svg(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """All panels side by side."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    colours = {mode: COLOURS[k % len(COLOURS)] for k, mode in enumerate(modes)}
    wide, high = WIDTH * len(PANELS), HEIGHT + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1c2430">',
        f'<title>{escape(title)}</title><rect width="{wide}" height="{high}" fill="#ffffff"/>',
    ]
    for k, panel in enumerate(PANELS):
        parts.append(f'<g transform="translate({k * WIDTH} 0)">{_panel(lines(rows, panel), panel, colours)}</g>')
    for k, mode in enumerate(modes):
        x = LEFT + k * 130
        parts.append(f'<path d="M{x} {high - 20}h22" stroke="{colours[mode]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 28}" y="{high - 16}">{escape(mode)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(points: Mapping[str, Sequence[tuple[float, float]]], panel: Panel, colours: Mapping[str, str]) -> str:
    delays = [x for line in points.values() for x, _ in line] or [0.0]
    longest = max(*delays, 1.0)
    ticks = _ticks([y for line in points.values() for _, y in line], panel)
    low, high = _height(ticks[0], panel), _height(ticks[-1], panel)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / longest
        share = (_height(y, panel) - low) / (high - low)
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - min(max(share, 0.0), 1.0))

    parts = [f'<text x="{LEFT}" y="18" font-weight="600">{escape(panel.title)}</text>']
    for tick in ticks:
        _, y = at(0.0, tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dde3ea"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for delay in sorted(set(delays)):
        x, y = at(delay, ticks[0])
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{delay:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">inference delay (ms)</text>')
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(panel.unit)}</text>')
    for mode, line in points.items():
        places = [at(x, y) for x, y in line]
        if places:
            joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.append(f'<path d="M{joined}" fill="none" stroke="{colours[mode]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colours[mode]}"/>' for x, y in places]
    return "\n".join(parts)


def _height(value: float, panel: Panel) -> float:
    return math.log10(max(value, FLOOR)) if panel.logarithmic else value


def _ticks(values: Sequence[float], panel: Panel) -> list[float]:
    """At least two, from below the least value to above the greatest; shares in per cent have their own."""
    if not panel.logarithmic:
        return [0.0, 25.0, 50.0, 75.0, 100.0]
    decades = [math.log10(max(value, FLOOR)) for value in values] or [0.0]
    first, last = math.floor(min(decades)), math.ceil(max(decades))
    return [10.0**k for k in range(first, max(last, first + 1) + 1)]


def page(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The same panels with plotly, which is in the page."""
    from plotly.offline import get_plotlyjs

    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"grid": {"rows": 1, "columns": len(PANELS), "pattern": "independent"}, "title": {"text": title}}
    for k, panel in enumerate(PANELS, start=1):
        layout[f"xaxis{k}"] = {"title": {"text": "inference delay (ms)"}}
        layout[f"yaxis{k}"] = {
            "title": {"text": f"{panel.title} ({panel.unit})"},
            "type": "log" if panel.logarithmic else "linear",
            "rangemode": "tozero",
        }
        for number, (mode, line) in enumerate(lines(rows, panel).items()):
            traces.append({
                "x": [x for x, _ in line], "y": [max(y, FLOOR) if panel.logarithmic else y for _, y in line],
                "name": mode, "legendgroup": mode, "showlegend": k == 1, "mode": "lines+markers",
                "xaxis": f"x{k}", "yaxis": f"y{k}", "line": {"color": COLOURS[number % len(COLOURS)]},
            })  # fmt: skip
    figure = json.dumps({"data": traces, "layout": layout}, allow_nan=False).replace("</", "<\\/")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<script>{get_plotlyjs()}</script></head>\n<body><div id="plot" style="height:92vh"></div>\n'
        f'<script>const f = {figure}; Plotly.newPlot("plot", f.data, f.layout, {{responsive: true}});</script></body></html>\n'
    )


WRITERS: dict[str, Callable[[Sequence[Mapping[str, Any]], str], str]] = {".html": page, ".svg": svg}
