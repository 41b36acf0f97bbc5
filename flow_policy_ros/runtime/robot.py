"""The robot file: joints, groups, limits, topics, rates, read alike by every node and every offline tool.

A robot file is ROS-native YAML (``/**: ros__parameters:``), so that it can be given to a node with
``--params-file`` unchanged. The ``robot`` block is read here, its limits by ``robot_limits``, its cameras by
``robot_cameras``; the blocks ``command``, ``policy``, ``perception`` and ``sim`` are node parameters (``runtime.parameters``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.controller_file import controller_joints
from flow_policy_ros.runtime.joint_limits import JointLimits, Mimic
from flow_policy_ros.runtime.joint_naming import JointNaming, RecordedCommands
from flow_policy_ros.runtime.parameters import BLOCKS
from flow_policy_ros.runtime.robot_cameras import Camera, DepthCamera, read_camera
from flow_policy_ros.runtime.robot_limits import Origin, resolve_limits
from flow_policy_ros.runtime.robot_naming import read_naming
from flow_policy_ros.runtime.robot_yaml import RobotFileError, blanks, finite, flatten, known, names, need, read_yaml, topic_name
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.runtime.urdf import Urdf, read_urdf

__all__ = ["INTERFACES", "Camera", "DepthCamera", "JointLimits", "Mimic", "Robot", "RobotFileError", "load_robot"]

INTERFACES = {
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "joint_trajectory_chunk": "trajectory_msgs/msg/JointTrajectory",
    "follow_joint_trajectory": "control_msgs/action/FollowJointTrajectory",
    "float64_array": "std_msgs/msg/Float64MultiArray",
    "joint_state": "sensor_msgs/msg/JointState",
}
"""Type of what the controller is sent, by ``command_interface``."""
KEYS = ("name", "limits_source", "joint_state_topic", "command_topic", "command_interface", "joints", "groups", "cameras",
        "limits", "urdf", "soft_margin", "fallback", "controller", "command_joints", "workspace", "collision",
        "joint_state_names", "joint_state_order", "recorded")


@dataclass(frozen=True)
class Robot:
    """What a robot file says. ``parameters`` holds the node blocks as flat names (``policy.rate_hz``).

    ``joints`` are the joints that policies command and ``limits`` bounds; ``mimics`` follow some of them and are never among
    them. ``command_joints`` is what the controller is sent, in its own order: ``joints`` when empty was given, and it may
    name mimics too. ``urdf`` is a path or "". ``limits_origin[joint][kind]`` says where a limit came from. ``bodies`` are the
    blocks ``workspace`` and ``collision`` as they were written, for ``safety.collision`` to read. ``naming`` says what the names in
    joint states mean, ``recorded`` what commands in recordings are, None where the file does not say.
    """

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
    mimics: tuple[Mimic, ...] = ()
    command_joints: tuple[str, ...] = ()
    urdf: str = ""
    limits_origin: Origin = field(default_factory=dict)
    bodies: dict[str, Any] = field(default_factory=dict)
    naming: JointNaming = field(default_factory=JointNaming)
    recorded: RecordedCommands | None = None

    def __post_init__(self) -> None:
        if not self.command_joints:
            object.__setattr__(self, "command_joints", self.joints)

    @property
    def endless(self) -> tuple[str, ...]:
        """The joints without stops."""
        return tuple(joint for joint, endless in zip(self.joints, self.limits.continuous, strict=True) if endless)

    def command_positions(self, position: FloatArray) -> FloatArray:
        """What the controller is sent, (..., C) in ``command_joints`` order, for positions (..., J) in ``joints`` order."""
        masters, multiplier, offset = self._wiring
        return position[..., masters] * multiplier + offset

    @property
    def wires(self) -> tuple[Mimic, ...]:
        """What each of ``command_joints`` follows; a joint of ``joints`` follows itself."""
        follows = {joint: Mimic(joint, joint, 1.0, 0.0) for joint in self.joints} | {m.joint: m for m in self.mimics}
        return tuple(follows[joint] for joint in self.command_joints)

    @cached_property
    def _wiring(self) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
        """(column of ``joints``, multiplier, offset) of each command joint, (C,) each."""
        masters = np.array([self.joints.index(wire.master) for wire in self.wires], dtype=np.intp)
        return masters, np.array([wire.multiplier for wire in self.wires]), np.array([wire.offset for wire in self.wires])

    def group_scales(self, text: str) -> FloatArray:
        """Factors (J,) of "arm=0.5 thumb=0.3": a group's joints get its number, the others 1.

        Raises ``RobotFileError`` for an unknown group, a factor outside (0, 1], or a joint in two of the groups named.
        """
        scales = np.ones(len(self.joints))
        named: dict[str, str] = {}
        for word in text.replace(",", " ").split():
            group, _, number = word.partition("=")
            if group not in self.groups:
                raise RobotFileError(
                    f"group scale '{word}': robot '{self.name}' has no group '{group}', expected one of "
                    f"{', '.join(self.groups) or '(none)'}. Write NAME=FACTOR, or add the group to robot.groups in {self.path}."
                )
            try:
                factor = float(number)
            except ValueError:
                factor = math.nan
            if not 0.0 < factor <= 1.0:
                raise RobotFileError(
                    f"group scale '{word}': the factor is '{number}', expected a number above 0 and at most 1. Greater limits than "
                    f"those of the robot file go into {self.path}."
                )
            for joint in self.groups[group]:
                if joint in named:
                    raise RobotFileError(
                        f"group scale '{word}': joint '{joint}' already has a factor from group '{named[joint]}'. "
                        "Name only one of the groups that share it."
                    )
                named[joint] = group
                scales[self.joints.index(joint)] = factor
        return scales


def load_robot(path: str | Path) -> Robot:
    """Read a robot file. Raises ``RobotFileError`` naming the file, the key and the remedy."""
    path = Path(path)
    tree = read_yaml(path, "robot file", "config/robots/adroit_door.yaml")
    try:
        parameters = tree["/**"]["ros__parameters"]
    except (TypeError, KeyError) as error:
        raise RobotFileError(f"robot file {path} has no '/**: ros__parameters:' block; "
                             "wrap its content in one, as ROS parameter files are.") from error
    where = f"robot file {path}"
    if not isinstance(parameters, dict):
        raise RobotFileError(f"{where}: 'ros__parameters' is {parameters!r}, expected the 'robot' block in it.")
    for name in BLOCKS:
        need({name: {}, **parameters}, name, dict, where)
    robot, here = need(parameters, "robot", dict, where), f"{where}: robot"
    known(robot, KEYS, here)
    _refuse_blanks(robot, where)
    urdf = _urdf(robot, path, here)
    joints = _joints(robot, urdf, here)
    limits, mimics, origin = resolve_limits(robot, joints, urdf, where)
    cameras = need({"cameras": {}, **robot}, "cameras", dict, here)
    mimicking = tuple(mimic.joint for mimic in mimics)
    interface = str(robot.get("command_interface", "joint_trajectory"))
    if interface not in INTERFACES:
        raise RobotFileError(f"{here}.command_interface is {interface!r}, expected one of {tuple(INTERFACES)}.")
    return Robot(
        name=str(need(robot, "name", str, here)),
        path=str(path),
        joints=joints,
        groups=_groups(robot, joints, here),
        limits=limits,
        cameras=tuple(read_camera(name, entry, where) for name, entry in cameras.items()),
        joint_state_topic=topic_name({"joint_state_topic": "joint_states", **robot}, "joint_state_topic", here),
        command_topic=topic_name({"command_topic": "joint_command", **robot}, "command_topic", here),
        command_interface=interface,
        limits_source=str(robot.get("limits_source", "")),
        parameters=flatten({k: v for k, v in parameters.items() if k != "robot"}),
        mimics=mimics,
        command_joints=_command_joints(robot, joints, mimics, path, here),
        urdf="" if urdf is None else urdf.path,
        limits_origin=origin,
        bodies={key: robot[key] for key in ("workspace", "collision") if key in robot},
        naming=read_naming(robot, "joint_state", joints, mimicking, here),
        recorded=_recorded(robot, joints, mimicking, here),
    )


def _refuse_blanks(robot: dict[str, Any], where: str) -> None:
    """All of them at once: who fills a draft in is not to be sent back once for each. What is only text may stay open."""
    left = [name for name in blanks(robot, "robot.") if name not in ("robot.name", "robot.limits_source")]
    if left:
        raise RobotFileError(f"{where} is not filled in yet: {', '.join(left)} {'is' if len(left) == 1 else 'are'} still TODO. "
                             "Replace each by its value (see docs/robot_file.md).")


def _urdf(robot: dict[str, Any], path: Path, here: str) -> Urdf | None:
    if "urdf" not in robot:
        if "soft_margin" in robot:
            raise RobotFileError(f"{here}.soft_margin narrows the ranges of a URDF, and robot.urdf is not given. Give it, or "
                                 "remove the margin and write the ranges as they are to be.")
        return None
    margin = need({"soft_margin": 0.0, **robot}, "soft_margin", (int, float), here)
    if not finite(margin) or margin < 0:
        raise RobotFileError(f"{here}.soft_margin is {margin}, expected a finite number, zero or above, rad or m.")
    return read_urdf(path.parent / str(need(robot, "urdf", str, here)), float(margin))


def _joints(robot: dict[str, Any], urdf: Urdf | None, here: str) -> tuple[str, ...]:
    if robot.get("joints") != "all":
        return names(need(robot, "joints", list, here), f"{here}.joints")
    if urdf is None or not urdf.actuated():
        raise RobotFileError(f"{here}.joints is 'all', which needs a robot.urdf with joints that move. Name the joints.")
    return urdf.actuated()


def _groups(robot: dict[str, Any], joints: tuple[str, ...], here: str) -> dict[str, tuple[str, ...]]:
    groups = need({"groups": {}, **robot}, "groups", dict, here)
    for name in groups:
        strangers = [member for member in need(groups, name, list, f"{here}.groups") if member not in joints]
        if strangers:
            raise RobotFileError(f"{here}.groups.{name} names {strangers}, which robot.joints does not have.")
    return {name: tuple(members) for name, members in groups.items()}


def _command_joints(
    robot: dict[str, Any], joints: tuple[str, ...], mimics: tuple[Mimic, ...], path: Path, here: str
) -> tuple[str, ...]:
    """The controller's joints: every joint of the robot and nothing else but mimics of them."""
    if "controller" in robot and "command_joints" in robot:
        raise RobotFileError(f"{here} has controller and command_joints. Give one of them.")
    if "command_joints" in robot:
        ordered, source = names(need(robot, "command_joints", list, here), f"{here}.command_joints"), "robot.command_joints"
    elif "controller" in robot:
        block, there = need(robot, "controller", dict, here), f"{here}.controller"
        known(block, ("file", "name", "variables"), there)
        file, name = (str(need(block, key, str, there)) for key in ("file", "name"))
        variables = need({"variables": {}, **block}, "variables", dict, there)
        texts = {key: str(need(variables, key, str, f"{there}.variables")) for key in variables}
        ordered, source = controller_joints(path.parent / file, name, texts), f"controller '{name}' in {path.parent / file}"
    elif robot.get("command_interface") == "float64_array":
        raise RobotFileError(
            f"{here}.command_interface is float64_array, whose values carry no names, and nothing says in which order the "
            "controller takes them. Give robot.controller (its YAML file and name) or robot.command_joints."
        )
    else:
        return joints
    missing = [joint for joint in joints if joint not in ordered]
    extra = [joint for joint in ordered if joint not in joints and joint not in {m.joint for m in mimics}]
    if missing or extra:
        raise RobotFileError(
            f"{here}: {source} and robot.joints do not match: only in robot.joints: {missing}; only with the controller, and no "
            f"mimic of a joint: {extra}. The controller has to have every joint of the robot, and besides them only mimics."
        )
    return ordered


def _recorded(robot: dict[str, Any], joints: tuple[str, ...], mimicking: tuple[str, ...], here: str) -> RecordedCommands | None:
    if "recorded" not in robot:
        return None
    block, there = need(robot, "recorded", dict, here), f"{here}.recorded"
    known(block, ("command_topic", "command_names", "command_order"), there)
    topic = topic_name({"command_topic": robot.get("command_topic", "joint_command"), **block}, "command_topic", there)
    return RecordedCommands(topic, read_naming(block, "command", joints, mimicking, there))
