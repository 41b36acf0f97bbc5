"""From set-points, one per control period, to a trajectory that a controller may sample as finely as it likes. No messages here.

The published set-points are taken as control points of a uniform cubic B-spline. Its first derivative is made of their first
differences, its second of their second ones, its third of their third ones, each an average of neighbours with weights from
0 to 1 (de Boor 1978, chapter X). So where set-points keep range, velocity, acceleration and jerk, the curve keeps them at every
instant. Between knots it is a cubic, which the cubic (position, velocity) and the quintic (and acceleration) interpolation of
joint_trajectory_controller reproduce exactly. Straight lines between set-points would have jumps in velocity, and polynomials
through set-points and their differences overshoot the acceleration by as much as the jerk limit times the period.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from flow_policy_ros.runtime.types import FloatArray

TRANSPORT_S = 0.015
"""What may pass between a tick and the controller's first sample of what was sent then: rollout, message, its cycle."""
SAME = 1e-9
"""rad or m; set-points nearer to what was announced are those."""


@dataclass(frozen=True)
class Knots:
    """Rows of a trajectory at instants k · T after its beginning: ``position``, ``velocity``, ``acceleration`` (N, C)."""

    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray


def knots(points: FloatArray, period_s: float) -> Knots:
    """The B-spline with control points ``points`` (N + 2, C), one per period, at its N inner knots.

    A knot lies off its control point by a sixth of the second difference: A T² / 6 at most.
    """
    before, at, after = points[:-2], points[1:-1], points[2:]
    return Knots(
        at + (before - 2.0 * at + after) / 6.0,
        (after - before) / (2.0 * period_s),
        (before - 2.0 * at + after) / period_s**2,
    )


def lead_ticks(period_s: float) -> int:
    """How many ticks after the loop's the controller is at a set-point.

    The curve up to two ticks before the newest set-point does not depend on it. What is sent while the controller is there
    joins without a seam; so it has to be there for ``TRANSPORT_S`` still.
    """
    return 2 + int(np.ceil(TRANSPORT_S / period_s))


class Announcement:
    """What the controller was told last, and whether it still holds.

    The controller follows ``lead`` ticks behind the loop. A trajectory sent at a tick begins with the set-points that the
    controller has before it by then, so that it replaces the one before it in a stretch where both are the same curve.
    """

    def __init__(self, period_s: float) -> None:
        self._period = period_s
        self._past: deque[FloatArray] = deque(maxlen=lead_ticks(period_s) + 2)  # set-points up to the newest
        self._ahead: FloatArray | None = None  # (N, J) announced for ticks to come
        self._row = 0

    def forget(self) -> None:
        """As before the first set-point."""
        self._past.clear()
        self._ahead = None

    def take(self, position: FloatArray) -> bool:
        """The set-point (J,) of a tick; whether it is other than announced, so that ``trajectory`` is to be sent."""
        while len(self._past) < (self._past.maxlen or 0) - 1:
            self._past.append(position)  # it begins at rest
        self._past.append(position)
        if self._ahead is None:
            return True
        expected = self._ahead[min(self._row, len(self._ahead) - 1)]
        self._row += 1
        return bool(np.abs(position - expected).max() > SAME)

    def announce(self, ahead: FloatArray) -> FloatArray:
        """Take it that after the newest set-point those of ``ahead`` (N, J) follow, and then rest. Returns the control points
        of the trajectory to be sent, the first knot of which is for the instant of the newest tick."""
        last = ahead[-1:] if len(ahead) else self._past[-1][None]
        self._ahead, self._row = np.concatenate([ahead, last]), 0
        # Three more of the last, and the trajectory ends with two knots at rest.
        return np.concatenate([np.stack(self._past), ahead, last, last, last])
