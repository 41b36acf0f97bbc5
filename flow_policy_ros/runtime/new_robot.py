"""A robot file made from a URDF and a ros2_control parameter file: whole, commented, with TODO where neither says a value.

No value is made up: what is unknown is TODO, which the reader of robot files refuses, so that no robot moves before somebody has
filled it in. CHECK marks what was guessed from names, or what only the robot itself can tell. Keys: docs/robot_file.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flow_policy_ros.runtime.controller_file import controller_joints
from flow_policy_ros.runtime.new_robot_check import check_draft
from flow_policy_ros.runtime.new_robot_controllers import Controller, choose, find_variables, read_controllers
from flow_policy_ros.runtime.new_robot_groups import guess_groups
from flow_policy_ros.runtime.new_robot_interfaces import read_interface_limits
from flow_policy_ros.runtime.new_robot_joint_limits import read_joint_limits
from flow_policy_ros.runtime.new_robot_limits import limit_lines, number
from flow_policy_ros.runtime.robot_yaml import RobotFileError, plain, text
from flow_policy_ros.runtime.urdf import MOVING, Urdf, read_urdf, urdf_root

WIDTH = 120
FASTEST = {"joint_trajectory_chunk": 100.0, "float64_array": 500.0}
"""Control rates in Hz beyond which nothing is gained: trajectories are interpolated by the controller, bare values are not."""


@dataclass(frozen=True)
class Description:
    """What a robot file is made from. ``folder`` is where it will lie: paths in it are relative to that.

    ``controller`` is a name in the file ``controllers``, "" for the only one that can be commanded; ``variables`` are those of its
    launch file. ``joint_limits`` is MoveIt's file of them. ``groups`` replace the guessed ones. ``name`` "" is the URDF's.
    """

    urdf: Path
    folder: Path
    controllers: Path | None = None
    controller: str = ""
    variables: dict[str, str] | None = None
    joint_limits: Path | None = None
    groups: dict[str, tuple[str, ...]] | None = None
    name: str = ""
    embed_limits: bool = False


@dataclass(frozen=True)
class Draft:
    """The robot file's ``lines``, what is in it, and the keys that are ``todo``."""

    lines: tuple[str, ...]
    name: str
    joints: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    mimics: tuple[str, ...]
    controller: Controller | None
    todo: tuple[str, ...]

    @property
    def checks(self) -> tuple[str, ...]:
        """The lines with something to check, without what is around it."""
        return tuple(line.split("CHECK: ", 1)[1] for line in self.lines if "CHECK: " in line)


@dataclass(frozen=True)
class _Commanded:
    """The controller, the values of its variables, and its joints in its own order: mimics too."""

    controller: Controller
    variables: dict[str, str]
    order: tuple[str, ...]


def draft(given: Description) -> Draft:
    """The robot file for a description. Raises ``RobotFileError`` naming what does not fit, with the remedy."""
    urdf, root = read_urdf(given.urdf), urdf_root(given.urdf)
    expressions = [name for name in urdf.joints if "${" in name]
    if expressions:
        raise RobotFileError(f"URDF {given.urdf} is a xacro file: it has joints such as '{expressions[0]}'. Expand it first: xacro "
                             "FILE > robot.urdf.")
    if not urdf.actuated():
        raise RobotFileError(f"URDF {given.urdf} has no joint that moves, so nothing can be commanded. Give the URDF of a robot.")
    commanded = None if given.controllers is None else _commanded(given, given.controllers, urdf)
    joints = urdf.actuated() if commanded is None else tuple(joint for joint in commanded.order if joint not in urdf.mimics)
    mimics = tuple(mimic.joint for mimic in urdf.mimics.values() if mimic.master in joints)
    moving = [name for name, joint in urdf.joints.items() if joint.type in MOVING]
    groups = guess_groups(root, moving, joints) if given.groups is None else _checked(given.groups, joints)
    claims = read_interface_limits(root, (*joints, *mimics), f"URDF {given.urdf}")
    if given.joint_limits is not None:
        claims += read_joint_limits(given.joint_limits, (*joints, *mimics))
    limits = limit_lines(urdf, joints, given.embed_limits, f"URDF {given.urdf}", claims)
    name = given.name or " ".join(root.get("name", "").split()) or given.urdf.stem
    todo = (*(() if commanded else ("robot.command_interface", "robot.command_topic")), *limits.todo)
    block = [
        f"name: {text(name)}  # goes into checkpoints",
        *_source(given, complete=not limits.todo),
        *(_uncommanded() if commanded is None else _commands(given, commanded)),
        "# What policies command, in the controller's order." if commanded else "# What policies command, in the URDF's order.",
        *_list("joints: ", joints),
        *_left_out(urdf, joints),
        *_groups(groups, given.groups is None),
        *limits.lines,
        "# tracking in fallback or limits: the greatest distance from set-point to measured position that is still healthy",
        *_cameras(),
    ]
    lines = tuple(map(plain, (*_head(name, given), "/**:", "  ros__parameters:", "    robot:", *(f"      {line}" for line in block),
                              *(f"    {line}" for line in _rates(commanded)))))
    check_draft(lines, urdf, joints, mimics, todo)
    return Draft(lines, name, joints, groups, mimics, commanded.controller if commanded else None, todo)


def _commanded(given: Description, file: Path, urdf: Urdf) -> _Commanded:
    """The controller that was asked for, held against the URDF."""
    controller = choose(read_controllers(file), given.controller, file)
    variables = find_variables(controller, given.variables or {}, urdf.joints)
    order = controller_joints(file, controller.name, variables)
    strangers = [joint for joint in order if joint not in urdf.joints]
    if strangers:
        raise RobotFileError(
            f"controller '{controller.name}' in {file} has joints that URDF {given.urdf} does not: {strangers}; the URDF has "
            f"{list(urdf.actuated())}. Give the URDF that this robot is launched with, whose names the controller uses."
        )
    still = [joint for joint in order if urdf.joints[joint].type not in MOVING]
    if still:
        raise RobotFileError(f"controller '{controller.name}' in {file} has joints that do not move in URDF {given.urdf}: "
                             f"{[f'{joint} ({urdf.joints[joint].type})' for joint in still]}. Give the URDF of this very robot.")
    lonely = [joint for joint in order if joint in urdf.mimics and urdf.mimics[joint].master not in order]
    if lonely:
        raise RobotFileError(
            f"controller '{controller.name}' in {file} has {lonely}, which mimic "
            f"{sorted({urdf.mimics[joint].master for joint in lonely})} in {given.urdf}, and not those. Add them to the "
            "controller, or remove the <mimic> if the joint has a motor of its own."
        )
    mimicking = [joint for joint in order if joint in urdf.mimics]
    if given.embed_limits and mimicking:
        raise RobotFileError(
            f"--embed-limits: controller '{controller.name}' takes mimic joints too ({mimicking}), and only "
            "a URDF says how they follow. Leave --embed-limits out."
        )
    return _Commanded(controller, variables, order)


def _checked(groups: dict[str, tuple[str, ...]], joints: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    for name, members in groups.items():
        strangers = [joint for joint in members if joint not in joints]
        if strangers:
            raise RobotFileError(f"--groups {name}: {strangers} are no joints that are commanded; those are {list(joints)}.")
    return groups


def _head(name: str, given: Description) -> Iterator[str]:
    sources = [text(path.name) for path in (given.urdf, given.controllers, given.joint_limits) if path is not None]
    yield f"# {text(name)}, made by 'flow_policy new-robot' from {', '.join(sources)}."
    yield "# TODO is a value that is not in there; the file is refused until it is replaced. CHECK is a guess, or what only the"
    yield "# robot can tell. Units: rad, s, N·m (m, N for sliding joints). Every key is in docs/robot_file.md."


def _source(given: Description, complete: bool) -> Iterator[str]:
    """Where the limits come from, and the URDF."""
    origin = given.urdf.name
    if given.embed_limits:
        origin += f" (sha256 {hashlib.sha256(given.urdf.read_bytes()).hexdigest()[:12]})"
    if given.joint_limits is not None:
        origin += f", {given.joint_limits.name}"
    yield f"limits_source: {text(origin if complete else f'{origin}; acceleration and jerk: TODO where from')}"
    if given.embed_limits:
        yield "# Without the URDF there is no self-collision check; 'urdf: FILE' gives it."
        return
    yield f"urdf: {_path(given.urdf, given.folder)}  # relative to this file"
    yield "# CHECK: the URDF's ranges end before the hard stops; else take something off both ends of each, such as"
    yield "# soft_margin: 0.02"


def _commands(given: Description, commanded: _Commanded) -> Iterator[str]:
    controller = commanded.controller
    yield f"joint_state_topic: {text(controller.state_topic)}  # CHECK: the joint states come here, with the names below"
    yield f"command_topic: {text(controller.topic)}"
    yield f"command_interface: {controller.interface}  # {text(controller.type)}"
    if controller.interface == "joint_trajectory_chunk":
        action = controller.topic.rpartition("/")[0] + "/follow_joint_trajectory"
        yield f"# or, as goals of the action: command_interface: follow_joint_trajectory, command_topic: {text(action)}"
    yield from (f"# CHECK: {check}" for check in controller.checks)
    yield f"# CHECK: {text(controller.name)} is the only active controller of these joints (ros2 control list_controllers)"
    if given.embed_limits:
        yield f"# In the order of {text(controller.name)}:"
        yield from _list("command_joints: ", commanded.order)
        return
    assert given.controllers is not None
    variables = ""
    if commanded.variables:
        variables = f", variables: {text(commanded.variables)}"
        yield f"# CHECK: the robot is launched with {text(commanded.variables)}"
    yield "# The controller's file says the order of its joints; relative to this file."
    yield f"controller: {{file: {_path(given.controllers, given.folder)}, name: {text(controller.name)}{variables}}}"


def _uncommanded() -> Iterator[str]:
    yield "joint_state_topic: joint_states  # CHECK: the joint states come here, with the names below"
    yield 'command_topic: "TODO: where the driver takes commands"'
    yield "# joint_trajectory_chunk for a joint_trajectory_controller, float64_array for bare values, joint_state for hand drivers;"
    yield "# float64_array needs the order of the values too: controller: {file: ..., name: ...}, or command_joints: [...]."
    yield "# docs/command_interfaces.md. With --controllers FILE new-robot fills in all of this."
    yield "command_interface: TODO"


def _left_out(urdf: Urdf, joints: tuple[str, ...]) -> Iterator[str]:
    others = [joint for joint in urdf.actuated() if joint not in joints]
    if others:
        yield "# Joints of the URDF that this controller does not have, and that are not commanded:"
        yield from _list("# ", tuple(others), comment=True)


def _groups(groups: dict[str, tuple[str, ...]], guessed: bool) -> Iterator[str]:
    if not groups:
        return
    yield "groups:" + ("  # CHECK: the groups' names are guessed from names in the URDF" if guessed else "")
    for name, members in groups.items():
        yield from _list(f"  {text(name)}: ", members)


def _cameras() -> Iterator[str]:
    yield "# Cameras as they are published; images of another size are refused."
    yield "# cameras:"
    yield "#   front: {topic: camera/image_raw, width: 640, height: 480, rate_hz: 30.0}"


def _rates(commanded: _Commanded | None) -> Iterator[str]:
    yield "policy:"
    yield "  rate_hz: 12.5  # chunks per second"
    yield "command:"
    if commanded is None:
        yield "  rate_hz: 100.0  # CHECK: the driver takes set-points at command.rate_hz"
        return
    fastest, update = FASTEST[commanded.controller.interface], commanded.controller.update_hz
    why = "no update_rate in the controller file" if update is None else f"the controller manager runs at {update:g} Hz"
    yield f"  rate_hz: {number(min(fastest, 100.0 if update is None else max(update, 1.0)))}  # {why}"
    yield "  # limit_scale: 0.1  # of every velocity, acceleration and jerk limit, for the first motion"


def _path(path: Path, folder: Path) -> str:
    return text(os.path.relpath(path.expanduser().resolve(), folder.expanduser().resolve()))


def _list(head: str, names: tuple[str, ...], comment: bool = False) -> Iterator[str]:
    """``head`` and the names as a YAML list, in lines of ``WIDTH``."""
    words = [text(name) + "," for name in names]
    words = ["[" + words[0], *words[1:]]
    words[-1] = words[-1][:-1] + "]"
    indent = " " * (len(head) - len(head.lstrip())) + ("# " if comment else "  ")
    line = head + words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) > WIDTH - 6:
            yield line
            line = indent + word
        else:
            line += " " + word
    yield line
