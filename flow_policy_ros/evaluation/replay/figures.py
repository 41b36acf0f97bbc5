"""Figures of ``metrics.json`` as a report shows them: found by a path, rounded for people, compared between variants.

A path is the keys from the outermost one in, such as ``("latency_ms", "inference", "p50")``; written down, it is their names with
dots between them. Every figure that is shown carries its path in ``data-metric`` and its variant in ``data-variant``, so that
what is on the page can be held against the file. How a page is laid out is the template's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

Path = tuple[str | int, ...]

MISSING = "not measured"
EMPTY = "none"
ALIKE = 0.02
"""Figures that differ by no more than this share of the larger one are called equal: two runs of one policy differ as much."""

BAR = 76.0
"""Longest bar, pixels."""


def _lower(value: float) -> float:
    return value


def _higher(value: float) -> float:
    return -value


def _near_zero(value: float) -> float:
    return abs(value)


def _near_one(value: float) -> float:
    return abs(value - 1.0)


COSTS: Mapping[str, Callable[[float], float]] = {
    "error": _lower, "error_share": _lower, "error_total": _lower, "error_by_step": _lower, "lag_s": _near_zero, "seam": _lower,
    "jerk_ratio": _lower, "smoothness": _higher, "stale_fraction": _lower, "stale": _lower, "age_ms": _lower,
    "latency_ms": _lower, "injected_ms": _lower, "chunks_per_s": _higher, "interventions": _lower,
    "intervened_fraction": _lower, "stagnation": _lower, "frozen": _near_one,
    "noise": _lower, "features": _lower, "faults": _lower, "resets": _lower, "lost": _lower, "realtime_factor": _higher,
    "wall_s": _lower, "intervened_ticks": _lower, "active_fraction": _higher,
}  # fmt: skip
"""What is worse the larger it is, by the outermost key; figures of other keys are neither better nor worse."""
SIZES = ("count", "windows")
"""Innermost keys of what only says how much there was to measure."""

MARKS = {"better": "▲", "worse": "▼", "equal": "=", "differs": "≠"}


def lookup(metrics: Mapping[str, Any], path: Path) -> Any:
    """What is at ``path``, None where there is nothing. Numbers index lists; a number that is not finite counts as nothing."""
    found: Any = metrics
    for key in path:
        known: Any = ()
        if isinstance(found, Mapping):
            known = found
        elif isinstance(found, Sequence) and not isinstance(found, str):
            known = range(len(found))
        if key not in known:
            return None
        found = found[key]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def dotted(path: Path) -> str:
    """The path as it is written down: dots and backslashes inside a name have a backslash before them."""
    return ".".join(str(key).replace("\\", "\\\\").replace(".", "\\.") for key in path)


def shown(value: Any, scale: float = 1.0) -> str:
    """The text for a figure: counts in full, other numbers times ``scale`` to three digits; ``MISSING`` where there is none,
    ``EMPTY`` for a text, list or table with nothing in it."""
    if value is None:
        return MISSING
    if isinstance(value, (str, Mapping, Sequence)) and not value:
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown(part)}" for key, part in value.items())
    if isinstance(value, Sequence):
        return ", ".join(shown(part) for part in value)
    if isinstance(value, int) and scale == 1.0:
        return str(value).replace("-", "−")
    scaled = float(value) * scale
    if not math.isfinite(scaled):
        return MISSING
    if scaled == 0.0:
        return "0"
    magnitude = int(f"{scaled:.2e}".partition("e")[2])  # of the rounded number
    text = f"{scaled:.2e}" if not -5 <= magnitude <= 8 else f"{scaled:.{max(0, 2 - magnitude)}f}"
    return text.replace("-", "−")


def leaves(content: Any, at: Path = ()) -> Iterator[Path]:
    """The path of everything inside ``content`` that is no container; of empty containers inside it too."""
    parts: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(content, Mapping):
        parts = iter(content.items())
    elif isinstance(content, Sequence) and not isinstance(content, str):
        parts = iter(enumerate(content))
    inner = [path for key, part in parts for path in leaves(part, (*at, key))]
    yield from inner or ([at] if at else [])


class Figures:
    """The figures of one or more variants. Methods give markup in which every text is escaped."""

    def __init__(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        self._metrics = list(metrics)

    @property
    def variants(self) -> range:
        """Their numbers."""
        return range(len(self._metrics))

    def value(self, path: Path, variant: int = 0) -> Any:
        """See ``lookup``."""
        return lookup(self._metrics[variant], path)

    def keys(self, path: Path) -> list[str]:
        """The keys of the mapping at ``path``, of all variants; the first one's come first."""
        found = [self.value(path, variant) for variant in self.variants]
        return list(dict.fromkeys(str(key) for one in found if isinstance(one, Mapping) for key in one))

    def numbers(self, path: Path, known: Sequence[str] = ()) -> list[str]:
        """Those ``keys`` that are not ``known`` and hold a number in some variant."""
        return [
            key for key in self.keys(path) if key not in known
            and any(isinstance(self.value((*path, key), variant), (int, float)) for variant in self.variants)
        ]  # fmt: skip

    def largest(self, path: Path, keys: Sequence[str], *inner: str) -> float:
        """The largest number among ``path`` + key + ``inner``, of all variants; 0 without any."""
        found = [self.value((*path, key, *inner), variant) for key in keys for variant in self.variants]
        return max((abs(value) for value in found if isinstance(value, (int, float))), default=0.0)

    def figure(self, path: Path, variant: int = 0, scale: float = 1.0) -> Markup:
        """One figure, alone. ``scale`` is what it is multiplied by for its unit."""
        value = self.value(path, variant)
        text = shown(value, scale)
        factor = Markup("") if scale == 1.0 else Markup(' data-scale="{}"').format(f"{scale:g}")
        kind = Markup(' class="missing"') if text == MISSING else Markup("")
        return Markup('<span data-metric="{}" data-variant="{}"{}{}>{}</span>').format(
            dotted(path), variant, factor, kind, text
        )  # fmt: skip

    def cells(self, path: Path, scale: float = 1.0, of: float = 0.0) -> Markup:
        """A table cell for each variant: the figure, a bar of its share of ``of`` (where above zero), and how it compares with
        the first variant's."""
        parts = []
        for variant in self.variants:
            value = self.value(path, variant)
            known = isinstance(value, (int, float)) and not isinstance(value, bool)
            bar = Markup("")
            if of > 0.0 and known and value:
                width = BAR * min(abs(float(value)) / of, 1.0)
                bar = Markup('<i class="bar v{}" style="width:{}px" aria-hidden="true"></i>').format(variant % 4, f"{width:.1f}")
            parts.append(Markup('<td class="number">{}{}{}</td>').format(
                self.figure(path, variant, scale), self.mark(path, variant), bar
            ))  # fmt: skip
        return Markup("").join(parts)

    def mark(self, path: Path, variant: int) -> Markup:
        """Whether a variant's figure is better or worse than the first one's, as a sign with its word; nothing for the first."""
        judged = self.compared(path, variant)
        if not judged:
            return Markup("")
        sign = Markup('<span aria-hidden="true">{}</span><span class="unseen">{}</span>').format(MARKS[judged], judged)
        return Markup(' <b class="mark {}" title="{}">{}</b>').format(judged, judged, sign)

    def compared(self, path: Path, variant: int) -> str:
        """``better``, ``worse`` or ``equal`` against the first variant; ``differs`` where neither is; empty for no comparison."""
        if variant == 0:
            return ""
        first, here = self.value(path, 0), self.value(path, variant)
        if isinstance(first, bool) or isinstance(here, bool) or not (
            isinstance(first, (int, float)) and isinstance(here, (int, float))
        ):
            return "" if first == here or first is None or here is None else "differs"
        if abs(here - first) <= ALIKE * max(abs(first), abs(here)):
            return "equal"
        cost = COSTS.get(str(path[0])) if path[-1] not in SIZES else None
        if cost is None:
            return "differs"
        return "better" if cost(here) < cost(first) else "worse" if cost(here) > cost(first) else "equal"

    def heat(self, path: Path, most: float) -> Markup:
        """A table cell for each variant, darker the nearer its count is to ``most``; a joint that was left alone shows 0."""
        parts = []
        for variant in self.variants:
            value = self.value(path, variant) or 0
            share = min(float(value) / most, 1.0) if most > 0.0 else 0.0
            inner = (
                self.figure(path, variant)
                if self.value(path, variant) is not None
                else Markup('<span class="none" aria-label="none">·</span>')
            )
            parts.append(Markup('<td class="heat" style="background:rgba(239,108,0,{})">{}{}</td>').format(
                f"{0.72 * math.sqrt(share):.3f}", inner, self.mark(path, variant)
            ))  # fmt: skip
        return Markup("").join(parts)

    def all_leaves(self) -> list[Path]:
        """Every figure of every variant, once, in the order of the file; none for a container that is empty in some alone."""
        paths = dict.fromkeys(path for metrics in self._metrics for path in leaves(metrics))
        containers = {path[:k] for path in paths for k in range(len(path))}
        return [path for path in paths if path not in containers]

    def text(self, path: Path) -> Markup:
        """The path for people to read, escaped; long names may be broken after a dot."""
        return Markup(".<wbr>").join(escape(str(key)) for key in path)
