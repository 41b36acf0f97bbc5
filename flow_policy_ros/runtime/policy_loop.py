"""When to sample, from what, and whether the result may leave: the policy node without ROS.

Networks live behind ``ChunkPolicy``; nothing here imports torch, reads a clock or starts a thread. A caller with a
worker thread calls ``observe`` where the inputs arrive and ``infer`` in the worker; ``step`` is the two in one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from flow_policy_ros.runtime.buffers import ObservationAssembler, Stale
from flow_policy_ros.runtime.contract import Contract
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.types import Chunk, Features, FloatArray, JointState, Observation


class ChunkPolicy(Protocol):
    """Anything that turns an observation into a chunk of joint positions."""

    contract: Contract

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[FloatArray, int]:
        """Positions (H, A) float64, rad or m, columns as ``contract.action_joints``, and the function evaluations made.

        The noise depends on (``seed``, ``observation.stamp``) alone.
        """


class PolicyLoop:
    """Samples ``policy`` on a fixed grid of ``parameters.rate_hz``, from the newest valid observation."""

    def __init__(self, policy: ChunkPolicy, parameters: PolicyParameters) -> None:
        self._policy = policy
        self._contract = policy.contract
        self._parameters = parameters
        self._assembler = ObservationAssembler(
            policy.contract, parameters.joint_state_max_age_s, parameters.features_max_age_s
        )
        self._origin: int | None = None  # instant of grid point 0
        self._next = 0  # number of the grid point that is due next

    @property
    def rejections(self) -> dict[str, int]:
        """Refused inputs by kind."""
        return dict(self._assembler.rejections)

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """Take a joint state, visible from ``received`` (ns) on. Raises ``BadInput``."""
        self._assembler.on_joint_state(joint_state, received)

    def on_features(self, features: Features, received: int) -> None:
        """Take features, visible from ``received`` (ns) on. Raises ``BadInput``."""
        self._assembler.on_features(features, received)

    def due(self, now: int) -> bool:
        """Whether a sample is due at ``now``: at once after a reset, then once per grid point. Changes nothing."""
        if self._origin is None or now < self._origin:  # never sampled, or the clock was set back
            return True
        return now >= self._instant(self._next)

    def observe(self, now: int) -> Observation | Stale:
        """Use up the grid points up to ``now`` and return the observation; missed points are not made up for."""
        if self._origin is None or now < self._origin:
            self._origin = now
        # Grid instants are rounded to ns, so the quotient may be one low; the loop makes it exact.
        self._next = int((now - self._origin) * self._parameters.rate_hz / 1e9)
        while self._instant(self._next) <= now:
            self._next += 1
        return self._assembler.observe(now)

    def infer(self, observation: Observation) -> Chunk | Stale:
        """Sample a chunk. ``Stale`` when the policy's output has the wrong shape, NaN or Inf: nothing may follow it."""
        steps, seed = self._parameters.steps, self._parameters.seed
        sampled, nfe = self._policy.sample(observation, steps, seed)
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
        return Chunk(
            observation.stamp,
            self._contract.dt_ns,
            self._contract.action_joints,
            positions,
            int(nfe),
            seed,
            dict(observation.stamps),
        )

    def step(self, now: int) -> Chunk | Stale:
        """``observe`` and ``infer``."""
        observation = self.observe(now)
        return observation if isinstance(observation, Stale) else self.infer(observation)

    def update(self, parameters: PolicyParameters) -> None:
        """Use other parameters from now on. A new rate begins its grid at the last grid point used."""
        if self._origin is not None and parameters.rate_hz != self._parameters.rate_hz:
            self._origin = self._instant(self._next - 1)
            self._next = 1
        self._parameters = parameters
        self._assembler.joint_state_max_age_s = parameters.joint_state_max_age_s
        self._assembler.features_max_age_s = parameters.features_max_age_s

    def reset(self) -> None:
        """Forget the inputs and the grid; the counts of rejections stay."""
        self._assembler.clear()
        self._origin = None
        self._next = 0

    def _instant(self, number: int) -> int:
        """Instant of a grid point: from the origin each time, so that rounding does not add up."""
        assert self._origin is not None
        return self._origin + round(number * 1e9 / self._parameters.rate_hz)
