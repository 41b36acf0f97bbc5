"""Between robot quantities and network tensors: the one place where observations are arranged and actions scaled.

Training and the robot call the same methods; a transform can therefore not be applied on one side only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.action_space import make_action_space
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.runtime.contract import Contract

OBSERVATION_LIMIT = 10.0
"""Normalised observations are clamped to this: little in the data is further out; one fault must not drown the rest."""


def observation_dim(contract: Contract) -> int:
    """Length of the raw observation vector."""
    return state_dim(contract) + sum(len(stream.rows) * stream.channels for stream in contract.streams)


def state_dim(contract: Contract) -> int:
    """Length of the joint positions in it, past ones included."""
    return len(contract.joints) * (1 + len(contract.history_ns))


def network_shape(contracts: Sequence[Contract]) -> NetworkShape:
    """The sizes that hold every contract: one embodiment each. Raises ``ValueError`` for different horizons."""
    horizons = sorted({contract.horizon for contract in contracts})
    if len(horizons) != 1:
        raise ValueError(f"the embodiments have the horizons {horizons}, expected one for all.")
    return NetworkShape(
        state=max(state_dim(contract) for contract in contracts),
        horizon=horizons[0],
        action=max(len(contract.action_joints) for contract in contracts),
        tokens=max(sum(len(stream.rows) for stream in contract.streams) for contract in contracts),
        channels=max((stream.channels for contract in contracts for stream in contract.streams), default=0),
        embodiments=len(contracts),
    )


def raw_observation(
    contract: Contract, joint_position: torch.Tensor, features: dict[str, torch.Tensor], history: torch.Tensor | None = None
) -> torch.Tensor:
    """Observation vectors (B, O) float64: joint positions (B, J), where the contract has a history those before (B, n, J), then
    of each stream (B, tokens, channels) the rows that the contract uses, flattened, in the contract's order.

    Raises ``ValueError`` naming a missing stream or a wrong shape."""
    batch = len(joint_position)
    require_shape("joint_position", joint_position, (batch, len(contract.joints)))
    parts = [joint_position.double()]
    if contract.history_ns:
        past = joint_position.new_zeros(0) if history is None else history
        require_shape("joint_history", past, (batch, len(contract.history_ns), len(contract.joints)))
        parts.append(past.double().flatten(1))
    for stream in contract.streams:
        if stream.name not in features:
            raise ValueError(f"features of stream '{stream.name}' are missing; given: {sorted(features)}.")
        values = features[stream.name]
        require_shape(f"features '{stream.name}'", values, (batch, stream.tokens, stream.channels))
        parts.append((values[:, list(stream.use)] if stream.use else values).double().flatten(1))
    return torch.cat(parts, dim=1)


class Codec:
    """Normalisation, action space and padding of one embodiment of a checkpoint.

    ``shape`` is what the network wants, at least the contract's own sizes (which it is when not given); ``embodiment`` the
    number of these weights in it. Raises ``ValueError`` for parts that do not fit together.
    """

    def __init__(
        self,
        contract: Contract,
        observation_normaliser: Normaliser,
        action_normaliser: Normaliser,
        action_space: str,
        shape: NetworkShape | None = None,
        embodiment: int = 0,
    ) -> None:
        for name, normaliser, size in (
            ("observation", observation_normaliser, observation_dim(contract)),
            ("action", action_normaliser, len(contract.action_joints)),
        ):
            if len(normaliser.offset) != size:
                raise ValueError(
                    f"{name} normaliser has {len(normaliser.offset)} dimensions, expected {size} by the contract."
                )
        own = network_shape([contract])
        self.shape = shape or own
        if self.shape.horizon != own.horizon:
            raise ValueError(
                f"the contract of robot '{contract.robot}' has a horizon of {own.horizon}, expected {self.shape.horizon}, which "
                "the network has."
            )
        for field in ("state", "action", "tokens", "channels"):
            if getattr(self.shape, field) < getattr(own, field):
                raise ValueError(
                    f"network size {field} is {getattr(self.shape, field)}, expected at least {getattr(own, field)}, which "
                    f"robot '{contract.robot}' has."
                )
        self.contract = contract
        self.embodiment = embodiment
        self.observation_normaliser = observation_normaliser
        self.action_normaliser = action_normaliser
        self.action_space = action_space
        self._transform = make_action_space(action_space, contract)
        self._dead = list(action_normaliser.dead)
        self._token_mask = torch.arange(self.shape.tokens)[None] < own.tokens
        self._embodiment = torch.tensor([embodiment])

    def observation(
        self, joint_position: torch.Tensor, features: dict[str, torch.Tensor], history: torch.Tensor | None = None
    ) -> Conditioning:
        """Network input, float32, of joint positions (B, J), features (B, tokens, channels) per stream, and the joint positions
        before (B, n, J) where the contract has a history."""
        raw = raw_observation(self.contract, joint_position, features, history)
        vector = self.observation_normaliser.normalise(raw).clamp_(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)
        batch, state = len(vector), state_dim(self.contract)
        rows, column = [], state
        for stream in self.contract.streams:
            size = len(stream.rows) * stream.channels
            tokens = vector[:, column : column + size].view(batch, len(stream.rows), stream.channels)
            rows.append(pad(tokens, self.shape.channels))
            column += size
        missing = self.shape.tokens - sum(len(stream.rows) for stream in self.contract.streams)
        if missing or not rows:
            rows.append(vector.new_zeros(batch, missing, self.shape.channels))
        return Conditioning(
            pad(vector[:, :state], self.shape.state),
            torch.cat(rows, dim=1) if len(rows) > 1 else rows[0],
            self._token_mask.expand(batch, -1),
            self._embodiment.expand(batch),
        )

    def encode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """Joint positions (B, H, a) in rad or m to network actions (B, H, A) float32, zero where padded."""
        return pad(self.action_normaliser.normalise(self._transform.encode(actions, joint_position)), self.shape.action)

    def decode(self, actions: torch.Tensor, joint_position: torch.Tensor) -> torch.Tensor:
        """Network actions (B, H, A) to joint positions (B, H, a) float64 in rad or m.

        An action dimension that was constant in the data is commanded as that constant: with scale 1 the network's
        residual error would otherwise reach the joint undiminished.
        """
        actions = actions[:, :, : len(self.contract.action_joints)]
        decoded = self.action_normaliser.denormalise(actions)
        if self._dead:
            decoded[..., self._dead] = self.action_normaliser.denormalise(torch.zeros_like(actions))[..., self._dead]
        return self._transform.decode(decoded, joint_position.double())

    def pad_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Noise (B, H, a) of the embodiment's own width as (B, H, A): zero, not random, where padded."""
        return pad(noise, self.shape.action)


def pad(values: torch.Tensor, width: int) -> torch.Tensor:
    """``values`` (..., n) as (..., width), zeros behind."""
    return values if values.shape[-1] == width else F.pad(values, (0, width - values.shape[-1]))
