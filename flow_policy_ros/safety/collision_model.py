"""What a robot consists of for the collision check: shapes on links, out of the URDF and the robot file.

Declarations and the building of Pinocchio's model live here. Distances and what follows from them: ``safety.collision``.
Pinocchio (package ``pin``, optional) is imported when a model is built, and not before.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.robot import Mimic
from flow_policy_ros.runtime.types import FloatArray

PRIMITIVES = ("sphere", "box", "cylinder")
MOVING = ("revolute", "prismatic", "continuous")
UNBOUNDED = "1e9"  # rad; stands for no limit, so that a continuous joint is one number and not a pair of cosine and sine


class CollisionError(ValueError):
    """The check cannot be made as asked; the message names link, joint or key, and the remedy."""


@dataclass(frozen=True)
class Sphere:
    """A sphere fixed to ``link``: ``centre`` (x, y, z) in the link's frame and ``radius``, both in m."""

    link: str
    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Declared:
    """What the robot file says beyond the URDF (key ``robot.collision``).

    ``spheres`` replace the URDF's shapes on the links that they name. ``ignore`` are pairs of links that need no check.
    Links in ``unchecked`` have no shape at all. ``held`` gives the position (rad or m) of URDF joints that nobody moves.
    ``mesh_folders`` are searched for meshes, after the URDF's own folder and relative to it.
    """

    spheres: tuple[Sphere, ...] = ()
    ignore: tuple[tuple[str, str], ...] = ()
    unchecked: tuple[str, ...] = ()
    held: Mapping[str, float] = field(default_factory=dict)
    mesh_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class CollisionModel:
    """Pinocchio's model and shapes. Configuration = ``offset`` (Q,) + ``matrix`` (Q, J) · position, so mimics move too.

    ``links`` names the link of each shape, ``pairs`` (P, 2) are indices of shapes, in the order of ``geometry``'s pairs.
    ``shapeless`` are links that can be seen (``visual``) but have no shape, so that nothing keeps them apart.
    """

    model: Any
    geometry: Any
    matrix: FloatArray
    offset: FloatArray
    links: tuple[str, ...]
    pairs: NDArray[np.intp]
    shapeless: tuple[str, ...]


def numbers(value: Any, count: int, where: str) -> tuple[float, ...]:
    """``count`` finite numbers of a robot file. Raises ``CollisionError``."""
    good = isinstance(value, (list, tuple)) and len(value) == count
    if not good or not all(type(v) in (int, float) and abs(v) < 1e6 for v in value):
        raise CollisionError(f"{where} is {value!r}, expected a list of {count} finite numbers in m.")
    return tuple(float(v) for v in value)


def known_keys(block: Any, keys: Sequence[str], where: str) -> Mapping[str, Any]:
    """``block`` if it is a mapping with some of ``keys`` only: a misspelt key would silently protect nothing."""
    if not isinstance(block, Mapping) or not set(block) <= set(keys):
        given = list(block) if isinstance(block, Mapping) else repr(block)
        raise CollisionError(f"{where} has {given}, expected keys among {', '.join(keys)}. Correct or remove the others.")
    return block


def collision_from(block: Any, where: str = "robot.collision") -> Declared:
    """Read the robot file's ``robot.collision``; ``where`` begins the messages. Raises ``CollisionError``."""
    block = known_keys(block, ("spheres", "ignore", "unchecked", "held", "mesh_folders"), where)
    lists = {key: block.get(key, []) for key in ("spheres", "ignore", "unchecked", "mesh_folders")}
    for key, value in lists.items():
        if not isinstance(value, list):
            raise CollisionError(f"{where}.{key} is {value!r}, expected a list.")
    spheres = []
    for i, entry in enumerate(lists["spheres"]):
        here = f"{where}.spheres[{i}]"
        entry = known_keys(entry, ("link", "centre", "radius"), here)
        x, y, z = numbers(entry.get("centre", [0.0, 0.0, 0.0]), 3, f"{here}.centre")
        (radius,) = numbers([entry.get("radius")], 1, f"{here}.radius")
        if not radius > 0.0:
            raise CollisionError(f"{here}.radius is {radius:g}, expected a length above zero in m.")
        spheres.append(Sphere(str(entry.get("link")), (x, y, z), radius))
    for pair in lists["ignore"]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise CollisionError(f"{where}.ignore has {pair!r}, expected pairs [link, link].")
    held = block.get("held", {})
    if not isinstance(held, Mapping):
        raise CollisionError(f"{where}.held is {held!r}, expected joint: position.")
    return Declared(
        spheres=tuple(spheres),
        ignore=tuple((str(a), str(b)) for a, b in lists["ignore"]),
        unchecked=tuple(map(str, lists["unchecked"])),
        held={str(joint): numbers([value], 1, f"{where}.held.{joint}")[0] for joint, value in held.items()},
        mesh_folders=tuple(map(str, lists["mesh_folders"])),
    )


def build(urdf_path: str | Path, joints: Sequence[str], mimics: Sequence[Mimic], declared: Declared) -> CollisionModel:
    """The model of ``joints`` (J,) and what hangs on them. Raises ``CollisionError`` naming what is missing."""
    try:
        import pinocchio as pin
    except ImportError as error:
        raise CollisionError(
            "the collision check needs Pinocchio, which cannot be imported: pip install pin, "
            "or set command.collision_margin to 0 to go without the check."
        ) from error
    path = Path(urdf_path)
    try:
        root = ET.fromstring(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ET.ParseError) as error:
        raise CollisionError(f"the URDF {path} cannot be read: {error}. Correct robot.urdf in the robot file.") from error
    _check_joints(root, joints, mimics, declared, path)
    _check_links(root, declared, path)
    shapeless = _prepare(root, declared, path)
    text = ET.tostring(root, encoding="unicode")
    try:
        model = pin.buildModelFromXML(text)
        geometry = pin.buildGeomFromUrdfString(model, text, pin.GeometryType.COLLISION)
    except (ValueError, RuntimeError) as error:
        raise CollisionError(f"Pinocchio refuses the URDF {path}: {error}. Correct the URDF.") from error
    for shape in geometry.geometryObjects:
        if shape.meshPath and hasattr(shape.geometry, "buildConvexRepresentation"):
            # The hull holds the whole mesh and has a depth where it is penetrated; a bare triangle mesh has neither.
            shape.geometry.buildConvexRepresentation(False)
            shape.geometry = shape.geometry.convex
    links = tuple(model.frames[shape.parentFrame].name for shape in geometry.geometryObjects)
    pairs = _pairs(model, geometry, links, declared)
    for a, b in pairs:
        geometry.addCollisionPair(pin.CollisionPair(int(a), int(b)))
    matrix, offset = _configuration(model, joints, mimics, declared)
    return CollisionModel(model, geometry, matrix, offset, links, pairs, shapeless)


def _check_joints(root: ET.Element, joints: Sequence[str], mimics: Sequence[Mimic], declared: Declared, path: Path) -> None:
    types = {joint.get("name"): joint.get("type", "") for joint in root.findall("joint")}
    odd = [name for name, kind in types.items() if kind not in (*MOVING, "fixed")]
    if odd:
        raise CollisionError(
            f"the URDF {path} has joints {odd} that are neither {', '.join(MOVING)} nor fixed; make them one of these."
        )
    moving = {name for name, kind in types.items() if kind in MOVING}
    given = {*joints, *(mimic.joint for mimic in mimics), *declared.held}
    if given != moving:
        raise CollisionError(
            f"the robot file and the URDF {path} disagree: the URDF has no moving joints {sorted(given - moving)}, and nothing "
            f"says where its joints {sorted(map(str, moving - given))} are. Correct robot.urdf, or give the latter a position in "
            "robot.collision.held."
        )


def _check_links(root: ET.Element, declared: Declared, path: Path) -> None:
    links = {link.get("name") for link in root.findall("link")}
    named = {
        "spheres": {sphere.link for sphere in declared.spheres},
        "ignore": {link for pair in declared.ignore for link in pair},
        "unchecked": set(declared.unchecked),
    }
    for key, names in named.items():
        if names - links:
            raise CollisionError(
                f"robot.collision.{key} names links {sorted(names - links)}, which the URDF {path} does not have; it has "
                f"{', '.join(sorted(map(str, links)))}."
            )


def _prepare(root: ET.Element, declared: Declared, path: Path) -> tuple[str, ...]:
    """Make the tree what Pinocchio is to read, in place: declared shapes, paths of meshes. Returns links without a shape."""
    for joint in root.findall("joint"):
        for mimic in joint.findall("mimic"):  # ours are in the matrix, from the robot file
            joint.remove(mimic)
        if joint.get("type") == "continuous":
            joint.set("type", "revolute")
            for limit in joint.findall("limit"):
                joint.remove(limit)
            ET.SubElement(joint, "limit", lower=f"-{UNBOUNDED}", upper=UNBOUNDED, effort="1", velocity="1")
    missing: dict[str, str] = {}
    shapeless = []
    for link in root.findall("link"):
        name = str(link.get("name"))
        spheres = [sphere for sphere in declared.spheres if sphere.link == name]
        if spheres or name in declared.unchecked:
            for shape in link.findall("collision"):
                link.remove(shape)
        for sphere in spheres:
            shape = ET.SubElement(link, "collision")
            ET.SubElement(shape, "origin", xyz=" ".join(map(repr, sphere.centre)), rpy="0 0 0")
            ET.SubElement(ET.SubElement(shape, "geometry"), "sphere", radius=repr(sphere.radius))
        for kind in (kind for geometry in link.findall("collision/geometry") for kind in geometry):
            if kind.tag == "mesh":
                mesh = _find_mesh(kind.get("filename", ""), path.resolve().parent, declared.mesh_folders)
                if mesh is None:
                    missing.setdefault(kind.get("filename", ""), name)
                kind.set("filename", str(mesh))
            elif kind.tag not in PRIMITIVES:
                raise CollisionError(
                    f"link '{name}' of the URDF {path} has a collision shape '{kind.tag}', expected mesh, "
                    f"{', '.join(PRIMITIVES)}. Declare spheres for it in robot.collision.spheres."
                )
        if link.find("visual") is not None and link.find("collision") is None:
            shapeless.append(name)
        for visual in link.findall("visual"):
            link.remove(visual)
    if missing:
        listed = ", ".join(f"{mesh} (link '{link}')" for mesh, link in missing.items())
        raise CollisionError(
            f"meshes of the URDF {path} were not found: {listed}. Give their folder in "
            "robot.collision.mesh_folders, declare spheres for these links in robot.collision.spheres, or leave them without a "
            "check by robot.collision.unchecked."
        )
    return tuple(shapeless)


def _find_mesh(name: str, beside: Path, folders: Sequence[str]) -> Path | None:
    """Where a URDF's mesh lies: absolute, relative, or in a package, which may be any folder searched or lie in one."""
    bare = name.removeprefix("file://").removeprefix("package://")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    bases = [beside, *(beside / folder for folder in folders), *(Path(prefix, "share") for prefix in prefixes)]
    if name.startswith("package://"):
        bases += beside.parents
    tails = [bare, bare.partition("/")[2]] if name.startswith("package://") else [bare]
    return next((base / tail for tail in tails for base in bases if (base / tail).is_file()), None)


def _pairs(model: Any, geometry: Any, links: Sequence[str], declared: Declared) -> NDArray[np.intp]:
    """Shapes (P, 2) that can move against each other, without neighbours along the chain and what is to be ignored."""
    body = [int(shape.parentJoint) for shape in geometry.geometryObjects]
    ignore = {frozenset(pair) for pair in declared.ignore}
    pairs = []
    for a in range(len(body)):
        for b in range(a + 1, len(body)):
            i, j = body[a], body[b]
            near = i == j or model.parents[i] == j or model.parents[j] == i
            if not near and frozenset((links[a], links[b])) not in ignore:
                pairs.append((a, b))
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def _configuration(model: Any, joints: Sequence[str], mimics: Sequence[Mimic], declared: Declared) -> tuple[FloatArray, FloatArray]:
    matrix, offset = np.zeros((model.nq, len(joints))), np.zeros(model.nq)
    for column, joint in enumerate(joints):
        matrix[model.joints[model.getJointId(joint)].idx_q, column] = 1.0
    for mimic in mimics:
        row = model.joints[model.getJointId(mimic.joint)].idx_q
        matrix[row, list(joints).index(mimic.master)] = mimic.multiplier
        offset[row] = mimic.offset
    for joint, position in declared.held.items():
        offset[model.joints[model.getJointId(joint)].idx_q] = position
    return matrix, offset
