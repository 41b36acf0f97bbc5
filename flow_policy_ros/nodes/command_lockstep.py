"""The command loop in lockstep: what a tick waits for, and the order in which the loop sees it. No messages here.

The order is that of ``evaluation.closed_loop``: joint states, chunk, tick. A tick that is announced again is answered
again with what was answered first.
"""

from __future__ import annotations

from collections.abc import Callable

from flow_policy_ros.nodes.lockstep import Patience, TickWord
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick


class CommandLockstep:
    """Ticks the loop once per tick of the robot, when the policy's word on it is there or the patience is at an end."""

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
        self._joint_states: dict[int, JointState] = {}  # by stamp, arrived, not yet shown to the loop
        self._shown: frozenset[int] = frozenset()  # stamps of the joint states shown last
        self._newest_joint_state = -1  # stamp of the one that came last
        self._chunk: tuple[int, Chunk] | None = None  # the tick of its answer, and a chunk not yet shown to the loop
        self._newest_chunk = -1  # tick of the answer
        self._word: tuple[int, bool] | None = None  # the policy's: stamp, and whether there is a chunk
        self._tick: TickWord | None = None  # to be answered
        self._answered: tuple[int, CommandTick] | None = None

    @property
    def newest(self) -> int | None:
        """Stamp of the tick that was answered last."""
        return None if self._answered is None else self._answered[0]

    def on_joint_state(self, joint_state: JointState, received: int = 0) -> None:
        """Take a joint state of a tick; one that is sent again counts once. When it was ``received`` does not matter."""
        if joint_state.stamp not in self._shown:
            self._joint_states[joint_state.stamp] = joint_state
        self._newest_joint_state = joint_state.stamp
        self.proceed()

    def on_tick(self, word: TickWord) -> None:
        """The robot waits."""
        if self._answered is not None and word.stamp == self._answered[0]:
            self._answer(*self._answered)
            return
        if self._tick is None or word.stamp != self._tick.stamp:
            self._patience.begin()
        self._tick = word
        self.proceed()

    def on_chunk(self, chunk: Chunk, received: int) -> None:
        """Take the chunk with which the policy answered the tick of ``received``; one that was sent twice counts once."""
        if received > self._newest_chunk:
            self._newest_chunk = received
            self._chunk = (received, chunk)
        self.proceed()

    def on_policy(self, stamp: int, has_chunk: bool) -> None:
        """The policy has acted on the tick of ``stamp``."""
        self._word = (stamp, has_chunk)
        self._patience.heard()
        self.proceed()

    def proceed(self) -> None:
        """Tick if nothing is missing. To be called now and then, since patience may have ended."""
        if self._tick is None:
            return
        now = self._tick.stamp
        if self._missing(self._tick) and not self._patience.over():
            return
        for state in self._joint_states.values():
            self._loop.on_joint_state(state, now)
        if self._joint_states:
            self._shown, self._joint_states = frozenset(self._joint_states), {}
        if self._chunk is not None and self._chunk[0] <= now:
            (answered, chunk), self._chunk = self._chunk, None
            if not self._latency.dropped("inference", chunk.stamp, self._seed):
                self._loop.on_chunk(chunk, answered + self._latency.delay("inference", chunk.stamp, self._seed))
        self._tick = None
        tick = self._loop.tick(now)
        self._answered = (now, tick)
        self._answer(now, tick)

    def _missing(self, tick: TickWord) -> bool:
        if tick.joint_state and self._newest_joint_state != tick.joint_state:
            return True
        if self._word is None or self._word[0] != tick.stamp:
            return True
        return self._word[1] and self._newest_chunk != tick.stamp
