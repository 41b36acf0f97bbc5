"""Sampling many chunks of a recording at once, where what is observed does not depend on what is commanded.

A recording does not obey: in modes that continue nothing, the observations of the next seconds are known before the chunks of
this one are sampled. The engine looks that far ahead and samples them as one batch. What a mode allows is said here; when to
look ahead is the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from flow_policy_ros.runtime.chunk_execution import CONTINUING
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters
from flow_policy_ros.runtime.policy_loop import ContinuingPolicy, SampleRequest
from flow_policy_ros.runtime.types import Continuation, FloatArray, Observation


@runtime_checkable
class BatchPolicy(ContinuingPolicy, Protocol):
    """A policy that also samples several chunks in one pass: ``policy.flow_policy`` and ``policy.deployed`` are such."""

    def sample_batch(self, observations: Sequence[Observation], steps: int, seed: int) -> tuple[FloatArray, int]:
        """Positions (B, H, A) of B chunks, to float rounding those of ``sample``, and the evaluations made for all together."""


def require_batches(parameters: PolicyParameters) -> None:
    """Raise ``ParameterError`` for a mode in which a chunk cannot be sampled before the commands of the one before are known."""
    if parameters.mode in CONTINUING:
        raise ParameterError(
            f"--batch samples chunks ahead, but policy.mode is '{parameters.mode}', in which a chunk continues what is commanded "
            "after the one before. Use --batch 1, or the mode receding or ensemble."
        )


class Presampled:
    """``policy``, answering from what ``prepare`` has sampled. ``size`` is how many requests are best prepared together."""

    def __init__(self, policy: BatchPolicy, size: int) -> None:
        self.contract: Contract = policy.contract
        self.prefix = policy.prefix
        self.size = size
        self._policy = policy
        self._ready: dict[int, tuple[Observation, FloatArray, int]] = {}  # by the observation's identity: stamps may repeat

    def prepare(self, requests: Sequence[SampleRequest]) -> None:
        """Sample what ``requests`` ask for, all of one step count and seed; what was prepared before and not asked for is gone."""
        self._ready.clear()
        if len(requests) < 2:
            return  # alone it is sampled as on the robot
        observations = [request.observation for request in requests]
        chunks, nfe = self._policy.sample_batch(observations, requests[0].steps, requests[0].seed)
        self._ready = {id(o): (o, chunk, nfe) for o, chunk in zip(observations, chunks, strict=True)}

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        """See ``ContinuingPolicy``."""
        prepared = self._ready.pop(id(observation), None)
        if prepared is None:
            return self._policy.sample(observation, steps, seed, continuation)
        return prepared[1], prepared[2]

    def refusal(self, method: str, steps: int) -> str | None:
        """See ``ContinuingPolicy``."""
        return self._policy.refusal(method, steps)
