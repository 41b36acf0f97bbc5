"""The Adroit table as a picture for documents (.svg): success over demonstrations, a panel per task and observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from flow_policy_ros.evaluation.adroit_table import EXPERT, ROWS
from flow_policy_ros.evaluation.adroit_table_summary import ANY
from flow_policy_ros.evaluation.latency_plot import COLOURS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 260, 240, 48, 14, 32, 42
LEGEND = 44
APART = 4.5
"""Pixels between the marks of two rows at the same number of demonstrations, so that intervals do not hide each other."""
TICKS = (0, 25, 50, 75, 100)


def write_table_plot(path: Path, entries: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw ``entries`` of ``summarise_table``."""
    path.write_text(svg(entries, title), encoding="utf-8")


def panels(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    """The trained rows' entries of each (observation, source, task), by demonstrations, in the order of the entries."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["row"] != EXPERT:
            found.setdefault((entry["observation"], entry["source"], entry["task"]), []).append(entry)
    return {place: sorted(members, key=lambda entry: entry["demonstrations"]) for place, members in found.items()}


def svg(entries: Sequence[Mapping[str, Any]], title: str) -> str:
    """All panels, a line of them per observation and source of demonstrations; the expert as a dashed line in each."""
    found = panels(entries)
    bands = list(dict.fromkeys(place[:2] for place in found))
    rows = [name for name in ROWS if name != EXPERT and any(entry["row"] == name for entry in entries)]
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(rows)}
    experts = {entry["task"]: float(entry[ANY]["mean"]) for entry in entries if entry["row"] == EXPERT}
    columns = max((sum(place[:2] == band for place in found) for band in bands), default=1)
    wide = max(WIDTH * columns, 170 * (len(rows) + bool(experts)) + LEFT)
    high = HEIGHT * max(1, len(bands)) + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1c2430">',
        f'<title>{escape(title)}</title><rect width="{wide}" height="{high}" fill="#ffffff"/>',
    ]
    for number, band in enumerate(bands):
        for column, place in enumerate(place for place in found if place[:2] == band):
            inside = _panel(place, found[place], colours, experts.get(place[2]))
            parts.append(f'<g transform="translate({column * WIDTH} {number * HEIGHT})">{inside}</g>')
    for k, name in enumerate(rows):
        x = LEFT + 170 * k
        parts.append(f'<path d="M{x} {high - 18}h22" stroke="{colours[name]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 28}" y="{high - 14}">{escape(ROWS[name].title)}</text>')
    if experts:
        x = LEFT + 170 * len(rows)
        parts.append(f'<path d="M{x} {high - 18}h22" stroke="#5b6675" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{x + 28}" y="{high - 14}">{escape(ROWS[EXPERT].title)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    place: tuple[str, str, str], entries: Sequence[Mapping[str, Any]], colours: Mapping[str, str], expert: float | None
) -> str:
    observation, source, task = place
    counts = sorted({entry["demonstrations"] for entry in entries})
    across = {count: LEFT + (WIDTH - LEFT - RIGHT) * (k + 0.5) / len(counts) for k, count in enumerate(counts)}

    def height(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share)

    whose = "" if source == EXPERT else ", shown by people"
    parts = [f'<text x="{LEFT}" y="18" font-weight="600">{escape(f"{task}, {observation}{whose}")}</text>']
    for tick in TICKS:
        y = height(tick / 100)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dde3ea"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for count in counts:
        parts.append(f'<text x="{across[count]:.1f}" y="{height(0) + 16:.1f}" text-anchor="middle">{count}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">demonstrations</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">success, %</text>')
    if expert is not None:
        parts.append(f'<path d="M{LEFT} {height(expert):.1f}H{WIDTH - RIGHT}" stroke="#5b6675" stroke-dasharray="5 4"/>')
    for number, (name, colour) in enumerate(colours.items()):
        offset = APART * (number - (len(colours) - 1) / 2)
        places = [(across[e["demonstrations"]] + offset, e[ANY]) for e in entries if e["row"] == name]
        line = "L".join(f"{x:.1f} {height(found['mean']):.1f}" for x, found in places)
        if places:
            parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, found in places:
            parts.append(f'<path d="M{x:.1f} {height(found["low"]):.1f}V{height(found["high"]):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{height(found["mean"]):.1f}" r="3.5" fill="{colour}"/>')
    return "\n".join(parts)
