"""ROS parameter files (``NODE: ros__parameters: …``): read as flat names by node, matched with nodes, written. ROS-free.

``ros2 param dump`` writes such files, ``--params-file`` takes them, a robot file is one. Whether a node wants the values is not
known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flow_policy_ros.runtime.parameters import ParameterError
from flow_policy_ros.runtime.robot_yaml import flatten, read_yaml

BELOW = "ros__parameters"


@dataclass(frozen=True)
class Section:
    """The parameters, by full name, of the nodes that ``pattern`` names: ``/policy_node``, ``/left/*``, ``/**``."""

    pattern: str
    parameters: Mapping[str, Any]

    @property
    def exact(self) -> bool:
        """Whether it means one node, and not any that fits."""
        return "*" not in self.pattern

    def means(self, node: str) -> bool:
        """Whether it is for the node of this full name. As in rcl ``*`` is one part of a name, ``**`` any number of them."""
        parts = self.pattern.strip("/").split("/")
        matched = "".join("(/[^/]+)*" if part == "**" else "/[^/]+" if part == "*" else "/" + re.escape(part) for part in parts)
        return re.fullmatch(matched, node) is not None


def read_parameters(path: Path) -> list[Section]:
    """The sections of a file, general ones first, so that a later one goes before those ahead of it.

    Raises ``RobotFileError`` for a file that cannot be read, ``ParameterError`` for one of another form.
    """
    tree = read_yaml(path, "parameter file", "what flow_policy params dump writes")
    sections = _sections(tree, "", path)
    if not sections:
        raise ParameterError(f"parameter file {path} has no {BELOW}; expected NODE: {BELOW}: NAME: VALUE, or /** in place of NODE.")
    return sorted(sections, key=lambda section: (section.exact, section.pattern != "/**"))


def _sections(tree: Any, prefix: str, path: Path) -> list[Section]:
    """Name spaces may be nested."""
    if not isinstance(tree, dict):
        where = f"'{prefix}' holds" if prefix else "it is"
        raise ParameterError(f"parameter file {path}: {where} {tree!r}, expected NODE: {BELOW}: NAME: VALUE.")
    found = []
    for key, block in tree.items():
        if key == BELOW and prefix:
            if not isinstance(block or {}, dict):
                raise ParameterError(f"parameter file {path}: {BELOW} of '{prefix}' is {block!r}, expected NAME: VALUE.")
            found.append(Section(prefix, {} if block is None else flatten(block)))
        else:
            found += _sections(block, f"{prefix}/{str(key).strip('/')}", path)
    return found


def wanted_of(sections: list[Section], nodes: Mapping[str, Mapping[str, object]], path: Path) -> dict[str, dict[str, Any]]:
    """What the sections want of each of ``nodes`` (by full name, its parameters by full name); nodes of which nothing are left out.

    A parameter under a wildcard is for those nodes that have it. Raises ``ParameterError`` for one that nobody has, and for a
    section that means no node.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for section in sections:
        meant = [node for node in nodes if section.means(node)]
        if not meant:
            there = ", ".join(nodes) or "none"
            raise ParameterError(f"parameter file {path} is for '{section.pattern}', but no such node is alive; there are {there}.")
        for name, value in section.parameters.items():
            having = [node for node in meant if name in nodes[node]]
            if not having:
                raise ParameterError(
                    f"parameter file {path}: no node of '{section.pattern}' ({', '.join(meant)}) has a parameter {name}; correct "
                    "or remove it ('flow_policy params list' shows what there is)."
                )
            for node in having:
                wanted.setdefault(node, {})[name] = value
    return wanted


def write_parameters(nodes: Mapping[str, Mapping[str, Any]], comment: str = "") -> str:
    """The text of a file with the parameters of ``nodes`` (by full name), with lines of ``comment`` at the top."""
    tree = {node: {BELOW: _nested(parameters)} for node, parameters in nodes.items()}
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def _nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in sorted(parameters.items()):
        *blocks, last = name.split(".")
        inner = tree
        for block in blocks:
            # a name that is also the beginning of another cannot be a key of both kinds
            if not isinstance(inner.setdefault(block, {}), dict):
                break
            inner = inner[block]
        else:
            inner[last] = value
            continue
        tree[name] = value
    return tree


class _Text(str):
    """A value that is text."""


def _quoted(value: Any) -> Any:
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return _Text(value) if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Texts in quotes: rcl takes 1e5, nan and 0x1F for numbers where YAML does not."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, {key: _quoted(value) for key, value in mapping.items()}, flow_style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'))
