"""What nodes log: a line for each event, at the level that docs/operating.md says, and not one a tick or a message."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ros_support import (  # noqa: F401
    JOINTS,
    UNHURRIED,
    Child,
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
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros.messages import chunk_to_message
from flow_policy_ros.runtime.types import Chunk

ALONE = {"command__realtime_priority": 0, "command__lock_memory": False}
"""What the operating system grants is no event of the run."""
LINE = re.compile(r"\[(DEBUG|INFO|WARN|ERROR|FATAL)\] \[[\d.]+\] \[command_node\]: (.*)")


def lines(node: Child) -> list[tuple[str, str]]:
    """Level and text; every line that is printed is one."""
    found = [LINE.fullmatch(line) for line in node.output.splitlines()]
    assert all(found), node.output
    return [(match[1], match[2]) for match in found if match]


def test_a_run_logs_one_line_for_each_event(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """Start, chunks that are refused again and again, a fault, resets (one refused), a hold, an end; hundreds of ticks between."""
    heard = ears.diagnostics()
    FakeRobot(ears)
    chunks, stop = ears.speak(JointTrajectory, "policy/chunk"), ears.speak(Bool, "command/emergency_stop")
    node = launcher.node("command_node", write_robot(tmp_path), **UNHURRIED, **ALONE)
    ears.connected(chunks)
    ears.connected(stop)
    ears.meet("command/reset", "command/hold")
    ears.meet("command/enable", kind=SetBool)

    def state(name: str) -> None:
        heard.wait_for(lambda s: s.name == "command" and values(s)["state"] == name, after=len(heard.messages))

    def refused(count: int) -> None:
        heard.wait_for(lambda s: sum(int(v) for k, v in values(s).items() if k.startswith("rejections.")) >= count)

    strange = chunk_to_message(Chunk(ears.now(), 80_000_000, ("knee", "toe"), np.zeros((10, 2))))
    with ears.insisting(lambda: chunks.publish(strange)):
        refused(5)
    with ears.insisting(lambda: stop.publish(Bool(data=True))):
        state("fault")
    assert not ears.trigger("command/reset").success
    with ears.insisting(lambda: stop.publish(Bool(data=False))):
        until(lambda: ears.trigger("command/reset").success, "the fault stays")
    assert ears.trigger("command/hold").success
    heard.wait_count(len(heard.messages) + 2)  # whatever it holds: it may not have started again yet
    assert ears.call(SetBool, "command/enable", SetBool.Request(data=True)).success
    heard.wait_count(len(heard.messages) + 3)
    node.send(signal.SIGTERM)
    assert node.wait() == 0

    said = lines(node)
    assert said[:2] == [("INFO", "configured"), ("INFO", "activated")]
    texts = [(level, text) for level, text in said[2:] if not text.startswith("command/reset: refused")]
    assert [level for level, _ in texts] == ["WARN", "ERROR", "INFO", "INFO", "INFO"], said
    assert texts[0][1].startswith("refused: ") and "knee" in texts[0][1]
    assert texts[1][1].startswith("emergency_stop: ")
    assert [text.split(":")[0] for _, text in texts[2:]] == ["command/reset", "command/hold", "command/enable"]
    assert any(level == "WARN" and text.startswith("command/reset: refused") for level, text in said)


def test_with_the_level_debug_each_change_of_state_is_a_line(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    heard = ears.diagnostics()
    FakeRobot(ears)
    chunks = ears.speak(JointTrajectory, "policy/chunk")
    command = [sys.executable, "-m", "flow_policy_ros.nodes.command_node", "--ros-args", "--log-level", "command_node:=debug"]
    given = {key.replace("__", "."): str(value).lower() for key, value in {**UNHURRIED, **ALONE}.items()}
    for name, value in {"robot_file": write_robot(tmp_path), **given}.items():
        command += ["-p", f"{name}:={value}"]
    loud = launcher._start(command, "loud")
    ears.connected(chunks)
    still = Chunk(0, 80_000_000, JOINTS, np.zeros((20, 2)))
    with ears.insisting(lambda: chunks.publish(chunk_to_message(replace(still, stamp=ears.now())))):
        heard.wait_for(lambda s: s.name == "command" and values(s)["state"] == "active")
    loud.send(signal.SIGTERM)
    loud.wait()
    changes = [line for line in loud.output.splitlines() if "[DEBUG]" in line and "[command_node]: " in line]
    told = [line.split("[command_node]: ")[1].split(":")[0] for line in changes]
    assert [a for a, b in zip(told, [*told[1:], ""], strict=True) if a == b] == [], "no state is told twice"
    assert "active" in told and len(told) < 30
