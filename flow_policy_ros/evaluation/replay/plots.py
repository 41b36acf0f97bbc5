"""What the report's scripts draw, packed for a page: traces as 16-bit whole numbers, switches as runs.

Times are s since the first tick of the replay. The drawing itself is in ``templates/replay_report.js``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.evaluation.replay.traces import TraceData

VALUES = 1_000_000
"""Most numbers in one page: about 2.7 bytes each, beside plotly's 5 MB. Longer or wider traces are thinned."""
LEVELS = 65534
"""Steps between a trace's least and largest value: a joint's range of 3 rad is drawn to 0.05 mrad."""
NOTHING = -32768
"""Stands for NaN."""
SERIES = ("recorded", "predicted", "commanded", "measured")


def step_of(traces: Sequence[TraceData]) -> int:
    """Every how many-th row is drawn, so that all ``traces`` fit a page."""
    numbers = sum(len(SERIES) * data.recorded.size for data in traces)
    return max(1, -(-numbers // VALUES))


def trace_content(data: TraceData, origin: int, step: int = 1) -> dict[str, Any]:
    """One variant's traces by joint, in plain JSON types. ``origin`` (ns) is time 0; every ``step``-th row is kept."""
    time = (data.stamps - origin) / 1e9
    rows = slice(None, None, step)
    series = {name: getattr(data, name)[rows] for name in SERIES}
    return {
        "joints": list(data.joints),
        "period_s": data.period_ns * data.stride * step / 1e9,
        "time": [round(float(t), 4) for t in time[rows]],
        "series": {
            name: {joint: packed(values[:, j]) for j, joint in enumerate(data.joints)} for name, values in series.items()
        },
        "limited": {joint: spans(data.limited[:, j], time) for j, joint in enumerate(data.joints)},
        "stale": spans(data.stale, time),
        "states": state_spans(data.states, time),
        "faults": [[round((stamp - origin) / 1e9, 4), name] for stamp, name in data.faults],
        "chunk_stride": data.chunk_stride,
        "chunks": [round(float(stamp - origin) / 1e9, 4) for stamp in data.chunk_stamps],
        "ready": [round((int(ready) - origin) / 1e9, 4) if ready >= 0 else None for ready in data.chunk_ready],
        "delay_ms": [
            round((int(ready) - int(stamp)) / 1e6, 2) if ready >= 0 else None
            for stamp, ready in zip(data.chunk_stamps, data.chunk_ready, strict=True)
        ],
        "inference_ms": [round(float(ms), 2) if np.isfinite(ms) else None for ms in data.inference_ms],
    }  # fmt: skip


def packed(values: NDArray[np.float64]) -> dict[str, Any]:
    """Numbers (N,) as ``low`` + ``step`` · (k + 32767), k little-endian int16 in base64, ``NOTHING`` for NaN and Inf."""
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    step = (high - low) / LEVELS if high > low else 1.0
    whole = np.full(len(values), NOTHING, dtype="<i2")
    whole[known] = np.round((values[known] - low) / step).astype(np.int64) - 32767
    return {"low": low, "step": step, "data": base64.b64encode(whole.tobytes()).decode()}


def spans(on: NDArray[np.bool_], time: NDArray[np.float64]) -> list[list[float]]:
    """From when to when a switch was on; a row speaks of the time since the row before it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(np.int8)))
    return [
        [round(float(time[max(start - 1, 0)]), 4), round(float(time[end - 1]), 4)]
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def state_spans(states: Sequence[str], time: NDArray[np.float64]) -> list[list[Any]]:
    """[from, to, state] of each stretch in one state."""
    found: list[list[Any]] = []
    for k, state in enumerate(states):
        if found and found[-1][2] == state:
            continue
        if found:
            found[-1][1] = round(float(time[k]), 4)
        found.append([round(float(time[k]), 4), round(float(time[-1]), 4), state])
    return found


def by_group(joints: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The joints to choose from, by group; those of no group come last. A joint in two groups stands in the first."""
    left = list(joints)
    found: dict[str, list[str]] = {}
    for name, members in groups.items():
        found[name] = [joint for joint in left if joint in members]
        left = [joint for joint in left if joint not in members]
    return {name: members for name, members in {**found, "joints": left}.items() if members}
