"""The simulated robot in lockstep: it advances when it holds the command of the tick, or its patience is at an end.

No messages here; what a tick consists of on the wire is the sim node's affair.
"""

from __future__ import annotations

from collections.abc import Callable

from flow_policy_ros.nodes.lockstep import Patience
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.robot import AdroitRobot


class SimLockstep:
    """Runs episodes of ``robot``: ``announce()`` at each tick, ``finished()`` after the last step."""

    def __init__(
        self, robot: AdroitRobot, patience: Patience, announce: Callable[[], None], finished: Callable[[], None]
    ) -> None:
        self.running = False
        self._robot = robot
        self._patience = patience
        self._announce = announce
        self._finished = finished
        self._steps = 0
        self._command: tuple[int, FloatArray] | None = None
        self._word: tuple[int, bool] | None = None  # the command node's: stamp, and whether there is a command

    def begin(self, steps: int) -> None:
        """Run ``steps`` control steps from the robot's present state."""
        self._steps = steps
        self._command = self._word = None
        self.running = True
        self._patience.heard()
        self._patience.begin()
        self._announce()

    def on_command(self, stamp: int, position: FloatArray) -> None:
        """A command (A,) in the robot's joint order, for the tick of ``stamp``."""
        self._command = (stamp, position)
        self._patience.heard()
        self.proceed()

    def on_word(self, stamp: int, has_command: bool) -> None:
        """The command node has acted on the tick of ``stamp``."""
        self._word = (stamp, has_command)
        self._patience.heard()
        self.proceed()

    def proceed(self) -> None:
        """Advance if nothing is missing. To be called now and then, since patience may have ended."""
        if not self.running:
            return
        now = self._robot.stamp
        position = self._command[1] if self._command is not None and self._command[0] == now else None
        silent = self._word == (now, False)
        if position is None and not silent and not self._patience.over():
            return
        self._robot.step(position)
        if self._robot.step_index < self._steps:
            self._patience.begin()
            self._announce()
        else:
            self.running = False
            self._finished()
