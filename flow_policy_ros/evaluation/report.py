"""A folder to look at: figures, video, and one HTML page that opens without a network.

The page's text and drawing code are in ``templates/report.html``; here its data are put together.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from flow_policy_ros.evaluation.record import EpisodeRecord
from flow_policy_ros.evaluation.summary import rows, title
from flow_policy_ros.evaluation.video import STATE_COLOURS, UNKNOWN_COLOUR, write_video


def write_report(folder: str | Path, records: Sequence[EpisodeRecord], summary: dict[str, Any]) -> Path:
    """Write ``summary.json``, ``video.mp4`` (or ``.gif``; neither without frames), ``index.html``; returns the page.

    ``summary`` as ``evaluation.summary.summarise`` gives it, more keys allowed. An earlier report's files are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("video.mp4", "video.gif"):
        (folder / stale).unlink(missing_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    video = write_video(folder, records)
    template = jinja2.Environment(autoescape=True).from_string(
        files("flow_policy_ros.evaluation").joinpath("templates/report.html").read_text(encoding="utf-8")
    )
    film = None if video is None else {"kind": video.suffix[1:], "base64": base64.b64encode(video.read_bytes()).decode()}
    page = folder / "index.html"
    page.write_text(
        template.render(
            title=title(summary),
            summary=summary,
            rows=rows(summary),
            video=film,
            plotly=get_plotlyjs(),
            data=script_json(
                {
                    "episodes": [episode_data(record) for record in records],
                    "groups": groups(records),
                    "latency": summary["latency_ms"],
                    "interventions": summary["interventions"],
                    "state_colours": STATE_COLOURS,
                    "unknown_colour": UNKNOWN_COLOUR,
                }
            ),
        ),
        encoding="utf-8",
    )
    return page


def episode_data(record: EpisodeRecord) -> dict[str, Any]:
    """What the page draws of one episode: times in s since the first tick, values by joint, None where there is none."""
    origin = int(record.stamps[0]) if len(record.stamps) else 0
    column = {joint: j for j, joint in enumerate(record.joints)}
    return {
        "seed": record.seed,
        "success": record.success,
        "success_steps": record.success_steps,
        "time": seconds(record.stamps, origin),
        "position": {joint: rounded(record.position[:, j]) for joint, j in column.items()},
        "command": {joint: rounded(record.command[:, j]) for joint, j in column.items()},
        "states": record.states,
        "chunks": [
            {
                "time": seconds(chunk.stamp + chunk.dt_ns * np.arange(len(chunk.positions)), origin),
                "position": {joint: rounded(chunk.positions[:, k]) for k, joint in enumerate(chunk.names)},
            }
            for chunk in record.chunks
        ],
    }


def groups(records: Sequence[EpisodeRecord]) -> dict[str, list[str]]:
    """The joints to choose from, by group; joints of no group come last."""
    if not records:
        return {}
    grouped = {name: list(members) for name, members in records[0].groups.items()}
    rest = [joint for joint in records[0].joints if not any(joint in members for members in grouped.values())]
    return {**grouped, **({"joints": rest} if rest else {})}


def seconds(stamps: NDArray[np.int64], origin: int) -> list[float]:
    """Stamps in ns as s after ``origin``."""
    return [round((int(stamp) - origin) / 1e9, 6) for stamp in stamps]


def rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Values for people to look at: a tenth of a milliradian is enough; NaN and Inf become None."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def script_json(content: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment that hides its end."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
