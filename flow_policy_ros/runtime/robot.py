"""The robot file: joints, groups, limits, topics, rates, read alike by every node and every offline tool.

A robot file is ROS-native YAML (``/**: ros__parameters:``), so that it can be given to a node with
``--params-file`` unchanged. The ``robot`` block is read here; the blocks ``command``, ``policy``,
``perception`` and ``sim`` are node parameters (``runtime.parameters``).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from flow_policy_ros.runtime.parameters import BLOCKS
from flow_policy_ros.runtime.types import FloatArray


class RobotFileError(ValueError):
    """A robot file that cannot be used; the message names file, key and remedy."""


@dataclass(frozen=True)
class JointLimits:
    """Limits of J joints, each array (J,), in the robot file's joint order; rad or m, s, N·m.

    ``lower``/``upper`` bound *commands* (a position-servo robot may command beyond its joint stop to press);
    ``velocity``, ``acceleration`` bound consecutive set-points; ``effort`` is information, inf when unknown.
    """

    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    effort: FloatArray

    def scaled(self, factor: float) -> JointLimits:
        """The same position range with velocity and acceleration times ``factor``."""
        return replace(self, velocity=self.velocity * factor, acceleration=self.acceleration * factor)


@dataclass(frozen=True)
class Camera:
    """One camera: topic, image size in pixels, rate in Hz."""

    name: str
    topic: str
    width: int
    height: int
    rate_hz: float


@dataclass(frozen=True)
class Robot:
    """What a robot file says. ``parameters`` holds the node blocks as flat names (``policy.rate_hz``)."""

    name: str
    path: str
    joints: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    limits: JointLimits
    cameras: tuple[Camera, ...]
    joint_state_topic: str
    command_topic: str
    command_interface: str
    limits_source: str
    parameters: dict[str, Any]


INTERFACES = ("joint_trajectory", "float64_array", "joint_state")
KEYS = ("name", "limits_source", "joint_state_topic", "command_topic", "command_interface", "joints", "groups", "cameras",
        "limits")
TOPIC = re.compile(r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice: of two limits for one joint YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _need(tree: dict[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if key not in tree:
        raise RobotFileError(f"{where}: '{key}' is missing; add it (see docs/robot_file.md).")
    if not isinstance(tree[key], kind) or isinstance(tree[key], bool):
        expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise RobotFileError(f"{where}: '{key}' is {tree[key]!r}, expected {expected}.")
    return tree[key]


def _known(tree: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    """A misspelt key would silently leave its default in force."""
    strangers = [key for key in tree if key not in keys]
    if strangers:
        raise RobotFileError(f"{where}: unknown keys {strangers}, expected {', '.join(keys)}. Correct or remove them.")


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float
        return False


def _topic(tree: dict[str, Any], key: str, where: str) -> str:
    topic = str(_need(tree, key, str, where))
    if not TOPIC.fullmatch(topic):
        raise RobotFileError(
            f"{where}: '{key}' is {topic!r}, which is no ROS topic name; expected letters, digits and _ in parts joined "
            "by /, no part beginning with a digit."
        )
    return topic


def _joint_limits(joints: tuple[str, ...], limits: dict[str, Any], where: str) -> JointLimits:
    missing = [j for j in joints if j not in limits]
    unknown = [j for j in limits if j not in joints]
    if missing or unknown:
        raise RobotFileError(
            f"{where}: robot.limits and robot.joints disagree: no limits for {missing}, limits for unknown joints "
            f"{unknown}. Give each joint of robot.joints exactly one entry."
        )
    columns: dict[str, list[float]] = {k: [] for k in ("lower", "upper", "velocity", "acceleration", "effort")}
    for joint in joints:
        entry = limits[joint]
        here = f"{where}: robot.limits.{joint}"
        if not isinstance(entry, dict):
            raise RobotFileError(f"{here} is {entry!r}, expected position, velocity and acceleration.")
        _known(entry, ("position", "velocity", "acceleration", "effort"), here)
        bounds = _need(entry, "position", list, here)
        numbers = len(bounds) == 2 and all(map(_finite, bounds)) and _finite(float(bounds[1]) - float(bounds[0]))
        if not numbers or not bounds[0] < bounds[1]:
            raise RobotFileError(
                f"{here}.position is {bounds}, expected [lower, upper], finite, with lower < upper, rad or m. "
                "For a joint without stops give the range that it may be commanded in."
            )
        columns["lower"].append(float(bounds[0]))
        columns["upper"].append(float(bounds[1]))
        for key in ("velocity", "acceleration"):
            value = _need(entry, key, (int, float), here)
            if not (_finite(value) and value > 0):
                raise RobotFileError(f"{here}.{key} is {value}, expected a finite number above zero.")
            columns[key].append(float(value))
        effort = _need({"effort": np.inf, **entry}, "effort", (int, float), here)
        columns["effort"].append(float(effort) if _finite(effort) else np.inf)
    return JointLimits(names=joints, **{k: np.array(v) for k, v in columns.items()})


def _camera(name: str, entry: Any, where: str) -> Camera:
    here = f"{where}: robot.cameras.{name}"
    if not isinstance(entry, dict):
        raise RobotFileError(f"{here} is {entry!r}, expected topic, width, height and rate_hz.")
    _known(entry, ("topic", "width", "height", "rate_hz"), here)
    topic = _topic(entry, "topic", here)
    size = {key: _need(entry, key, (int, float), here) for key in ("width", "height", "rate_hz")}
    whole = all(isinstance(size[key], int) for key in ("width", "height"))
    if not whole or not all(_finite(value) and value > 0 for value in size.values()):
        raise RobotFileError(f"{here} has {size}, expected width and height in whole pixels and rate_hz above zero.")
    return Camera(name, topic, int(size["width"]), int(size["height"]), float(size["rate_hz"]))


def load_robot(path: str | Path) -> Robot:
    """Read a robot file. Raises ``RobotFileError`` naming the file, the key and the remedy."""
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # derived from SafeLoader
    except OSError as error:
        raise RobotFileError(f"robot file {path} cannot be read: {error.strerror}. Give the path of a YAML file "
                             "such as config/robots/adroit_door.yaml.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RobotFileError(
            f"robot file {path} is not YAML: {error}. Give a text file such as config/robots/adroit_door.yaml."
        ) from error
    try:
        parameters = tree["/**"]["ros__parameters"]
    except (TypeError, KeyError) as error:
        raise RobotFileError(f"robot file {path} has no '/**: ros__parameters:' block; "
                             "wrap its content in one, as ROS parameter files are.") from error
    where = f"robot file {path}"
    if not isinstance(parameters, dict):
        raise RobotFileError(f"{where}: 'ros__parameters' is {parameters!r}, expected the 'robot' block in it.")
    robot = _need(parameters, "robot", dict, where)
    _known(robot, KEYS, where + ": robot")
    for name in BLOCKS:
        _need({name: {}, **parameters}, name, dict, where)
    joints = tuple(_need(robot, "joints", list, where + ": robot"))
    if not all(isinstance(joint, str) for joint in joints) or len(set(joints)) != len(joints) or not joints:
        raise RobotFileError(f"{where}: robot.joints must be names, each once and at least one; given: {joints}.")
    blocks = {"groups": {}, "cameras": {}, **robot}
    for name, members in _need(blocks, "groups", dict, where + ": robot").items():
        _need({name: members}, name, list, where + ": robot.groups")
    groups = {name: tuple(members) for name, members in blocks["groups"].items()}
    for name, members in groups.items():
        strangers = [m for m in members if m not in joints]
        if strangers:
            raise RobotFileError(f"{where}: robot.groups.{name} names {strangers}, which robot.joints does not have.")
    cameras = tuple(
        _camera(name, entry, where) for name, entry in _need(blocks, "cameras", dict, where + ": robot").items()
    )
    interface = str(robot.get("command_interface", "joint_trajectory"))
    if interface not in INTERFACES:
        raise RobotFileError(f"{where}: robot.command_interface is {interface!r}, expected one of {INTERFACES}.")
    return Robot(
        name=str(_need(robot, "name", str, where + ": robot")),
        path=str(path),
        joints=joints,
        groups=groups,
        limits=_joint_limits(joints, _need(robot, "limits", dict, where + ": robot"), where),
        cameras=cameras,
        joint_state_topic=_topic({"joint_state_topic": "joint_states", **robot}, "joint_state_topic", where + ": robot"),
        command_topic=_topic({"command_topic": "joint_command", **robot}, "command_topic", where + ": robot"),
        command_interface=interface,
        limits_source=str(robot.get("limits_source", "")),
        parameters=_flatten({k: v for k, v in parameters.items() if k != "robot"}),
    )
