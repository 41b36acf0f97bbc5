"""The systemd units: what they start is what the programs take, and nothing starts the command node again."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flow_policy_ros.cli.main import main
from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.runtime.parameters import BLOCKS, CommandParameters, check

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "config" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))


def entries(unit: Path) -> dict[str, list[str]]:
    """Every key of the unit with its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def environment() -> dict[str, str]:
    lines = [line for line in (FOLDER / "flow_policy.env").read_text().splitlines() if line and not line.startswith("#")]
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def command(unit: str) -> list[str]:
    """The command line, with the environment's values in it."""
    (line,) = entries(FOLDER / unit)["ExecStart"]
    return shlex.split(re.sub(r"\${(\w+)}", lambda match: environment()[match[1]], line))


def test_the_bring_up_takes_what_the_unit_gives_it(capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = command("flow_policy.service")
    assert Path(program).name == "flow_policy"
    assert main([*arguments, "--print"]) == 0
    text = capsys.readouterr().out
    assert "/command_node" in text and re.search(r"command\.autostart: False", text), "at boot nothing may move by itself"


def test_the_flight_recorder_takes_what_the_unit_gives_it() -> None:
    program, *arguments = command("flow_policy_flight.service")
    assert Path(program).name in NODES and Path(program).name == "flight_recorder_node"
    given = dict(word.split(":=") for word in arguments if ":=" in word)
    assert set(given) == {"robot_file", "flight.out"}
    assert check(BLOCKS["flight"], "out", given["flight.out"]) == given["flight.out"]
    assert (ROOT / given["robot_file"].split("/share/flow_policy_ros/")[1]).is_file()


def test_nothing_starts_the_command_node_again() -> None:
    bringup, flight = entries(FOLDER / "flow_policy.service"), entries(FOLDER / "flow_policy_flight.service")
    assert bringup["Restart"] == ["no"] and flight["Restart"] == ["on-failure"]
    for unit in UNITS:
        assert not any(key.startswith("Watchdog") for key in entries(unit)), "no program here feeds a watchdog"
        assert not any("sh -c" in value for values in entries(unit).values() for value in values)


def test_the_control_loop_gets_its_priority_and_its_time_to_stop() -> None:
    from flow_policy_ros.ros.bringup import STOP_PATIENCE_S

    unit = entries(FOLDER / "flow_policy.service")
    assert int(unit["LimitRTPRIO"][0]) >= CommandParameters().realtime_priority and unit["LimitMEMLOCK"] == ["infinity"]
    assert (unit["KillMode"], unit["KillSignal"]) == (["mixed"], ["SIGINT"])
    assert float(unit["TimeoutStopSec"][0]) > 2 * STOP_PATIENCE_S
    assert unit["CPUAffinity"] != entries(FOLDER / "flow_policy_flight.service")["CPUAffinity"]


def test_systemd_itself_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    for unit in UNITS:
        text = re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text())
        (tmp_path / unit.name).write_text(text.replace("User=robot", "User=root"))
    def said() -> str:
        done = subprocess.run([analyze, "verify", *(str(tmp_path / u.name) for u in UNITS)], capture_output=True, text=True)
        return "\n".join(line for line in done.stderr.splitlines() if "flow_policy" in line)

    assert said() == ""
    planted = tmp_path / "flow_policy.service"
    planted.write_text(planted.read_text().replace("KillMode=mixed", "KillMode=gently"))
    assert "gently" in said()
