"""A checkpoint as the policy loop sees it: observation in, chunk of joint positions out, continuing another if asked to."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from flow_policy_ros.flow.prefix import CleanPrefix
from flow_policy_ros.flow.real_time_chunking import JacobianFreeGuidance, RealTimeGuidance, rtc_weights
from flow_policy_ros.flow.solver import Velocity
from flow_policy_ros.flow.solvers import make_solver
from flow_policy_ros.models.batched import Batched
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.suffix import DeepFusion
from flow_policy_ros.policy.checkpoint import Checkpoint, load_checkpoint
from flow_policy_ros.policy.instruction import InstructionReader, readers_for
from flow_policy_ros.policy.kept_prefix import KeptPrefixes
from flow_policy_ros.runtime.contract import PROMPT, SAID, ContractError
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.types import Continuation, FeatureArray, Features, FloatArray, Observation
from flow_policy_ros.vision.pretrained import ExtractorError

LEAST_GUIDED_STEPS = 5
"""The pull of real-time chunking is up to beta = 5 times the error: in fewer steps than 5 one of Euler's overshoots."""
GUIDANCES: dict[str, type[RealTimeGuidance] | type[JacobianFreeGuidance]] = {
    "rtc": RealTimeGuidance,
    "rtc_identity": JacobianFreeGuidance,
}


def keyed_noise(seed: int, stamp: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (float32, CPU) that depends on (``seed``, ``stamp``) alone."""
    digest = hashlib.sha256(f"{seed}:{stamp}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


class FlowPolicy:
    """Implements ``runtime.policy_loop.ContinuingPolicy``, ``InstructedPolicy`` and ``TunablePolicy``.

    One thread may sample, while another looks at images ahead (``look``) and a third reads instructions (``instruct``); no two may
    sample at once. ``readers`` make the streams that are told in words.

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
        readers: Sequence[InstructionReader] = (),
    ) -> None:
        self.codec = checkpoint.codec_of(robot)
        self.contract = self.codec.contract
        self.model = checkpoint.model.eval().to(device)
        self.prefix = self.model.flow.prefix
        self._device = device
        self._sample_with(solver, guidance_scale)
        self._readers = tuple(readers)
        network = self.model.network
        self._kept: KeptPrefixes | None = None
        if self.contract.of_kind(PROMPT) and isinstance(network, DeepFusion):
            self._kept = KeptPrefixes(network.see, self.codec, device)

    def _sample_with(self, solver: str, guidance_scale: float) -> None:
        self._solver = make_solver(solver) if solver else self.model.solver
        self.model.require_solver(self._solver)
        if guidance_scale != 1.0:
            self.model.require_null()
        self._guidance_scale = guidance_scale

    @staticmethod
    def load(
        folder: str | Path, device: str = "cpu", robot: str | None = None, solver: str = "", guidance_scale: float = 1.0
    ) -> FlowPolicy:
        """The policy of a checkpoint folder, with what reads its instructions. Raises ``CheckpointError``, ``ExtractorError``, and
        ``ValueError`` as the constructor."""
        checkpoint = load_checkpoint(folder)
        codec = checkpoint.codec_of(robot)
        readers = readers_for(codec.contract, folder, codec.prompter, device)
        return FlowPolicy(checkpoint, device, robot, solver, guidance_scale, readers)

    def tuned(self, parameters: PolicyParameters) -> FlowPolicy:
        """See ``TunablePolicy``. Weights, readers and the images looked at are shared. Raises ``ValueError`` for a deadline, since
        no cost was measured (``policy.deployed``)."""
        if parameters.deadline_s > 0.0:
            raise ValueError(
                "what a solver step costs is measured at start, and only with a deadline; start the node with policy.deadline_s "
                "above 0 (10 s leaves every step) to change it while it runs."
            )
        return self.sampled_with(parameters.solver, parameters.guidance_scale)

    def sampled_with(self, solver: str, guidance_scale: float) -> FlowPolicy:
        """This policy with another solver (empty: the checkpoint's) and guidance; all else is shared. Raises ``ValueError`` as the
        constructor."""
        other = copy.copy(self)
        other._sample_with(solver, guidance_scale)
        return other

    @property
    def guided(self) -> bool:
        """Whether each evaluation is one of a doubled batch, for classifier-free guidance."""
        return self._guidance_scale != 1.0

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the velocity per solver step. Raises ``ValueError`` for a solver without fixed steps."""
        return len(self._solver.times(1))

    def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
        """See ``InstructedPolicy``. Raises ``ExtractorError`` for an instruction that cannot be read, by the model or at all."""
        told = {reader.stream for reader in self._readers}
        unread = [stream.name for stream in self.contract.of_kind(*SAID) if stream.name not in told]
        if unread:
            raise ExtractorError(f"nothing reads the instruction for {unread}; load it with FlowPolicy.load, or give it readers.")
        return tuple(reader.read(instruction, stamp) for reader in self._readers)

    def look(self, frames: Mapping[str, Features], prompt: Features) -> None:
        """Look at images ahead, so that ``sample`` need not: ``frames`` are those of every camera stream (and of points where there
        are), by stream, of one observation. In a thread of its own, which ``sample`` waits for only where it needs the same images.

        Nothing happens where the network reads none, or these are known. Raises ``ContractError`` for what does not fit.
        """
        if self._kept is not None:
            given = {features.stream: features.values for features in (*frames.values(), prompt)}
            self._seen([given])

    def forget(self) -> None:
        """Forget the images looked at."""
        if self._kept is not None:
            self._kept.forget()

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        """Positions (H, A) float64 in rad or m, columns as ``contract.action_joints``, and the evaluations made.

        The same (seed, observation, continuation) gives the same chunk. Raises ``ContractError`` for an observation that does
        not fit, ``ValueError`` for a continuation that does not, or that ``refusal`` speaks against.
        """
        position = torch.as_tensor(observation.joint_position)[None]
        guide = None if continuation is None else self._guide(continuation, steps, position)
        # Exact real-time chunking differentiates through the network, which inference mode forbids.
        with torch.inference_mode(continuation is None or continuation.method != "rtc"), torch.no_grad():
            solved = self.model.sample(
                self.conditioning(observation),
                steps,
                self.noise(observation.stamp, seed),
                guidance_scale=self._guidance_scale,
                guide=guide,
                solver=self._solver,
            )
            return self.codec.decode(solved.x.cpu(), position)[0].numpy(), solved.nfe

    def sample_batch(self, observations: Sequence[Observation], steps: int, seed: int) -> tuple[FloatArray, int]:
        """Positions (B, H, A) of B chunks sampled freely, and the evaluations made for all of them together.

        To float rounding what ``sample`` gives for each. Raises as ``sample``, and ``ValueError`` for a solver without fixed steps,
        whose steps would depend on the other chunks of the batch.
        """
        _ = self.evaluations_per_step
        position = torch.stack([torch.as_tensor(observation.joint_position) for observation in observations])
        noise = torch.cat([self.noise(observation.stamp, seed) for observation in observations])
        with torch.inference_mode():
            solved = self.model.sample(
                self._conditioning(position, observations), steps, noise, guidance_scale=self._guidance_scale, solver=self._solver
            )
            return self.codec.decode(solved.x.cpu(), position).numpy(), solved.nfe

    def refusal(self, method: str, steps: int) -> str | None:
        """See ``ContinuingPolicy``."""
        network = self.model.network
        if self.model.unguided:
            return self.model.unguided
        if (method == "rtc" and not network.differentiable) or (method == "rtc_trained" and not network.time_per_step):
            return "exported graphs can do it by rtc_identity only; use that, or policy.backend torch."
        if method == "rtc_trained":
            if self.prefix >= 1:
                return None
            return (
                "the checkpoint was trained without committed prefixes; use rtc or rtc_identity, which any checkpoint can do, or "
                "train with --prefix."
            )
        if method not in GUIDANCES:
            return f"chunks can be continued by {', '.join((*GUIDANCES, 'rtc_trained'))} only."
        if steps < LEAST_GUIDED_STEPS:
            return (
                f"with {steps} solver steps its guidance overshoots; use {LEAST_GUIDED_STEPS} or more, or a mode without "
                "guidance (receding, ensemble, or rtc_trained where the checkpoint allows it)."
            )
        return None

    def _guide(self, continuation: Continuation, steps: int, position: torch.Tensor) -> Callable[[Velocity], Velocity]:
        """What makes the velocity go on from ``continuation``. Raises ``ValueError``."""
        method, horizon = continuation.method, self.contract.horizon
        problem = self.refusal(method, steps)
        if problem is not None:
            raise ValueError(f"continuation by {method}: {problem}")
        expected = (horizon, len(self.contract.action_joints))
        if continuation.previous.shape != expected:
            raise ValueError(f"previous has shape {continuation.previous.shape}, expected {expected} (horizon, joints).")
        previous = self.codec.encode(torch.as_tensor(continuation.previous)[None], position).to(self._device)
        if method == "rtc_trained":
            if continuation.delay > self.prefix:
                raise ValueError(f"delay is {continuation.delay} steps, the checkpoint was trained with up to {self.prefix}.")
            return lambda velocity: CleanPrefix(velocity, previous, continuation.delay)
        weights, guidance = rtc_weights(horizon, continuation.delay, continuation.execute), GUIDANCES[method]
        return lambda velocity: guidance(velocity, previous, weights)

    def conditioning(self, observation: Observation) -> Conditioning:
        """What the network sees of an observation, a batch of one. Raises ``ContractError`` for one that does not fit."""
        return self._conditioning(torch.as_tensor(observation.joint_position)[None], [observation])

    def remembered(self, observation: Observation) -> Conditioning | None:
        """As ``conditioning``; None where its images would have to be looked at again, for which a chunk might have to wait."""
        if self._kept is not None and self._kept.known(observation.features) is None:
            return None
        return self.conditioning(observation)

    def _conditioning(self, position: torch.Tensor, observations: Sequence[Observation]) -> Conditioning:
        """Of observations with joint positions ``position`` (B, J)."""
        given = [observation.features for observation in observations]
        prefix = self._seen(given)
        features = {name: torch.as_tensor(np.stack([f[name] for f in given])) for name in given[0]}
        history = torch.as_tensor(np.stack([observation.joint_history for observation in observations]))
        try:
            return self.codec.observation(position, features, history, prefix).to(self._device)
        except ValueError as error:
            raise ContractError(f"the observation does not fit the checkpoint: {error}") from error

    def _seen(self, given: Sequence[Mapping[str, FeatureArray]]) -> Batched | None:
        if self._kept is None:
            return None
        try:
            return self._kept.seen(given)
        except ValueError as error:
            raise ContractError(f"the observation does not fit the checkpoint: {error}") from error

    def noise(self, stamp: int, seed: int) -> torch.Tensor:
        """The noise (1, H, A) of a chunk: drawn for the robot's own joints, zero where padded; all zero where none is needed."""
        shape = (1, self.contract.horizon, len(self.contract.action_joints))
        own = keyed_noise(seed, stamp, shape) if self.model.noisy else torch.zeros(shape)
        return self.codec.pad_noise(own).to(self._device)
