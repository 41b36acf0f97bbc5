"""A checkpoint as the policy loop sees it: observation in, chunk of joint positions out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.policy.checkpoint import Checkpoint, load_checkpoint
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.types import FloatArray, Observation


def keyed_noise(seed: int, stamp: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (float32, CPU) that depends on (``seed``, ``stamp``) alone."""
    digest = hashlib.sha256(f"{seed}:{stamp}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


class FlowPolicy:
    """Implements ``runtime.policy_loop.ChunkPolicy``. Not for several threads at once.

    ``robot`` chooses among several embodiments, ``solver`` replaces the checkpoint's (empty: keep it), ``guidance_scale``
    other than 1 needs a checkpoint trained with condition dropout. Raises ``ValueError`` for what the checkpoint cannot do.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "cpu",
        robot: str | None = None,
        solver: str = "",
        guidance_scale: float = 1.0,
    ) -> None:
        self.codec = checkpoint.codec_of(robot)
        self.contract = self.codec.contract
        self.model = checkpoint.model.eval().to(device)
        self._device = device
        self._solver = make_solver(solver) if solver else self.model.solver
        self._guidance_scale = guidance_scale
        if guidance_scale != 1.0:
            self.model.require_null()

    @staticmethod
    def load(
        folder: str | Path, device: str = "cpu", robot: str | None = None, solver: str = "", guidance_scale: float = 1.0
    ) -> FlowPolicy:
        """The policy of a checkpoint folder. Raises ``CheckpointError``, and ``ValueError`` as the constructor."""
        return FlowPolicy(load_checkpoint(folder), device, robot, solver, guidance_scale)

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the velocity per solver step. Raises ``ValueError`` for a solver without fixed steps."""
        return len(self._solver.times(1))

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[FloatArray, int]:
        """Positions (H, A) float64 in rad or m, columns as ``contract.action_joints``, and the evaluations made.

        The same (seed, observation) gives the same chunk. Raises ``ContractError`` for one that does not fit.
        """
        position = torch.as_tensor(observation.joint_position)[None]
        with torch.inference_mode():
            solved = self.model.sample(
                self.conditioning(observation),
                steps,
                self.noise(observation.stamp, seed),
                guidance_scale=self._guidance_scale,
                solver=self._solver,
            )
            return self.codec.decode(solved.x.cpu(), position)[0].numpy(), solved.nfe

    def conditioning(self, observation: Observation) -> Conditioning:
        """What the network sees of an observation, a batch of one. Raises ``ContractError`` for one that does not fit."""
        position = torch.as_tensor(observation.joint_position)[None]
        features = {name: torch.as_tensor(values)[None] for name, values in observation.features.items()}
        try:
            return self.codec.observation(position, features).to(self._device)
        except ValueError as error:
            raise ContractError(f"the observation does not fit the checkpoint: {error}") from error

    def noise(self, stamp: int, seed: int) -> torch.Tensor:
        """The noise (1, H, A) of a chunk: drawn for the robot's own joints, zero where padded."""
        own = keyed_noise(seed, stamp, (1, self.contract.horizon, len(self.contract.action_joints)))
        return self.codec.pad_noise(own).to(self._device)
