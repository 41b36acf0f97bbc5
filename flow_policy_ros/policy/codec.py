"""Between robot quantities and network tensors: the one place where observations are vectorised and actions scaled.

Training and the robot call the same methods; a transform can therefore not be applied on one side only.
"""

from __future__ import annotations

import torch

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.policy.action_space import make_action_space
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract

OBSERVATION_LIMIT = 10.0
"""Normalised observations are clamped to this: little in the data is further out; one fault must not drown the rest."""


def observation_dim(contract: Contract) -> int:
    """S, the length of the observation vector."""
    return len(contract.joints) + sum(len(stream.rows) * stream.channels for stream in contract.streams)


def raw_observation(
    contract: Contract, joint_position: torch.Tensor, features: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Observation vectors (B, S) float64: joint positions (B, J), then of each stream (B, tokens, channels) the rows
    that the contract uses, flattened, in the contract's order.

    Raises ``ValueError`` naming a missing stream or a wrong shape."""
    batch = len(joint_position)
    require_shape("joint_position", joint_position, (batch, len(contract.joints)))
    parts = [joint_position.double()]
    for stream in contract.streams:
        if stream.name not in features:
            raise ValueError(f"features of stream '{stream.name}' are missing; given: {sorted(features)}.")
        values = features[stream.name]
        require_shape(f"features '{stream.name}'", values, (batch, stream.tokens, stream.channels))
        parts.append(values[:, list(stream.rows)].double().flatten(1))
    return torch.cat(parts, dim=1)


class VectorCodec:
    """Normalisation and action space of one checkpoint. Raises ``ValueError`` for parts that do not fit together."""

    def __init__(
        self, contract: Contract, observation_normaliser: Normaliser, action_normaliser: Normaliser, action_space: str
    ) -> None:
        for name, normaliser, size in (
            ("observation", observation_normaliser, observation_dim(contract)),
            ("action", action_normaliser, len(contract.action_joints)),
        ):
            if len(normaliser.offset) != size:
                raise ValueError(
                    f"{name} normaliser has {len(normaliser.offset)} dimensions, expected {size} by the contract."
                )
        self.contract = contract
        self.observation_normaliser = observation_normaliser
        self.action_normaliser = action_normaliser
        self.action_space = action_space
        self._transform = make_action_space(action_space, contract)
        self._dead = list(action_normaliser.dead)

    def observation(self, joint_position: torch.Tensor, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Network input (B, S) float32 of joint positions (B, J) and features (B, tokens, channels) per stream."""
        raw = raw_observation(self.contract, joint_position, features)
        return self.observation_normaliser.normalise(raw).clamp(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)

    def encode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """Joint positions (B, H, A) in rad or m to network actions (B, H, A) float32."""
        return self.action_normaliser.normalise(self._transform.encode(actions, joint_position))

    def decode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """Network actions (B, H, A) to joint positions (B, H, A) float64 in rad or m.

        An action dimension that was constant in the data is commanded as that constant: with scale 1 the network's
        residual error would otherwise reach the joint undiminished.
        """
        decoded = self.action_normaliser.denormalise(actions)
        if self._dead:
            decoded[..., self._dead] = self.action_normaliser.denormalise(torch.zeros_like(actions))[..., self._dead]
        return self._transform.decode(decoded, joint_position.double())
