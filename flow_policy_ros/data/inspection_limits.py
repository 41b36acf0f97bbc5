"""Where the motion in a recording leaves a robot file's ranges and velocities, in sentences.

The limits are those of commands. What a servo measures may overshoot them and is worth a calm word; commands beyond them are cut
off. Neither is a reason to widen a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flow_policy_ros.data.inspection_findings import label, some
from flow_policy_ros.data.inspection_found import JointFound, LayoutFound
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.robot import Robot

BEYOND, BEYOND_SHARE = 0.01, 0.01
"""Commands leave a range when they are beyond it by more than this, rad (m), and by more than this share of its width."""
FASTER = 1.05
"""Commands are too fast from this multiple of a velocity limit on."""
FAR, FAR_SHARE, JUMPING = 0.3, 0.5, 3.0
"""Measured positions that lie farther beyond the command range than these, or that are so many times too fast, are no servo's."""


@dataclass(frozen=True)
class _Excess:
    """One joint's motion as ``found`` in the recording against its limits: ``beyond``, by how much it leaves the range [``low``,
    ``high``], rad (m); ``faster``, how many times the ``velocity`` it reaches."""

    joint: str
    found: JointFound
    low: float
    high: float
    velocity: float

    @property
    def beyond(self) -> float:
        return max(self.low - self.found.low, self.found.high - self.high, 0.0)

    @property
    def faster(self) -> float:
        return self.found.velocity / self.velocity

    @property
    def ranges(self) -> str:
        return f"{self.joint} from {self.found.low:.4g} to {self.found.high:.4g} (robot file: {self.low:.4g} to {self.high:.4g})"

    @property
    def velocities(self) -> str:
        return f"{self.joint} {self.found.velocity:.4g} (robot file: {self.velocity:.4g})"


def _excess(layout: LayoutFound, naming: JointNaming, robot: Robot) -> list[_Excess]:
    """Of the robot's joints that are in the messages; none where the names cannot be told."""
    try:
        names = naming.rename(layout.names, len(layout.joints))
    except BadInput:
        return []
    at = {joint: k for k, joint in enumerate(robot.joints)}
    bounds = robot.limits
    return [
        _Excess(joint, found, float(bounds.lower[k]), float(bounds.upper[k]), float(bounds.velocity[k]))
        for joint, found in zip(names, layout.joints, strict=True)
        if (k := at.get(joint, -1)) >= 0 and np.isfinite([found.low, found.high]).all()
    ]


def beyond(layout: LayoutFound, naming: JointNaming, robot: Robot) -> Iterator[str]:
    """Where commands went beyond the robot file's ranges and velocities."""
    found = _excess(layout, naming, robot)
    ranges = [e.ranges for e in found if e.beyond > max(BEYOND, BEYOND_SHARE * (e.high - e.low))]
    if ranges:
        yield (
            f"{label(layout)} goes beyond the robot file's ranges: {some(ranges)}. Such commands are cut off there, in training "
            "and on the robot. Compare units, names and zero positions with the robot file's."
        )
    velocities = [e.velocities for e in found if e.faster > FASTER]
    if velocities:
        yield (
            f"{label(layout)} is at times faster than the robot file's velocities: {some(velocities)}. A replay slows such motion "
            "down, as the robot will. Look for jumps in the recording, or record slower motion."
        )


def strange(layout: LayoutFound, robot: Robot) -> Iterator[str]:
    """Measured positions that no servo explains: other units, other joints, jumps."""
    found = _excess(layout, robot.naming, robot)
    ranges = [e.ranges for e in found if _far(e)]
    if ranges:
        yield (
            f"{label(layout)} lies far beyond the robot file's ranges: {some(ranges)}. Compare units (degrees?), names and zero "
            "positions with the robot file's."
        )
    velocities = [e.velocities for e in found if e.faster > JUMPING]
    if velocities:
        yield (
            f"{label(layout)} is far faster than the robot file's velocities: {some(velocities)}. Look for jumps in the recording, "
            "and compare units with the robot file's."
        )


def overshoot(layout: LayoutFound, robot: Robot) -> Iterator[str]:
    """What a servo's measured positions do beyond the limits, which are those of commands."""
    found = _excess(layout, robot.naming, robot)
    outside = max((e for e in found if not _far(e)), key=lambda e: e.beyond, default=None)
    if outside is not None and outside.beyond > BEYOND:
        yield (
            f"{label(layout)}: measured positions overshoot the command range by up to {outside.beyond:.2f} rad (m), most of all "
            f"{outside.joint}; normal for servos."
        )
    fast = max((e for e in found if e.faster <= JUMPING), key=lambda e: e.faster, default=None)
    if fast is not None and fast.faster > FASTER:
        yield (
            f"{label(layout)}: measured velocities are up to {fast.faster:.1f} times those that commands may have, most of all "
            f"{fast.joint}; normal for servos."
        )


def _far(excess: _Excess) -> bool:
    return excess.beyond > max(FAR, FAR_SHARE * (excess.high - excess.low))
