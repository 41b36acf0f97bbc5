"""The joints of a ros2_control controller, in the order in which it declares them.

A controller of positions takes an array, and a trajectory controller may check the order: the declaration in the
controller's own parameter file is the one place that says it. https://control.ros.org (``joints`` of joint_trajectory_controller
and forward_command_controller)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flow_policy_ros.runtime.robot_yaml import RobotFileError, names, read_yaml

VARIABLE = re.compile(r"\$\(var\s+(\w+)\s*\)")


def controller_joints(path: Path, controller: str, variables: dict[str, str]) -> tuple[str, ...]:
    """``joints`` of the controller named ``controller`` (with its name space, ``left/hand``, where several have the name).

    ``variables`` replace what a launch file would: ``$(var tf_prefix)``. Raises ``RobotFileError`` naming file, controller
    and remedy.
    """
    where = f"controller file {path}"
    tree = read_yaml(path, "controller file", "the one that is given to ros2_control_node")
    declared = {name: parameters["joints"] for name, parameters in node_parameters(tree) if "joints" in parameters}
    wanted = controller.strip("/")
    found = [name for name in declared if name == wanted or name.endswith("/" + wanted)]
    found = [wanted] if wanted in found else found
    if len(found) != 1:
        what = "has no" if not found else f"has {len(found)} controllers"
        raise RobotFileError(
            f"{where} {what} '{controller}' with a list of joints; it declares joints for {', '.join(declared) or '(none)'}. "
            "Correct robot.controller.name."
        )
    joints = declared[found[0]]
    if not isinstance(joints, list):
        raise RobotFileError(f"{where}: {found[0]}.joints is {joints!r}, expected a list of names.")
    return names([_replaced(joint, variables, f"{where}: {found[0]}.joints") for joint in joints], f"{where}: {found[0]}.joints")


def node_parameters(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """(name with name space, parameters) of every node in a parameter file; name spaces may be nested or written with /."""
    if not isinstance(tree, dict):
        return []
    found = []
    for key, value in tree.items():
        if key != "ros__parameters":
            found += node_parameters(value, (*path, str(key).strip("/")))
        elif isinstance(value, dict):
            found.append(("/".join(path), value))
    return found


def _replaced(joint: Any, variables: dict[str, str], where: str) -> Any:
    if not isinstance(joint, str):
        return joint
    for name in VARIABLE.findall(joint):
        if name not in variables:
            raise RobotFileError(f"{where}: '{joint}' needs the launch argument {name}. Give robot.controller.variables: "
                                 f"{{{name}: ...}} the value that the robot is launched with.")
    return VARIABLE.sub(lambda match: variables[match.group(1)], joint)
