"""Limits out of a ``joint_limits.yaml``, as MoveIt and the package joint_limits of ros2_control have them.

That file is where a robot's makers put accelerations, which no URDF has. Format: ``joint_limits: JOINT: {has_acceleration_limits:
true, max_acceleration: 5.0}``, likewise velocity, jerk and (``min_position``, ``max_position``) position; a limit counts only with
its ``has_...`` true. Default scaling factors are not read: they are no limits of the robot.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flow_policy_ros.runtime.robot_yaml import RobotFileError, finite, need, read_yaml

KINDS = ("velocity", "acceleration", "jerk")


@dataclass(frozen=True)
class JointLimitsFile:
    """``values[joint][kind]``: a pair of position (rad or m), or a number above zero; ``name`` is the file's, for comments."""

    name: str = ""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_joint_limits(path: Path, joints: Collection[str]) -> JointLimitsFile:
    """The limits of ``joints`` in the file; others are left out. Raises ``RobotFileError`` naming joint, key and remedy."""
    where = f"joint limits file {path}"
    block = _block(read_yaml(path, "joint limits file", "MoveIt's joint_limits.yaml"))
    if block is None:
        raise RobotFileError(f"{where} has no block 'joint_limits'. Give a file such as MoveIt's joint_limits.yaml.")
    found = {}
    for joint, entry in block.items():
        if joint in joints:
            found[str(joint)] = _entry(entry, f"{where}: {joint}")
    if not found:
        raise RobotFileError(f"{where} has limits for {[str(joint) for joint in block]} and for none of this robot's joints: "
                             f"{list(joints)}. Give the file of this robot, with the names of its URDF.")
    return JointLimitsFile(path.name, found)


def _block(tree: Any) -> dict[Any, Any] | None:
    """The first block ``joint_limits``, also within a node's parameters."""
    if not isinstance(tree, dict):
        return None
    if isinstance(tree.get("joint_limits"), dict):
        return dict(tree["joint_limits"])
    return next((found for value in tree.values() if (found := _block(value)) is not None), None)


def _entry(entry: Any, here: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise RobotFileError(f"{here} is {entry!r}, expected keys such as has_acceleration_limits and max_acceleration.")
    found: dict[str, Any] = {}
    if entry.get("has_position_limits") is True:
        ends = [need(entry, key, (int, float), here) for key in ("min_position", "max_position")]
        if not all(map(finite, ends)) or not ends[0] < ends[1]:
            raise RobotFileError(f"{here} has min_position {ends[0]} and max_position {ends[1]}; expected finite numbers, the "
                                 "first below the second.")
        found["position"] = (float(ends[0]), float(ends[1]))
    for kind in KINDS:
        if entry.get(f"has_{kind}_limits") is True:
            value = need(entry, f"max_{kind}", (int, float), here)
            if not finite(value) or not value > 0:
                raise RobotFileError(f"{here}: max_{kind} is {value}, expected a finite number above zero.")
            found[kind] = float(value)
    return found
