"""The policy in lockstep: which inputs a tick waits for, and the order in which the policy loop gets to see them.

The order is that of ``evaluation.closed_loop``, whatever order messages arrive in, so that both give equal chunks. A
tick that is announced again is answered again with what was answered first. No messages here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from flow_policy_ros.nodes.lockstep import Patience, TickWord
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.latency import Delays
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, JointState, Plan, Setpoint

ANNOUNCED = 16
"""So many images are remembered by the tick at which they were announced."""
WAITING = 64
"""So many features of a stream wait for a tick, or for their image to be announced; the loop keeps no more either."""

Answer = Callable[[int, Chunk | Stale | None, float], None]


class PolicyLockstep:
    """Answers every tick once all its inputs are there, or the patience is at an end.

    ``answer(t, product, duration_ms)`` is called for each tick; the product is a chunk, the reason why there is none,
    or None when none was due. Among the inputs is what the command node published at the tick before; ``patience`` is with
    perception, ``command_patience`` with the command node. ``cameras`` says whose images a stream is made of, where there are
    several cameras; streams in which the instruction arrives are no ``streams`` to wait for.
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
        cameras: Mapping[str, str] = {},
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._latency = latency
        self._seed = seed
        self._patience = patience
        self._command_patience = command_patience
        self._answer = answer
        self._cameras = dict(cameras)
        self._order: str | None = None  # the last instruction that came by other ways than the tick's word, for the next tick
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next tick begins an episode."""
        self._loop.reset()
        self._joint_states: dict[int, JointState] = {}  # by stamp, arrived, not yet shown to the loop
        self._shown: frozenset[int] = frozenset()  # stamps of the joint states shown last
        self._newest_joint_state = -1  # stamp of the one that came last
        self._announced: dict[int, int] = {}  # image stamp → tick at which it was announced
        self._features: list[Features] = []  # arrived, not yet shown to the loop
        self._setpoints: list[Setpoint] = []
        self._plans: list[Plan] = []
        self._newest_setpoint = self._newest_plan = -1  # stamps
        self._word: tuple[int, bool, bool] | None = None  # the command node's: stamp, whether it sent a command, a plan
        self._told = ""  # instruction of the last word that was acted on
        self._newest = dict.fromkeys(self._streams, 0)  # stamp of the newest features of each stream
        self._tick: TickWord | None = None  # to be answered
        self._answered: tuple[int, Chunk | Stale | None, float] | None = None

    def on_joint_state(self, joint_state: JointState) -> None:
        """Take a joint state of a tick; one that is sent again counts once."""
        if joint_state.stamp not in self._shown:
            self._joint_states[joint_state.stamp] = joint_state
        self._newest_joint_state = joint_state.stamp
        if not self._streams:
            self._patience.heard()
        self.proceed()

    def on_features(self, features: Features) -> None:
        """Take features; those of an image that was sent twice count once."""
        if features.stamp > self._newest.get(features.stream, 0):
            self._newest[features.stream] = features.stamp
            self._features.append(features)
            same = [k for k, one in enumerate(self._features) if one.stream == features.stream]
            if len(same) > WAITING:
                del self._features[same[0]]
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

    def on_instruction(self, instruction: str) -> None:
        """Take an instruction, in force from the next tick that is answered; of several the last. That of the tick's word goes
        before it. Raises ``ValueError`` for one that the policy cannot read, which is counted; then the one before stays."""
        self._loop.read(instruction, 0)
        self._order = instruction

    def on_command_word(self, stamp: int, has_command: bool, has_plan: bool) -> None:
        """The command node has acted on the tick of ``stamp``."""
        self._word = (stamp, has_command, has_plan)
        self._command_patience.heard()
        self.proceed()

    def on_tick(self, word: TickWord) -> None:
        """The robot waits."""
        if self._answered is not None and word.stamp == self._answered[0]:
            self._answer(*self._answered)
            return
        if self._tick is None or word.stamp != self._tick.stamp:
            self._patience.begin()
            self._command_patience.begin()
        self._tick = word
        for image in (word.image, *word.images.values()):
            self._announced.setdefault(image, word.stamp)
        while len(self._announced) > ANNOUNCED * max(1, len(word.images)):
            del self._announced[next(iter(self._announced))]
        self.proceed()

    def proceed(self) -> None:
        """Answer the tick if nothing is missing. To be called now and then, since patience may have ended."""
        if self._tick is None:
            return
        tick, now = self._tick, self._tick.stamp
        if self._missing_command() and not self._command_patience.over():
            return
        self._show_executed()  # first, since what is due, and with it what is missing, depends on it
        if self._missing(tick) and not self._patience.over():
            return
        self._show(tick)
        start = time.perf_counter()
        product = self._loop.step(now) if self._loop.due(now) else None
        if isinstance(product, Chunk):
            self._loop.occupy(now + self._latency.delay("inference", product.stamp, self._seed))
        self._tick = None
        self._answered = (now, product, (time.perf_counter() - start) * 1e3)
        self._answer(*self._answered)

    def _missing(self, tick: TickWord) -> bool:
        if tick.joint_state and self._newest_joint_state != tick.joint_state:
            return True
        if not self._loop.due(tick.stamp):
            return False  # features that come later are as good: those of images count from their tick + delay
        due = {stream: tick.streams.get(stream, tick.image_of(self._cameras.get(stream, ""))) for stream in self._streams}
        return any(self._newest[stream] < stamp for stream, stamp in due.items())

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

    def _show(self, tick: TickWord) -> None:
        """Give the loop what arrived, in a fixed order. What it refuses, it counts."""
        now = tick.stamp
        _give([partial(self._loop.instruct, instruction, now) for instruction in self._new_orders(tick)])
        inputs: list[Callable[[], None]] = [partial(self._loop.on_joint_state, state, now) for state in self._joint_states.values()]
        if self._joint_states:
            self._shown, self._joint_states = frozenset(self._joint_states), {}
        features, self._features = self._features, []
        for one in sorted(features, key=lambda f: (f.stamp, f.stream)):
            seen = now if one.stream in tick.streams else self._announced.get(one.stamp)
            if seen is None and one.stamp > now:
                self._features.append(one)  # of an image that is still to be announced
            elif one.stream in tick.streams:
                inputs.append(partial(self._loop.on_features, one, now))
            elif not self._latency.dropped("perception", one.stamp, self._seed):
                delay = self._latency.delay("perception", one.stamp, self._seed)
                inputs.append(partial(self._loop.on_features, one, (one.stamp if seen is None else seen) + delay))
        _give(inputs)


    def _new_orders(self, tick: TickWord) -> list[str]:
        """The instructions that come into force at this tick, the last one to stay.

        The word's counts where it is a new one, and at the first tick after a reset whatever was said before: an episode
        begins with its own. The same one by topic, sooner or later, changes nothing.
        """
        begins = tick.instruction not in ("", self._told)
        self._told = tick.instruction or self._told
        order, self._order = self._order, None
        orders = [] if order is None or order == self._loop.instruction else [order]
        return [*orders, *tick.orders] if begins else orders


def _give(inputs: Sequence[Callable[[], object]]) -> None:
    for put in inputs:
        try:
            put()
        except ValueError:  # BadInput, or what an instruction is refused with
            continue
