"""A command loop beside the real one that runs through a tick on made-up inputs, just before the real tick.

A process that sleeps between ticks finds its code gone from the processor's caches, and its first tick after the sleep takes
four times as long as one that follows at once. The rehearsal takes that upon itself. It shares nothing with the real loop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.guard import GuardState

POINTS, DT_NS = 48, 10_000_000
AMPLITUDE = 1e-3  # rad or m


class Rehearsal:
    """For the loop of ``robot`` with ``parameters``. Follows one closed motion over and over."""

    def __init__(self, robot: Robot, parameters: CommandParameters) -> None:
        """Raises ``ValueError`` as ``CommandLoop`` does."""
        willing = replace(parameters, autostart=True, deadman="", soft_start_s=0.0, first_command_max=1.0)
        self._loop = CommandLoop(robot, willing)
        limits = robot.limits
        centre = np.clip(0.0, limits.lower, limits.upper)
        reach = np.minimum(AMPLITUDE, limits.upper - limits.lower)
        side = np.where(centre + reach <= limits.upper, 1.0, -1.0)  # that of the range
        motion = (1.0 - np.cos(np.linspace(0.0, 2.0 * np.pi, POINTS)))[:, None] / 2.0
        self._loop.on_joint_state(JointState(0, robot.joints, centre), 0)
        self._loop.tick(0)
        self._loop.on_chunk(Chunk(0, DT_NS, robot.joints, centre + side * reach * motion), 0)
        self._loop.tick(0)
        whole = self._loop.follower.shaped
        rows = 0 if whole is None else len(whole.targets)
        # Each tick takes over a new chunk, the dearest that a tick can be: the same motion, one tick further on.
        self._plans = [replace(whole, targets=whole.targets[row:]) for row in range(rows) if whole is not None]
        self._row = 0

    @property
    def follows(self) -> bool:
        """Whether it does what the real loop does while it follows a chunk; always, unless there is a mistake in here."""
        return self._loop.state is GuardState.ACTIVE

    def run(self) -> None:
        """One tick."""
        self._row = (self._row + 1) % len(self._plans)
        self._loop.follower.begin_again(self._plans[self._row])
        self._loop.tick(0)  # time stands still, so that nothing grows old
