"""What ``--limit-scale`` makes of a robot: the same one with slower or faster limits, in a simulation.

On a robot ``command.limit_scale`` slows down and never raises a limit; here a faster one can be asked for, to see how much the
limits cost a policy. Which limits a robot has is its robot file's affair.
"""

from __future__ import annotations

from dataclasses import replace

from flow_policy_ros.runtime.parameters import ParameterError
from flow_policy_ros.runtime.robot import Robot

SCALES = (0.01, 10.0)
"""The least and the greatest factor, inclusive."""


def at_scale(robot: Robot, scale: float) -> Robot:
    """``robot`` with velocity, acceleration and jerk limits times ``scale``. Raises ``ParameterError`` outside ``SCALES``."""
    if not SCALES[0] <= scale <= SCALES[1]:
        raise ParameterError(f"--limit-scale is {scale}, expected {SCALES[0]} to {SCALES[1]}.")
    return replace(robot, limits=robot.limits.scaled(scale))


def refuse_on_a_robot(scale: float) -> None:
    """Raises ``ParameterError`` for a ``scale`` above 1, which no command node takes."""
    if scale > 1.0:
        raise ParameterError(
            f"--limit-scale is {scale}, but the nodes take no factor above 1: they never go beyond the robot file's limits. Use "
            "'flow_policy evaluate' without --ros, which can, or give a robot file with other limits (--robot)."
        )
