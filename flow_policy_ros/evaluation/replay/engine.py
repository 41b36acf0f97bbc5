"""A recording through the very objects that run on the robot, with a clock made of the instants of receipt.

The order within a tick is ``evaluation.closed_loop``'s: instructions, joint states, images → features, policy, chunk, command;
what the command stage sent and plans is known to the policy from the next tick on. Open loop: the recorded robot does not obey.
Nothing here reads a clock except to time the stages for the record, and nothing is kept that grows with the recording. What a
replay amounts to is the sinks' affair (``metrics``, ``traces``, ``worst``, ``replay_bag``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from flow_policy_ros.data.bag_events import BadEvent, BagEvent, ImageEvent, InstructionEvent
from flow_policy_ros.evaluation.closed_loop import InstructedPerception, Stack
from flow_policy_ros.evaluation.replay.presample import Presampled
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplaySink, ReplayTick
from flow_policy_ros.evaluation.replay.ticks import TickInputs, ticks
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.policy_loop import SampleRequest
from flow_policy_ros.runtime.types import Chunk
from flow_policy_ros.safety.command_loop import CommandLoop

AHEAD = 16
"""For one chunk of a batch at most so many ticks are looked ahead, also where fewer chunks are due: inputs are held in memory."""
TELL_EVERY = 50
"""Ticks between two words on the progress."""


@dataclass(frozen=True)
class Replayed:
    """What became of a replay: instants of the first and last tick (ns; None: there was no joint state), ``wall_s`` it took, and
    ``problems`` in sentences."""

    start: int | None
    end: int | None
    ticks: int
    wall_s: float
    problems: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """s of the recording."""
        return 0.0 if self.start is None or self.end is None else (self.end - self.start) / 1e9


@dataclass
class Observed:
    """A tick that the policy has looked at and the command stage has not: its inputs, and what is to be sampled, if anything."""

    inputs: TickInputs
    features: list[ReplayFeatures] = field(default_factory=list)
    bad: list[BadEvent] = field(default_factory=list)
    stale: str = ""
    request: SampleRequest | None = None
    ready: int = 0


def replay(
    events: Iterable[BagEvent],
    stack: Stack,
    sinks: Sequence[ReplaySink],
    meta: ReplayMeta,
    camera: str = "",
    ahead: Presampled | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Run ``events`` (ascending in ``received``) through ``stack``, whose loops know nothing yet, and tell ``sinks``.

    Ticks are ``meta.period_ns`` apart from the receipt of the first joint state on; what was received up to a tick is visible at
    it. ``camera`` is the one that perception looks at. With ``ahead``, which the stack's policy then has to sample through, chunks
    are sampled in batches. ``progress`` is told the present instant (ns) now and then. After a fault the command stage is reset
    as an operator would, as soon as the robot stands and a joint state comes.
    """
    start_s = time.perf_counter()
    run = _Run(stack, sinks, meta, camera, ahead)
    first: int | None = None
    now: int | None = None
    for sink in sinks:
        sink.begin(meta)
    try:
        for inputs in ticks(events, meta.period_ns):
            now = inputs.now
            first = now if first is None else first
            run.take(inputs)
            if progress is not None and run.ticks % TELL_EVERY == 0:
                progress(now)
        run.flush()
    finally:
        for sink in sinks:
            sink.end()
    return Replayed(first, now, run.ticks, time.perf_counter() - start_s, tuple(run.problems(now)))


class _Run:
    """The state of one replay: ticks that wait for their chunks, and counts."""

    def __init__(
        self, stack: Stack, sinks: Sequence[ReplaySink], meta: ReplayMeta, camera: str, ahead: Presampled | None
    ) -> None:
        if not isinstance(stack.command, CommandLoop):
            raise TypeError(f"the command stage is {type(stack.command).__name__}, expected CommandLoop, which is to be judged.")
        self.ticks = 0
        self._policy, self._command = stack.policy, stack.command
        self._delays, self._seed = stack.delays, stack.latency_seed
        self._sinks, self._camera, self._perception = tuple(sinks), camera, stack.perception
        self._period = meta.period_ns
        self._ahead, self._batch = ahead, 1 if ahead is None else ahead.size
        self._waiting: list[Observed] = []
        self._requests: list[SampleRequest] = []
        self._last: int | None = None  # instant of the last tick of the command stage
        self._started = False
        self._see: Callable[[ImageEvent, int], ReplayFeatures | BadEvent] | None = None
        if stack.perception is not None:
            from flow_policy_ros.evaluation.replay.perceive import perceive  # OpenCV, which a policy without camera does not need

            self._see = partial(perceive, stack.perception, delays=self._delays, seed=self._seed)

    def take(self, inputs: TickInputs) -> None:
        """The next tick. It is acted upon at once, or when the batch that it belongs to is sampled."""
        observed = self._observe(inputs)
        self._waiting.append(observed)
        if observed.request is not None:
            self._requests.append(observed.request)
        wanted = 0 < len(self._requests) < self._batch and len(self._waiting) < AHEAD * self._batch
        if self._batch == 1 or not wanted:
            self.flush()

    def flush(self) -> None:
        """Sample what is due and act on every tick that waits."""
        share_ms = 0.0  # of what each chunk costs
        if self._ahead is not None and self._requests:
            begun = time.perf_counter()
            self._ahead.prepare(self._requests)
            share_ms = (time.perf_counter() - begun) * 1e3 / len(self._requests)
        for observed in self._waiting:
            self._act(observed, share_ms)
        self._waiting.clear()
        self._requests.clear()

    def problems(self, now: int | None) -> list[str]:
        """What the loops refused, and why nothing was commanded, in sentences."""
        found = []
        if now is None:
            found.append("there is no joint state to begin with, so that nothing was replayed.")
        elif not self._started:
            reason = self._command.start_problem(now) or "there is no set-point"
            found.append(f"the command stage never started: {reason}")
        for stage, refused in (("policy", self._policy.rejections), ("command stage", self._command.rejections)):
            found += [f"the {stage} refused {count} inputs: {kind}." for kind, count in refused.items()]
        if self._command.last_rejection:
            found.append(f"the last that the command stage refused: {self._command.last_rejection}")
        return found

    def _observe(self, inputs: TickInputs) -> Observed:
        """Show the policy what arrived, and ask it what to sample. Reads nothing of what is commanded."""
        policy, now = self._policy, inputs.now
        result = Observed(inputs)
        for said in inputs.instructions:
            self._tell(said, now, result)
        for event in inputs.joint_states:
            try:
                policy.on_joint_state(event.state, now)
            except BadInput as error:
                result.bad.append(BadEvent(event.received, "joint states", str(error)))
        if self._see is not None and self._camera in inputs.images:
            seen = self._see(inputs.images[self._camera], now)
            if isinstance(seen, BadEvent):
                result.bad.append(seen)
            else:
                self._show(seen, result)
        for given in inputs.features:
            self._show(ReplayFeatures(given.features, given.received, now, False, 0.0), result)
        if policy.due(now):
            product = policy.observe(now)
            if isinstance(product, Stale):
                result.stale = product.reason
            else:
                result.request = product
                result.ready = now + self._delays.delay("inference", product.observation.stamp, self._seed)
                policy.occupy(result.ready)
        return result

    def _tell(self, said: InstructionEvent, now: int, result: Observed) -> None:
        """Policy and perception hear it each by itself, as the nodes do: what one cannot read, the other may."""
        listeners: list[Callable[[], None]] = [partial(self._policy.instruct, said.text, now)]
        if isinstance(self._perception, InstructedPerception) and self._perception.speaks:
            listeners.append(partial(self._perception.instruct, said.text))
        for hear in listeners:
            try:
                hear()
            except ValueError as error:
                result.bad.append(BadEvent(said.received, "instruction", str(error)))

    def _show(self, seen: ReplayFeatures, result: Observed) -> None:
        try:
            if not seen.lost:
                self._policy.on_features(seen.features, seen.ready)
            result.features.append(seen)
        except BadInput as error:
            result.bad.append(BadEvent(seen.received, f"features/{seen.features.stream}", str(error)))

    def _act(self, observed: Observed, share_ms: float) -> None:
        """Tell the sinks what arrived; chunk, command, and what the policy learns of it."""
        inputs, now = observed.inputs, observed.inputs.now
        command, policy, sinks = self._command, self._policy, self._sinks
        whole = [event.state for event in inputs.joint_states if len(event.state.position) == len(event.state.names)]
        for sink in sinks:
            for state in whole:  # the loops refuse and count the others, which nobody could draw
                sink.on_joint_state(state, now)
            for recorded in inputs.recorded:
                sink.on_recorded(recorded)
            for bad in (*inputs.bad, *observed.bad):
                sink.on_bad(bad)
            for seen in observed.features:
                sink.on_features(seen)
        reset = self._reset(inputs)
        for event in inputs.joint_states:
            command.on_joint_state(event.state, now)
        stale = observed.stale
        if observed.request is not None:
            begun = time.perf_counter()
            product = policy.infer(observed.request)
            if isinstance(product, Stale):
                stale = product.reason
                if self._batch == 1:
                    policy.occupy(now)  # nothing is on its way; a batch has looked ahead already
            else:
                chunk = policy.finish(product)
                self._deliver(chunk, observed, (time.perf_counter() - begun) * 1e3 + share_ms)
        begun = time.perf_counter()
        tick = command.tick(now)
        duration_ms = (time.perf_counter() - begun) * 1e3
        if tick.setpoint is not None:
            self._started = True
            policy.on_setpoint(tick.setpoint, now)
        if tick.plan is not None:
            policy.on_plan(tick.plan, now)
        record = ReplayTick(now, tick, duration_ms, stale, reset)
        for sink in sinks:
            sink.on_tick(record)
        self._last = now
        self.ticks += 1

    def _reset(self, inputs: TickInputs) -> bool:
        """Reset the command stage where an operator would: a fault is latched, the robot stands, and a joint state is here; or
        ticks were left out in a long gap of the recording, which the stage would take for its own standstill."""
        command = self._command
        skipped = self._last is not None and inputs.now - self._last > self._period
        wanted = bool(command.faults and inputs.joint_states) or skipped
        return wanted and command.at_rest and command.request_reset() is None

    def _deliver(self, chunk: Chunk, observed: Observed, duration_ms: float) -> None:
        lost = self._delays.dropped("inference", chunk.stamp, self._seed)
        if not lost:
            self._command.on_chunk(chunk, observed.ready)
        record = ReplayChunk(observed.inputs.now, chunk, observed.ready, lost, duration_ms)
        for sink in self._sinks:
            sink.on_chunk(record)

