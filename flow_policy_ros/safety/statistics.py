"""Counts of what the command stage did and refused, for diagnostics and summaries."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flow_policy_ros.safety.acceleration_limiter import BoolArray
from flow_policy_ros.safety.limiter import KINDS


@dataclass(frozen=True)
class CommandStatistics:
    """Counts since construction: ``interventions[kind][joint]``, ``rejections[kind]``, ``faults[name]``, ticks.

    ``ticks_limited`` counts the active ticks in which a limit changed at least one joint, ``joint_ticks_limited`` the
    changed joints of all ticks. ``chunks`` were followed, ``chunks_slowed`` of them slowed along their path because of
    ``slowed[kind][joint]``; ``clipped[joint]`` chunks had points out of range.
    """

    ticks: int
    ticks_active: int
    ticks_limited: int
    interventions: dict[str, dict[str, int]]
    rejections: dict[str, int]
    faults: dict[str, int]
    joint_ticks_limited: int = 0
    chunks: int = 0
    chunks_slowed: int = 0
    slowed: dict[str, dict[str, int]] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)


class TickCounts:
    """Ticks, and which limits acted in those that followed a chunk."""

    def __init__(self, joints: tuple[str, ...]) -> None:
        self.ticks = 0
        self.ticks_active = 0
        self.ticks_limited = 0
        self.joint_ticks_limited = 0
        self._joints = joints
        self._interventions = {kind: np.zeros(len(joints), dtype=np.int64) for kind in KINDS}

    def add(self, interventions: dict[str, BoolArray]) -> None:
        """A tick that followed a chunk, in which these limits acted (kind → (J,))."""
        self.ticks_active += 1
        acting = {kind: acted for kind, acted in interventions.items() if np.count_nonzero(acted)}
        if not acting:
            return
        self.ticks_limited += 1
        self.joint_ticks_limited += int(np.count_nonzero(np.logical_or.reduce(list(acting.values()))))
        for kind, acted in acting.items():
            self._interventions[kind] += acted

    def interventions(self) -> dict[str, dict[str, int]]:
        """Counts by kind and joint."""
        return {k: dict(zip(self._joints, map(int, counts), strict=True)) for k, counts in self._interventions.items()}
