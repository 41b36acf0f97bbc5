"""The two paths through a policy that parity gates compare: as it is trained, and as a robot loads and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import torch

from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.models.suffix import DeepFusion
from flow_policy_ros.policy.codec import Codec
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.normaliser import json_sha256
from flow_policy_ros.runtime.types import Observation
from flow_policy_ros.training.data import TrainingData
from flow_policy_ros.training.gates import Batch, Gate, Path, check_paths

SAMPLES = 64


def raw_batch(data: TrainingData, seed: int = 0) -> list[Batch]:
    """Raw inputs of ``SAMPLES`` training samples of each robot, from its first source."""
    batches = []
    first = [data.train.embodiments.index(number) for number in range(len(data.codecs))]
    for windows in (data.train.sources[k] for k in first):
        samples = windows.samples(seed, 0)
        chosen = np.random.default_rng([seed, 11]).integers(0, len(samples.ticks), SAMPLES)
        batch = windows.gather(samples.take(chosen))
        features = {name: torch.from_numpy(values) for name, values in batch.features.items()}
        history = None if batch.joint_history is None else torch.from_numpy(batch.joint_history)
        batches.append(Batch(torch.from_numpy(batch.joint_position), features, torch.from_numpy(batch.actions), history))
    return batches


def check_deployment(
    model: FlowModel, codecs: Sequence[Codec], folder: FilePath, batches: Sequence[Batch], name: str
) -> list[Gate]:
    """Every path gate that ``model`` needs between it with ``codecs`` and the policy that a robot loads from ``folder``, per
    robot."""
    gates = []
    for codec, batch in zip(codecs, batches, strict=True):
        deployed = deployed_path(FlowPolicy.load(folder, robot=codec.contract.robot))
        gates += check_paths(training_path(model, codec, name), deployed, batch)
    return [replace(gate, found=f"{name}: {gate.found}") for gate in gates if gate.name not in model.needless_gates]


def training_path(model: FlowModel, codec: Codec, name: str = "training") -> Path:
    """What the trainer does with ``model`` and ``codec``."""

    @torch.no_grad()
    def observation(
        joint_position: torch.Tensor, features: dict[str, torch.Tensor], history: torch.Tensor | None
    ) -> Conditioning:
        made = codec.observation(joint_position, features, history)
        # As ``condition`` does it of what is not seen yet: the robot looks at images when they come.
        if isinstance(made.prefix, PrefixInputs) and isinstance(model.network, DeepFusion):
            return replace(made, prefix=model.network.see(made.prefix))
        return made

    return Path(
        name=name,
        module=model,
        observation=observation,
        encode=codec.encode,
        decode=codec.decode,
        noise=lambda observation: model.draw_noise(observation, torch.Generator().manual_seed(1)),
        velocity=lambda x, t, observation: model.velocity(x, t, model.condition(observation)),
        real=torch.arange(model.shape.action) < len(codec.contract.action_joints),
        normaliser_sha256=normaliser_sha256(codec),
    )


def deployed_path(policy: FlowPolicy) -> Path:
    """What a robot does with a loaded policy: one observation at a time, noise keyed by its stamp."""

    def observation(
        joint_position: torch.Tensor, features: dict[str, torch.Tensor], history: torch.Tensor | None
    ) -> Conditioning:
        past = joint_position.new_zeros(len(joint_position), 0, 0) if history is None else history
        rows = [
            Observation(k, position.numpy(), {name: values[k].numpy() for name, values in features.items()}, {}, past[k].numpy())
            for k, position in enumerate(joint_position)
        ]
        return Conditioning.cat([policy.conditioning(row) for row in rows])

    def velocity(x: torch.Tensor, t: torch.Tensor, seen: Conditioning) -> torch.Tensor:
        one = [slice(k, k + 1) for k in range(len(x))]
        return torch.cat([policy.model.velocity(x[k], t[k], policy.model.condition(seen.take(k))) for k in one])

    return Path(
        name="deployed",
        module=policy.model,
        observation=observation,
        encode=policy.codec.encode,
        decode=policy.codec.decode,
        noise=lambda seen: torch.cat([policy.noise(10_000_000 * k, 0) for k in range(len(seen))]),
        velocity=velocity,
        real=torch.arange(policy.model.shape.action) < len(policy.contract.action_joints),
        normaliser_sha256=normaliser_sha256(policy.codec),
    )


def normaliser_sha256(codec: Codec) -> str:
    """Hash of the statistics that both paths must share."""
    return json_sha256({"observation": codec.observation_normaliser.to_json(), "action": codec.action_normaliser.to_json()})
