"""The dataclasses of ``runtime.parameters`` as ROS parameters: declared with descriptors, changed all or nothing.

A node reads frozen dataclasses; it never asks ROS for a single parameter. Defaults come from the robot file; a value
given on the command line or in a parameter file goes before them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from flow_policy_ros.runtime.parameter_reasons import why_at_start
from flow_policy_ros.runtime.parameters import BLOCKS, ParameterError, check, from_flat
from flow_policy_ros.runtime.robot import Robot, RobotFileError, load_robot

T = TypeVar("T")


SIMULATED = "use_sim_time"


def descriptor(field: dataclasses.Field[Any], name: str) -> ParameterDescriptor:
    """Description of the parameter ``name`` with unit, bounds, choices; read-only, and why, unless the field is live.

    The type is left to ``check``, which takes ``10`` for a float where ROS would insist on ``10.0``.
    """
    unit, bounds, choices = field.metadata["unit"], field.metadata["bounds"], field.metadata["choices"]
    constraints = ["one of: " + ", ".join(choice or "''" for choice in choices)] if choices else []
    if not field.metadata["live"]:
        constraints.append(f"at start only: {why_at_start(name)}")
    result = ParameterDescriptor(
        description=field.metadata["description"] + (f" [{unit}]" if unit else ""),
        read_only=not field.metadata["live"],
        dynamic_typing=True,
        additional_constraints="; ".join(constraints),
    )
    if bounds is not None and isinstance(field.default, float):
        result.floating_point_range = [FloatingPointRange(from_value=float(bounds[0]), to_value=float(bounds[1]))]
    elif bounds is not None:
        result.integer_range = [IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=1)]
    return result


def robot_of(node: Node) -> Robot:
    """Declare ``robot_file``, if it is not yet, and read that file. Raises ``RobotFileError``."""
    text = "Robot file (YAML): joints, limits, cameras, topics, and the defaults of the other parameters."
    if not node.has_parameter("robot_file"):
        node.declare_parameter("robot_file", "", ParameterDescriptor(description=text, read_only=True))
    value = node.get_parameter("robot_file").value
    if not value:
        raise RobotFileError(
            "the parameter robot_file is not set; give the path of a robot file, for instance "
            "--ros-args -p robot_file:=config/robots/adroit_door.yaml."
        )
    return load_robot(value)


class NodeParameters:
    """The parameter blocks of one node, declared under their prefixes (``policy.rate_hz``).

    ``on_change(prefix, block)`` is called with the new block at a valid change, from the thread that spins the node; if it
    raises a ``ValueError`` the change is refused with its text, and nothing changes.
    ``judge(prefix, block)`` is called before and raises ``ParameterError`` for what the block's own bounds cannot tell.
    ``orders`` are parameters to be obeyed whenever they are set, also to the value that they have: something else may have been
    said since, in another way. Each is called last, with the value, and may refuse as ``on_change`` may.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot | None,
        prefixes: tuple[str, ...],
        on_change: Callable[[str, Any], None] | None = None,
        judge: Callable[[str, Any], None] | None = None,
        orders: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> None:
        """Raises ``ParameterError`` for a value out of type, bounds or choices, and for an unknown name under a prefix.
        Without a ``robot`` defaults are those of the classes."""
        self._node = node
        self._on_change = on_change
        self._judge = judge
        self._orders = dict(orders or {})
        self._blocks: dict[str, Any] = {}
        for prefix in prefixes:
            cls = BLOCKS[prefix]
            self._blocks[prefix] = _declare(node, cls, prefix, from_flat(cls, prefix, {} if robot is None else robot.parameters))
            _refuse_unknown(node, cls, prefix)
        node.add_on_set_parameters_callback(self._set)

    def withdraw(self) -> None:
        """Undeclare them all, so that they can be declared with the defaults of another robot file."""
        self._node.remove_on_set_parameters_callback(self._set)
        undeclare(self._node, tuple(self._blocks))

    def block(self, cls: type[T]) -> T:
        """The current block of type ``cls``."""
        return next(block for block in self._blocks.values() if type(block) is cls)

    def _set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """Take all of ``parameters`` or none. Of those that are not ours none is to be refused after this: what we were told would
        be in force then, and not be what the node says of itself."""
        changed = dict(self._blocks)
        told: list[str] = []
        try:
            for parameter in parameters:
                self._require_clock(parameter)
                prefix, _, name = parameter.name.partition(".")
                if prefix in changed:
                    block = changed[prefix]
                    value = check(type(block), name, parameter.value, prefix + ".")
                    changed[prefix] = dataclasses.replace(block, **{name: value})
            if self._judge is not None:
                for prefix, block in changed.items():
                    if block != self._blocks[prefix]:
                        self._judge(prefix, block)
            for prefix, block in changed.items():
                if self._on_change is not None and block != self._blocks[prefix]:
                    self._on_change(prefix, block)
                    told.append(prefix)
            for parameter in parameters:
                if parameter.name in self._orders:
                    self._orders[parameter.name](parameter.value)
        except ValueError as error:
            self._take_back(told)
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # must not end a node that holds a robot
            self._take_back(told)
            reason = f"{type(error).__name__}: {error}. This is a bug; report it."
            self._node.get_logger().error(f"parameters not changed: {reason}")
            return SetParametersResult(successful=False, reason=reason)
        self._blocks = changed
        return SetParametersResult(successful=True)

    def _take_back(self, told: list[str]) -> None:
        for prefix in told:
            try:
                if self._on_change is not None:
                    self._on_change(prefix, self._blocks[prefix])
            except Exception as error:
                self._node.get_logger().error(f"parameters of {prefix} not taken back: {error}. Restart the node.")

    def _require_clock(self, parameter: Parameter[Any]) -> None:
        """Raises ``ParameterError`` for another clock than the one of the start: stamps of both would be compared."""
        if parameter.name == SIMULATED and parameter.value != self._node.get_parameter(SIMULATED).value:
            raise ParameterError(
                f"{SIMULATED} is set at start only, since stamps of two clocks cannot be compared; restart the node with "
                f"-p {SIMULATED}:={str(parameter.value).lower()}."
            )


def undeclare(node: Node, prefixes: tuple[str, ...]) -> None:
    """Undeclare what is declared under ``prefixes``, read-only parameters too."""
    for name in [n for n in node._parameters if n.partition(".")[0] in prefixes]:
        # rclpy undeclares no read-only parameter, though nobody but the node itself can ask for it
        node._descriptors[name].read_only = False
        node.undeclare_parameter(name)


def _refuse_unknown(node: Node, cls: type, prefix: str) -> None:
    """ROS drops a given parameter that nobody declares: of a misspelt limit, or a dry run asked for without the prefix, nothing
    would be heard again."""
    fields = {field.name for field in dataclasses.fields(cls)}
    for name, given in node._parameter_overrides.items():  # rclpy has no public way to see them
        head, _, tail = name.partition(".")
        if name in fields and not node.has_parameter(name):
            raise ParameterError(f"parameter {name}: the node has none of this name, it has {prefix}.{name}; give that.")
        if head == prefix:
            check(cls, tail, given.value, prefix + ".")


def _declare(node: Node, cls: type[T], prefix: str, defaults: T) -> T:
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name, default = f"{prefix}.{field.name}", getattr(defaults, field.name)
        try:
            declared = node.declare_parameter(name, default, descriptor(field, name))
        except InvalidParameterValueException as error:  # rclpy looks at the descriptor's range first
            low, high = field.metadata["bounds"]
            raise ParameterError(f"parameter {name}: {error}; expected {low} to {high}.") from error
        values[field.name] = check(cls, field.name, declared.value, prefix + ".")
    return cls(**values)
