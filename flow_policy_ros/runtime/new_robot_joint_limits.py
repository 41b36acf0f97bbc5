"""Limits out of a ``joint_limits.yaml``, as MoveIt and the package joint_limits of ros2_control have them.

That file is where a robot's makers put accelerations, which no URDF has. Format: ``joint_limits: JOINT: {has_acceleration_limits:
true, max_acceleration: 5.0}``, likewise velocity, jerk, effort, deceleration, (``min_position``, ``max_position``) position and
(``soft_lower_limit``, ``soft_upper_limit``) soft; a limit counts only with its ``has_...`` true. Default scaling factors are not
read: they are no limits of the robot. Those of the URDF's ros2_control are ``new_robot_interfaces``'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_policy_ros.runtime.robot_yaml import RobotFileError, finite, need, read_yaml

RATES = ("velocity", "acceleration", "jerk", "effort")
RANGES = {"position": ("min_position", "max_position"), "soft": ("soft_lower_limit", "soft_upper_limit")}


@dataclass(frozen=True)
class Claim:
    """``source`` limits a joint: its position to ``lower`` … ``upper`` (rad or m), any other ``kind`` to ``upper``, above zero."""

    joint: str
    kind: str
    source: str
    upper: float
    lower: float = 0.0


def read_joint_limits(path: Path, joints: Collection[str]) -> tuple[Claim, ...]:
    """The limits of ``joints`` in the file; others are left out. Raises ``RobotFileError`` naming joint, key and remedy."""
    where = f"joint limits file {path}"
    block = _block(read_yaml(path, "joint limits file", "MoveIt's joint_limits.yaml"))
    if block is None:
        raise RobotFileError(f"{where} has no block 'joint_limits'. Give a file such as MoveIt's joint_limits.yaml.")
    known = [joint for joint in block if joint in joints]
    if not known:
        raise RobotFileError(f"{where} has limits for {[str(joint) for joint in block]} and for none of this robot's joints: "
                             f"{list(joints)}. Give the file of this robot, with the names of its URDF.")
    return tuple(claim for joint in known for claim in _claims(str(joint), block[joint], path.name, f"{where}: {joint}"))


def _block(tree: Any) -> dict[Any, Any] | None:
    """The first block ``joint_limits``, also within a node's parameters."""
    if not isinstance(tree, dict):
        return None
    if isinstance(tree.get("joint_limits"), dict):
        return dict(tree["joint_limits"])
    return next((found for value in tree.values() if (found := _block(value)) is not None), None)


def _claims(joint: str, entry: Any, file: str, here: str) -> Iterator[Claim]:
    if not isinstance(entry, dict):
        raise RobotFileError(f"{here} is {entry!r}, expected keys such as has_acceleration_limits and max_acceleration.")
    for what, (first, second) in RANGES.items():
        if entry.get(f"has_{what}_limits") is True:
            ends = [need(entry, key, (int, float), here) for key in (first, second)]
            if not all(map(finite, ends)) or not ends[0] < ends[1]:
                raise RobotFileError(f"{here} has {first} {ends[0]} and {second} {ends[1]}; expected finite numbers, the "
                                     "first below the second.")
            source = f"{file} (soft limits)" if what == "soft" else file
            yield Claim(joint, "position", source, float(ends[1]), float(ends[0]))
    for kind in RATES:
        if entry.get(f"has_{kind}_limits") is True:
            yield Claim(joint, kind, file, _most(entry, f"max_{kind}", here))
    if entry.get("has_deceleration_limits") is True:
        if entry.get("has_acceleration_limits") is not True:
            raise RobotFileError(f"{here} has has_deceleration_limits without has_acceleration_limits, and set-points have one "
                                 "limit for both. Add has_acceleration_limits: true and max_acceleration.")
        yield Claim(joint, "acceleration", f"{file} (max_deceleration)", _most(entry, "max_deceleration", here))


def _most(entry: dict[Any, Any], key: str, here: str) -> float:
    value = need(entry, key, (int, float), here)
    if not finite(value) or not value > 0:
        raise RobotFileError(f"{here}: {key} is {value}, expected a finite number above zero.")
    return float(value)
