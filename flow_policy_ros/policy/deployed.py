"""From parameters to the policy that runs: live nodes and offline evaluation both build it here.

A deadline is a wrapper around the policy, measured once when it is built: the number of steps is then the same in every
chunk of a run, so that a run can be repeated.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from flow_policy_ros.flow.deadline import StepChoice, StepCost, fit_cost, steps_within
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import ChunkPolicy
from flow_policy_ros.runtime.types import FloatArray, Observation

STEP_COUNTS = (1, 2, 4, 8)
REPEATS = 7


def deploy(parameters: PolicyParameters, robot: str) -> ChunkPolicy:
    """The checkpoint's policy for ``robot``, with solver, guidance and deadline as the parameters say.

    It has sampled once already, since the first sample is slower than others. Raises ``CheckpointError``, or ``ValueError``
    for a guidance that the checkpoint was not trained for.
    """
    policy = FlowPolicy.load(
        parameters.checkpoint, robot=robot, solver=parameters.solver, guidance_scale=parameters.guidance_scale
    )
    if parameters.deadline_s > 0.0:
        _ = policy.evaluations_per_step  # refuses a solver without fixed steps before anything is sampled
    policy.sample(empty_observation(policy.contract), parameters.steps, 0)
    if parameters.deadline_s == 0.0:
        return policy
    return DeadlinePolicy(policy, parameters.deadline_s, measure_cost(policy))


class DeadlinePolicy:
    """``policy`` with as many solver steps as fit ``budget_s``, never more than asked for.

    Where not even one step fits, it takes one: a late chunk beats none, and the latency tells.
    """

    def __init__(self, policy: FlowPolicy, budget_s: float, cost: StepCost) -> None:
        self.contract = policy.contract
        self.cost = cost
        self._policy, self._budget_s = policy, budget_s
        self.choice(1)  # refuses a budget of nothing now rather than in the first sample

    def choice(self, most: int) -> StepChoice:
        """The steps taken when ``most`` are asked for."""
        return steps_within(self._budget_s, self.cost, self._policy.evaluations_per_step, most)

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[FloatArray, int]:
        """See ``ChunkPolicy``."""
        return self._policy.sample(observation, self.choice(steps).steps, seed)


def measure_cost(policy: FlowPolicy) -> StepCost:
    """What a chunk costs on this machine now, in seconds: medians at several step counts, then a straight line."""
    observation = empty_observation(policy.contract)
    measured = []
    for steps in STEP_COUNTS:
        seconds, nfe = [], 0
        for _ in range(REPEATS):
            begin = time.perf_counter()
            _, nfe = policy.sample(observation, steps, 0)
            seconds.append(time.perf_counter() - begin)
        measured.append((nfe, statistics.median(seconds)))
    return fit_cost(measured)


def empty_observation(contract: Contract) -> Observation:
    """All zeros at stamp 0, in the contract's shapes."""
    features = {s.name: np.zeros((s.tokens, s.channels), dtype=np.float32) for s in contract.streams}
    return Observation(0, np.zeros(len(contract.joints)), features, {})
