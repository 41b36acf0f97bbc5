"""Node parameters: declared from the dataclasses, defaults from the robot file, changed all or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_support import write_robot

pytest.importorskip("rclpy")
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.parameters import BLOCKS, CommandParameters, ParameterError, PolicyParameters
from flow_policy_ros.runtime.robot import RobotFileError, load_robot


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    result = rclpy.Context()
    result.init()
    yield result
    result.try_shutdown()


def make_node(context: rclpy.Context, **overrides: Any) -> Node:
    parameters = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
    return Node("parameters", context=context, parameter_overrides=parameters)


def test_a_name_without_its_prefix_is_refused(context: rclpy.Context, tmp_path: Path) -> None:
    """ROS would drop it without a word, and a dry run with it."""
    robot = load_robot(write_robot(tmp_path))
    with pytest.raises(ParameterError, match=r"parameter dry_run: the node has none of this name, it has command.dry_run"):
        NodeParameters(make_node(context, dry_run=True), robot, ("command",))
    NodeParameters(make_node(context, command__dry_run=True, use_sim_time=False, robot_file="x", steps=3), robot, ("command",))


def test_every_parameter_has_description_unit_bounds(context: rclpy.Context, tmp_path: Path) -> None:
    node = make_node(context)
    NodeParameters(node, load_robot(write_robot(tmp_path)), tuple(BLOCKS))
    for prefix, cls in BLOCKS.items():
        for field in dataclasses.fields(cls):
            descriptor = node.describe_parameter(f"{prefix}.{field.name}")
            assert descriptor.description.startswith(field.metadata["description"])
            assert not field.metadata["unit"] or descriptor.description.endswith(f"[{field.metadata['unit']}]")
            assert descriptor.read_only is not field.metadata["live"]
            if field.metadata["bounds"] is not None:
                (limits,) = [*descriptor.floating_point_range, *descriptor.integer_range]
                assert (limits.from_value, limits.to_value) == field.metadata["bounds"]
            assert all(choice in descriptor.additional_constraints for choice in field.metadata["choices"])


def test_robot_file_gives_defaults_and_the_command_line_goes_first(context: rclpy.Context, tmp_path: Path) -> None:
    robot = load_robot(write_robot(tmp_path))
    robot = dataclasses.replace(robot, parameters={"command.rate_hz": 250, "command.limit_scale": 0.5})
    node = make_node(context, command__rate_hz=50)  # an integer, as one writes it
    block = NodeParameters(node, robot, ("command",)).block(CommandParameters)
    assert block == CommandParameters(rate_hz=50.0, limit_scale=0.5) and isinstance(block.rate_hz, float)


@pytest.mark.parametrize("given", [{"command__rate_hz": 0.0}, {"command__rate_hz": "fast"}, {"command__rate_hz": True}])
def test_a_bad_value_at_start_is_refused(context: rclpy.Context, tmp_path: Path, given: dict[str, Any]) -> None:
    node = make_node(context, **given)
    with pytest.raises(ParameterError, match=r"command\.rate_hz"):
        NodeParameters(node, load_robot(write_robot(tmp_path)), ("command",))


def test_changes_are_all_or_nothing(context: rclpy.Context, tmp_path: Path) -> None:
    node = make_node(context)
    changes: list[tuple[str, object]] = []
    parameters = NodeParameters(
        node, load_robot(write_robot(tmp_path)), ("policy",), lambda prefix, block: changes.append((prefix, block))
    )
    before = parameters.block(PolicyParameters)
    too_fast = Parameter("policy.rate_hz", value=1000.0)
    refused = node.set_parameters_atomically([Parameter("policy.steps", value=3), too_fast])
    assert not refused.successful and "policy.rate_hz" in refused.reason
    wrong_type = node.set_parameters_atomically([Parameter("policy.steps", value=3), Parameter("policy.seed", value=1.5)])
    assert not wrong_type.successful and "expected int" in wrong_type.reason
    static = node.set_parameters_atomically([Parameter("policy.steps", value=3), Parameter("policy.threads", value=2)])
    assert not static.successful
    assert parameters.block(PolicyParameters) == before and not changes
    assert node.get_parameter("policy.steps").value == before.steps

    both = [Parameter("policy.steps", value=3), Parameter("policy.rate_hz", value=20)]
    assert node.set_parameters_atomically(both).successful
    after = dataclasses.replace(before, steps=3, rate_hz=20.0)
    assert parameters.block(PolicyParameters) == after and changes == [("policy", after)]


def test_what_bounds_cannot_tell_is_judged_before_anything_changes(context: rclpy.Context, tmp_path: Path) -> None:
    node = make_node(context)
    changes: list[object] = []

    def judge(prefix: str, block: Any) -> None:
        if block.steps > 5:
            raise ParameterError("too many steps for this checkpoint.")

    parameters = NodeParameters(
        node, load_robot(write_robot(tmp_path)), ("policy",), lambda prefix, block: changes.append(block), judge
    )
    before = parameters.block(PolicyParameters)
    refused = node.set_parameters_atomically([Parameter("policy.rate_hz", value=20.0), Parameter("policy.steps", value=6)])
    assert not refused.successful and refused.reason == "too many steps for this checkpoint."
    assert parameters.block(PolicyParameters) == before and not changes
    assert node.set_parameters_atomically([Parameter("policy.steps", value=5)]).successful and len(changes) == 1


def test_an_order_is_obeyed_again_and_what_refuses_it_changes_nothing(context: rclpy.Context, tmp_path: Path) -> None:
    node = make_node(context)
    changes: list[Any] = []
    said: list[str] = []

    def order(text: str) -> None:
        if text == "nonsense":
            raise ParameterError("nobody can read that.")
        said.append(text)

    parameters = NodeParameters(
        node, load_robot(write_robot(tmp_path)), ("policy",), lambda _, block: changes.append(block),
        orders={"policy.instruction": order},
    )  # fmt: skip
    before = parameters.block(PolicyParameters)
    left = Parameter("policy.instruction", value="go left")
    for _ in range(2):
        assert node.set_parameters_atomically([left]).successful
    assert said == ["go left", "go left"] and len(changes) == 1  # the second time nothing changed, and it was an order still
    assert node.set_parameters_atomically([Parameter("policy.steps", value=3)]).successful and len(said) == 2
    refused = [Parameter("policy.steps", value=4), Parameter("policy.instruction", value="nonsense")]
    answer = node.set_parameters_atomically(refused)
    assert not answer.successful and answer.reason == "nobody can read that."
    told = dataclasses.replace(before, steps=3, instruction="go left")
    assert parameters.block(PolicyParameters) == told == changes[-1]
    assert node.get_parameter("policy.instruction").value == "go left" and node.get_parameter("policy.steps").value == 3
    unsound = [left, Parameter("policy.rate_hz", value=1000.0)]
    assert not node.set_parameters_atomically(unsound).successful and len(said) == 2


def test_another_clock_is_refused_and_all_that_is_asked_with_it(context: rclpy.Context, tmp_path: Path) -> None:
    node = make_node(context)
    changes: list[object] = []
    parameters = NodeParameters(node, load_robot(write_robot(tmp_path)), ("policy",), lambda _, block: changes.append(block))
    before = parameters.block(PolicyParameters)
    given = Parameter("use_sim_time", value=True)
    for both in ([Parameter("policy.steps", value=3), given], [given, Parameter("policy.steps", value=3)]):
        answer = node.set_parameters_atomically(both)
        assert not answer.successful and "two clocks" in answer.reason
        assert parameters.block(PolicyParameters) == before and not changes
        assert node.get_parameter("policy.steps").value == before.steps and node.get_parameter("use_sim_time").value is False
    same = [Parameter("policy.steps", value=3), Parameter("use_sim_time", value=False)]
    assert node.set_parameters_atomically(same).successful and len(changes) == 1


@pytest.mark.parametrize("where", ["judge", "change", "order"])
@pytest.mark.parametrize("error", [ValueError("no."), RuntimeError("no.")])
def test_an_error_in_a_change_is_a_refusal_and_not_the_end_of_the_node(
    context: rclpy.Context, tmp_path: Path, where: str, error: Exception
) -> None:
    told: list[Any] = []

    def fail(place: str, block: Any) -> None:
        if place == where and getattr(block, "steps", 3) == 3:
            raise error
        if place == "change":
            told.append(block)

    node = make_node(context)
    parameters = NodeParameters(
        node, load_robot(write_robot(tmp_path)), ("policy",), lambda _, block: fail("change", block),
        lambda _, block: fail("judge", block), {"policy.instruction": lambda text: fail("order", text)},
    )  # fmt: skip
    before = parameters.block(PolicyParameters)
    answer = node.set_parameters_atomically([Parameter("policy.steps", value=3), Parameter("policy.instruction", value="go")])
    assert not answer.successful and "no." in answer.reason
    assert ("This is a bug" in answer.reason) is isinstance(error, RuntimeError)
    assert parameters.block(PolicyParameters) == before and node.get_parameter("policy.steps").value == before.steps
    assert [block.steps for block in told] == ([3, before.steps] if where == "order" else [])
    assert node.set_parameters_atomically([Parameter("policy.steps", value=4)]).successful


def test_what_is_set_at_start_says_why(context: rclpy.Context, tmp_path: Path) -> None:
    node = make_node(context)
    NodeParameters(node, load_robot(write_robot(tmp_path)), ("command",))
    words = node.describe_parameter("command.deadman").additional_constraints
    assert words.startswith("one of: '', bool, joy; at start only: what keeps the robot from moving")
    assert node.describe_parameter("command.limit_scale").additional_constraints == ""


def test_the_robot_file_must_be_given(context: rclpy.Context, tmp_path: Path) -> None:
    with pytest.raises(RobotFileError, match="robot_file is not set"):
        robot_of(make_node(context))
    node = make_node(context, robot_file=str(write_robot(tmp_path)))
    assert robot_of(node).name == "two_joints"
