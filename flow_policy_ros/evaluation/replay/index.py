"""One page about several recordings: which are good, which are not and why, each with a link to its own report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from flow_policy_ros.evaluation.replay.report import FOLDER
from flow_policy_ros.evaluation.replay.run import REFUSED

TEMPLATE = "replay_index.html.j2"


@dataclass(frozen=True)
class Row:
    """One recording: ``name`` of its folder, ``bag`` its path, and of each variant (its name, verdict, failed checks). A refused
    one has the verdict ``refused`` and the reason in the place of the checks. ``link`` to its report, empty without one."""

    name: str
    bag: str
    variants: tuple[tuple[str, str, str], ...]
    link: str


def index_row(name: str, bag: Path, variants: Sequence[str], figures: Mapping[str, Any]) -> Row:
    """Of ``figures`` as ``run.run_job`` gives them, with the names of the ``variants``."""
    if REFUSED in figures:
        return Row(name, str(bag), (("", REFUSED, str(figures[REFUSED])),), "")
    every = [figures, *([figures["compare"]] if "compare" in figures else [])]
    found = [
        (variant if len(every) > 1 else "", str(one["verdict"]), ", ".join(c["name"] for c in one["checks"] if not c["ok"]))
        for variant, one in zip(variants, every, strict=True)
    ]
    return Row(name, str(bag), tuple(found), f"{quote(name)}/report.html")


def write_index(path: Path, rows: Sequence[Row], verdict: str) -> Path:
    """Write the page ``path``, beside the folders of the recordings; returns it. ``verdict`` is the worst of them."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: (FOLDER / name).read_text(encoding="utf-8")),
    )  # fmt: skip
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.variants[0][1]] = counts.get(row.variants[0][1], 0) + 1
    style = (FOLDER / "replay_report.css").read_text(encoding="utf-8")
    page = environment.get_template(TEMPLATE).render(style=style, rows=rows, verdict=verdict, counts=counts)
    path.write_text(page, encoding="utf-8")
    return path
