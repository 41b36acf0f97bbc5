"""The dashboard: what a page says of a robot, what it must never say, and the command over DDS beside a real command node."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, ConsoleDimensions
from ros_support import (  # noqa: F401
    PATIENCE_S,
    UNHURRIED,
    Ears,
    FakeRobot,
    Launcher,
    ears_fixture,
    launcher_fixture,
    to_and_fro,
    values,
    write_robot,
)

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.cli import dashboard
from flow_policy_ros.nodes.dashboard_page import bar, page
from flow_policy_ros.nodes.dashboard_view import Meter, Rate, Report, View, clean, figures
from flow_policy_ros.ros.diagnostics import OK, diagnostics, status
from flow_policy_ros.ros.messages import chunk_to_message
from flow_policy_ros.runtime.robot import Robot, load_robot

ROOT = Path(__file__).resolve().parents[1]
ACTIVE = {
    "state": "active", "state_since": str(4 * 10**9), "faults": "", "enabled": "True", "ticks_active": "200",
    "ticks_limited": "10", "limit_scale.lowest": "0.5", "limit_scale.highest": "1.0", "chunks": "20", "chunks_slowed": "3",
    "period_error_ms.p50": "0.0123", "period_error_ms.p99": "0.4", "period_error_ms.max": "12.5", "missed_deadlines": "2",
    "interventions.velocity.elbow": "7", "interventions.jerk.elbow": "1", "rejections.chunk_names": "4",
    "last_rejection": "chunk lacks joint elbow",
}  # fmt: skip


@pytest.fixture(name="robot")
def robot_fixture(tmp_path: Path) -> Robot:
    """The two-joint robot."""
    return load_robot(write_robot(tmp_path))


def report(values: Mapping[str, str] = ACTIVE, age_s: float = 0.2, level: str = "ok", message: str = "following chunks") -> Report:
    return Report(level, message, values, 16 * 10**9, age_s)


def view(robot: Robot, **other: Any) -> View:
    rates = (Rate("joint states", 400, 100.0, 0.0), Rate("set-points", 400, 100.0, 0.0), Rate("chunks", 0, 0.0, math.inf))
    content: dict[str, Any] = {
        "reports": {"command": report()}, "rates": rates, "measured": np.array([0.5, -1.0]), "setpoint": np.array([0.51, -1.2]),
        "chunk_age_ms": 85.0, **other,
    }  # fmt: skip
    return View(robot, **content)


def text(page_of: View, width: int = 100, height: int | None = None) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(page(page_of, None if height is None else ConsoleDimensions(width, height)))
    return console.export_text()


def test_a_page_says_state_delays_and_joints(robot: Robot) -> None:
    shown = text(view(robot))
    assert "two_joints" in shown and "ACTIVE" in shown and "for 12 s" in shown and "following chunks" in shown
    assert re.search(r"joint states +100.0 Hz", shown) and re.search(r"chunks +nothing yet", shown)
    assert re.search(r"chunk age +85 ms", shown)
    assert re.search(r"period error +p50 0.01 ms +p99 0.40 ms +max 12 ms +missed deadlines 2", shown)
    assert "scale 0.5 to 1" in shown and "acted in 10 of 200 ticks (5.0%)" in shown and "3 of 20 chunks slowed" in shown
    assert "chunk_names 4; last: chunk lacks joint elbow" in shown
    (elbow,) = [line for line in shown.splitlines() if "elbow" in line and "-0.200" in line]
    assert "+0.010" in next(line for line in shown.splitlines() if "shoulder" in line)
    assert "error = | − ●" in shown
    assert "-1.000" in elbow and "-1.200" in elbow and "v7 j1" in elbow and "●" in elbow


def test_faults_are_in_words_and_the_page_says_that_something_is_wrong(robot: Robot) -> None:
    broken = report({**ACTIVE, "state": "fault", "faults": "emergency_stop"}, level="error", message="emergency_stop: pressed")
    shown = view(robot, reports={"command": broken})
    assert shown.faults() == ["emergency_stop"] and shown.wrong() == ["emergency_stop: pressed"]
    assert "FAULT" in text(shown) and "emergency_stop: pressed" in text(shown)
    policy = report({}, level="error", message="no model")
    assert view(robot, reports={"command": report(), "policy": policy}).wrong() == ["policy: no model"]
    assert view(robot).wrong() == []


def test_the_last_word_of_who_has_fallen_silent_is_not_shown_as_the_state(robot: Robot) -> None:
    for reports in ({}, {"command": report(age_s=7.0)}):
        shown = view(robot, reports=reports)
        assert shown.state() == "silent" and "ACTIVE" not in text(shown) and len(shown.wrong()) == 1
    assert "silent for 7 s" in text(view(robot, reports={"command": report(age_s=7.0)}))
    mute = (Rate("joint states", 30, 0.0, 8.0),)
    assert view(robot, rates=mute).wrong() == ["joint states: nothing for 8 s."]


def test_unknown_positions_are_no_numbers(robot: Robot) -> None:
    unknown = view(robot, measured=np.full(2, np.nan), chunk_age_ms=math.nan, problems=("joint state lacks elbow",))
    shown = text(unknown)
    assert "nan" not in shown and "joint state lacks elbow" in shown
    found = json.loads(json.dumps(figures(unknown), allow_nan=False))
    assert found["joints"]["elbow"]["measured"] is None and found["chunk_age_ms"] is None
    assert found["joints"]["elbow"]["interventions"] == {"velocity": 7, "jerk": 1}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_page_fits_its_terminal_and_keeps_the_joints_that_follow_worst(robot: Robot, width: int) -> None:
    names = tuple(f"joint_{k:02d}" for k in range(40))
    many = replace(robot, joints=names, limits=replace_limits(robot, len(names)), groups={})
    error = np.where(np.arange(40) == 33, 0.4, 0.001)
    shown = text(view(many, measured=np.zeros(40), setpoint=error), width, height=30)
    assert "joint_33" in shown and "more joints, which follow better" in re.sub(r"\s+", " ", shown)
    assert max(map(len, shown.splitlines())) <= width
    assert len(shown.splitlines()) <= 30


def replace_limits(robot: Robot, count: int) -> Any:
    """The limits of the robot's first joint for ``count`` joints."""
    arrays = {
        key: np.full(count, value[0]) for key, value in vars(robot.limits).items() if isinstance(value, np.ndarray)
    }
    return replace(robot.limits, names=tuple(f"joint_{k:02d}" for k in range(count)), **arrays)


def test_marks_of_a_page_are_no_markup(robot: Robot) -> None:
    """Text comes from whoever publishes; it is printed as it is, and neither colours nor ends the page."""
    odd = report(level="warning", message=clean("[bold]odd[/bold] [/] \x1b[2J\n\x07"))
    shown = text(view(robot, reports={"command": report(), "[red]x": odd}))
    assert "[bold]odd[/bold] [/]" in shown and "[red]x" in shown and not set("\x1b\x07") & set(shown)
    assert clean("é●\x9b1m\r") == "é● 1m " and len(clean("x" * 10**6)) == 401


def test_figures_that_are_none_are_not_shown(robot: Robot) -> None:
    hostile = {key: "many" for key in ACTIVE} | {"interventions": "1", "interventions.": "2", "interventions.velocity.elbow": "-3"}
    shown = text(view(robot, reports={"command": report(hostile), "policy": report({"inference_ms.p50": "1e999"})}))
    assert "elbow" in shown and "nan" not in shown


def test_a_bar_shows_where_in_its_range_a_joint_is() -> None:
    assert bar(-1.0, 1.0, 0.0, 1.0) == "··········●·········|"
    assert bar(-1.0, 1.0, -1.5, 1.5) == "<···················>"
    assert bar(-1.0, 1.0, math.nan, -1.0) == "|····················"
    assert bar(-math.inf, math.inf, 0.0, 0.0) == "endless"


def test_a_rate_is_that_of_the_last_two_seconds() -> None:
    meter = Meter("x")
    assert meter.mark(0.0) == Rate("x", 0, 0.0, math.inf)
    for k in range(1, 501):  # 100 Hz for 5 s, then silence
        meter.add(k / 100)
        rate = meter.mark(k / 100)
    assert rate.hz == pytest.approx(100.0, abs=1.0) and rate.age_s == 0.0
    for k in range(10):
        silent = meter.mark(5.25 + k / 4)
    assert silent.hz == 0.0 and silent.age_s == pytest.approx(2.5) and silent.count == 500


def once(robot_file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flow_policy_ros", "dashboard", "--robot", str(robot_file), "--once", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)


def test_once_shows_a_real_robot_and_its_fault(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """One page with everybody alive; after an emergency stop another one, and exit code 1."""
    robot_file, figures_file = write_robot(tmp_path), tmp_path / "page.json"
    diagnostics = ears.diagnostics()
    FakeRobot(ears)
    chunks, button = ears.speak(JointTrajectory, "policy/chunk"), ears.speak(Bool, "command/emergency_stop")
    launcher.node("command_node", robot_file, **UNHURRIED)
    diagnostics.wait_for(lambda s: values(s)["state"] == "holding")
    with ears.insisting(lambda: chunks.publish(chunk_to_message(to_and_fro(ears.now())))):
        diagnostics.wait_for(lambda s: values(s)["state"] == "active")
        done = once(robot_file, "--json", str(figures_file), "--wait", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ACTIVE" in done.stdout and "shoulder" in done.stdout and "p99" in done.stdout
    found = json.loads(figures_file.read_text())
    assert found["state"] == "active" and found["wrong"] == [] and found["rates"]["chunks"]["count"] > 0
    assert found["rates"]["set-points"]["hz"] > 0 and found["chunk_age_ms"] is not None
    assert abs(found["joints"]["shoulder"]["measured"] - found["joints"]["shoulder"]["setpoint"]) < 0.2
    assert found["nodes"]["command"]["values"]["state"] == "active"
    with ears.insisting(lambda: button.publish(Bool(data=True))):
        diagnostics.wait_for(lambda s: values(s)["faults"] != "")
        done = once(robot_file, "--wait", "60")
    assert done.returncode == 1 and "FAULT" in done.stdout and "emergency_stop" in done.stdout, done.stdout + done.stderr


def test_once_without_a_robot_says_who_is_silent(tmp_path: Path) -> None:
    done = once(write_robot(tmp_path), "--wait", "0.5")
    assert done.returncode == 1 and "The command node has not said anything" in done.stdout, done.stdout + done.stderr
    assert "SILENT" in done.stdout and re.search(r"joint states +nothing yet", done.stdout)


def test_a_reader_that_has_had_enough_ends_it_quietly(tmp_path: Path) -> None:
    """As ``| head -1`` does, here before the first line."""
    robot = write_robot(tmp_path)
    command = [sys.executable, "-m", "flow_policy_ros", "dashboard", "--robot", str(robot), "--once", "--wait", "0.5"]
    file = tmp_path / "page.json"
    head, tail = os.pipe()
    os.close(head)
    with os.fdopen(tail) as closed:
        done = subprocess.run(
            [*command, "--json", str(file)], stdout=closed, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=PATIENCE_S
        )
    assert (done.returncode, done.stderr) == (1, "") and json.loads(file.read_text())["state"] == "silent"


@pytest.mark.parametrize(
    ("others", "options"),
    [
        (
            {("/diagnostics", "command"): "fault", ("/left/diagnostics", "left/command"): "active"},
            ["--diagnostics", "/left/diagnostics"],
        ),
        ({("/diagnostics", "left/command"): "active", ("/diagnostics", "right/command"): "fault"}, []),
    ],
    ids=["topics of their own", "one topic"],
)
def test_a_robot_in_a_name_space_is_not_taken_for_another(
    others: dict[tuple[str, str], str], options: list[str], ears: Ears, tmp_path: Path
) -> None:
    """What the other robot's command node says is nothing of this page."""
    reports = {topic: ears.speak(DiagnosticArray, topic) for topic, _ in others}
    states = ears.speak(JointStateMsg, "/left/joint_states")
    arm = JointStateMsg(name=["shoulder", "elbow"], position=[0.25, 1.5])

    def say() -> None:
        states.publish(arm)
        for (topic, name), state in others.items():
            said = status(name, OK, state, {"state": state, "faults": ""})
            said.hardware_id = name.replace("command", "arm")
            reports[topic].publish(diagnostics(ears.now(), said))

    with ears.insisting(say):
        done = once(write_robot(tmp_path), "--namespace", "left", *options, "--wait", "4")
    assert done.returncode == 0 and "ACTIVE" in done.stdout and "fault" not in done.stdout.lower(), done.stdout + done.stderr
    assert "+0.250" in done.stdout and "+1.500" in done.stdout


def read(head: int) -> bytes:
    """What a terminal was given lately; nothing when nobody has it open any more."""
    try:
        return os.read(head, 65536) if select.select([head], [], [], 0.1)[0] else b""
    except OSError:
        return b""


def test_in_a_terminal_it_draws_until_q(tmp_path: Path) -> None:
    """The terminal's own screen is there again afterwards."""
    head, end = pty.openpty()
    command = [sys.executable, "-m", "flow_policy_ros", "dashboard", "--robot", str(write_robot(tmp_path))]
    child = subprocess.Popen(command, stdin=end, stdout=end, stderr=subprocess.PIPE, cwd=ROOT, start_new_session=True,
                             preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
                             env={**os.environ, "TERM": "xterm"})  # fmt: skip
    os.close(end)
    shown, deadline = b"", time.monotonic() + PATIENCE_S
    try:
        while shown.count(b"nothing yet") < 4 and time.monotonic() < deadline:  # two pages at least
            shown += read(head)
        assert b"two_joints" in shown and b"\x1b[?1049h" in shown, shown
        os.write(head, b"q")
        while child.poll() is None and time.monotonic() < deadline:
            shown += read(head)
        shown += read(head)
        assert child.wait(timeout=10.0) == 1  # there is no robot
        assert b"\x1b[?1049l" in shown
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()
        os.close(head)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "needs a terminal"),
        (["--once", "--wait", "-1"], "dashboard.wait_s"),
        (["--json", "page.json"], "give --once too"),
        (["--once", "--json", "nowhere/page.json"], "does not exist"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "flow_policy_ros", "dashboard", "--robot", str(write_robot(tmp_path)), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_robot_in_a_name_space(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, line, environment: lines.append(line))
    with pytest.raises(AssertionError):
        dashboard.main(["--robot", "adroit_door", "--namespace", "left", "--diagnostics", "/left/diagnostics"])
    assert lines[0][-4:] == ["-r", "__ns:=/left", "-r", "/diagnostics:=/left/diagnostics"]
