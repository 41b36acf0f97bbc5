"""The launch files: each carries out what ``flow_policy bringup`` does. Really launched in ``test_launch_nodes``."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_policy_ros.cli import bringup as command
from flow_policy_ros.ros.bringup import Bringup, NodeDescription, two_robots
from flow_policy_ros.ros.bringup_options import PolicyOptions, TwoOptions
from flow_policy_ros.ros.course import PAUSES_S
from flow_policy_ros.ros.processes import SUSPENDING

ROOT = Path(__file__).resolve().parents[1]
FILES = {"policy": "policy", "sim": "sim", "replay": "replay", "record": "record", "bringup": "two"}
"""Launch files, and the kinds of ``flow_policy bringup`` that they are."""
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None, reason="needs launch_ros, which only ROS installations have"
)


def path_of(name: str) -> Path:
    return ROOT / "launch" / f"{name}.launch.py"


def test_every_kind_has_its_launch_file() -> None:
    assert {p.name.removesuffix(".launch.py") for p in (ROOT / "launch").glob("*.py")} == set(FILES)
    assert set(FILES.values()) == set(command.KINDS)


@pytest.mark.parametrize("name", FILES)
def test_a_launch_file_decides_nothing_itself(name: str) -> None:
    """It names what the command names, and holds nothing else."""
    make, options = command.kinds()[FILES[name]]
    tree = ast.parse(path_of(name).read_text())
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert function.name == "generate_launch_description"
    assert ast.unparse(function.body[-1]) == f"return launch_description({options.__name__}, {make.__name__})"
    assert all(isinstance(n, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Expr)) for n in tree.body)


def test_every_program_is_installed() -> None:
    """``ros2 launch`` looks for executables in lib/<package>."""
    every = TwoOptions(flights="flights", left_markers=str(ROOT / "package.xml"))
    modules = {node.module for node in two_robots(every).nodes} | {"sim_node", "player_node", "recorder_node"}
    source = (ROOT / "setup.py").read_text()
    assert modules <= set(re.findall(r'"(\w+_node)"', source.partition("setup(")[0]))
    for module in modules:
        body = ast.parse((ROOT / "flow_policy_ros" / "nodes" / f"{module}.py").read_text()).body
        assert any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in body)


# With launch_ros.


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_launch", path_of(name))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@needs_launch
@pytest.mark.parametrize("name", FILES)
def test_arguments_are_the_commands_options(name: str) -> None:
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    from flow_policy_ros.ros.launching import options_from

    _, options = command.kinds()[FILES[name]]
    context = LaunchContext()
    declared = [entity for entity in load(name).entities if isinstance(entity, DeclareLaunchArgument)]
    for argument in declared:
        assert argument.description
        argument.visit(context)
    assert [argument.name for argument in declared] == [field.name for field in dataclasses.fields(options)]
    assert options_from(options, context) == options()


@needs_launch
def test_arguments_become_options() -> None:
    from launch import LaunchContext

    from flow_policy_ros.ros.launching import arguments, options_from

    context = LaunchContext()
    given = {
        "robot": "adroit_pen", "lockstep": "true", "instruction": "12", "params_files": "'a b.yaml' c.yaml",
        "parameters": "policy_node:policy.steps:=5 'policy_node:policy.instruction:=open the door'",
    }  # fmt: skip
    context.launch_configurations.update(given)
    for argument in arguments(PolicyOptions):
        argument.visit(context)
    assert options_from(PolicyOptions, context) == PolicyOptions(
        robot="adroit_pen", lockstep=True, instruction="12", params_files=("a b.yaml", "c.yaml"),
        parameters=("policy_node:policy.steps:=5", "policy_node:policy.instruction:=open the door"),
    )  # fmt: skip


@needs_launch
def test_a_wrong_choice_is_refused() -> None:
    from launch import LaunchContext

    from flow_policy_ros.ros.launching import arguments

    context = LaunchContext()
    context.launch_configurations["observation"] = "smell"
    with pytest.raises(RuntimeError, match="observation"):
        for argument in arguments(PolicyOptions):
            argument.visit(context)


@pytest.fixture
def suspended_as_before() -> Iterator[None]:
    before = [(number, signal.signal(number, signal.SIG_DFL)) for number in SUSPENDING]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@needs_launch
@pytest.mark.usefixtures("suspended_as_before")
@pytest.mark.parametrize(
    ("given", "command", "meant"),
    [
        ("dryrun:=true", "ros2 launch flow_policy_ros policy.launch.py", "'dryrun' here; did you mean 'dry_run'?"),
        ("robots:=adroit_pen", "ros2 launch flow_policy_ros policy.launch.py", "did you mean 'robot'?"),
        ("launch_rviz:=true", "ros2 launch flow_policy_ros policy.launch.py", "no argument 'launch_rviz' here; Nothing"),
        ("dry-run:=true", "ros2 launch my_robot all.launch.py", "did you mean 'dry_run'?"),
        ("launch_rviz:=true", "ros2 launch my_robot all.launch.py", None),  # an argument of the file around ours, perhaps
        ("launch-prefix:=nice", "ros2 launch flow_policy_ros policy.launch.py", None),
        ("dry_run:=true", "ros2 launch flow_policy_ros policy.launch.py", None),
    ],
)
def test_a_misspelt_argument_is_refused(given: str, command: str, meant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run that was asked for and is passed over would move the robot."""
    from launch import LaunchContext, LaunchDescription

    from flow_policy_ros.ros import launching

    monkeypatch.setattr(sys, "argv", [*command.split(), given])
    context = LaunchContext(argv=[given])
    context.launch_configurations.update([given.split(":=")])
    begun: list[PolicyOptions] = []

    def describe(options: PolicyOptions) -> Bringup:
        begun.append(options)
        return Bringup("", ())

    def visit(description: LaunchDescription) -> None:
        for entity in description.entities:
            entity.visit(context)

    description = launching.launch_description(PolicyOptions, describe)
    if meant is None:
        visit(description)
        assert begun[0].dry_run == given.startswith("dry_run")
        assert all(signal.getsignal(number) == signal.SIG_IGN for number in SUSPENDING)
        return
    with pytest.raises(ValueError, match=re.escape(meant)):
        visit(description)
    assert not begun and all(signal.getsignal(number) == signal.SIG_DFL for number in SUSPENDING)


@needs_launch
def test_launch_passes_everything_on_as_it_is() -> None:
    """Texts that look like numbers stay texts, numbers numbers; time to stop; name space, name, remaps."""
    from launch import LaunchContext
    from launch_ros.utilities import evaluate_parameters

    from flow_policy_ros.ros.launching import action_of

    parameters = {"a.text": "12", "a.yes": "yes", "a.flag": True, "a.whole": 3, "a.number": 2.0, "a.empty": "", "a.path": "/x y"}
    apart = {"/diagnostics": "/left/diagnostics"}
    node = NodeDescription("policy_node", "policy_node", "/left", parameters, apart, patience_s=12.0)
    context, action = LaunchContext(), action_of(node)
    (evaluated,) = evaluate_parameters(context, action._Node__parameters)
    assert dict(evaluated) == parameters
    assert {name: type(value) for name, value in evaluated.items()} == {name: type(value) for name, value in parameters.items()}
    assert action.node_executable == "policy_node"
    assert not [part for part in _line(context, action) if part == "--enclave"]
    line = _line(context, action_of(dataclasses.replace(node, enclave="/flow_policy/left/policy_node")))
    assert line[line.index("--enclave") + 1] == "/flow_policy/left/policy_node"
    assert line.index("--ros-args") < line.index("--enclave")
    timeout = action._ExecuteLocal__sigterm_timeout
    assert "".join(context.perform_substitution(part) for part in timeout) == "12.0"


def _line(context: Any, action: Any) -> list[str]:
    """The words of the command line that are no substitutions of launch."""
    return [context.perform_substitution(part[0]) for part in action.cmd[1:] if type(part[0]).__name__ == "TextSubstitution"]


@needs_launch
def test_launch_starts_nothing_unprotected_that_is_to_run_in_enclaves(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch import LaunchContext
    from launch.actions import OpaqueFunction

    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    context, description = LaunchContext(), load("policy")
    context.launch_configurations.update({"enclaves": "/flow_policy", "observation": "state"})
    for entity in description.entities:
        if not isinstance(entity, OpaqueFunction):
            entity.visit(context)
    with pytest.raises(ValueError, match="would run unprotected"):
        description.entities[-1].visit(context)


def started(entities: list[Any]) -> list[str]:
    """The names of the nodes among the entities."""
    from launch_ros.actions import Node

    return ["".join(part.text for part in e._Node__node_name) if isinstance(e._Node__node_name, list) else e._Node__node_name
            for e in entities if isinstance(e, Node)]  # fmt: skip


@needs_launch
def test_the_order_is_the_descriptions_and_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.actions import LogInfo, TimerAction

    from flow_policy_ros.ros.launching import BringupEnded, Carried

    command_node = NodeDescription("command_node", "command_node", managed=True)
    step = NodeDescription("lead_node", "configure_command", after=("/command_node",), task=True, arguments=("configure", "x"))
    policy = NodeDescription("policy_node", "policy_node", after=("/configure_command",), respawn=True)
    carried = Carried(Bringup("", (command_node, step, policy)))
    assert started(carried.next()) == ["command_node", "configure_command"]
    assert started(carried._ended(step, 0)) == ["policy_node"]
    said, timer = carried._ended(policy, -9)
    assert isinstance(said, LogInfo) and isinstance(timer, TimerAction)
    flight = NodeDescription("flight_recorder_node", "flight_recorder_node", respawn=True, onlooker=True)
    other = Carried(Bringup("", (command_node, flight)))
    other.next()
    for _ in PAUSES_S:
        assert isinstance(other._ended(flight, -9)[1], TimerAction)
    (lost,) = other._ended(flight, -9)
    assert isinstance(lost, LogInfo)
    with pytest.raises(BringupEnded, match="/command_node ended with exit code 0"):
        carried._ended(command_node, 0)
