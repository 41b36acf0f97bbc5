"""Made-up replays of plausible shape for the tests of the report: nothing is measured, every key of the metrics is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from flow_policy_ros.evaluation.replay.report import Variant
from flow_policy_ros.evaluation.replay.traces import TraceData
from flow_policy_ros.evaluation.replay.worst import Moment

JOINTS = ("arm.lift", "arm.turn", "thumb", "index", "little")
GROUPS = {"arm": JOINTS[:2], "fingers": JOINTS[2:]}
HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"
ORIGIN = 1_700_000_000_000_000_000
PERIOD = 10_000_000


def traces(rng: np.random.Generator, joints: Sequence[str], ticks: int, lag: int) -> TraceData:
    time = np.arange(ticks)[:, None] * PERIOD / 1e9
    recorded = np.sin(2.0 * time + np.arange(len(joints)))
    predicted = np.roll(recorded, lag, axis=0) + 0.01 * rng.normal(size=recorded.shape)
    predicted[:5] = np.nan
    limited = np.zeros(recorded.shape, dtype=np.bool_)
    limited[40:60, 1], limited[100:103, 2] = True, True
    stale = np.zeros(ticks, dtype=np.bool_)
    stale[70:75] = True
    states = ["inactive"] * 5 + ["active"] * (ticks - 35) + ["stopping"] * 10 + ["fault"] * 20
    chunks = ORIGIN + PERIOD * np.arange(0, ticks, 8)
    ready = chunks + 45_000_000
    ready[3] = -1
    commanded = 0.98 * predicted
    return TraceData(
        tuple(joints), PERIOD, 1, ORIGIN + PERIOD * np.arange(ticks, dtype=np.int64), recorded, predicted, commanded,
        np.roll(recorded, 3, axis=0), limited, stale, tuple(states[:ticks]), 1, chunks, ready,
        8.0 + rng.random(len(chunks)), ((ORIGIN + PERIOD * (ticks - 20), "tracking"),),
    )  # fmt: skip


def moments(rng: np.random.Generator, joints: Sequence[str], label: str) -> list[Moment]:
    ahead = 0.04 * np.arange(16)
    recorded = np.sin(ahead[:, None] + np.arange(len(joints)))
    predicted = recorded + 0.3 * rng.normal(size=len(joints)) * ahead[:, None]
    image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    boxes = np.array([[5.0, 8.0, 40.0, 50.0]], dtype=np.float32)
    worst = int(np.abs(predicted - recorded).mean(axis=0).argmax())
    shape = (ORIGIN + 10**9, 1.0, 0.1, joints[worst], 0.1, tuple(joints), ahead, predicted, recorded)
    return [Moment(*shape, image, ORIGIN + 96 * 10**7, boxes, (label,)), Moment(*shape)]


def metrics(rng: np.random.Generator, joints: Sequence[str], verdict: str) -> dict[str, Any]:
    def each(scale: float) -> dict[str, float]:
        return {joint: float(scale * rng.random()) for joint in joints}

    ok = verdict == "good"
    checks = [
        {"name": "joint_order", "value": 0, "limit": 0, "ok": True, "sentence": "Every joint follows its own recording."},
        {"name": "lag", "value": 0.012 if ok else 0.15, "limit": 0.06, "ok": ok, "sentence": "The policy is behind the recording."},
        {"name": "frozen", "value": 0.97, "limit": 0.3, "ok": True, "sentence": "Predictions vary as the recording does."},
        {"name": "features", "value": None, "limit": 0.2, "ok": True, "sentence": "The policy uses no features."},
    ]
    return {
        "bag": "door_7", "robot": "test_hand", "checkpoint": f"checkpoints/{verdict}", "duration_s": 2.0,
        "ticks": 200, "chunks": 25,
        "settings": {"policy.mode": "rtc", "seed": 7, "command.groups": [], "latency": {"inference": "120ms±40"}},
        "wall_s": 0.2, "realtime_factor": 9.73,
        "error": each(0.05), "error_hold": each(0.3),
        "error_by_step": {
            "ahead_s": [0.0, 0.04, 0.08], "predicted": [0.01, 0.02 + 0.01 * rng.random(), 0.04], "hold": [0.0, 0.1, 0.2]
        },
        "error_total": 0.21 if ok else 0.9, "lag_s": -0.012 if ok else 0.15, "joint_order": {} if ok else {joints[0]: joints[1]},
        "seam": {
            "position": 0.0021, "acceleration": 0.42, "position_inside": 0.0018, "acceleration_inside": 0.35, "takeover": 0.031,
            "count": 24,
        },
        "jerk_ratio": 1.31, "smoothness": {"commanded": -13.1, "recorded": -12.9}, "stale_fraction": 0.03125,
        "stale": {"joint_state is older than 0.1 s": 1}, "age_ms": {
            "joint_state": {"p50": 4.0, "p99": 9.5, "max": 12.0},
            "detections": {"p50": 900.0, "p99": 1900.0, "max": 1950.0, "first": True},
        },
        "injected_ms": {"inference": {"p50": 21.5, "p99": 33.0, "max": 35.0}}, "chunks_per_s": {"wanted": 25.0, "got": 12.5},
        "latency_ms": {"inference": {"p50": 8.2, "p99": 14.9}, "command": {"p50": 0.11, "p99": 0.3}},
        "interventions": {"position": {}, "velocity": {joints[1]: 20}, "acceleration": {joints[1]: 4, joints[2]: 3}},
        "intervened_fraction": 0.115, "stagnation": {"fraction": 0.0, "longest_s": 0.25, "windows": 8}, "frozen": 0.97,
        "noise": {
            "inside": 0.011, "inside_joint": joints[1], "inside_size": 0.004, "overlap": None, "overlap_joint": None,
            "by_joint": each(0.01),
        },
        "features": {"objects": {"outside": 0.031, "empty": 0.5, "absent": {"handle": 0.5}, "count": 50}},
        "faults": {"tracking": 1}, "resets": 0, "lost": {"chunks": 1}, "bad": {"/joint_states": 2},
        "problems": ["joint 'ffj3' of the robot file is not in /joint_states."], "commands_sha256": "ab" * 32,
        "verdict": verdict, "reasons": [] if ok else ["lag: the policy is 150 ms behind the recording."], "checks": checks,
    }  # fmt: skip


def variant(
    name: str, verdict: str = "good", joints: Sequence[str] = JOINTS, label: str = "handle", seed: int = 3, ticks: int = 200
) -> Variant:
    """A variant whose metrics have gone through JSON, as those of a file have."""
    rng = np.random.default_rng(seed)
    figures = json.loads(json.dumps(metrics(rng, joints, verdict)))
    lag = 1 if verdict == "good" else 15
    groups = {group: tuple(joints[JOINTS.index(joint)] for joint in members) for group, members in GROUPS.items()}
    return Variant(name, figures, traces(rng, joints, ticks, lag), moments(rng, joints, label), groups)


def empty(name: str) -> Variant:
    """A replay in which nothing happened: no tick, no chunk, no figures."""
    none = np.zeros((0, 2))
    stamps = np.zeros(0, dtype=np.int64)
    off = np.zeros((0, 2), dtype=np.bool_)
    data = TraceData(
        ("a", "b"), PERIOD, 1, stamps, none, none, none, none, off, off[:, 0], (), 1, stamps, stamps, np.zeros(0), ()
    )  # fmt: skip
    return Variant(name, {"bag": "empty", "error": {"a": None, "b": float("nan")}, "lag_s": None, "verdict": "bad"}, data)
