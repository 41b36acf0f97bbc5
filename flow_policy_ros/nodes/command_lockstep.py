"""The command loop in lockstep: what a tick waits for, and the order in which the loop sees it. No messages here.

The order is that of ``evaluation.closed_loop``: joint state, chunk, tick. A joint state that is sent again is answered
again with what was answered first.
"""

from __future__ import annotations

from collections.abc import Callable

from flow_policy_ros.nodes.lockstep import Patience
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick


class CommandLockstep:
    """Ticks the loop once per joint state, when the policy's word on it is there or the patience is at an end."""

    def __init__(
        self,
        loop: CommandLoop,
        latency: Delays,
        seed: int,
        patience: Patience,
        answer: Callable[[int, CommandTick], None],
    ) -> None:
        self._loop = loop
        self._latency = latency
        self._seed = seed
        self._patience = patience
        self._answer = answer
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next joint state begins an episode."""
        self._loop.reset()
        self._joint_state: JointState | None = None
        self._chunk: Chunk | None = None  # arrived, not yet shown to the loop
        self._newest_chunk = -1  # stamp
        self._word: tuple[int, bool] | None = None  # the policy's: stamp, and whether there is a chunk
        self._answered: tuple[int, CommandTick] | None = None

    def on_joint_state(self, joint_state: JointState, received: int = 0) -> None:
        """Take the joint state that begins a tick. When it was ``received`` does not matter: delays are injected."""
        if self._answered is not None and joint_state.stamp == self._answered[0]:
            self._answer(*self._answered)
        elif self._joint_state is None or joint_state.stamp != self._joint_state.stamp:
            self._joint_state = joint_state
            self._patience.begin()
            self.proceed()

    def on_chunk(self, chunk: Chunk, received: int = 0) -> None:
        """Take a chunk; one that was sent twice counts once. When it was ``received`` does not matter."""
        if chunk.stamp > self._newest_chunk:
            self._newest_chunk = chunk.stamp
            self._chunk = chunk
        self.proceed()

    def on_policy(self, stamp: int, has_chunk: bool) -> None:
        """The policy has acted on the tick of ``stamp``."""
        self._word = (stamp, has_chunk)
        self._patience.heard()
        self.proceed()

    def proceed(self) -> None:
        """Tick if nothing is missing. To be called now and then, since patience may have ended."""
        state = self._joint_state
        if state is None or (self._answered is not None and self._answered[0] == state.stamp):
            return
        now = state.stamp
        if self._missing(now) and not self._patience.over():
            return
        self._loop.on_joint_state(state, now)
        if self._chunk is not None and self._chunk.stamp <= now:
            chunk, self._chunk = self._chunk, None
            if not self._latency.dropped("inference", chunk.stamp, self._seed):
                self._loop.on_chunk(chunk, chunk.stamp + self._latency.delay("inference", chunk.stamp, self._seed))
        tick = self._loop.tick(now)
        self._answered = (now, tick)
        self._answer(now, tick)

    def _missing(self, now: int) -> bool:
        if self._word is None or self._word[0] != now:
            return True
        return self._word[1] and (self._chunk is None or self._chunk.stamp != now)
