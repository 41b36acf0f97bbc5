"""From parameters to the policy that runs: live nodes and offline evaluation both build it here.

A deadline is a wrapper around the policy, measured once when it is built: the number of steps is then the same in every
chunk of a run in one mode, so that a run can be repeated. (Following the cost while running would make a chunk depend on what
else the machine did.)
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flow_policy_ros.flow.deadline import StepChoice, StepCost, fit_cost, steps_within
from flow_policy_ros.policy.compiled import compiled_or_eager
from flow_policy_ros.policy.exported import ExportedNetwork
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.instruction import blank
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import ContinuingPolicy
from flow_policy_ros.runtime.types import Continuation, Features, FloatArray, Observation

STEP_COUNTS = (1, 2, 4, 8)
GUIDED_STEP_COUNTS = (5, 7, 10)
"""By a method that needs ``LEAST_GUIDED_STEPS``."""
REPEATS = 7


def deploy(parameters: PolicyParameters, robot: str) -> ContinuingPolicy:
    """The checkpoint's policy for ``robot``, with backend, solver, guidance and deadline as the parameters say.

    It has sampled once already, freely and by the exact method, since the first sample of either is slower than others.
    Raises ``CheckpointError``, ``ExportError`` for graphs that cannot be used, ``ExtractorError`` for what reads the instruction,
    or ``ValueError`` for a guidance that the checkpoint was not trained for.
    """
    policy = FlowPolicy.load(
        parameters.checkpoint, robot=robot, solver=parameters.solver, guidance_scale=parameters.guidance_scale
    )
    if parameters.backend == "compiled":
        policy.model.network = compiled_or_eager(policy.model.network)
    elif parameters.backend != "torch":
        shape = policy.model.shape
        policy.model.network = ExportedNetwork.load(Path(parameters.checkpoint), shape, parameters.backend, parameters.threads)
    if parameters.deadline_s > 0.0 and not policy.model.stepwise:
        raise ValueError(
            f"parameter policy.deadline_s is {parameters.deadline_s:g}, but a {policy.model.objective} policy has no solver "
            "steps of which fewer could be taken; set it to 0."
        )
    if parameters.deadline_s > 0.0:
        _ = policy.evaluations_per_step  # refuses a solver without fixed steps before anything is sampled
    policy.sample(empty_observation(policy.contract), parameters.steps, 0)
    if policy.refusal("rtc", parameters.steps) is None:
        policy.sample(empty_observation(policy.contract), parameters.steps, 0, empty_continuation(policy.contract, "rtc"))
    if parameters.deadline_s == 0.0:
        return policy
    exact = policy.refusal("rtc", GUIDED_STEP_COUNTS[0]) is None  # exported graphs cannot be differentiated
    return DeadlinePolicy(policy, parameters.deadline_s, measure_cost(policy), measure_cost(policy, "rtc") if exact else None)


class DeadlinePolicy:
    """``policy`` with as many solver steps as fit ``budget_s``, never more than asked for.

    Where not even one step fits, it takes one: a late chunk beats none, and the latency tells. ``exact_cost`` is what a chunk
    costs by the method ``rtc``, which differentiates through the network (None: it cannot); ``cost`` counts for every other one.
    Both were measured with guidance where ``guided`` says so (None: as ``policy`` is). A budget of infinity is no deadline.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        budget_s: float,
        cost: StepCost,
        exact_cost: StepCost | None = None,
        guided: bool | None = None,
    ) -> None:
        """Raises ``ValueError`` for a budget of nothing, and for a solver without fixed steps."""
        self.contract, self.prefix, self.codec = policy.contract, policy.prefix, policy.codec
        self.cost = cost
        self._exact_cost = exact_cost or cost
        self._guided = policy.guided if guided is None else guided
        self._policy, self._budget_s = policy, budget_s
        self._steps(1)  # refuses now rather than in the first sample

    @property
    def inner(self) -> FlowPolicy:
        """The policy that has the deadline."""
        return self._policy

    def tuned(self, parameters: PolicyParameters) -> DeadlinePolicy:
        """See ``TunablePolicy``; the costs are those that were measured. Raises ``ValueError``."""
        policy = self._policy.sampled_with(parameters.solver, parameters.guidance_scale)
        budget_s = parameters.deadline_s or math.inf
        if budget_s < math.inf and policy.guided != self._guided:
            measured, keep = ("with", "other than") if self._guided else ("without", "at")
            raise ValueError(
                f"for policy.deadline_s the cost was measured {measured} guidance, which doubles it; keep policy.guidance_scale "
                f"{keep} 1, set policy.deadline_s to 0 together with it, or start the node anew."
            )
        return DeadlinePolicy(policy, budget_s, self.cost, self._exact_cost, self._guided)

    def _steps(self, most: int, method: str = "") -> int:
        return most if self._budget_s == math.inf else self.choice(most, method).steps

    def choice(self, most: int, method: str = "") -> StepChoice:
        """The steps taken when ``most`` are asked for, in a chunk that is continued by ``method`` (empty: sampled freely)."""
        cost = self._exact_cost if method == "rtc" else self.cost
        return steps_within(self._budget_s, cost, self._policy.evaluations_per_step, most)

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        """See ``ContinuingPolicy``."""
        method = "" if continuation is None else continuation.method
        return self._policy.sample(observation, self._steps(steps, method), seed, continuation)

    def sample_batch(self, observations: Sequence[Observation], steps: int, seed: int) -> tuple[FloatArray, int]:
        """See ``FlowPolicy``; each chunk has the steps that it would have alone."""
        return self._policy.sample_batch(observations, self._steps(steps), seed)

    def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
        """See ``FlowPolicy``."""
        return self._policy.instruct(instruction, stamp)

    def look(self, frames: Mapping[str, Features], prompt: Features) -> None:
        """See ``FlowPolicy``."""
        self._policy.look(frames, prompt)

    def refusal(self, method: str, steps: int) -> str | None:
        """See ``ContinuingPolicy``; a deadline that leaves too few steps is as bad as asking for too few."""
        asked = self._policy.refusal(method, steps)
        if asked is not None:
            return asked
        left = self._steps(steps, method)
        if self._policy.refusal(method, left) is None:
            return None
        return (
            f"the deadline of {1e3 * self._budget_s:g} ms leaves {left} of {steps} solver steps, with which its guidance "
            "overshoots; allow more time, or use receding, ensemble, or rtc_trained where the checkpoint allows it."
        )


def measure_cost(policy: FlowPolicy, method: str = "") -> StepCost:
    """What a chunk costs on this machine now, in seconds: medians at several step counts, then a straight line.

    ``method`` is that of the continuation, empty for a chunk that is sampled freely. Images are looked at anew for every chunk, as
    for the first after each.
    """
    observation = empty_observation(policy.contract)
    continuation = empty_continuation(policy.contract, method) if method else None
    measured = []
    for steps in GUIDED_STEP_COUNTS if method else STEP_COUNTS:
        seconds, nfe = [], 0
        for _ in range(REPEATS):
            policy.forget()
            begin = time.perf_counter()
            _, nfe = policy.sample(observation, steps, 0, continuation)
            seconds.append(time.perf_counter() - begin)
        measured.append((nfe, statistics.median(seconds)))
    return fit_cost(measured)


def empty_continuation(contract: Contract, method: str) -> Continuation:
    """All zeros, one step committed and half the horizon executed: for timing."""
    half = contract.horizon // 2
    return Continuation(method, np.zeros((contract.horizon, len(contract.action_joints))), min(1, half), half)


def empty_observation(contract: Contract) -> Observation:
    """All zeros at stamp 0, in the contract's shapes; of a prompt the empty instruction."""
    features = {s.name: blank(s) for s in contract.streams}
    history = np.zeros((len(contract.history_ns), len(contract.joints)))
    return Observation(0, np.zeros(len(contract.joints)), features, {}, history)
