"""Scenes and snapshots as JSON for the page: seconds since the scene's origin, numbers that people can tell apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.viewing.snapshot import Picture, Prediction, Row, Scene, Snapshot

DECIMALS = 4
"""A tenth of a milliradian is enough to look at."""


def scene_json(scene: Scene, run: str, origin: int) -> str:
    """``run`` tells one run of the program from another, ``origin`` (ns) is where the page's time begins."""
    return _dumps(
        {
            "run": run,
            "title": scene.title,
            "live": scene.live,
            "source": scene.source,
            "seconds": round(scene.seconds, 3),
            "origin": origin / 1e9,
            "joints": list(scene.joints),
            "groups": {name: list(members) for name, members in scene.groups.items()},
            "limits": {joint: [_number(low), _number(high)] for joint, (low, high) in scene.limits.items()},
        }
    )


def snapshot_json(shot: Snapshot, origin: int) -> str:
    """One snapshot; what there is none of is left out."""
    guard = shot.guard
    content: dict[str, Any] = {
        "t": seconds(shot.stamp, origin),
        "measured": [_row(row, origin) for row in shot.measured],
        "executed": [_row(row, origin) for row in shot.executed],
        "chunk": None if shot.prediction is None else _prediction(shot.prediction, origin),
        "picture": None if shot.picture is None else _picture(shot.picture, origin),
        "delays": {name: _number(value, 2) for name, value in vars(shot.delays).items() if value is not None},
        "guard": None if not guard.state else {
            "state": guard.state, "since": seconds(guard.since, origin), "faults": list(guard.faults), "level": guard.level,
            "message": guard.message,
        },
        "nodes": [{"name": n.name, "level": n.level, "message": n.message, "t": seconds(n.stamp, origin)} for n in shot.nodes],
        "events": [{"t": seconds(e.stamp, origin), "kind": e.kind, "text": e.text} for e in shot.events],
        "rates": dict(shot.rates),
        "figures": {name: _number(value) for name, value in shot.figures.items()},
        "instruction": shot.instruction,
    }  # fmt: skip
    return _dumps({key: value for key, value in content.items() if value not in (None, [], {}, "")})


def seconds(stamp: int, origin: int) -> float:
    """Stamps in ns as s after ``origin``."""
    return round((stamp - origin) / 1e9, 4)


def _row(row: Row, origin: int) -> list[Any]:
    return [seconds(row.stamp, origin), *_numbers(row.position)]


def _prediction(chunk: Prediction, origin: int) -> dict[str, Any]:
    return {
        "t": seconds(chunk.stamp, origin),
        "times": [seconds(chunk.stamp + time, origin) for time in chunk.times_ns],
        "rows": [_numbers(row) for row in chunk.positions],
    }


def _picture(picture: Picture, origin: int) -> dict[str, Any]:
    boxes = [{"label": d.label, "score": _number(d.score, 3), "box": [_number(v) for v in d.box]} for d in picture.detections]
    return {"number": picture.number, "t": seconds(picture.stamp, origin), "boxes": boxes}


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """NaN and Inf, which JSON has not, become None."""
    if np.isfinite(values).all():
        rounded: list[float | None] = np.round(values, DECIMALS).tolist()
        return rounded
    return [_number(value) for value in values.tolist()]


def _number(value: float, decimals: int = DECIMALS) -> float | None:
    return round(float(value), decimals) if np.isfinite(value) else None


def _dumps(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
