"""The limits of a robot from their sources: the robot file on top, then the URDF, then the declared fallback.

Every value keeps its origin, for whoever has to answer where a limit came from. Masters of mimic joints are narrowed until
the mimics stay in their own limits. What limits mean: ``joint_limits``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from flow_policy_ros.runtime.joint_limits import JointLimits, Mimic
from flow_policy_ros.runtime.robot_yaml import RobotFileError, finite, known, need
from flow_policy_ros.runtime.urdf import Urdf, UrdfJoint

RATES = ("velocity", "acceleration", "jerk")
SCALARS = (*RATES, "tracking", "effort")
UNLIMITED = ("jerk", "tracking", "effort")  # may be absent or .inf
Origin = dict[str, dict[str, str]]


@dataclass
class _Joint:
    """What is known of one joint: a value and its origin by kind (``position`` is a pair), or the reason why there is none."""

    values: dict[str, Any]
    origin: dict[str, str]
    lacks: dict[str, str]

    def put(self, kind: str, value: Any, origin: str) -> None:
        self.values[kind], self.origin[kind] = value, origin


def resolve_limits(
    block: dict[str, Any], joints: tuple[str, ...], urdf: Urdf | None, where: str
) -> tuple[JointLimits, tuple[Mimic, ...], Origin]:
    """(limits, mimics of these joints, origins) of the ``robot`` block; ``where`` names the file.

    ``origins[joint][kind]`` is "robot file", "urdf", "fallback", or "mimic NAME" where that joint's own limit is the tighter.
    A kind without origin is not limited. Raises ``RobotFileError`` naming joints, kinds and remedy.
    """
    mimics = () if urdf is None else tuple(m for m in urdf.mimics.values() if m.master in joints)
    _check_urdf_joints(joints, urdf, where)
    entries = need({"limits": {}, **block} if urdf else block, "limits", dict, f"{where}: robot")
    missing = [] if urdf else [joint for joint in joints if joint not in entries]
    unknown = [joint for joint in entries if joint not in joints and joint not in {m.joint for m in mimics}]
    if missing or unknown:
        raise RobotFileError(
            f"{where}: robot.limits and robot.joints disagree: no limits for {missing}, limits for unknown joints "
            f"{unknown}. Give each joint of robot.joints exactly one entry."
        )
    fallback = _fallback(block, where)
    rows: dict[str, _Joint] = {}
    for joint in (*joints, *(m.joint for m in mimics)):
        entry = entries.get(joint, {})
        own = None if urdf is None else urdf.joints[joint]
        rows[joint] = _row(entry, own, fallback, SCALARS if joint in joints else RATES, f"{where}: robot.limits.{joint}")
    _refuse_lacking(rows, mimics, urdf, where)
    for mimic in mimics:
        _tighten(rows[mimic.master], mimic, rows[mimic.joint], where)
    table = {kind: np.array([rows[j].values.get(kind, math.inf) for j in joints], dtype=np.float64) for kind in SCALARS}
    lower, upper = np.array([rows[joint].values["position"] for joint in joints], dtype=np.float64).T
    limits = JointLimits(names=joints, lower=lower.copy(), upper=upper.copy(), continuous=np.isinf(lower), **table)
    return limits, mimics, {joint: rows[joint].origin for joint in joints}


def _check_urdf_joints(joints: tuple[str, ...], urdf: Urdf | None, where: str) -> None:
    if urdf is None:
        return
    strangers = [joint for joint in joints if joint not in urdf.joints]
    if strangers:
        raise RobotFileError(
            f"{where}: robot.joints names {strangers}, which {urdf.path} does not have; it has {list(urdf.actuated())}. "
            "Use the URDF's names."
        )
    for joint in joints:
        if joint in urdf.mimics:
            raise RobotFileError(
                f"{where}: robot.joints names '{joint}', which mimics '{urdf.mimics[joint].master}' in {urdf.path} and is never "
                "commanded apart. Remove it; it may stand in robot.command_joints."
            )
        if joint not in urdf.actuated():
            raise RobotFileError(f"{where}: robot.joints names '{joint}', which is {urdf.joints[joint].type} in {urdf.path}. "
                                 "Remove it; only revolute, continuous and prismatic joints can be commanded.")


def _fallback(block: dict[str, Any], where: str) -> dict[str, float]:
    entries = need({"fallback": {}, **block}, "fallback", dict, f"{where}: robot")
    known(entries, SCALARS, f"{where}: robot.fallback")
    return {kind: _scalar(entries, kind, f"{where}: robot.fallback") for kind in entries}


def _scalar(entry: dict[str, Any], kind: str, here: str) -> float:
    value = need(entry, kind, (int, float), here)
    if (value == math.inf and kind in UNLIMITED) or (finite(value) and value > 0):
        return float(value)
    raise RobotFileError(f"{here}.{kind} is {value}, expected a finite number above zero"
                         f"{', or .inf for no limit' if kind in UNLIMITED else ''}.")


def _row(
    entry: Any, own: UrdfJoint | None, fallback: dict[str, float], kinds: tuple[str, ...], here: str
) -> _Joint:
    """One joint's values. ``kinds`` are those that it has beside its position."""
    if not isinstance(entry, dict):
        raise RobotFileError(f"{here} is {entry!r}, expected position, velocity and acceleration.")
    known(entry, ("position", "continuous", *kinds), here)
    row = _Joint({}, {}, {})
    _position(row, entry, own, here)
    for kind in kinds:
        given = getattr(own, kind, None)
        if kind in entry:
            row.put(kind, _scalar(entry, kind, here), "robot file")
        elif given is not None:
            row.put(kind, given, "urdf")
        elif kind in fallback:
            row.put(kind, fallback[kind], "fallback")
        elif kind not in UNLIMITED:
            in_urdf = "a URDF never has one" if kind == "acceleration" else own.reasons[kind] if own else ""
            row.lacks[kind] = in_urdf if own else "robot.limits has none"
    return row


def _position(row: _Joint, entry: dict[str, Any], own: UrdfJoint | None, here: str) -> None:
    endless = need({"continuous": own is not None and own.type == "continuous" and "position" not in entry, **entry},
                   "continuous", bool, here)
    if endless and (own is not None and own.type == "prismatic"):
        raise RobotFileError(f"{here}.continuous is true, but the URDF has the joint as prismatic. Remove it.")
    if endless and "position" in entry:
        raise RobotFileError(f"{here} has a position range and continuous: true. Give one of them.")
    if "position" in entry:
        row.put("position", _bounds(need(entry, "position", list, here), here), "robot file")
    elif endless:
        row.put("position", (-math.inf, math.inf), "robot file" if "continuous" in entry else "urdf")
    elif own is not None and own.type != "continuous" and own.position is not None:
        row.put("position", own.position, "urdf")
    else:
        row.lacks["position"] = own.reasons.get("position", "continuous: false") if own else "robot.limits has none"


def _bounds(bounds: list[Any], here: str) -> tuple[float, float]:
    numbers = len(bounds) == 2 and all(map(finite, bounds)) and finite(float(bounds[1]) - float(bounds[0]))
    if not numbers or not bounds[0] < bounds[1]:
        raise RobotFileError(
            f"{here}.position is {bounds}, expected [lower, upper], finite, with lower < upper, rad or m. "
            "For a joint without stops give the range that it may be commanded in, or continuous: true."
        )
    return float(bounds[0]), float(bounds[1])


def _refuse_lacking(rows: dict[str, _Joint], mimics: tuple[Mimic, ...], urdf: Urdf | None, where: str) -> None:
    """One error with every joint that lacks a limit. A mimic moves with its master, which has an acceleration limit."""
    for mimic in mimics:
        rows[mimic.joint].lacks.pop("acceleration", None)
    sentences = []
    for kind in ("position", *SCALARS):
        by_reason: dict[str, list[str]] = {}
        for joint, row in rows.items():
            if kind in row.lacks:
                by_reason.setdefault(row.lacks[kind], []).append(joint)
        if by_reason:
            joints = "; ".join(f"{', '.join(joints)} ({reason})" for reason, joints in by_reason.items())
            remedy = f"robot.limits.JOINT.{kind}" + ("" if kind == "position" else f" or robot.fallback.{kind} for all")
            sentences.append(f"'{kind}' is missing for {joints}: give {remedy}.")
    if sentences:
        raise RobotFileError(f"{where}{f', with URDF {urdf.path}' if urdf else ''}: {' '.join(sentences)}")


def _tighten(master: _Joint, mimic: Mimic, own: _Joint, where: str) -> None:
    """Narrow the master until the mimic stays in its own limits, to the last bit as ``Mimic.position`` computes it."""
    ends = [(end - mimic.offset) / mimic.multiplier for end in own.values["position"]]
    low, high = min(ends), max(ends)
    old = master.values["position"]
    lower = _inside(max(old[0], low), mimic, own.values["position"], math.inf)
    upper = _inside(min(old[1], high), mimic, own.values["position"], -math.inf)
    if not lower < upper:
        raise RobotFileError(
            f"{where}: joint '{mimic.master}' has range [{old[0]:g}, {old[1]:g}], but its mimic '{mimic.joint}' (multiplier "
            f"{mimic.multiplier:g}, offset {mimic.offset:g}) allows [{low:g}, {high:g}]. Correct the range of one of them."
        )
    if (lower, upper) != old:
        master.put("position", (lower, upper), f"mimic {mimic.joint}")
    for kind in RATES:
        allowed = own.values.get(kind, math.inf) / abs(mimic.multiplier)
        if allowed < master.values.get(kind, math.inf):
            master.put(kind, allowed, f"mimic {mimic.joint}")


def _inside(end: float, mimic: Mimic, bounds: tuple[float, float], towards: float) -> float:
    """``end`` moved by as many roundings as it takes for the mimic to be within ``bounds``."""
    step = float(np.spacing(abs(end)))
    while math.isfinite(end) and not bounds[0] <= mimic.position(end) <= bounds[1] and step < math.inf:
        end, step = end + math.copysign(step, towards), 2.0 * step
    return end
