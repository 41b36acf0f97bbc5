"""``flow_policy command`` beside real command nodes over DDS: orders and answers, and the emergency stop that waits for nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ros_support import (  # noqa: F401
    PATIENCE_S,
    UNHURRIED,
    Ears,
    FakeRobot,
    Launcher,
    ears_fixture,
    launcher_fixture,
    until,
    values,
    write_robot,
)

pytest.importorskip("rclpy")
from std_msgs.msg import Bool

from flow_policy_ros.cli.main import main
from flow_policy_ros.ros.processes import NodeSpec

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``flow_policy command`` in this process: exit code, output, errors. Patient: the machine may have other work."""

    def command(*words: str | Path, wait_s: float = PATIENCE_S) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["command", *map(str, words), "--wait", str(wait_s)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@contextmanager
def speaking(*words: str) -> Iterator[subprocess.Popen[str]]:
    """``flow_policy command`` as a process that goes on until the end of the block."""
    line = [sys.executable, "-m", "flow_policy_ros", "command", *words, "--wait", str(10 * PATIENCE_S)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def test_orders_and_answers(launcher: Launcher, ears: Ears, tmp_path: Path, run: Run) -> None:
    FakeRobot(ears)
    reports = ears.diagnostics()
    launcher.node("command_node", write_robot(tmp_path), command__autostart=False, **UNHURRIED)
    reports.wait_count(1)
    code, out, _ = run("status")
    assert code == 0 and out.startswith("/command_node INACTIVE (warning): waiting: not enabled. Call ")
    code, out, _ = run("enable")
    assert code == 0 and out.startswith("enable: /command_node accepted (found after ") and "follows the chunks" in out
    reports.wait_for(lambda s: values(s)["state"] == "holding")
    file = tmp_path / "answer.json"
    code, out, _ = run("hold", "--json", file)
    assert code == 0 and "stops and holds, until command/enable" in out
    answer = json.loads(file.read_text())
    assert (answer["action"], answer["exit_code"], answer["accepted"], answer["node"]) == ("hold", 0, True, "/command_node")
    reports.wait_for(lambda s: s.message.startswith("holding: not enabled. Call "), after=len(reports.messages))
    code, out, _ = run("disable")
    assert code == 0 and "stops and holds, until it is enabled" in out

    code, out, _ = run("estop", "--namespace", "/")
    assert code == 0 and out.startswith("emergency stop: /command_node confirmed after ")
    reports.wait_for(lambda s: values(s)["faults"] == "emergency_stop" and values(s)["emergency_stop"] == "True")
    code, out, err = run("reset")
    assert code == 1 and out == "" and "refused by /command_node" in err and "release it first, then reset" in err
    code, out, _ = run("release")
    assert code == 0 and "confirmed after" in out and "is released. Reset" in out
    code, _, err = run("enable")
    assert code == 1 and "a fault is latched: emergency_stop" in err
    code, out, _ = run("status", "--json", file)
    assert code == 1 and "FAULT (error)" in out
    assert json.loads(file.read_text())["values"]["faults"] == "emergency_stop"
    assert run("reset")[0] == 0
    reports.wait_for(lambda s: values(s)["state"] == "inactive", after=len(reports.messages))


def test_a_stop_without_a_name_space_is_every_robots_and_its_release_is_not(
    launcher: Launcher, ears: Ears, tmp_path: Path, run: Run
) -> None:
    robot = write_robot(tmp_path)
    reports = ears.diagnostics()
    for k, space in enumerate(("left", "right")):
        spec = NodeSpec("command_node", {"robot_file": str(robot)}, {"__ns": f"/{space}"})
        launcher._start(spec.command(), f"command_{k}")

    def engaged() -> dict[str, str]:
        return {s.name: values(s)["emergency_stop"] for s in reports.messages}

    until(lambda: len(engaged()) == 2, "the nodes do not report")
    with speaking("estop") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = [next(line for line in lines if line.startswith("emergency stop: ")) for _ in range(2)]
    assert {line.split()[2] for line in said} == {"/left/command_node", "/right/command_node"}
    assert engaged() == {"left/command": "True", "right/command": "True"}
    assert run("release", "--namespace", "left")[0] == 0
    until(lambda: engaged()["left/command"] == "False", "it is not released")
    assert engaged()["right/command"] == "True"
    code, _, err = run("release", wait_s=1.0)
    assert code == 1 and "no command node was found in the name space '/'" in err
    code, _, err = run("hold", wait_s=6.0)
    assert code == 1 and ("give --namespace left or --namespace right." in err or "no command node was found" in err)


def test_a_stop_is_said_again_and_again_also_to_who_does_not_answer(ears: Ears, run: Run) -> None:
    heard = ears.listen(Bool, "command/emergency_stop")
    with speaking("estop", "--namespace", "/"):
        heard.wait_count(5)
    assert all(message.data for message in heard.messages)
    code, out, err = run("estop", wait_s=0.5)
    assert code == 1 and out == "" and err.rstrip().endswith("NOT CONFIRMED. Use the robot's own emergency stop.")


def test_a_node_that_is_not_configured_is_told_from_one_that_is_not_there(
    launcher: Launcher, ears: Ears, tmp_path: Path, run: Run
) -> None:
    launcher.node("command_node", write_robot(tmp_path), managed=True)
    until(lambda: "command_node" in ears.node.get_node_names(), "the node is not seen")
    for _ in range(5):  # until it has discovered it, too
        code, _, err = run("status", wait_s=5.0)
        if "not configured yet" in err:
            break
    assert code == 1 and "waited 5.0 s for /command_node: it is there and says nothing. It is not configured yet" in err


def test_nothing_is_loaded_for_a_stop_that_can_wait_until_it_is_said() -> None:
    code = """
import os, sys
from flow_policy_ros.ros import emergency
from flow_policy_ros.cli.main import main
def said(voice):
    loaded = {module.partition(".")[0] for module in sys.modules}
    print(sorted(loaded & {"tyro", "rich", "torch", "diagnostic_msgs", "std_srvs", "sensor_msgs"}))
    sys.stdout.flush()
    os._exit(7)
emergency._Voice._publish = said
main(["command", "estop"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (7, "[]\n"), done.stderr


@pytest.mark.parametrize(("words", "text"), [(["hold", "--wait", "-1"], "--wait is -1"), (["hold", "--json", "no/x.json"], "no")])
def test_bad_input_is_refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["command", *words]) == 2
    assert text in capsys.readouterr().err


STOPPED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.kill(os.getpid(), signal.SIGINT)
os.execv(sys.executable, [sys.executable, "-m", "flow_policy_ros.nodes.recorder_node"])
"""
"""Interrupted between a command's last line and the node's first."""


def test_an_interrupted_start_ends_with_a_line(tmp_path: Path) -> None:
    slow = tmp_path / "diagnostic_msgs"  # which every node imports, and no command
    slow.mkdir()
    (slow / "__init__.py").write_text(f"import pathlib, time; pathlib.Path({str(tmp_path / 'here')!r}).touch(); time.sleep(100)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-m", "flow_policy_ros", "record", "--robot", "adroit_door", "--out", str(tmp_path / "bags")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    until((tmp_path / "here").exists, "the node is not imported")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, error) == (130, "interrupted before the node had started\n")
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (130, "interrupted before the node had started\n")


def test_a_recorder_without_a_terminal_says_what_starts_it(launcher: Launcher, tmp_path: Path) -> None:
    robot = write_robot(tmp_path)
    idle = launcher.node("recorder_node", robot, recorder__out=tmp_path / "bags")
    until(lambda: "idle, and without a terminal no key begins" in idle.output, "it does not say that it is idle")
    assert "record/start" in idle.output and "--start" in idle.output
    begun = launcher.node("recorder_node", robot, recorder__out=tmp_path / "others", recorder__autostart=True)
    until(lambda: "recording " in begun.output, "it does not begin")
    assert "idle" not in begun.output
