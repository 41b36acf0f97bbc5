"""``flow_policy bringup`` with the real nodes over DDS: what it refuses, what it starts again, what ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bringup_support import PATIENCE_S, Heard
from ros_support import Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, until, values, write_robot  # noqa: F401
from urdf_support import write_arm

pytest.importorskip("rclpy")
from sensor_msgs.msg import JointState as JointStateMsg

from flow_policy_ros.nodes.flight_bag import bags
from flow_policy_ros.ros.bringup import policy_bringup
from flow_policy_ros.ros.bringup_options import PolicyOptions
from flow_policy_ros.ros.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[1]


class Program:
    """``flow_policy bringup …`` as a process, and what it printed."""

    def __init__(self, arguments: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flow_policy_ros", "bringup", *arguments], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.heard = Heard()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard(line.rstrip())

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.heard.lines)

    def child(self, module: str) -> int:
        """Process id of the newest child that runs ``module``."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        children = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in children}
        return max(pid for pid, line in lines.items() if f"flow_policy_ros.nodes.{module}" in line)


Start = Callable[..., Program]


@pytest.fixture(name="flow_policy")
def flow_policy_fixture() -> Iterator[Start]:
    """Starts programs in the test's own domain; ends them, and shows what they printed."""
    started: list[Program] = []

    def start(*arguments: str) -> Program:
        started.append(Program(list(arguments)))
        return started[-1]

    yield start
    for program in started:
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGINT)
        program.wait()
        print(program.text)


def policy_of(robot: Path, folder: Path) -> list[str]:
    """Options of a bring-up of a policy that is never reached."""
    (folder / "config.json").touch()
    return ["policy", "--robot", str(robot), "--observation", "state", "--checkpoint", str(folder)]


def test_a_refused_configuration_is_named_and_nothing_else_is_started(flow_policy: Start, tmp_path: Path) -> None:
    given = ["--parameters", "command_node:command.collision_margin:=0.01"]  # of a robot file without URDF
    program = flow_policy(*policy_of(write_robot(tmp_path), tmp_path), *given)
    assert program.wait() == 2
    last = program.heard.lines[-1]
    assert last.startswith("error: /configure_command ended with exit code 2: configure command_node was not done.")
    assert "/command_node refused to configure: not configured:" in last and "urdf" in last.lower()
    assert "policy_node" not in program.text and "Traceback" not in program.text


def test_a_second_command_node_on_the_same_robot_is_refused(
    flow_policy: Start, launcher: Launcher, ears: Ears, tmp_path: Path
) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    FakeRobot(ears)
    first = launcher.node("command_node", write_robot(tmp_path))
    executed.wait_for()
    program = flow_policy(*policy_of(write_robot(tmp_path), tmp_path))
    assert program.wait() == 2
    assert "another command node is running already" in program.heard.lines[-1]
    sent = len(executed.messages)
    executed.wait_count(sent + 20)
    assert first.alive()


def test_a_robot_file_that_is_refused_starts_nothing(flow_policy: Start, tmp_path: Path) -> None:
    path = write_robot(tmp_path)
    path.write_text(path.read_text().replace("velocity: 2.0", "velocity: -2.0"))
    program = flow_policy(*policy_of(path, tmp_path))
    assert program.wait() == 2 and program.heard.lines[-1].startswith("error: ") and "starting" not in program.text


def test_a_flight_recorder_and_markers_come_with_it_and_a_killed_command_node_is_in_a_bag(ears: Ears, tmp_path: Path) -> None:
    """With all but the policy, which takes long to load; each in its enclave."""
    (tmp_path / "config.json").touch()
    options = PolicyOptions(
        robot=str(write_robot(tmp_path)), checkpoint=str(tmp_path), observation="state", managed=False, enclaves="/flow_policy",
        flights=str(tmp_path / "flights"), markers=str(write_arm(tmp_path)),
        parameters=("flight_recorder_node:flight.min_free_gb:=0", "command_node:command.joint_state_max_age_s:=8.0",
                    "command_node:command.stall_s:=10"),
    )  # fmt: skip
    executed = ears.listen(JointStateMsg, "command/executed")
    FakeRobot(ears)
    described = policy_bringup(options)
    described = replace(described, nodes=tuple(node for node in described.nodes if node.module != "policy_node"))
    heard, ends = Heard(), []
    runner = Supervisor(described, heard)
    running = threading.Thread(target=lambda: ends.append(runner.run()))
    running.start()
    try:
        executed.wait_for()
        heard.wait_for("keeps the last 60 s")
        reports = ears.diagnostics()
        reports.wait_for(lambda s: s.name == "markers")

        def enclaves() -> dict[str, str]:
            return {name: enclave for name, _, enclave in ears.node.get_node_names_and_namespaces_with_enclaves()}

        until(lambda: all(enclaves().get(node.name) == node.enclave for node in described.nodes), "a node is not in its enclave")
        os.kill(runner.pid("/marker_node"), signal.SIGKILL)
        heard.wait_for("starting /marker_node", times=2)
        reports.wait_for(lambda s: s.name == "flight_recorder" and float(values(s)["seconds"]) > 3.0)
    finally:
        os.kill(runner.pid("/command_node"), signal.SIGKILL)
        running.join()
        print("\n".join(heard.lines))
    assert ends[0].code == 1 and "/command_node was ended by signal 9" in ends[0].reason
    (bag,) = bags(tmp_path / "flights")
    assert bag.name.endswith("command_node_silent") and (bag / "metadata.yaml").is_file()


@pytest.mark.slow
def test_the_simulated_robot_with_a_policy_that_is_killed_and_then_the_command_node(
    flow_policy: Start, ears: Ears, tmp_path: Path
) -> None:
    pytest.importorskip("mujoco")
    executed = ears.listen(JointStateMsg, "command/executed")
    figures = tmp_path / "ended.json"
    patient = ("policy_node:policy.steps:=1", "command_node:command.joint_state_max_age_s:=8.0", "command_node:command.stall_s:=10")
    program = flow_policy("sim", "--observation", "state", "--parameters", *patient, "--json", str(figures))
    program.heard.wait_for("/command_node is active")
    executed.wait_for()
    assert program.text.index("/command_node is inactive") < program.text.index("starting /policy_node")
    assert program.text.index("[policy_node]: sampling") < program.text.index("/command_node is active")

    command = program.child("command_node")
    os.kill(program.child("policy_node"), signal.SIGKILL)
    program.heard.wait_for("/policy_node ended with -9; it is started again in 1 s")
    executed.wait_count(len(executed.messages) + 100)  # held by the command node meanwhile
    program.heard.wait_for("[policy_node]: sampling", times=2)
    assert program.child("command_node") == command

    os.kill(command, signal.SIGKILL)
    assert program.wait() == 1
    assert re.search(r"error: /command_node was ended by signal 9\. It is not started again", program.heard.lines[-1])
    assert "Traceback" not in program.text
    assert '"respawns": {\n  "/policy_node": 1\n }' in figures.read_text()
