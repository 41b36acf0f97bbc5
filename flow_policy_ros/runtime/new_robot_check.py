"""What a drafted robot file is held against before anybody gets it: that what is read back is what was meant.

Names and texts in it come from other files, and one that breaks out of its place would become a limit. What stands in the draft is
``new_robot``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import yaml

from flow_policy_ros.runtime.robot_yaml import RobotFileError, blanks, finite, strictly
from flow_policy_ros.runtime.urdf import Urdf

KEYS = {"name", "limits_source", "urdf", "joint_state_topic", "command_topic", "command_interface", "command_joints", "controller",
        "joints", "groups", "fallback", "limits"}


def check_draft(lines: Sequence[str], urdf: Urdf, joints: Sequence[str], mimics: Collection[str], todo: Collection[str]) -> None:
    """Read ``lines`` as the reader of robot files does. Raises ``RobotFileError`` where another key, other joints, a limit wider
    than the URDF's, or another TODO is in there than was meant.
    """
    problem = next(_problems(lines, urdf, joints, mimics, todo), "")
    if problem:
        raise RobotFileError(f"no robot file was made from URDF {urdf.path}: {problem}. Look for odd names and texts in the URDF, "
                             "the controller file and the joint limits file, and correct them.")


def _problems(
    lines: Sequence[str], urdf: Urdf, joints: Sequence[str], mimics: Collection[str], todo: Collection[str]
) -> Iterator[str]:
    odd = next((line for line in lines if not line.isprintable()), None)
    if odd is not None:
        yield f"a line of it would have characters that break lines: {odd!r}"
    try:
        parameters = strictly("\n".join(lines))["/**"]["ros__parameters"]
        block = parameters["robot"]
        limits = block.get("limits", {})
        strangers = sorted({str(key) for key in block} - KEYS | {str(key) for key in parameters} - {"robot", "policy", "command"}
                           | {str(key) for key in limits} - {*joints, *mimics})
        given = list(block["joints"])
        found = sorted(set(blanks(parameters)) - {"robot.name"})
        wider = sorted({joint for joint, entry in limits.items() for kind in entry if joint in urdf.joints
                        if _wider(urdf, joint, kind, entry[kind])})
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        yield f"it would not be read back ({error!r})"
        return
    if strangers:
        yield f"keys would be in it that nobody meant: {strangers}"
    if given != list(joints):
        yield f"its joints would be {given}, expected {list(joints)}"
    if wider:
        yield f"the limits of {wider} would be wider than the URDF's"
    if found != sorted(todo):
        yield f"TODO would be {found}, expected {sorted(todo)}"


def _wider(urdf: Urdf, joint: str, kind: str, value: Any) -> bool:
    if kind == "continuous":
        return urdf.joints[joint].type != "continuous"
    own = getattr(urdf.joints[joint], kind, None)
    if own is None or value in ("TODO", ["TODO", "TODO"]):
        return False
    if kind == "position":
        return not (len(value) == 2 and all(map(finite, value)) and own[0] <= value[0] < value[1] <= own[1])
    return not (finite(value) and value <= own)
