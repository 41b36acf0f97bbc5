"""Limits out of a URDF's ``<ros2_control>``: ``min`` and ``max`` of command interfaces, which are often tighter than ``<limit>``.

Format: ``<ros2_control><joint name="..."><command_interface name="position"><param name="min">-1.0</param>...``. They are taken
also where ``<limits enable="false"/>`` keeps ros2_control from enforcing them: a range too narrow is seen, one too wide is not.
Other limits: ``urdf``, ``new_robot_joint_limits``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from xml.etree import ElementTree

from flow_policy_ros.runtime.new_robot_joint_limits import RATES, Claim
from flow_policy_ros.runtime.robot_yaml import RobotFileError

SOURCE = "the URDF's ros2_control"


def read_interface_limits(root: ElementTree.Element, joints: Collection[str], where: str) -> tuple[Claim, ...]:
    """The limits of ``joints`` in every ``<ros2_control>`` of the URDF ``root``. An end of a position that is not there is
    infinite; of rates and efforts the smaller magnitude counts. Raises ``RobotFileError`` naming joint, interface and remedy.
    """
    found: list[Claim] = []
    for joint in root.iterfind("ros2_control/joint"):
        name = joint.get("name", "")
        if name in joints:
            for interface in joint.findall("command_interface"):
                found += _claims(name, interface, where)
    return tuple(found)


def _claims(joint: str, interface: ElementTree.Element, where: str) -> Iterator[Claim]:
    kind = interface.get("name", "")
    if kind != "position" and kind not in RATES:
        return
    here = f"{where}: <ros2_control>: joint {joint!r}: command_interface {kind}"
    lower, upper = _end(interface, "min", -math.inf, here), _end(interface, "max", math.inf, here)
    if kind == "position":
        if not lower < upper:
            raise RobotFileError(f"{here} has min {lower:g} and max {upper:g}; expected the first below the second. Correct them.")
        if (lower, upper) != (-math.inf, math.inf):
            yield Claim(joint, kind, SOURCE, upper, lower)
        return
    most = min((abs(end) for end in (lower, upper) if end), default=math.inf)  # zero is an end, as of a speed, and no limit
    if most < math.inf:
        yield Claim(joint, kind, SOURCE, most)


def _end(interface: ElementTree.Element, key: str, absent: float, here: str) -> float:
    text = next((param.text or "" for param in interface.findall("param") if param.get("name") == key), None)
    if text is None or not text.strip():
        return absent
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or value == -absent:
        raise RobotFileError(f"{here} has {key} {text!r}, expected a number. Correct it, or remove the <param>.")
    return value
