"""All that is known of a robot's limits when its robot file is made: the tightest of the URDF's joints and the claims from beside
them. Where claims come from: ``new_robot_joint_limits``, ``new_robot_interfaces``. What is written of it: ``new_robot_limits``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flow_policy_ros.runtime.joint_limits import JointLimits, Mimic
from flow_policy_ros.runtime.new_robot_joint_limits import Claim
from flow_policy_ros.runtime.robot_limits import Origin, resolve_limits
from flow_policy_ros.runtime.robot_yaml import RobotFileError, text
from flow_policy_ros.runtime.urdf import Urdf, UrdfJoint

UNKNOWN = 1e9
"""Stands for a limit that nobody gives while the others are put together; it is never written."""


@dataclass(frozen=True)
class Sources:
    """What is known of ``joints`` and of the mimics that follow them. ``told`` is what other sources add to the URDF's joints, or
    have tighter, and ``by`` which those are; ``limits`` are all together. Joints ``apart`` take no acceleration from the fallback:
    sliding ones beside turning ones, which have other units.
    """

    urdf: Urdf
    joints: tuple[str, ...]
    mimics: tuple[Mimic, ...]
    limits: JointLimits
    origin: Origin
    told: dict[str, dict[str, Any]]
    by: dict[str, dict[str, str]]
    apart: tuple[str, ...]

    def lacks(self, joint: str, kind: str) -> bool:
        """Whether no source says a limit of this kind."""
        return getattr(self.urdf.joints[joint], kind, None) is None and kind not in self.told[joint]

    def slides(self, joint: str) -> bool:
        """Whether its units are m and N."""
        return self.urdf.joints[joint].type == "prismatic"


def gather(urdf: Urdf, joints: tuple[str, ...], where: str, claims: Sequence[Claim]) -> Sources:
    """URDF and claims put together as the reader of robot files will, with ``UNKNOWN`` for what all lack.

    Raises ``RobotFileError`` where two ranges have nothing in common, or only one end of a range is known.
    """
    mimics = [mimic.joint for mimic in urdf.mimics.values() if mimic.master in joints]
    told: dict[str, dict[str, Any]] = {}
    by: dict[str, dict[str, str]] = {}
    for joint in (*joints, *mimics):
        told[joint], by[joint] = _told(urdf, joint, [claim for claim in claims if claim.joint == joint])
        if joint in mimics:  # their efforts are not watched
            told[joint].pop("effort", None)
    entries: dict[str, dict[str, Any]] = {}
    for joint in told:
        unknown = {"position": [-UNKNOWN, UNKNOWN], "velocity": UNKNOWN}
        lacking = {kind: value for kind, value in unknown.items() if getattr(urdf.joints[joint], kind) is None}
        entries[joint] = lacking | told[joint]
    limits, following, origin = resolve_limits({"limits": entries, "fallback": {"acceleration": 1.0}}, joints, urdf, where)
    sliding = tuple(joint for joint in joints if urdf.joints[joint].type == "prismatic")
    apart = sliding if len(sliding) < len(joints) else ()
    return Sources(urdf, joints, following, limits, origin, told, by, apart)


def _told(urdf: Urdf, joint: str, claims: Sequence[Claim]) -> tuple[dict[str, Any], dict[str, str]]:
    """(what the claims have for a joint, without what the URDF has as tight or tighter; where each of it comes from)."""
    own = urdf.joints[joint]
    told: dict[str, Any] = {}
    by: dict[str, str] = {}
    for claim in claims:
        if claim.kind == "position":
            continue
        least = told.get(claim.kind, getattr(own, claim.kind, None))
        if least is None or claim.upper < least:
            told[claim.kind], by[claim.kind] = claim.upper, text(claim.source)
    low, high = _range(urdf.path, own, [claim for claim in claims if claim.kind == "position"])
    narrower = dict.fromkeys(source for _, source in (low, high) if source)
    if narrower:
        told["position"], by["position"] = [low[0], high[0]], " and ".join(map(text, narrower))
    return told, by


def _range(path: str, own: UrdfJoint, claims: Sequence[Claim]) -> tuple[tuple[float, str], tuple[float, str]]:
    """Both ends of the range that the URDF and all claims allow, each with its source, "" for the URDF's own."""
    low, high = ((end, "") for end in own.position or (-math.inf, math.inf))
    for claim in claims:
        low = (claim.lower, claim.source) if claim.lower > low[0] else low
        high = (claim.upper, claim.source) if claim.upper < high[0] else high
        if not low[0] < high[0]:
            raise RobotFileError(f"joint '{own.name}': {claim.source} has the range {[claim.lower, claim.upper]}, which has "
                                 f"nothing in common with that of {path} and the other sources. Correct one of them.")
    if math.isfinite(low[0]) != math.isfinite(high[0]):
        raise RobotFileError(f"joint '{own.name}': {low[1] or high[1]} has one end of its range, {low[0]:g} to {high[0]:g}, and "
                             f"{path} has no other. Give both ends, or none.")
    return low, high
