"""A checkpoint as the policy loop sees it: observation in, chunk of joint positions out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from flow_policy_ros.policy.checkpoint import Checkpoint, load_checkpoint
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.types import FloatArray, Observation


def keyed_noise(seed: int, stamp: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (float32, CPU) that depends on (``seed``, ``stamp``) alone."""
    digest = hashlib.sha256(f"{seed}:{stamp}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


class FlowPolicy:
    """Implements ``runtime.policy_loop.ChunkPolicy``. Not for several threads at once."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        self.contract = checkpoint.codec.contract
        self._codec = checkpoint.codec
        self._model = checkpoint.model.eval().to(device)
        self._device = device

    @staticmethod
    def load(folder: str | Path, device: str = "cpu") -> FlowPolicy:
        """The policy of a checkpoint folder. Raises ``CheckpointError``."""
        return FlowPolicy(load_checkpoint(folder), device)

    def sample(self, observation: Observation, steps: int, seed: int) -> tuple[FloatArray, int]:
        """Positions (H, A) float64 in rad or m, columns as ``contract.action_joints``, and the evaluations made.

        The same (seed, observation) gives the same chunk. Raises ``ContractError`` for one that does not fit.
        """
        position = torch.as_tensor(observation.joint_position)[None]
        features = {name: torch.as_tensor(values)[None] for name, values in observation.features.items()}
        noise = keyed_noise(seed, observation.stamp, (1, self.contract.horizon, len(self.contract.action_joints)))
        with torch.inference_mode():
            try:
                vector = self._codec.observation(position, features)
            except ValueError as error:
                raise ContractError(f"the observation does not fit the checkpoint: {error}") from error
            solved = self._model.sample(vector.to(self._device), steps, noise.to(self._device))
            positions = self._codec.decode(solved.x.cpu(), position)[0]
        return positions.numpy(), solved.nfe
