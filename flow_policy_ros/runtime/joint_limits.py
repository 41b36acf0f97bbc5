"""Limits of joints, and joints that follow others. Where the numbers come from: ``robot_limits``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray


@dataclass(frozen=True)
class JointLimits:
    """Limits of J joints, each array (J,), in the robot file's joint order; rad or m, s, N·m or N.

    ``lower``/``upper`` bound *commands* (a position-servo robot may command beyond its joint stop to press) and are ∓inf
    where ``continuous``; ``velocity``, ``acceleration``, ``jerk`` bound consecutive set-points. ``tracking`` is the greatest
    |set-point − measured| that counts as healthy, ``effort`` the greatest |measured effort|. Of ``jerk``, ``tracking`` and
    ``effort`` inf means not limited. One number for ``jerk``, ``tracking`` or ``continuous`` holds for every joint.
    """

    names: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    effort: FloatArray
    jerk: FloatArray = field(default_factory=lambda: np.array(np.inf))
    tracking: FloatArray = field(default_factory=lambda: np.array(np.inf))
    continuous: NDArray[np.bool_] = field(default_factory=lambda: np.array(False))

    def __post_init__(self) -> None:
        for name in ("jerk", "tracking", "continuous"):
            object.__setattr__(self, name, np.broadcast_to(getattr(self, name), (len(self.names),)).copy())

    def scaled(self, factor: float | FloatArray) -> JointLimits:
        """The same position range with velocity, acceleration and jerk times ``factor``, one number or (J,)."""
        return replace(self, velocity=self.velocity * factor, acceleration=self.acceleration * factor, jerk=self.jerk * factor)


@dataclass(frozen=True)
class Mimic:
    """A joint that follows another: position = ``multiplier`` · master + ``offset`` (rad or m). It is never commanded apart."""

    joint: str
    master: str
    multiplier: float
    offset: float

    def position(self, master: float) -> float:
        """Its position when the master is at ``master``."""
        return self.multiplier * master + self.offset
