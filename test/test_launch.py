"""The launch files: same nodes, same parameters, same robot file as elsewhere. Really launched where launch_ros is installed."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from flow_policy_ros.runtime.parameters import BLOCKS

ROOT = Path(__file__).resolve().parents[1]
FILES = {name: ROOT / "launch" / f"{name}.launch.py" for name in ("policy", "sim")}
ARGUMENTS = {"robot", "checkpoint", "detector", "observation", "namespace", "use_sim_time", "lockstep", "managed"}
ARGUMENTS |= {"extractor", "model", "instruction"}
ROS_OWN = {"robot_file", "use_sim_time"}


def calls(path: Path, name: str) -> list[ast.Call]:
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == name]


def strings(path: Path) -> set[str]:
    """All string constants of a file."""
    return {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def declared(path: Path) -> set[str]:
    return {call.args[0].value for call in calls(path, "DeclareLaunchArgument") if isinstance(call.args[0], ast.Constant)}


@pytest.mark.parametrize("name", FILES)
def test_arguments(name: str) -> None:
    assert declared(FILES[name]) >= ARGUMENTS
    for call in calls(FILES[name], "DeclareLaunchArgument"):
        assert any(k.arg == "description" for k in call.keywords), ast.unparse(call)


def test_everything_that_policy_takes_is_passed_on_by_sim() -> None:
    source = FILES["sim"].read_text()
    passed = ast.literal_eval(re.search(r"^PASSED_ON = (\([^)]*\))", source, re.M).group(1))  # type: ignore[union-attr]
    assert set(passed) == declared(FILES["policy"])


@pytest.mark.parametrize("name", FILES)
def test_parameters_are_declared_by_the_nodes(name: str) -> None:
    given = {s for s in strings(FILES[name]) if re.fullmatch(r"[a-z_]+\.[a-z_]+", s)}
    known = {f"{block}.{field}" for block, cls in BLOCKS.items() for field in cls.__dataclass_fields__}
    assert given and given <= known
    assert "robot_file" in strings(FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_executables_are_installed_programs(name: str) -> None:
    nodes = {s for s in strings(FILES[name]) if s.endswith("_node")}
    assert nodes == ({"sim_node"} if name == "sim" else {"perception_node", "policy_node", "command_node"})
    for node in nodes:
        module = ast.parse((ROOT / "flow_policy_ros" / "nodes" / f"{node}.py").read_text())
        assert any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in module.body)
        assert f'super().__init__("{node}")' in ast.unparse(module).replace("'", '"')


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_launch", FILES[name])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(name: str, tmp_path: Path, **arguments: str) -> dict[str, dict[str, Any]]:
    """Each node that the launch file would start, with its parameters."""
    pytest.importorskip("launch_ros", reason="needs launch_ros, which only ROS installations have")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument
    from launch_ros.actions import Node
    from launch_ros.utilities import evaluate_parameters

    module, context = load(name), LaunchContext()
    for folder in ("checkpoint", "detector"):
        (tmp_path / folder).mkdir(exist_ok=True)
        context.launch_configurations[folder] = str(tmp_path / folder)
    context.launch_configurations.update(arguments)
    for entity in module.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    started = {}
    for node in (module.nodes if name == "policy" else module.entities)(context):
        if not isinstance(node, Node):  # sim.launch.py includes policy.launch.py
            continue
        (parameters,) = evaluate_parameters(context, node._Node__parameters)
        started[node.node_executable] = dict(parameters)
    return started


def test_policy_starts_three_nodes_on_one_robot_file(tmp_path: Path) -> None:
    started = described("policy", tmp_path, robot="adroit_pen", lockstep="true", use_sim_time="true")
    assert set(started) == {"perception_node", "policy_node", "command_node"}
    for parameters in started.values():
        assert parameters["robot_file"] == str(ROOT / "config" / "robots" / "adroit_pen.yaml")
        assert parameters["lockstep.enabled"] is True and parameters["use_sim_time"] is True
    assert started["policy_node"]["policy.checkpoint"] == str(tmp_path / "checkpoint")
    assert started["perception_node"]["perception.detector"] == str(tmp_path / "detector")


def test_another_extractor_has_its_weights_from_its_model(tmp_path: Path) -> None:
    words = {"extractor": "vlm", "model": "my_vlm", "instruction": "open the door"}
    started = described("policy", tmp_path, **words)
    given = {name: value for name, value in started["perception_node"].items() if name.startswith("perception.")}
    assert given == {f"perception.{name}": value for name, value in words.items()}
    assert started["policy_node"]["policy.instruction"] == "open the door"
    slots = described("policy", tmp_path, extractor="object_slots")["perception_node"]
    assert slots["perception.detector"] == str(tmp_path / "detector") and "perception.model" not in slots
    assert "policy.instruction" not in described("policy", tmp_path)["policy_node"]
    assert described("sim", tmp_path, instruction="the red goal")["sim_node"]["sim.instruction"] == "the red goal"


def test_policy_on_the_object_state_needs_no_perception(tmp_path: Path) -> None:
    assert set(described("policy", tmp_path, observation="state")) == {"policy_node", "command_node"}


@pytest.mark.parametrize("lockstep", ["true", "false"])
def test_sim_is_either_in_lockstep_or_in_real_time(lockstep: str, tmp_path: Path) -> None:
    parameters = described("sim", tmp_path, lockstep=lockstep, seed="7")["sim_node"]
    assert parameters["lockstep.enabled"] is (lockstep == "true")
    assert parameters["sim.realtime"] is (lockstep == "false")
    assert parameters["sim.seed"] == 7


def test_sim_starts_the_robot_last() -> None:
    """Else a checkpoint that policy.launch.py refuses would leave the robot's process behind."""
    pytest.importorskip("launch_ros", reason="needs launch_ros, which only ROS installations have")
    from launch import LaunchContext
    from launch.actions import IncludeLaunchDescription

    module, context = load("sim"), LaunchContext()
    for argument in module.ARGUMENTS:
        argument.visit(context)
    policy, robot = module.entities(context)
    assert isinstance(policy, IncludeLaunchDescription) and robot.node_executable == "sim_node"
    context.launch_configurations["policy"] = "false"
    assert [node.node_executable for node in module.entities(context)] == ["sim_node"]


def test_a_robot_that_does_not_exist_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nope' does not exist"):
        described("policy", tmp_path, robot="nope")
