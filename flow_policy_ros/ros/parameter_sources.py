"""Parameters given from outside for nodes that are yet to be started: in files, or one by one. Judged before any node runs.

Checked against the tables of ``runtime.parameters``; the form of the files is ``runtime.parameter_file``'s. What live nodes are
told is not in here, nor is the robot file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.runtime.parameter_file import read_parameters
from flow_policy_ros.runtime.parameters import BLOCKS, ParameterError, check

Value = str | int | float | bool
GIVEN = re.compile(r"(?P<node>/?[A-Za-z_][\w/]*):(?P<name>[A-Za-z_][\w.]*):?=(?P<value>.*)", re.DOTALL)
CLOCK = "use_sim_time"
OWN_OPTIONS = {"robot_file": "robot", "managed": "managed", "robot": "robot"}
"""What a bring-up says itself, by the option that says it."""
OF_ROS = ("qos_overrides", "start_type_description_service", "start_parameter_services")
"""What ROS declares in every node, and a dump therefore holds."""


@dataclass(frozen=True)
class Given:
    """One parameter from outside: ``node`` is its name, with or without name space; ``value`` is text, read as YAML."""

    node: str
    name: str
    value: str

    @staticmethod
    def parse(text: str) -> Given:
        """Of ``NODE:NAME:=VALUE``. Raises ``ParameterError``."""
        found = GIVEN.fullmatch(text.strip())
        if found is None:
            raise ParameterError(
                f"the parameter '{text}' cannot be read; expected NODE:NAME:=VALUE, such as policy_node:policy.steps:=5."
            )
        return Given(found["node"], found["name"], found["value"])

    def means(self, path: str) -> bool:
        """Whether the node with this full name is meant."""
        return path == f"/{self.node.lstrip('/')}" or ("/" not in self.node and path.rpartition("/")[2] == self.node)


def given_for(module: str, path: str, given: Sequence[Given]) -> dict[str, Value]:
    """Those for the node with the full name ``path``, checked. Raises ``ParameterError``."""
    found: dict[str, Value] = {}
    for one in given:
        if one.means(path):
            if one.name in OWN_OPTIONS:
                raise ParameterError(f"the parameter {one.name} is set by the option '{OWN_OPTIONS[one.name]}'; give that.")
            found[one.name] = _checked(module, one.name, one.value, f"given for {path}")
    return found


def refuse_strangers(given: Sequence[Given], paths: Sequence[str]) -> None:
    """Raises ``ParameterError`` for a parameter whose node is none of ``paths``."""
    for one in given:
        if not any(one.means(path) for path in paths):
            names = ", ".join(path.lstrip("/") for path in paths)
            raise ParameterError(f"the parameter {one.name} is for the node '{one.node}', which is not started; there are {names}.")


def from_file(module: str, path: str, file: Path) -> dict[str, Value]:
    """What a parameter file says for the node with the full name ``path``, checked.

    Blocks of other nodes, and what ROS itself declares, are passed over. Raises ``ParameterError`` or ``RobotFileError``, also
    where two blocks that mean the node disagree: ROS takes the later one, readers expect the narrower one.
    """
    found: dict[str, Value] = {}
    for section in read_parameters(file):
        if not section.means(path):
            continue
        for name, value in section.parameters.items():
            block = name.partition(".")[0]
            if block in OF_ROS or name in OWN_OPTIONS or (block in BLOCKS and block not in NODES[module].blocks):
                continue
            taken = _checked(module, name, value, f"in {file}")
            if found.setdefault(name, taken) != taken:
                raise ParameterError(
                    f"{file} says of {path} both that {name} is {found[name]!r} and that it is {taken!r}; leave one of them."
                )
    return found


def _checked(module: str, name: str, value: Any, where: str) -> Value:
    block, _, field = name.partition(".")
    if name == CLOCK:
        value = yaml.safe_load(value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise ParameterError(f"parameter {CLOCK} ({where}) is {value!r}, expected true or false.")
        return value
    blocks = NODES[module].blocks
    if block not in blocks:
        known = ", ".join([CLOCK, *(f"{b}.*" for b in blocks)])
        raise ParameterError(f"{where}: the node {module} has no parameter '{name}'; it has {known} (see docs/reference.md).")
    try:
        return check(BLOCKS[block], field, _read(BLOCKS[block], field, value), f"{block}.")
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from error


def _read(cls: type, field: str, value: Any) -> Any:
    """Text as what the field is; YAML calls 1e-3 a text, and 12 a number also where a text is wanted."""
    kinds = {f.name: type(f.default) for f in dataclasses.fields(cls)}
    if not isinstance(value, str) or field not in kinds:
        return value
    try:
        read = yaml.safe_load(value)
        if kinds[field] is str:
            return read if isinstance(read, str) else value
        return float(read) if kinds[field] is float and isinstance(read, str) else read
    except (yaml.YAMLError, ValueError):
        return value
