"""A joint_trajectory_controller as tests need it: which set-points it makes of trajectories, at its own rate.

Written after its documentation (ros2_controllers, "Trajectory Representation"): between two points a polynomial of first, third
or fifth degree, by what the points have; after the last point its position; a new trajectory replaces the one before at once.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.polynomial import polynomial
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from flow_policy_ros.ros.messages import from_time


def hermite(start: JointTrajectoryPoint, end: JointTrajectoryPoint, duration: float, at: float) -> np.ndarray:
    """Position ``at`` seconds after ``start`` of the polynomial of lowest degree with the values that both points have."""
    fields = ("positions", "velocities", "accelerations")
    given = [(a, b) for a, b in ((getattr(start, f), getattr(end, f)) for f in fields) if len(a) and len(b)]
    # In units of the duration, for a well-conditioned system.
    values = np.array([np.array(value) * duration**derivative for derivative, ends in enumerate(given) for value in ends])
    coefficients = np.linalg.solve(conditions(len(given)), values)
    return np.asarray(polynomial.polyval(at / duration, coefficients))


@cache
def conditions(derivatives: int) -> np.ndarray:
    """What the coefficients have to give at 0 and at 1: the value, its first derivative, and so on."""
    basis = np.eye(2 * derivatives)
    return np.array(
        [
            [polynomial.polyval(instant, polynomial.polyder(c, derivative)) for c in basis]
            for derivative in range(derivatives)
            for instant in (0.0, 1.0)
        ]
    )


class Controller:
    """Samples the trajectory that it has at its own rate; ``positions`` are what it would command."""

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self.positions: list[np.ndarray] = []
        self._trajectory: JointTrajectory | None = None
        self._times: list[int] = []

    def take(self, trajectory: JointTrajectory, now: int) -> None:
        """A new trajectory. Refuses what joint_trajectory_controller refuses."""
        self._times = [from_time(trajectory.header.stamp) + from_time(p.time_from_start) for p in trajectory.points]
        assert self._times[-1] > now, "ends in the past"
        assert (np.diff(self._times) > 0).all(), "times do not increase"
        assert not np.any(trajectory.points[-1].velocities), "does not end at rest"
        self._trajectory = trajectory

    def sample(self, now: int) -> None:
        """Its cycle at ``now`` (ns)."""
        if self._trajectory is None:
            return
        after = int(np.searchsorted(self._times, now, side="right"))
        points = self._trajectory.points
        if after == len(points):
            self.positions.append(np.array(points[-1].positions))
            return
        assert after > 0, "before the first point: it would go there from where it measures the robot to be"
        start, end = self._times[after - 1], self._times[after]
        self.positions.append(hermite(points[after - 1], points[after], (end - start) / 1e9, (now - start) / 1e9))
