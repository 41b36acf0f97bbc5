"""When to sample, from what, and whether the result may leave: the policy node without ROS.

Networks live behind ``ChunkPolicy``; nothing here imports torch, reads a clock or starts a thread. How chunks follow each
other is ``chunk_execution``'s. A caller with a worker thread calls ``observe`` and ``finish`` where the inputs arrive and
``infer`` in the worker; ``step`` is the three in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from flow_policy_ros.runtime.buffers import ObservationAssembler, Stale
from flow_policy_ros.runtime.chunk_execution import CONTINUING, ChunkExecution, Ensemble, Pace, RealTime, Receding
from flow_policy_ros.runtime.contract import SAID, Contract
from flow_policy_ros.runtime.delay import DelayEstimator
from flow_policy_ros.runtime.executed import ExecutedTimeline
from flow_policy_ros.runtime.instruction_text import require_words
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters
from flow_policy_ros.runtime.types import (
    Chunk,
    Continuation,
    Execution,
    Features,
    FloatArray,
    JointState,
    Observation,
    Plan,
    Setpoint,
)

SAMPLING = ("solver", "guidance_scale", "deadline_s")
"""Parameters of ``policy.`` that are the policy's own: they change what ``sample`` does with the same request."""
PLAN_PATIENCE_NS = 50_000_000
"""What became of a chunk is waited for no longer than this: the command stage may have refused it, or be gone."""


class ChunkPolicy(Protocol):
    """Anything that turns an observation into a chunk of joint positions."""

    contract: Contract

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[FloatArray, int]:
        """Positions (H, A) float64, rad or m, columns as ``contract.action_joints``, and the function evaluations made.

        The noise depends on (``seed``, ``observation.stamp``) alone.
        """


@runtime_checkable
class ContinuingPolicy(ChunkPolicy, Protocol):
    """One whose chunk can continue what is being executed, which real-time chunking needs."""

    prefix: int
    """The longest committed prefix in steps that the network was trained with; 0 when with none."""

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        """See ``ChunkPolicy``; a chunk that goes on from ``continuation``, if there is one."""

    def refusal(self, method: str, steps: int) -> str | None:
        """Why chunks cannot be continued by ``method`` in ``steps`` solver steps, with the remedy; None when they can."""


@runtime_checkable
class InstructedPolicy(Protocol):
    """One that does what it is told in words."""

    def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
        """What it is to observe from ``stamp`` (ns) on instead of the instruction before: one of each standing stream, none
        where it reads no instruction. Changes nothing; raises ``ValueError`` for an instruction that it cannot read."""


@runtime_checkable
class TunablePolicy(Protocol):
    """One whose solver, guidance and deadline can be others without loading it again."""

    def tuned(self, parameters: PolicyParameters) -> ChunkPolicy:
        """The same policy, sampled as ``parameters`` say (``SAMPLING``); this one stays as it is, for a chunk that is being
        sampled. Raises ``ValueError`` for what the checkpoint cannot do."""


@dataclass(frozen=True)
class SampleRequest:
    """What a chunk is to be sampled from: an observation, in how many solver ``steps``, with which ``seed``, and what it has to
    continue (None: nothing). Parameters that change meanwhile do not change it, nor the ``policy`` (None: the loop's).
    ``instruction`` is the one that the observation holds, empty for a policy that reads none."""

    observation: Observation
    steps: int
    seed: int
    continuation: Continuation | None = None
    execution: Execution | None = None
    instruction: str = ""
    policy: ChunkPolicy | None = field(default=None, repr=False, compare=False)


class PolicyLoop:
    """Samples ``policy`` on a fixed grid of ``parameters.rate_hz``, from the newest valid observation.

    ``clamped`` counts by name the steps that real-time chunking could not keep to. ``endless`` are the robot's joints without
    stops. ``stream_max_age_s`` are greatest ages of single streams' features (see ``ObservationAssembler``).
    Raises ``ParameterError`` for a mode that the policy or the robot cannot do (see ``refusal``).
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        parameters: PolicyParameters,
        endless: Sequence[str] = (),
        stream_max_age_s: Mapping[str, float] | None = None,
    ) -> None:
        self._endless = tuple(endless)
        self.clamped: dict[str, int] = {}
        self._policy = policy
        self._contract = policy.contract
        self._parameters = parameters
        self._assembler = ObservationAssembler(
            policy.contract, parameters.joint_state_max_age_s, parameters.features_max_age_s, stream_max_age_s
        )
        self.sampled: SampleRequest | None = None
        """What the last chunk was sampled from; for whoever has just been given that chunk."""
        self._instruction = ""
        self._followed = ""  # instruction of the last chunk
        self._origin: int | None = None  # instant of grid point 0
        self._next = 0  # number of the grid point that is due next
        self._busy_until = 0
        self._awaited: int | None = None  # stamp of the last chunk, until the command stage says what it made of it
        self._executed = ExecutedTimeline(policy.contract.action_joints)
        self._delays = DelayEstimator()
        self._rejected: dict[str, int] = {}
        self.require(parameters)
        self._execution = self._make_execution(parameters)

    @property
    def policy(self) -> ChunkPolicy:
        """What samples the chunks that are begun from now on."""
        return self._policy

    @property
    def rejections(self) -> dict[str, int]:
        """Refused inputs by kind."""
        return {**self._assembler.rejections, **self._rejected}

    @property
    def instruction(self) -> str:
        """What the policy was told last and could read; empty when nothing."""
        return self._instruction

    @property
    def listens(self) -> bool:
        """Whether the policy's chunks depend on an instruction; without one there are none."""
        return bool(self._contract.of_kind(*SAID))

    @property
    def delay(self) -> int | None:
        """Delay in ns from a chunk's stamp until the robot obeys it, as it is reckoned with; None before one is measured."""
        return self._delays.quantile(self._parameters.delay_quantile)

    def require(self, parameters: PolicyParameters) -> None:
        """Raise ``ParameterError`` when the policy cannot sample or execute chunks as ``parameters`` say. Changes nothing."""
        policy = self._tuned(parameters)
        if parameters.mode != "receding" and self._endless:
            raise ParameterError(
                f"parameter policy.mode is '{parameters.mode}', but joints {list(self._endless)} have no stops: angles a turn "
                "apart would be averaged as if they were far apart. Use receding."
            )
        if parameters.mode not in CONTINUING:
            return
        if not isinstance(policy, ContinuingPolicy):
            reason: str | None = "this policy cannot continue a chunk; use receding or ensemble."
        else:
            reason = policy.refusal(parameters.mode, parameters.steps)
        if reason is not None:
            raise ParameterError(f"parameter policy.mode is '{parameters.mode}', but {reason}")

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """Take a joint state, visible from ``received`` (ns) on. Raises ``BadInput``."""
        self._assembler.on_joint_state(joint_state, received)

    def on_features(self, features: Features, received: int) -> None:
        """Take features, visible from ``received`` (ns) on. Raises ``BadInput``."""
        self._assembler.on_features(features, received)

    def instruct(self, instruction: str, received: int) -> None:
        """``read`` and ``obey``: ``instruction``, received at that instant (ns), is part of every observation made from now on."""
        self.obey(instruction, self.read(instruction, received), received)

    def read(self, instruction: str, received: int) -> tuple[Features, ...]:
        """What the policy is to observe instead of the instruction before, to be given to ``obey``; nothing where it reads none.

        May take long, and changes nothing that sampling reads. Raises ``ValueError`` for an instruction that the policy cannot
        read; it is counted as ``instruction``, and the one before stays.
        """
        try:
            if instruction or self.listens:
                require_words(instruction)
            return self._policy.instruct(instruction, received) if isinstance(self._policy, InstructedPolicy) else ()
        except ValueError:
            self._count("instruction")
            raise

    def obey(self, instruction: str, said: Sequence[Features], received: int) -> None:
        """From the next observation on do as ``instruction`` says, which was ``read`` as ``said``; also after a reset, and whatever
        the clock does. A policy that reads none goes on as before. Raises ``BadInput``, and changes nothing, for what is no input.
        """
        try:
            self._assembler.on_all(said, received)
        except BadInput:
            self._count("instruction")
            raise
        self._instruction = instruction

    def on_setpoint(self, setpoint: Setpoint, received: int) -> None:
        """Take a set-point that was sent, known from ``received`` (ns) on. Raises ``BadInput``."""
        try:
            self._executed.on_setpoint(setpoint, received)
        except BadInput as error:
            self._count(error.kind)
            raise

    def on_plan(self, plan: Plan, received: int) -> None:
        """Take what the command stage made of a chunk, known from ``received`` (ns) on. Raises ``BadInput``.

        It tells how long a chunk takes from its observation until the robot obeys it.
        """
        try:
            self._executed.on_plan(plan, received)
        except BadInput as error:
            self._count(error.kind)
            raise
        self._delays.add(plan.stamp - plan.chunk_stamp)
        if self._awaited is not None and plan.chunk_stamp >= self._awaited:
            self._awaited = None

    def occupy(self, until: int) -> None:
        """The policy is busy with a chunk until that instant (ns), at which it is published: none is due before it."""
        self._busy_until = until

    def waiting(self, now: int) -> bool:
        """Whether the policy is busy at ``now``, or, to continue the last chunk, has to know first what became of it."""
        patient = self._execution.continues and self._awaited is not None
        return now < self._busy_until + (PLAN_PATIENCE_NS if patient else 0)

    def due(self, now: int) -> bool:
        """Whether a sample is due at ``now``: at once after a reset, then once per grid point, when it is not ``waiting``.

        Changes nothing.
        """
        if self._origin is None or now < self._origin:  # never sampled, or the clock was set back
            return True
        return now >= self._instant(self._next) and not self.waiting(now)

    def observe(self, now: int) -> SampleRequest | Stale:
        """Use up the grid points up to ``now`` and say what to sample from; missed points are not made up for."""
        if self._origin is not None and now < self._origin:  # what was before the clock was set back lies in the future
            self._origin, self._busy_until, self._awaited = None, 0, None
            self._executed.clear()
            self._execution.forget()
        if self._origin is None:
            self._origin = now
        # Grid instants are rounded to ns, so the quotient may be one low; the loop makes it exact.
        self._next = int((now - self._origin) * self._parameters.rate_hz / 1e9)
        while self._instant(self._next) <= now:
            self._next += 1
        observation = self._assembler.observe(now)
        if isinstance(observation, Stale):
            return observation
        # Chunks cannot follow each other faster than they are made.
        pace = Pace(now, self.delay, max(round(1e9 / self._parameters.rate_hz), self.delay or 0))
        continuation, execution = self._execution.before(observation.stamp, self._executed, pace)
        for name in execution.clamped:
            self.clamped[name] = self.clamped.get(name, 0) + 1
        told = self._instruction if self.listens else ""
        steps, seed = self._parameters.steps, self._parameters.seed
        return SampleRequest(observation, steps, seed, continuation, execution, told, self._policy)

    def infer(self, request: SampleRequest) -> Chunk | Stale:
        """Sample a chunk, to be given to ``finish``. Reads nothing that inputs or parameters change: both may go on coming.

        ``Stale`` when the policy's output has the wrong shape, NaN or Inf: nothing may follow it.
        """
        observation, continuation = request.observation, request.continuation
        steps, seed, policy = request.steps, request.seed, request.policy or self._policy
        if continuation is not None and isinstance(policy, ContinuingPolicy):
            sampled, nfe = policy.sample(observation, steps, seed, continuation)
        else:
            sampled, nfe = policy.sample(observation, steps, seed)
        positions = np.asarray(sampled, dtype=np.float64)
        expected = (self._contract.horizon, len(self._contract.action_joints))
        if positions.shape != expected:
            return Stale(
                f"policy output has shape {positions.shape}, expected {expected} (horizon, joints). "
                "The checkpoint's network does not fit its contract.json; export it again."
            )
        if not np.isfinite(positions).all():
            columns = zip(self._contract.action_joints, positions.T, strict=True)
            named = [joint for joint, column in columns if not np.isfinite(column).all()]
            return Stale(
                f"policy output holds NaN or Inf for {named}; the chunk is not published. "
                "Check the checkpoint's weights and statistics."
            )
        self.sampled = request
        return Chunk(
            observation.stamp,
            self._contract.dt_ns,
            self._contract.action_joints,
            positions,
            int(nfe),
            seed,
            dict(observation.stamps),
            request.execution,
        )

    def finish(self, chunk: Chunk) -> Chunk:
        """What is to be published of the chunk that ``infer`` has just sampled."""
        self._awaited = chunk.stamp
        # Here, not in ``obey``: a chunk of the order before may have been under way then, and must not be blended with the next.
        told = "" if self.sampled is None else self.sampled.instruction
        if told != self._followed:
            self._followed = told
            self._execution.told_otherwise()
        return self._execution.after(chunk)

    def step(self, now: int) -> Chunk | Stale:
        """``observe``, ``infer`` and ``finish``."""
        request = self.observe(now)
        product = request if isinstance(request, Stale) else self.infer(request)
        return product if isinstance(product, Stale) else self.finish(product)

    def update(self, parameters: PolicyParameters) -> None:
        """Use other parameters from now on. A new rate begins its grid at the last grid point used.

        A chunk that is being sampled is not changed. Raises ``ParameterError`` for what the policy cannot do; then nothing has
        changed.
        """
        self.require(parameters)
        self._policy = self._tuned(parameters)
        if (parameters.mode, parameters.overlap_s) != (self._parameters.mode, self._parameters.overlap_s):
            self._execution = self._make_execution(parameters)
        if self._origin is not None and parameters.rate_hz != self._parameters.rate_hz:
            self._origin = self._instant(self._next - 1)
            self._next = 1
        self._parameters = parameters
        self._assembler.joint_state_max_age_s = parameters.joint_state_max_age_s
        self._assembler.features_max_age_s = parameters.features_max_age_s

    def reset(self) -> None:
        """Forget the inputs, what was executed and measured, and the grid; the counts and the instruction stay."""
        self._assembler.clear()
        self._executed.clear()
        self._delays.clear()
        self._execution.forget()
        self._origin = None
        self._next = 0
        self._busy_until = 0
        self._awaited = None

    def _tuned(self, parameters: PolicyParameters) -> ChunkPolicy:
        """The policy as ``parameters`` want it sampled. Raises ``ParameterError``."""
        changed = [name for name in SAMPLING if getattr(parameters, name) != getattr(self._parameters, name)]
        if not changed:
            return self._policy
        wanted = ", ".join(f"policy.{name} {getattr(parameters, name)!r}" for name in changed)
        if not isinstance(self._policy, TunablePolicy):
            raise ParameterError(f"{wanted}: this policy's cannot be changed while it runs; start it anew.")
        try:
            return self._policy.tuned(parameters)
        except ValueError as error:
            raise ParameterError(f"{wanted}: {error}") from error

    def _make_execution(self, parameters: PolicyParameters) -> ChunkExecution:
        mode = parameters.mode
        if mode in CONTINUING:
            trained = self._policy.prefix if mode == "rtc_trained" and isinstance(self._policy, ContinuingPolicy) else None
            return RealTime(mode, self._contract, round(parameters.overlap_s * 1e9), trained)
        return Ensemble() if mode == "ensemble" else Receding()

    def _count(self, kind: str) -> None:
        self._rejected[kind] = self._rejected.get(kind, 0) + 1

    def _instant(self, number: int) -> int:
        """Instant of a grid point: from the origin each time, so that rounding does not add up."""
        assert self._origin is not None
        return self._origin + round(number * 1e9 / self._parameters.rate_hz)
