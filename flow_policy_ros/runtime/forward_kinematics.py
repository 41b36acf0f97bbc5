"""Where a robot's links are, from its URDF and joint positions: what pictures of a motion need.

Positions of links alone, computed for many configurations at once; for pictures, not for control. Limits of joints are
``runtime.urdf``'s, distances between links ``safety.collision``'s. Format: https://wiki.ros.org/urdf/XML/joint
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from flow_policy_ros.runtime.joint_limits import Mimic
from flow_policy_ros.runtime.robot_yaml import RobotFileError
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.runtime.urdf import MOVING, read_urdf, urdf_root

TURNING = ("revolute", "continuous")


@dataclass(frozen=True)
class Joint:
    """One joint of the tree: its frame in ``parent``'s is ``rotation`` (3, 3) and ``translation`` (3,) in m; at position q the
    ``child`` turns about ``axis`` (3,), of length 1, by q rad or slides along it by q m. A fixed joint's ``type`` does neither.
    """

    name: str
    type: str
    parent: str
    child: str
    rotation: FloatArray
    translation: FloatArray
    axis: FloatArray


@dataclass(frozen=True)
class ForwardKinematics:
    """The joints between ``root`` and ``links``, parents before children. ``needed`` are the joints whose positions count."""

    root: str
    links: tuple[str, ...]
    joints: tuple[Joint, ...]
    mimics: Mapping[str, Mimic]
    needed: tuple[str, ...]

    def positions(self, joints: Mapping[str, FloatArray | float]) -> FloatArray:
        """Origins (..., L, 3) of ``links`` in the frame of ``root``, in m.

        ``joints`` gives each of ``needed`` its position in rad or m, (...) or a number; one that is not given is at 0.
        """
        shape = np.broadcast_shapes(*(np.shape(joints[name]) for name in self.needed if name in joints), ())
        rotations = {self.root: np.eye(3)}
        origins = {self.root: np.zeros(3)}
        for joint in self.joints:
            turn, origin = rotations[joint.parent], origins[joint.parent]
            rotations[joint.child] = turn @ joint.rotation
            origins[joint.child] = origin + turn @ joint.translation
            if joint.type not in MOVING:
                continue
            position = self._position(joint.name, joints)
            if joint.type in TURNING:
                rotations[joint.child] = rotations[joint.child] @ rotation_about(joint.axis, position)
            else:
                slide = rotations[joint.child] @ joint.axis
                origins[joint.child] = origins[joint.child] + position[..., None] * slide
        return np.stack([np.broadcast_to(origins[link], (*shape, 3)) for link in self.links], axis=-2)

    def _position(self, name: str, joints: Mapping[str, FloatArray | float]) -> FloatArray:
        mimic = self.mimics.get(name)
        if mimic is None:
            return np.asarray(joints.get(name, 0.0), dtype=np.float64)
        return mimic.multiplier * np.asarray(joints.get(mimic.master, 0.0), dtype=np.float64) + mimic.offset


def load_kinematics(path: Path, links: Sequence[str] = (), moved_by: Sequence[str] = ()) -> ForwardKinematics:
    """The kinematics of a URDF's ``links``; of its ``tips`` when none are given.

    Raises ``RobotFileError`` naming what is wrong in the file, and for a link that it does not have, or that none of ``moved_by``
    moves.
    """
    where = f"URDF {path}"
    mimics = read_urdf(path).mimics
    by_child: dict[str, Joint] = {}
    for element in urdf_root(path).findall("joint"):
        joint = _joint(element, where)
        if joint.child in by_child:
            raise RobotFileError(f"{where}: link '{joint.child}' has two parents, joints '{by_child[joint.child].name}' and "
                                 f"'{joint.name}'; expected a tree. Remove one of them.")
        by_child[joint.child] = joint
    parents = {joint.parent for joint in by_child.values()}
    roots = sorted(parents - set(by_child))
    if len(roots) != 1:
        raise RobotFileError(f"{where}: links without a parent: {roots}; expected one, the root of a tree. Join the parts.")
    ways = {link: _way(link, by_child, where) for link in by_child}

    def movers(link: str) -> set[str]:
        """Joints that move a link, mimics by their masters."""
        return {mimics[j.name].master if j.name in mimics else j.name for j in ways[link] if j.type in MOVING}

    tips = [link for link in by_child if link not in parents and movers(link) & set(moved_by or movers(link))]
    unknown = [link for link in links if link not in ways]
    if unknown:
        raise RobotFileError(f"{where} has no links {unknown} below its root; expected some of {sorted(ways)}.")
    fixed = [link for link in links if not movers(link) & set(moved_by or movers(link))]
    if fixed or not (links or tips):
        raise RobotFileError(f"{where}: no joint of the robot moves {fixed or 'any link at the end of a chain'}; its joints are "
                             f"{list(moved_by)}. Name other links, or give the URDF of this robot.")
    chosen = tuple(links) or tuple(tips)
    used: dict[str, Joint] = {joint.name: joint for link in chosen for joint in ways[link]}
    return ForwardKinematics(
        root=roots[0],
        links=chosen,
        joints=tuple(used.values()),
        mimics={name: mimic for name, mimic in mimics.items() if name in used},
        needed=tuple(dict.fromkeys(mover for link in chosen for mover in sorted(movers(link)))),
    )


def rotation_about(axis: FloatArray, angle: FloatArray) -> FloatArray:
    """Rotations (..., 3, 3) about ``axis`` (3,), of length 1, by ``angle`` (...) in rad. (Rodrigues' formula.)"""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    sine, cosine = np.sin(angle)[..., None, None], np.cos(angle)[..., None, None]
    return np.asarray(np.eye(3) + sine * cross + (1.0 - cosine) * (cross @ cross))


def _way(link: str, by_child: Mapping[str, Joint], where: str) -> list[Joint]:
    """The joints from the root to a link."""
    way: list[Joint] = []
    while link in by_child:
        way.insert(0, by_child[link])
        link = way[0].parent
        if len(way) > len(by_child):
            raise RobotFileError(f"{where}: link '{link}' is its own ancestor; expected a tree. Correct its joints' <parent>.")
    return way


def _joint(element: ElementTree.Element, where: str) -> Joint:
    name, kind = element.get("name", ""), element.get("type", "")
    here = f"{where}: joint '{name}'"
    if kind in ("floating", "planar"):
        kind = "fixed"  # its position is no number; at rest it is where its origin is
    ends = []
    for tag in ("parent", "child"):
        end = element.find(tag)
        if end is None or not end.get("link"):
            raise RobotFileError(f'{here} has no {tag}; expected <{tag} link="…"/>.')
        ends.append(str(end.get("link")))
    origin, axis = element.find("origin"), element.find("axis")
    direction = _three(axis, "xyz", "1 0 0", here)
    length = float(np.linalg.norm(direction))
    if kind in MOVING and not length > 0.0:
        raise RobotFileError(f"{here} has the axis 0 0 0; expected a direction.")
    return Joint(
        name, kind, ends[0], ends[1], _from_rpy(_three(origin, "rpy", "0 0 0", here)), _three(origin, "xyz", "0 0 0", here),
        direction / length if length > 0.0 else direction,
    )  # fmt: skip


def _three(element: ElementTree.Element | None, key: str, default: str, here: str) -> FloatArray:
    text = default if element is None else element.get(key, default)
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise RobotFileError(f"{here} has {key}='{text}'; expected three finite numbers.")
    return np.array(values)


def _from_rpy(rpy: FloatArray) -> FloatArray:
    """The rotation (3, 3) of roll, pitch and yaw about fixed axes x, y, z, in this order."""
    roll, pitch, yaw = (rotation_about(axis, angle) for axis, angle in zip(np.eye(3), rpy, strict=True))
    return np.asarray(yaw @ pitch @ roll)
