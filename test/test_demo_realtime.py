"""The demo against the wall clock: episodes follow each other without a fault, and periods are recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_support import OBJECTS, untrained_policy

pytest.importorskip("rclpy")

from flow_policy_ros.cli import over_ros
from flow_policy_ros.cli.over_ros import node_specs, run_over_ros
from flow_policy_ros.evaluation.setup import load, select
from flow_policy_ros.evaluation.summary import summarise
from flow_policy_ros.runtime.robot import load_robot

STEPS = 150
UNHURRIED = {
    "sim_node": {},
    "policy_node": {"policy.joint_state_max_age_s": 8.0, "policy.features_max_age_s": 8.0},
    "command_node": {"command.joint_state_max_age_s": 8.0, "command.chunk_max_age_s": 10.0},
}
"""On a busy machine inputs are late, which leads to a stop; it is tested elsewhere."""


def test_two_episodes_in_real_time(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    robot = load_robot(root / "config/robots/adroit_door.yaml")
    # Chunks of 1.6 s: one that a busy machine delivers late is not over yet.
    checkpoint = untrained_policy(tmp_path / "state", robot, OBJECTS, dt_ns=100_000_000)
    monkeypatch.setattr(
        over_ros,
        "node_specs",
        lambda *given: [replace(s, parameters={**s.parameters, **UNHURRIED[s.name]}) for s in node_specs(*given)],
    )
    selection = select("door", "state", checkpoint, None, None, steps=2)
    loaded = load(selection, "none")
    seen: list[tuple[int, int]] = []
    run = run_over_ros(
        selection, loaded, 2, 3, STEPS, realtime=True, progress=lambda status, guard, _: seen.append((status.episode, status.step))
    )
    assert seen[0][0] == 0 and seen[-1] == (1, STEPS)
    for record in run.records:
        assert STEPS - 2 <= len(record.stamps) <= STEPS
        assert (np.diff(record.stamps) > 0).all()
        sent = np.isfinite(record.command).all(axis=1)
        assert sent[-1] and sent.sum() > STEPS // 2
        assert "fault" not in record.states
        assert record.chunks and record.frames  # pictures straight from the camera
    assert any("active" in record.states for record in run.records)  # a busy machine may deliver the first chunks late
    summary = summarise(run.outcomes, loaded, 1.0, 3, realtime=True, reported=run.reported)
    assert summary["control_period_error_ms"]["max"] > 0.0
    assert {"inference", "state to chunk", "safety"} <= set(summary["latency_ms"])
    assert not summary["faults"]
