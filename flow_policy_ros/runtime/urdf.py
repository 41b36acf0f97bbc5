"""What a URDF says about the limits of its joints, and which joints mimic which.

Geometry, inertia and transmissions are not read. A number that is missing or useless is kept as its reason instead of being
refused: the robot file may give it. What no robot file can repair (two joints of one name, a mimic without its master) is.
Format: https://wiki.ros.org/urdf/XML/joint
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from flow_policy_ros.runtime.joint_limits import Mimic
from flow_policy_ros.runtime.robot_yaml import RobotFileError

MOVING = ("revolute", "continuous", "prismatic")
NONE = "the URDF has none"


@dataclass(frozen=True)
class UrdfJoint:
    """One joint: ``position`` (lower, upper) in rad or m, ``velocity`` per s, ``effort`` in N·m or N; None where unusable.

    ``reasons[kind]`` says why a kind is None. A continuous joint has (−inf, inf).
    """

    name: str
    type: str
    position: tuple[float, float] | None
    velocity: float | None
    effort: float | None
    reasons: dict[str, str]


@dataclass(frozen=True)
class Urdf:
    """The joints of a URDF by name, in its order, and its mimics, each with the joint at the end of its chain as master."""

    path: str
    joints: dict[str, UrdfJoint]
    mimics: dict[str, Mimic]

    def actuated(self) -> tuple[str, ...]:
        """Joints with one degree of freedom that follow no other, in the file's order."""
        return tuple(name for name, joint in self.joints.items() if joint.type in MOVING and name not in self.mimics)


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type: its entities can grow without end, and no URDF needs one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise RobotFileError("it has a DOCTYPE; remove the line, robot descriptions need none")


def urdf_root(path: Path) -> ElementTree.Element:
    """The ``<robot>`` of a URDF. Raises ``RobotFileError`` for what cannot be read or is none."""
    where = f"URDF {path}"
    try:
        root = ElementTree.fromstring(path.read_bytes(), parser=ElementTree.XMLParser(target=_Builder()))
    except OSError as error:
        raise RobotFileError(
            f"{where} cannot be read: {error.strerror}. Correct robot.urdf, a path relative to the robot file."
        ) from error
    except (ElementTree.ParseError, RobotFileError, ValueError, LookupError) as error:
        raise RobotFileError(f"{where} is no URDF: {error}. Expand a xacro file first: xacro FILE > robot.urdf.") from error
    if root.tag != "robot":
        raise RobotFileError(f"{where} is no URDF: its root is <{root.tag}>, expected <robot>.")
    return root


def read_urdf(path: Path, soft_margin: float = 0.0) -> Urdf:
    """Read a URDF. ``soft_margin`` (rad or m) is taken off both ends of every range; soft limits of a ``safety_controller``
    narrow it further. Raises ``RobotFileError`` naming the file, the joint and the remedy.
    """
    where, root = f"URDF {path}", urdf_root(path)
    joints: dict[str, UrdfJoint] = {}
    mimics: dict[str, Mimic] = {}
    for element in root.findall("joint"):  # not those inside <transmission>
        joint = _joint(element, soft_margin, where)
        if joint.name in joints:
            raise RobotFileError(f"{where}: joint '{joint.name}' is there twice. Give each joint its own name.")
        joints[joint.name] = joint
        follows = element.find("mimic")
        if follows is not None and joint.type in MOVING:
            mimics[joint.name] = _mimic(joint.name, follows, where)
    return Urdf(str(path), joints, {name: _follow(name, joints, mimics, where) for name in mimics})


def _joint(element: ElementTree.Element, soft_margin: float, where: str) -> UrdfJoint:
    name, kind = element.get("name", ""), element.get("type", "")
    if not name or not kind:
        raise RobotFileError(f"{where}: a joint has name '{name}' and type '{kind}'. Give every joint both.")
    limit = element.find("limit")
    _refuse_odd(element, f"{where}: joint {name!r}")
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for key in ("velocity", "effort"):
        values[key], reason = _number(limit, key)
        value = values[key]
        if value is not None and not value > 0:
            values[key], reason = None, f"the URDF has {value:g}"
        if reason:
            reasons[key] = reason
    if kind == "continuous":  # its lower and upper, where a file has them, are to be ignored
        return UrdfJoint(name, kind, (-math.inf, math.inf), values["velocity"], values["effort"], reasons)
    position, reason = _range(limit, element.find("safety_controller"), soft_margin)
    if position is None:
        reasons["position"] = reason
    return UrdfJoint(name, kind, position, values["velocity"], values["effort"], reasons)


def _refuse_odd(joint: ElementTree.Element, here: str) -> None:
    """Refuse line breaks and the like where numbers stand: they are quoted in messages and comments."""
    for tag in ("limit", "safety_controller", "mimic"):
        found = joint.find(tag)
        for key, text in () if found is None else found.items():
            if key != "joint" and not text.isprintable():
                raise RobotFileError(f"{here}: <{tag}> has {key} {text!r}, with characters that no number has. "
                                     "Write a plain number.")


def _number(element: ElementTree.Element | None, key: str, default: float | None = None) -> tuple[float | None, str]:
    """(number, "") or (None, why not); ``default`` where the attribute is absent."""
    text = None if element is None else element.get(key)
    if text is None:
        return default, NONE if default is None else ""
    try:
        value = float(text)
    except ValueError:
        return None, f"the URDF has {text!r}"
    return (value, "") if math.isfinite(value) else (None, f"the URDF has {value}")


def _range(
    limit: ElementTree.Element | None, safety: ElementTree.Element | None, margin: float
) -> tuple[tuple[float, float] | None, str]:
    """((lower, upper), "") with margin and soft limits taken off, or (None, why not)."""
    if limit is None or not {"lower", "upper"} & set(limit.keys()):
        return None, NONE
    ends: list[float] = []
    for key in ("lower", "upper"):
        value, reason = _number(limit, key, default=0.0)  # the format's default for one of them
        if value is None:
            return None, f"{reason} as {key}"
        ends.append(value)
    lower, upper = ends
    if not (lower < upper and math.isfinite(upper - lower)):
        return None, f"the URDF has lower {lower:g} and upper {upper:g}"
    lower, upper = lower + margin, upper - margin
    for key in () if safety is None else ("soft_lower_limit", "soft_upper_limit"):
        value, reason = _number(safety, key)
        if value is None and reason != NONE:
            return None, f"{reason} as {key}"
        if value is not None and key == "soft_lower_limit":
            lower = max(lower, value)
        elif value is not None:
            upper = min(upper, value)
    if not lower < upper:
        return None, f"soft_margin {margin:g} and the URDF's soft limits leave {lower:g} to {upper:g}"
    return (lower, upper), ""


def _mimic(name: str, element: ElementTree.Element, where: str) -> Mimic:
    master = element.get("joint", "")
    number: dict[str, float] = {}
    for key, default in (("multiplier", 1.0), ("offset", 0.0)):
        value, reason = _number(element, key, default)
        if value is None or (key == "multiplier" and value == 0.0):
            raise RobotFileError(f"{where}: joint '{name}' mimics '{master}' with {key} {reason or 0}. Give a finite number"
                                 f"{', not zero' if key == 'multiplier' else ''}.")
        number[key] = value
    return Mimic(name, master, **number)


def _follow(name: str, joints: dict[str, UrdfJoint], mimics: dict[str, Mimic], where: str) -> Mimic:
    """The mimic with the joint at the end of its chain as master."""
    chain = [name]
    found = mimics[name]
    while found.master in mimics:
        if found.master in chain:
            raise RobotFileError(f"{where}: mimic joints follow each other in a ring: {' -> '.join([*chain, found.master])}. "
                                 "Let one of them follow none.")
        chain.append(found.master)
        up = mimics[found.master]
        found = Mimic(name, up.master, found.multiplier * up.multiplier, found.multiplier * up.offset + found.offset)
    if found.master not in joints or joints[found.master].type not in MOVING:
        is_not = "is not there" if found.master not in joints else f"is {joints[found.master].type}"
        raise RobotFileError(f"{where}: joint '{chain[-1]}' mimics '{found.master}', which {is_not}. "
                             "Correct its <mimic joint=...>.")
    return found
