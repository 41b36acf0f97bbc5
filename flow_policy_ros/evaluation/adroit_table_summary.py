"""From results of single rows to the Adroit table: means over training seeds, 95% intervals, Markdown.

The protocol is ``adroit_table``'s; the picture ``adroit_table_plot``'s. Nothing is measured here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flow_policy_ros.evaluation.adroit_table import EXPERT, ROWS

CONFIDENCE = 0.95
NORMAL = 1.959963984540054
"""Two-sided 95% quantile of the standard normal distribution."""
ANY, STRICT = "any", "strict"
"""Definitions of success: the environment's at any step; held for more steps than the task's ``strict_steps``."""


@dataclass(frozen=True)
class Rate:
    """Mean over training seeds and its 95% interval, as shares of 1."""

    mean: float
    low: float
    high: float


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """95% score interval of a share (Wilson 1927). Raises ``ValueError`` without episodes, or for a count outside them."""
    if not 0 <= successes <= episodes or episodes < 1:
        raise ValueError(f"{successes} successes of {episodes} episodes, expected 0 to as many as there are, at least one.")
    share, z2 = successes / episodes, NORMAL**2
    middle = (share + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = NORMAL * math.sqrt(share * (1 - share) / episodes + z2 / (4 * episodes**2)) / (1 + z2 / episodes)
    return max(0.0, middle - half), min(1.0, middle + half)


def t_interval(rates: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean of two or more independent runs, by Student's t, cut to [0, 1]."""
    from scipy.stats import t

    mean = statistics.fmean(rates)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, len(rates) - 1)) * statistics.stdev(rates) / math.sqrt(len(rates))
    return max(0.0, mean - half), min(1.0, mean + half)


def rate(counts: Sequence[tuple[int, int]]) -> Rate:
    """Of (successes, episodes) of each training seed.

    One seed has Wilson's interval, which knows nothing of training's luck; several have Student's t over their rates, but never a
    narrower one than Wilson's over all episodes: three seeds that agree by chance prove no certainty.
    """
    pooled = wilson(sum(k for k, _ in counts), sum(n for _, n in counts))
    rates = [k / n for k, n in counts]
    if len(rates) == 1:
        return Rate(rates[0], *pooled)
    between = t_interval(rates)
    return Rate(statistics.fmean(rates), min(pooled[0], between[0]), max(pooled[1], between[1]))


def summarise_table(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each line and row of ``results``, in plain JSON types.

    A result has ``line`` (task, source, demonstrations, observation), ``row``, ``seed``, ``episodes``, ``successes``,
    ``strict_successes`` and ``wall_s``. Entries have the line's keys, ``row``, ``seeds``, ``episodes`` (in all), ``any`` and
    ``strict`` (each ``mean``, ``low``, ``high``) and ``evaluation_minutes`` (mean over seeds).
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((*result["line"].items(), result["row"]), []).append(result)
    entries = []
    for members in groups.values():
        entry = {**members[0]["line"], "row": members[0]["row"], "seeds": [m["seed"] for m in members]}
        entry["episodes"] = sum(m["episodes"] for m in members)
        for name, key in ((ANY, "successes"), (STRICT, "strict_successes")):
            found = rate([(m[key], m["episodes"]) for m in members])
            entry[name] = {"mean": found.mean, "low": found.low, "high": found.high}
        entry["evaluation_minutes"] = round(statistics.fmean(m["wall_s"] for m in members) / 60, 2)
        entries.append(entry)
    return entries


def line_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """(task, source, demonstrations, observation); the expert's own entries have no demonstrations (0) and no observation ("")."""
    return entry["task"], entry["source"], entry["demonstrations"], entry["observation"]


def markdown(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table for documents: a line per task, demonstrations and observation, a column per row of the protocol that has an entry.

    Percent: mean at any step with its interval / strict mean; ``–`` where nothing was measured. ``(n)`` after it says how many
    training seeds where they are not those of the most complete entry.
    """
    names = [name for name in ROWS if any(entry["row"] == name for entry in entries)]
    by_place = {(line_of(entry), entry["row"]): entry for entry in entries}
    experts = {entry["task"]: entry for entry in entries if entry["row"] == EXPERT}
    lines = list(dict.fromkeys(line_of(entry) for entry in entries if entry["row"] != EXPERT))
    lines = lines or [line_of(entry) for entry in experts.values()]
    most = max((len(entry["seeds"]) for entry in entries if entry["row"] != EXPERT), default=1)
    head = ["task", "demonstrations", "observation", *(ROWS[name].title for name in names)]
    text = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for line in lines:
        task, source, count, observation = line
        shown = [_text(experts.get(task) if name == EXPERT else by_place.get((line, name)), most) for name in names]
        whose = "" if source == EXPERT else " of people"
        text.append(f"| {' | '.join([task, f'{count}{whose}' if count else '–', observation or '–', *shown])} |")
    return "\n".join(text) + "\n"


def _text(entry: Mapping[str, Any] | None, most: int) -> str:
    if entry is None:
        return "–"
    found, strict = entry[ANY], entry[STRICT]
    text = f"{_percent(found['mean'])} [{_percent(found['low'])}, {_percent(found['high'])}] / {_percent(strict['mean'])}"
    seeds = len(entry["seeds"])
    return text if entry["row"] == EXPERT or seeds == most else f"{text} ({seeds})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")
