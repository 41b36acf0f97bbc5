"""One page about a replay, or about two side by side: it opens without a network and says what ``metrics.json`` says.

The page's text is in ``templates/replay_report.html.j2``, its drawing code in ``replay_report.js`` beside it; here its content is
put together. Figures come from ``figures``, what is drawn from ``plots`` and ``pictures``.
"""

from __future__ import annotations

import base64
import hashlib
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from flow_policy_ros.evaluation.replay.figures import MISSING, Figures, lookup, shown
from flow_policy_ros.evaluation.replay.pictures import (
    COMMANDED,
    MEASURED,
    RECORDED,
    camera_picture,
    glance,
    moment_graph,
    worst_joints,
)
from flow_policy_ros.evaluation.replay.plots import by_group, step_of, trace_content
from flow_policy_ros.evaluation.replay.thresholds import limits_of
from flow_policy_ros.evaluation.replay.traces import TraceData
from flow_policy_ros.evaluation.replay.verdict import RECORDING, delay_source
from flow_policy_ros.evaluation.replay.worst import Moment
from flow_policy_ros.evaluation.report import script_json
from flow_policy_ros.evaluation.video import STATE_COLOURS, UNKNOWN_COLOUR

TEMPLATE = "replay_report.html.j2"
LETTERS = string.ascii_uppercase
"""Variants are called so where there is no room for a name."""
MOST_SEAMS = 200
"""More than this are no lines any more but a grey page: none is drawn."""
FOLDER = files("flow_policy_ros.evaluation") / "templates"


@dataclass(frozen=True)
class Variant:
    """One replay: its ``metrics`` as ``metrics.json`` holds them, what ``Traces`` and ``Worst`` kept of it, and the robot file's
    ``groups`` of joints, to choose by. ``name`` is what people call it beside another one, such as ``distilled``."""

    name: str
    metrics: Mapping[str, Any]
    traces: TraceData
    moments: Sequence[Moment] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def write_report(path: str | Path, variants: Sequence[Variant]) -> Path:
    """Write the page ``path`` about one variant, or several of the same recording side by side; returns it.

    What the metrics do not hold is shown as not measured. Raises ``ValueError`` without a variant, and for more than 26.
    """
    if not 0 < len(variants) <= len(LETTERS):
        raise ValueError(f"report {path}: {len(variants)} variants were given, expected 1 to {len(LETTERS)} replays to report.")
    path = Path(path)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: (FOLDER / name).read_text(encoding="utf-8")),
    )  # fmt: skip
    scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), (FOLDER / "replay_report.js").read_text(encoding="utf-8"))]
    figures = Figures([variant.metrics for variant in variants])
    page = environment.get_template(TEMPLATE).render(
        style=(FOLDER / "replay_report.css").read_text(encoding="utf-8"),
        scripts=scripts,
        hashes=" ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts),
        data=script_json(content(variants)),
        variants=variants,
        figures=figures,
        checks=check_rows(variants),
        tallies=[tally(variant.metrics.get("checks") or ()) for variant in variants],
        outcome=outcome,
        limits_of=limits_of,
        no_clear_lag=[no_clear_lag(variant.metrics) for variant in variants],
        most_seams=MOST_SEAMS,
        delay_sources=list(dict.fromkeys(delay_source(variant.metrics.get("settings") or {}) for variant in variants)),
        first_only=first_only(figures),
        margin=margin,
        meter=meter,
        settings=setting_paths(figures),
        problems=[variant.metrics.get("problems") for variant in variants],
        faults_known=any(variant.metrics.get("faults") is not None for variant in variants),
        **limited(figures, [joint for joints in joint_groups(variants).values() for joint in joints]),
        least=LEAST,
        moments=[moment_rows(variant.moments, number) for number, variant in enumerate(variants)],
        groups=joint_groups(variants),
        glances={joint: glance([v.traces for v in variants], joint) for v in variants for joint in v.traces.joints},
        colours={"recorded": RECORDED, "commanded": COMMANDED, "measured": MEASURED},
        state_colours=STATE_COLOURS,
        letters=LETTERS,
        missing=MISSING,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def content(variants: Sequence[Variant]) -> dict[str, Any]:
    """What the page's scripts draw. Time 0 is the first tick of whichever variant began first."""
    origin = min((int(v.traces.stamps[0]) for v in variants if len(v.traces.stamps)), default=0)
    step = step_of([v.traces for v in variants])
    return {
        "variants": [
            {
                "letter": LETTERS[number],
                "error_by_step": {key: series(variant.metrics, key) for key in ("ahead_s", "predicted", "hold")},
                **trace_content(variant.traces, origin, step),
            }
            for number, variant in enumerate(variants)
        ],
        "groups": joint_groups(variants),
        "most_seams": MOST_SEAMS,
        "colours": {"recorded": RECORDED, "commanded": COMMANDED, "measured": MEASURED},
        "state_colours": STATE_COLOURS,
        "unknown_colour": UNKNOWN_COLOUR,
    }


def series(metrics: Mapping[str, Any], key: str) -> list[float | None]:
    """One curve of the error by look-ahead; None for what is not a finite number."""
    found = lookup(metrics, ("error_by_step", key)) or ()
    return [lookup(metrics, ("error_by_step", key, k)) for k in range(len(found))]


def joint_groups(variants: Sequence[Variant]) -> dict[str, list[str]]:
    """The joints of all variants, by the groups of the first one that has any."""
    joints = list(dict.fromkeys(joint for variant in variants for joint in variant.traces.joints))
    return by_group(joints, next((variant.groups for variant in variants if variant.groups), {}))


@dataclass(frozen=True)
class CheckRow:
    """One check of all variants: ``places[variant]`` is its number in that variant's list, None where it has none."""

    name: str
    places: tuple[int | None, ...]


def check_rows(variants: Sequence[Variant]) -> list[CheckRow]:
    """The checks in the order in which they were made; what failed anywhere comes first."""
    lists = [list(variant.metrics.get("checks") or ()) for variant in variants]
    names = dict.fromkeys(str(check["name"]) for checks in lists for check in checks)
    rows = [
        CheckRow(name, tuple(next((k for k, c in enumerate(checks) if str(c["name"]) == name), None) for checks in lists))
        for name in names
    ]
    return sorted(rows, key=lambda row: all(k is None or checks[k].get("ok") is not False
                                            for k, checks in zip(row.places, lists, strict=True)))  # fmt: skip


def tally(checks: Sequence[Mapping[str, Any]]) -> str:
    """How many checks passed, failed and could not judge, in words; empty without checks."""
    every = [outcome(check) for check in checks]
    words = {"ok": "passed", "failed": "failed", "": "could not judge"}
    counts = {word: every.count(kind) for kind, word in words.items()}
    return f"Of {len(checks)} checks " + ", ".join(f"{n} {what}" for what, n in counts.items() if n) + "." if checks else ""


def outcome(check: Mapping[str, Any]) -> str:
    """``ok``, ``failed``, or empty where nothing could be judged."""
    if not check.get("ok"):
        return "" if check.get("name") == RECORDING else "failed"
    return "" if check.get("value") is None else "ok"


def no_clear_lag(metrics: Mapping[str, Any]) -> bool:
    """Whether a shift was found that is not to be believed: its check gives no value then."""
    check = next((check for check in metrics.get("checks") or () if check.get("name") == "lag"), None)
    return check is not None and check.get("value") is None and metrics.get("lag_s") is not None


def first_only(figures: Figures) -> list[str]:
    """Inputs of which the policy uses the first ones of a run alone: their age grows by design."""
    names = figures.keys(("age_ms",))
    return [name for name in names if any(figures.value(("age_ms", name, "first"), k) for k in figures.variants)]


LEAST = ("frozen", "rate", RECORDING)
"""Checks whose limit is the least value, not the greatest."""


def margin(check: Mapping[str, Any]) -> str:
    """How far a check's value is from its limit, as a share of the limit, in words; empty where that means nothing."""
    numbers = value_and_limit(check)
    if numbers is None:
        return ""
    value, limit = numbers
    beyond = value < limit if check.get("name") in LEAST else value > limit
    if beyond == bool(check.get("ok")):  # checks look at more than one figure; their sentences tell
        return "beyond, but excused" if beyond else "failed for another reason"
    side = "beyond" if beyond else "to spare"
    if limit == 0.0:
        return "" if value == 0.0 else f"{shown(value)} {side}"
    share = abs(limit - value) / limit
    return f"{shown(value / limit)} times the limit" if share > 3.0 else f"{100.0 * share:.0f} % {side}"


def meter(check: Mapping[str, Any]) -> float | None:
    """Where the value is, with the limit at 1, at most 1.5; None where it cannot be drawn so."""
    numbers = value_and_limit(check)
    return None if numbers is None or numbers[1] == 0.0 else min(numbers[0] / numbers[1], 1.5)


def value_and_limit(check: Mapping[str, Any]) -> tuple[float, float] | None:
    """Their sizes (a lag may be negative); None where one of them is no finite number."""
    found = [check.get("value"), check.get("limit")]
    sizes = [abs(float(n)) for n in found if isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n)]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


SETTINGS = ("bag", "robot", "checkpoint", "settings", "commands_sha256", "wall_s", "realtime_factor")


def setting_paths(figures: Figures) -> list[tuple[str | int, ...]]:
    """What was run with what, and what identifies it: paths of single values; what names a hash, too."""
    return [
        path for path in figures.all_leaves()
        if path[0] in SETTINGS or any("sha256" in str(key) for key in path)
    ]  # fmt: skip


def limited(figures: Figures, joints: Sequence[str]) -> dict[str, Any]:
    """Those of the ``joints`` that a limit changed at any time, and the largest count of one joint and kind."""
    kinds = figures.keys(("interventions",))
    every = dict.fromkeys([*joints, *(joint for kind in kinds for joint in figures.keys(("interventions", kind)))])
    counts = {joint: max((figures.largest(("interventions", kind), [joint]) for kind in kinds), default=0.0) for joint in every}
    return {"limited_joints": [joint for joint, n in counts.items() if n], "counts_most": max(counts.values(), default=0.0)}


def moment_rows(moments: Sequence[Moment], variant: int) -> list[dict[str, Any]]:
    """What the page shows of each moment."""
    colour = COMMANDED[variant % len(COMMANDED)]
    return [
        {
            "moment": moment,
            "picture": camera_picture(moment),
            "graphs": [(joint, error, moment_graph(moment, joint, colour)) for joint, error in worst_joints(moment)],
            "age_ms": None if moment.image_stamp is None else (moment.stamp - moment.image_stamp) / 1e6,
        }
        for moment in moments
    ]
