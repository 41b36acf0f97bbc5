"""``flow_policy bench control``: the real command node measured over DDS, beside its opponents; and the opponents themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.cli.bench_control import BUSY, load, outside
from flow_policy_ros.cli.main import main
from flow_policy_ros.evaluation.stage_opponents import breaches, compare, noisy, sine
from flow_policy_ros.runtime.robot import load_robot

PERIOD_S = 0.002


@pytest.fixture(name="limits")
def limits_fixture(root):
    """30 joints."""
    return load_robot(root / "config" / "robots" / "adroit_relocate.yaml").limits


def test_the_node_is_measured_beside_its_opponents(tmp_path, capfd) -> None:
    pytest.importorskip("rclpy")
    file = tmp_path / "f.json"
    command = ["bench", "control", "--robot", "adroit_relocate", "--rate", "100", "--seconds", "1", "--load"]
    code = main([*command, "--json", str(file)])
    printed = capfd.readouterr()
    figures = json.loads(printed.out)
    assert figures == json.loads(file.read_text())
    assert figures["rate_hz"] == 100.0 and figures["joints"] == 30 and figures["load"] is True
    processes = figures["processes"]
    assert [row["name"] for row in processes] == ["command_node", "ordinary executor", "ordinary scheduling"]
    assert code == int(any(row["faults"] for row in processes))  # a machine that stood still is reported, not hidden
    for row in processes:
        assert row["period_error_ms"]["p50"] <= row["period_error_ms"]["p99"] <= row["period_error_ms"]["max"]
        assert 0.0 < row["stage_us"]["p50"] <= row["stage_us"]["p99"] and row["missed_deadlines"] >= 0
        assert row["ticks"] >= 50 and row["outside"]["received"] >= 10 and row["context_switches"]["voluntary"] > 0
        assert 20.0 < row["rss_mb"]["start"] < 150.0 and row["rss_mb"]["end"] < 150.0
    assert {key: figures[key] for key in ("period_error_ms", "stage_us", "rss_mb")} == {
        key: processes[0][key] for key in ("period_error_ms", "stage_us", "rss_mb")
    }
    granted = [row["realtime"] for row in processes]
    assert granted[2].startswith("ordinary scheduling") and ("SCHED_FIFO 40" in granted[0]) == ("SCHED_FIFO 40" in granted[1])
    assert {row["name"] for row in figures["stage"]} >= {"ours", "clamp"}
    assert "period error" in printed.err and "jerk" in printed.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--rate", "0"], "command.rate_hz is 0.0 Hz, expected 1.0 to 1000.0"),
        (["--seconds", "0"], "command.statistics_s is 0.0 s, expected 0.1 to 60.0"),
        (["--priority", "100"], "command.realtime_priority is 100, expected 0 to 99"),
        (["--json", "nowhere/f.json"], "the folder nowhere does not exist"),
        (["--robot", "adroit_dor"], "robot file 'adroit_dor' does not exist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(command, message, capsys) -> None:
    assert main(["bench", "control", *command]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


def test_the_load_ends_whatever_happens() -> None:
    with pytest.raises(RuntimeError), load(2) as children:
        assert len(children) == 2 and all(Path(f"/proc/{child}").exists() for child in children)
        raise RuntimeError
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_the_load_ends_when_its_parent_is_killed() -> None:
    code = f"import os, subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', {BUSY!r}, str(os.getpid())])"
    code += "; print(c.pid, flush=True); time.sleep(99)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60.0
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_intervals_are_taken_between_stamps() -> None:
    figures = outside([0, 2_000_000, 4_000_000, 7_000_000], 500.0)
    assert figures == {"received": 4, "p50": 0.0, "p99": pytest.approx(0.98), "max": 1.0}
    assert outside([5], 500.0) == {"received": 1}


def test_ours_keeps_every_limit_where_the_clamp_does_not_and_ruckig_loses_the_target(limits) -> None:
    pytest.importorskip("ruckig", reason="ruckig, the opponent, is not installed")
    clean = sine(limits, PERIOD_S, 1000)
    noise = noisy(clean, 0.01, 0.003, seed=0)
    rows = {(row["name"], row["targets"]): row for targets in (clean, noise) for row in compare(limits, targets)}
    for targets in (clean.name, noise.name):
        assert rows["ours", targets]["broken"] == {"velocity": 0.0, "acceleration": 0.0, "jerk": 0.0}
    assert rows["clamp", noise.name]["broken"]["jerk"] > 0.1 and rows["clamp", noise.name]["worst"]["jerk"] > 10.0
    ours, ruckig = rows["ours", noise.name]["error_mrad"], rows["ruckig", noise.name]["error_mrad"]
    assert ruckig["p50"] > 10.0 * ours["p50"] and ruckig["max"] > 100.0 > ours["max"]
    assert rows["ruckig", clean.name]["error_mrad"]["max"] < 10.0  # it is used as it should be


def test_breaches_are_counted_from_rest(limits) -> None:
    still = np.tile((limits.lower + limits.upper) / 2.0, (10, 1))
    assert breaches(still, limits, PERIOD_S)["worst"] == {"velocity": 0.0, "acceleration": 0.0, "jerk": 0.0}
    jump = still.copy()
    jump[5:, 0] += 2.0 * limits.velocity[0] * PERIOD_S
    found = breaches(jump, limits, PERIOD_S)
    assert found["worst"]["velocity"] == pytest.approx(2.0) and found["broken"]["velocity"] == pytest.approx(1 / (12 * 30))
