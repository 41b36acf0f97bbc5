"""The policy in lockstep: which inputs a tick waits for, and the order in which the policy loop gets to see them.

The order is that of ``evaluation.closed_loop``, whatever order messages arrive in, so that both give equal chunks. A
tick that is announced again is answered again with what was answered first. No messages here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from flow_policy_ros.nodes.lockstep import Patience
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, JointState, Plan, Setpoint

INSTANT_STREAM = "objects"
"""The simulator's object state: no image, no delay, one per tick."""

Answer = Callable[[int, Chunk | Stale | None, float], None]


class PolicyLockstep:
    """Answers every tick once all its inputs are there, or the patience is at an end.

    ``answer(t, product, duration_ms)`` is called for each tick; the product is a chunk, the reason why there is none,
    or None when none was due. Among the inputs is what the command node published at the tick before; ``patience`` is with
    perception, ``command_patience`` with the command node.
    """

    def __init__(
        self,
        loop: PolicyLoop,
        streams: tuple[str, ...],
        latency: Delays,
        seed: int,
        patience: Patience,
        command_patience: Patience,
        answer: Answer,
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._latency = latency
        self._seed = seed
        self._patience = patience
        self._command_patience = command_patience
        self._answer = answer
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next tick begins an episode."""
        self._loop.reset()
        self._joint_state: JointState | None = None
        self._features: list[Features] = []  # arrived, not yet shown to the loop
        self._setpoints: list[Setpoint] = []
        self._plans: list[Plan] = []
        self._newest_setpoint = self._newest_plan = -1  # stamps
        self._word: tuple[int, bool, bool] | None = None  # the command node's: stamp, whether it sent a command, a plan
        self._newest = dict.fromkeys(self._streams, -1)  # stamp of the newest features of each stream
        self._tick: tuple[int, int] | None = None  # stamp and newest image's stamp of the tick to be answered
        self._answered: tuple[int, Chunk | Stale | None, float] | None = None

    def on_joint_state(self, joint_state: JointState) -> None:
        """Take the joint state of a tick."""
        self._joint_state = joint_state
        if not self._streams:
            self._patience.heard()
        self.proceed()

    def on_features(self, features: Features) -> None:
        """Take features; those of an image that was sent twice count once."""
        if features.stamp > self._newest.get(features.stream, -1):
            self._newest[features.stream] = features.stamp
            self._features.append(features)
            self._patience.heard()
        self.proceed()

    def on_setpoint(self, setpoint: Setpoint) -> None:
        """Take a set-point that was sent; one that comes twice counts once."""
        if setpoint.stamp > self._newest_setpoint:
            self._newest_setpoint = setpoint.stamp
            self._setpoints.append(setpoint)
        self.proceed()

    def on_plan(self, plan: Plan) -> None:
        """Take what the command node made of a chunk; a plan that comes twice counts once."""
        if plan.stamp > self._newest_plan:
            self._newest_plan = plan.stamp
            self._plans.append(plan)
        self.proceed()

    def on_command_word(self, stamp: int, has_command: bool, has_plan: bool) -> None:
        """The command node has acted on the tick of ``stamp``."""
        self._word = (stamp, has_command, has_plan)
        self._command_patience.heard()
        self.proceed()

    def on_tick(self, stamp: int, image_stamp: int) -> None:
        """The simulation waits at ``stamp``; its newest image is of ``image_stamp``, 0 when there was none."""
        if self._answered is not None and stamp == self._answered[0]:
            self._answer(*self._answered)
            return
        if self._tick is None or stamp != self._tick[0]:
            self._patience.begin()
            self._command_patience.begin()
        self._tick = (stamp, image_stamp)
        self.proceed()

    def proceed(self) -> None:
        """Answer the tick if nothing is missing. To be called now and then, since patience may have ended."""
        if self._tick is None:
            return
        now, image_stamp = self._tick
        if self._missing_command() and not self._command_patience.over():
            return
        self._show_executed()  # first, since what is due, and with it what is missing, depends on it
        if self._missing(now, image_stamp) and not self._patience.over():
            return
        self._show(now)
        start = time.perf_counter()
        product = self._loop.step(now) if self._loop.due(now) else None
        if isinstance(product, Chunk):
            self._loop.occupy(now + self._latency.delay("inference", product.stamp, self._seed))
        self._tick = None
        self._answered = (now, product, (time.perf_counter() - start) * 1e3)
        self._answer(*self._answered)

    def _missing(self, now: int, image_stamp: int) -> bool:
        if self._joint_state is None or self._joint_state.stamp != now:
            return True
        if not self._loop.due(now):
            return False  # features that come later are as good: they count from stamp + delay
        needed = {stream: now if stream == INSTANT_STREAM else image_stamp for stream in self._streams}
        return any(self._newest[stream] < stamp for stream, stamp in needed.items())

    def _missing_command(self) -> bool:
        """Whether something of the tick that was answered last is still on its way from the command node."""
        if self._answered is None:
            return False
        before = self._answered[0]
        if self._word is None or self._word[0] < before:
            return True
        stamp, has_command, has_plan = self._word
        return (has_command and self._newest_setpoint < stamp) or (has_plan and self._newest_plan < stamp)

    def _show_executed(self) -> None:
        """Give the loop what the command node published. What it refuses, it counts."""
        _give([partial(self._loop.on_setpoint, setpoint, setpoint.stamp) for setpoint in self._setpoints])
        _give([partial(self._loop.on_plan, plan, plan.stamp) for plan in self._plans])
        self._setpoints, self._plans = [], []

    def _show(self, now: int) -> None:
        """Give the loop what arrived, in a fixed order. What it refuses, it counts."""
        inputs: list[Callable[[], None]] = []
        state = self._joint_state
        if state is not None:
            inputs.append(lambda: self._loop.on_joint_state(state, state.stamp))
        later = [f for f in self._features if f.stamp > now]
        for features in sorted((f for f in self._features if f.stamp <= now), key=lambda f: (f.stamp, f.stream)):
            delay = 0
            if features.stream != INSTANT_STREAM:
                if self._latency.dropped("perception", features.stamp, self._seed):
                    continue
                delay = self._latency.delay("perception", features.stamp, self._seed)
            inputs.append(lambda f=features, r=features.stamp + delay: self._loop.on_features(f, r))  # type: ignore[misc]
        self._features = later
        _give(inputs)


def _give(inputs: list[Callable[[], None]]) -> None:
    for put in inputs:
        try:
            put()
        except BadInput:
            continue
