"""What the command loop asks of a check for bodies that come too close, and the one that a robot file asks for.

The check itself, with Pinocchio, is in ``collision``, which is imported only where it is wanted.
"""

from __future__ import annotations

from typing import Protocol

from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import FloatArray


class Clearance(Protocol):
    """Whether bodies come too close."""

    def advance(self, position: FloatArray, target: FloatArray, moving: FloatArray) -> float:
        """How much of the way from ``position`` (J,) to ``target`` (J,) may be made at the present velocity ``moving`` (J,): 1
        all, 0 none."""

    def change(self, acceleration: FloatArray) -> None:
        """The acceleration limits (J,) in force, with which the robot brakes."""

    @property
    def problem(self) -> str | None:
        """What came too close, in words with the remedy, when the last answer was 0."""


def clearance_of(robot: Robot, parameters: CommandParameters) -> Clearance | None:
    """The check that ``command.collision_margin`` asks for; None for a margin of 0.

    Raises ``ValueError``-derived errors when the URDF, shapes or the package ``pin`` are missing.
    """
    if parameters.collision_margin == 0.0:
        return None
    from flow_policy_ros.safety.collision import CollisionMonitor, workspace_from
    from flow_policy_ros.safety.collision_model import CollisionError, collision_from

    if not robot.urdf:
        raise CollisionError(
            f"parameter command.collision_margin is {parameters.collision_margin} m, but robot file {robot.path} has no robot.urdf "
            "to know the robot's shape from. Give the URDF, or set the margin to 0."
        )
    bodies, where = robot.bodies, f"robot file {robot.path}: robot"
    return CollisionMonitor(
        robot.urdf,
        robot.joints,
        parameters.collision_margin,
        mimics=robot.mimics,
        workspace=workspace_from(bodies["workspace"], f"{where}.workspace") if "workspace" in bodies else None,
        declared=collision_from(bodies["collision"], f"{where}.collision") if "collision" in bodies else None,
        acceleration=robot.limits.acceleration,
        period_s=1.0 / parameters.rate_hz,
    )
