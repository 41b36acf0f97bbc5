"""The launch files really launched, with the real nodes but the policy, where launch_ros is installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bringup_support import PATIENCE_S, Heard
from ros_support import UNHURRIED, Ears, FakeRobot, ears_fixture, write_robot  # noqa: F401

pytest.importorskip("launch_ros", reason="needs launch_ros, which only ROS installations have")
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState as JointStateMsg

from flow_policy_ros.ros.interfaces import NODES

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *given = sys.argv[1:]
service = LaunchService()
source = PythonLaunchDescriptionSource(file)
arguments = [tuple(one.split(":=", 1)) for one in given]
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


STAND_IN = """
import sys
import rclpy
from rclpy.executors import ExternalShutdownException
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
rclpy.init(args=sys.argv)
node = rclpy.create_node("policy_node")
chunks = node.create_publisher(JointTrajectory, "policy/chunk", 10)
node.create_timer(0.1, lambda: chunks.publish(JointTrajectory()))
node.create_service(Trigger, "policy/reset", lambda request, response: Trigger.Response(success=True))
print("a stand-in gives chunks")
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""
"""In place of the policy, which takes long to load: what it says is refused by the command node, and that it speaks is all that a
bring-up looks at."""


class Launched:
    """A launch file under way, in a process; with the programs where launch looks for them."""

    def __init__(self, name: str, folder: Path, *arguments: str) -> None:
        prefix = folder / "prefix"
        (prefix / "share/ament_index/resource_index/packages").mkdir(parents=True)
        (prefix / "share/ament_index/resource_index/packages/flow_policy_ros").touch()
        (prefix / "lib/flow_policy_ros").mkdir(parents=True)
        stand_in = folder / "stand_in.py"
        stand_in.write_text(STAND_IN)
        for module in (*NODES, "lead_node"):
            run = f'"{stand_in}"' if module == "policy_node" else f"-m flow_policy_ros.nodes.{module}"
            program = prefix / "lib/flow_policy_ros" / module
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u {run} "$@"\n')
            program.chmod(0o755)
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "ROS_LOG_DIR": str(folder / "log"),
            "AMENT_PREFIX_PATH": os.pathsep.join(filter(None, [str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")])),
        }  # fmt: skip
        file = str(ROOT / "launch" / f"{name}.launch.py")
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", LAUNCH, file, *arguments], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.heard = Heard()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard(line.rstrip())

    @property
    def lines(self) -> list[str]:
        return self.heard.lines

    def wait_for(self, words: str, times: int = 1) -> None:
        self.heard.wait_for(words, times)

    def pid(self, module: str) -> int:
        """Of the newest process of a program."""
        text = "\n".join(self.lines)
        return int(re.findall(rf"\[{module}-\d+\]: process started with pid \[(\d+)\]", text)[-1])

    def interrupt(self) -> None:
        """As Ctrl-C in a terminal does: launch counts on it that its processes get the signal, too."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code


@pytest.fixture(name="launch")
def launch_fixture(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    under_way: list[Launched] = []

    def start(name: str, *arguments: str) -> Launched:
        under_way.append(Launched(name, tmp_path, *arguments))
        return under_way[-1]

    yield start
    for one in under_way:
        if one.process.poll() is None:
            one.interrupt()
        one.wait()
        print("\n".join(one.lines))


def test_a_refused_configuration_ends_the_launch_with_exit_code_1(launch: Callable[..., Launched], tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    given = ("observation:=state", f"checkpoint:={tmp_path}", "parameters:=command_node:command.collision_margin:=0.01")
    under_way = launch("policy", f"robot:={write_robot(tmp_path)}", *given)
    assert under_way.wait() == 1
    text = "\n".join(under_way.lines)
    assert "/command_node refused to configure: not configured:" in text
    assert "configure command_node was not done" in text and "policy_node" not in text


def test_a_killed_policy_comes_back_and_a_killed_command_node_ends_all(
    launch: Callable[..., Launched], ears: Ears, tmp_path: Path
) -> None:
    executed = ears.listen(JointStateMsg, "command/executed")
    FakeRobot(ears)
    (tmp_path / "config.json").touch()
    unhurried = "parameters:=" + " ".join(f"command_node:{name.replace('__', '.')}:={value}" for name, value in UNHURRIED.items())
    under_way = launch("policy", f"robot:={write_robot(tmp_path)}", "observation:=state", f"checkpoint:={tmp_path}", unhurried,
                       f"flights:={tmp_path / 'flights'}")  # fmt: skip
    under_way.wait_for("/command_node is active")
    under_way.wait_for("keeps the last 60 s")
    executed.wait_for()
    order = [re.sub(r"-\d+\]:.*", "", line) for line in under_way.lines if "process started" in line]
    expected = ("command_node", "lead_node", "flight_recorder_node", "policy_node", "lead_node")
    assert order == [f"[INFO] [{name}" for name in expected]
    first, command_pid = under_way.pid("policy_node"), under_way.pid("command_node")
    for pid in (under_way.process.pid, command_pid):  # Ctrl-Z reaches both: neither may stop
        (ignored,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
        assert int(ignored, 16) >> (signal.SIGTSTP - 1) & 1
    os.kill(first, signal.SIGKILL)
    under_way.wait_for("/policy_node ended with -9; it is started again in 1 s")
    under_way.wait_for("a stand-in gives chunks", times=2)
    assert under_way.pid("policy_node") != first and under_way.pid("command_node") == command_pid
    executed.wait_count(len(executed.messages) + 20)
    os.kill(command_pid, signal.SIGKILL)
    assert under_way.wait() == 1
    assert any("/command_node was ended by signal 9. It is not started again" in line for line in under_way.lines)


def test_two_robots(launch: Callable[..., Launched], ears: Ears, tmp_path: Path) -> None:
    robot = write_robot(tmp_path)
    sides = ("left", "right")
    given = [f"{side}_{name}:={value}" for side in sides for name, value in (("robot", robot), ("checkpoint", tmp_path))]
    diagnostics = {side: ears.listen(DiagnosticArray, f"/{side}/diagnostics") for side in sides}
    everybody = ears.listen(DiagnosticArray, "/diagnostics")
    under_way = launch("bringup", *given, "observation:=state")
    for side, inbox in diagnostics.items():
        under_way.wait_for(f"/{side}/command_node is active")
        inbox.wait_for()
    assert not everybody.messages
    under_way.interrupt()
    assert under_way.wait() == 0


def test_the_recorder(launch: Callable[..., Launched], ears: Ears, tmp_path: Path) -> None:
    FakeRobot(ears)
    out = tmp_path / "recordings"
    under_way = launch("record", f"robot:={write_robot(tmp_path)}", f"out:={out}", "start:=true", "name:=ours")
    under_way.wait_for("recording")
    under_way.interrupt()
    under_way.wait()
    assert [folder.name for folder in out.iterdir()] == ["ours_0001"]


@pytest.mark.slow
def test_a_recording(launch: Callable[..., Launched]) -> None:
    bag = ROOT / "samples" / "adroit_door" / "seed_5000"
    under_way = launch("replay", f"bag:={bag}", "observation:=state", "features:=objects")
    under_way.wait_for("/command_node is active")
    under_way.wait_for("/player/start: playing")
    under_way.interrupt()
    assert under_way.wait() == 0


@pytest.mark.slow
def test_the_simulated_robot(launch: Callable[..., Launched]) -> None:
    pytest.importorskip("mujoco")
    under_way = launch("sim", "observation:=state", "start:=true")
    under_way.wait_for("/command_node is active")
    under_way.wait_for("/sim/reset: episode 0 with seed 0 begins")
    under_way.interrupt()
    under_way.wait()
