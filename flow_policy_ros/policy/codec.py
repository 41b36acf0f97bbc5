"""Between robot quantities and network tensors: the one place where observations are arranged and actions scaled.

Training and the robot call the same methods; a transform can therefore not be applied on one side only. Camera images and
prompts, which are not scaled, go past the normalisers to a vision-language model; ``prompt`` makes its inputs of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.models.batched import Batched
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.prefix_inputs import PrefixInputs
from flow_policy_ros.policy.action_space import make_action_space
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.runtime.contract import FRAMES, POINTS, PROMPT, SEEN, Contract, StreamContract

OBSERVATION_LIMIT = 10.0
"""Normalised observations are clamped to this: little in the data is further out; one fault must not drown the rest."""


def observation_dim(contract: Contract) -> int:
    """Length of the raw observation vector."""
    return state_dim(contract) + sum(len(stream.rows) * width(stream) for stream in vector_streams(contract))


def state_dim(contract: Contract) -> int:
    """Length of the joint positions in it, past ones included."""
    return len(contract.joints) * (1 + len(contract.history_ns))


def vector_streams(contract: Contract) -> tuple[StreamContract, ...]:
    """The streams that become tokens of numbers: all but those that a vision-language model reads as they are."""
    return tuple(stream for stream in contract.streams if stream.kind not in SEEN)


def width(stream: StreamContract) -> int:
    """Channels of its tokens in the network: those of the stream, without its mask."""
    return stream.channels - (stream.mask_channel is not None)


def network_shape(contracts: Sequence[Contract]) -> NetworkShape:
    """The sizes that hold every contract: one embodiment each. Raises ``ValueError`` for different horizons."""
    horizons = sorted({contract.horizon for contract in contracts})
    if len(horizons) != 1:
        raise ValueError(f"the embodiments have the horizons {horizons}, expected one for all.")
    return NetworkShape(
        state=max(state_dim(contract) for contract in contracts),
        horizon=horizons[0],
        action=max(len(contract.action_joints) for contract in contracts),
        tokens=max(sum(len(stream.rows) for stream in vector_streams(contract)) for contract in contracts),
        channels=max((width(stream) for contract in contracts for stream in vector_streams(contract)), default=0),
        embodiments=len(contracts),
    )


def raw_observation(
    contract: Contract, joint_position: torch.Tensor, features: dict[str, torch.Tensor], history: torch.Tensor | None = None
) -> torch.Tensor:
    """Observation vectors (B, O) float64: joint positions (B, J), where the contract has a history those before (B, n, J), then
    of each of ``vector_streams`` (B, tokens, channels) the rows that the contract uses, without the mask, flattened, in the
    contract's order.

    Raises ``ValueError`` naming a missing stream or a wrong shape."""
    batch = len(joint_position)
    require_shape("joint_position", joint_position, (batch, len(contract.joints)))
    parts = [joint_position.double()]
    if contract.history_ns:
        past = joint_position.new_zeros(0) if history is None else history
        require_shape("joint_history", past, (batch, len(contract.history_ns), len(contract.joints)))
        parts.append(past.double().flatten(1))
    for stream in vector_streams(contract):
        values, mask = _values(stream, features, batch), stream.mask_channel
        values = values[:, list(stream.use)] if stream.use else values
        if mask is not None:
            values = torch.cat((values[:, :, :mask], values[:, :, mask + 1 :]), dim=2)
        parts.append(values.double().flatten(1))
    return torch.cat(parts, dim=1)


def raw_mask(contract: Contract, features: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """Which numbers of ``raw_observation`` are real, (B, O) bool; None where all are, since no stream has a mask.

    The others, of tokens that are padding, say nothing of the data: statistics leave them out. Raises as ``raw_observation``."""
    streams = vector_streams(contract)
    masked = {stream.name: token_mask(stream, features) for stream in streams if stream.mask_channel is not None}
    if not masked:
        return None
    first = next(iter(masked.values()))
    parts = [first.new_ones(len(first), state_dim(contract))]
    for stream in streams:
        mask = masked.get(stream.name)
        mask = first.new_ones(len(first), len(stream.rows)) if mask is None else mask
        parts.append(mask.repeat_interleave(width(stream), dim=1))
    return torch.cat(parts, dim=1)


def token_mask(stream: StreamContract, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which of the rows that are used of a stream with a mask are real, (B, rows) bool."""
    values = _values(stream, features)
    mask: torch.Tensor = values[:, list(stream.rows), stream.mask_channel] > 0.5
    return mask


def _values(stream: StreamContract, features: dict[str, torch.Tensor], batch: int | None = None) -> torch.Tensor:
    """Features (B, tokens, channels) of a stream. Raises ``ValueError`` where they are missing or of another shape."""
    if stream.name not in features:
        raise ValueError(f"features of stream '{stream.name}' are missing; given: {sorted(features)}.")
    values = features[stream.name]
    batch = len(values) if batch is None else batch
    require_shape(f"features '{stream.name}'", values, (batch, stream.tokens, stream.channels))
    return values


class Codec:
    """Normalisation, action space and padding of one embodiment of a checkpoint.

    ``shape`` is what the network wants, at least the contract's own sizes (which it is when not given); ``embodiment`` the
    number of these weights in it. ``prompter`` makes inputs of a vision-language model of camera images and prompts, where the
    contract has them. Raises ``ValueError`` for parts that do not fit together.
    """

    def __init__(
        self,
        contract: Contract,
        observation_normaliser: Normaliser,
        action_normaliser: Normaliser,
        action_space: str,
        shape: NetworkShape | None = None,
        embodiment: int = 0,
        prompter: Prompter | None = None,
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
        for prompt, frames in itertools.product(contract.of_kind(PROMPT), contract.of_kind(FRAMES)):
            if "size" in prompt.extractor and list(prompt.extractor["size"]) != list(frames.extractor["size"]):
                raise ValueError(
                    f"images of '{frames.name}' have the size {frames.extractor['size']}, expected {prompt.extractor['size']}, for "
                    f"which '{prompt.name}' was made; resize them alike."
                )
        self.prompter = prompter
        self._streams = vector_streams(contract)
        self._prompts = contract.of_kind(PROMPT)
        self._masked = any(stream.mask_channel is not None for stream in self._streams)
        self._transform = make_action_space(action_space, contract)
        self._dead = list(action_normaliser.dead)
        self._token_mask = torch.arange(self.shape.tokens)[None] < own.tokens
        self._embodiment = torch.tensor([embodiment])

    def observation(
        self,
        joint_position: torch.Tensor,
        features: dict[str, torch.Tensor],
        history: torch.Tensor | None = None,
        prefix: Batched | None = None,
    ) -> Conditioning:
        """Network input, float32, of joint positions (B, J), features (B, tokens, channels) per stream, and the joint positions
        before (B, n, J) where the contract has a history. Tokens that are padding by their stream's mask are zero and masked.

        ``prefix`` is what a network made of images and prompt before (see ``prefix_inputs``), instead of which it is given these.
        """
        raw = raw_observation(self.contract, joint_position, features, history)
        vector = self.observation_normaliser.normalise(raw).clamp_(-OBSERVATION_LIMIT, OBSERVATION_LIMIT)
        batch, column = len(vector), state_dim(self.contract)
        state, rows = vector[:, :column], []
        for stream in self._streams:
            size = len(stream.rows) * width(stream)
            tokens = vector[:, column : column + size].view(batch, len(stream.rows), width(stream))
            rows.append(pad(tokens, self.shape.channels))
            column += size
        missing = self.shape.tokens - sum(len(stream.rows) for stream in self._streams)
        if missing or not rows:
            rows.append(vector.new_zeros(batch, missing, self.shape.channels))
        tokens = torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
        mask = self._token_mask.expand(batch, -1)
        if self._masked:
            mask = mask & self._real(features, batch)
            tokens = torch.where(mask[:, :, None], tokens, 0.0)
        prefix = self.prefix_inputs(features) if prefix is None else prefix
        return Conditioning(pad(state, self.shape.state), tokens, mask, self._embodiment.expand(batch), prefix)

    def prefix_inputs(self, features: dict[str, torch.Tensor]) -> PrefixInputs | None:
        """What a vision-language model reads of features (B, tokens, channels) per stream; None where the contract has no prompt.

        Raises ``ValueError`` naming a missing stream or a wrong shape, and ``ExtractorError`` for what the model cannot read.
        """
        if not self._prompts:
            return None
        if self.prompter is None:
            raise ValueError(
                f"the contract of robot '{self.contract.robot}' has a prompt, but there is no processor that could read it. Load "
                "the checkpoint with its folder vlm, or give the codec a prompter."
            )
        frames = []
        for stream in self.contract.of_kind(FRAMES):
            values = _values(stream, features)
            frames.append(values.view(*values.shape[:2], stream.channels // 3, 3))
        sizes = sorted({tuple(frame.shape[1:3]) for frame in frames})
        if len(sizes) != 1:
            raise ValueError(f"the cameras' images have the sizes {sizes}, expected one for all; resize them alike.")
        points = [_values(stream, features) for stream in self.contract.of_kind(POINTS)]
        return self.prompter.inputs(
            torch.stack(frames, dim=1), _values(self._prompts[0], features), torch.cat(points, dim=1) if points else None
        )

    def _real(self, features: dict[str, torch.Tensor], batch: int) -> torch.Tensor:
        """Which tokens (B, L) are real by the streams' masks; padded ones count as real here."""
        real = torch.ones(batch, self.shape.tokens, dtype=torch.bool)
        row = 0
        for stream in self._streams:
            rows = len(stream.rows)
            if stream.mask_channel is not None:
                real[:, row : row + rows] = token_mask(stream, features)
            row += rows
        return real

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
