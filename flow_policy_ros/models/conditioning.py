"""What a velocity network is told of the world, as tensors: the one input format of every family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.models.batched import Batched


@dataclass(frozen=True)
class NetworkShape:
    """Sizes given by the data: S state values, H steps per chunk, A action dimensions, L feature tokens of D channels,
    E embodiments. S, A, L and D are the padded sizes where a network serves several embodiments."""

    state: int
    horizon: int
    action: int
    tokens: int = 0
    channels: int = 0
    embodiments: int = 1

    @property
    def vector(self) -> int:
        """Length of state and tokens as one vector, S + L * D."""
        return self.state + self.tokens * self.channels


@dataclass(frozen=True)
class Conditioning:
    """A batch of normalised observations.

    ``state`` (B, S) float, zero where padded; ``tokens`` (B, L, D) float, ``token_mask`` (B, L) bool, False where padded:
    such tokens may hold anything;
    ``embodiment`` (B,) int64, which weights serve the sample; ``prefix`` images and instruction, for deep fusion: a
    ``PrefixInputs``, or what the network's ``see`` made of it; None elsewhere.
    """

    state: torch.Tensor
    tokens: torch.Tensor
    token_mask: torch.Tensor
    embodiment: torch.Tensor
    prefix: Batched | None = None

    @staticmethod
    def of(
        state: torch.Tensor,
        tokens: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        embodiment: torch.Tensor | None = None,
        prefix: Batched | None = None,
    ) -> Conditioning:
        """What is not given: no tokens, all tokens real, embodiment 0."""
        batch, device = len(state), state.device
        tokens = state.new_zeros(batch, 0, 0) if tokens is None else tokens
        if token_mask is None:
            token_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        if embodiment is None:
            embodiment = torch.zeros(batch, dtype=torch.int64, device=device)
        return Conditioning(state, tokens, token_mask, embodiment, prefix)

    def __len__(self) -> int:
        return len(self.state)

    @property
    def vector(self) -> torch.Tensor:
        """State and tokens as one vector (B, S + L * D), for networks without attention."""
        return torch.cat((self.state, self.visible_tokens.flatten(1)), dim=1)

    @property
    def visible_tokens(self) -> torch.Tensor:
        """The tokens (B, L, D), zero where masked."""
        # where() and not a product: a masked token may hold anything, and NaN * 0 is NaN.
        return torch.where(self.token_mask[:, :, None], self.tokens, 0.0)

    def to(self, device: torch.device | str) -> Conditioning:
        """On another device."""
        if torch.device(device) == self.state.device:
            return self
        prefix = None if self.prefix is None else self.prefix.to(device)
        state, tokens, token_mask, embodiment = (part.to(device) for part in self._parts())
        return Conditioning(state, tokens, token_mask, embodiment, prefix)

    def take(self, which: slice | torch.Tensor) -> Conditioning:
        """Some of the samples."""
        prefix = None if self.prefix is None else self.prefix.take(which)
        state, tokens, token_mask, embodiment = (part[which] for part in self._parts())
        return Conditioning(state, tokens, token_mask, embodiment, prefix)

    @staticmethod
    def cat(batches: Sequence[Conditioning]) -> Conditioning:
        """Batches one after the other. Raises ``ValueError`` where some have a prefix and others none, or of other sizes."""
        prefixes = [batch.prefix for batch in batches if batch.prefix is not None]
        if prefixes and len(prefixes) != len(batches):
            raise ValueError(f"{len(prefixes)} of {len(batches)} batches have images and instruction, expected all or none.")
        prefix = type(prefixes[0]).cat(prefixes) if prefixes else None
        columns = zip(*(batch._parts() for batch in batches), strict=True)
        state, tokens, token_mask, embodiment = (torch.cat(parts) for parts in columns)
        return Conditioning(state, tokens, token_mask, embodiment, prefix)

    def check(self, shape: NetworkShape) -> None:
        """Raise ``ValueError`` naming the field that does not fit ``shape``, the expected and the given.

        That ``embodiment`` is one of E is for those to say that use it: reading it stops an accelerator.
        """
        batch = len(self.state)
        require_shape("state", self.state, (batch, shape.state))
        require_shape("tokens", self.tokens, (batch, shape.tokens, shape.channels))
        require_shape("token_mask", self.token_mask, (batch, shape.tokens))
        require_shape("embodiment", self.embodiment, (batch,))
        for field, expected in (("token_mask", torch.bool), ("embodiment", torch.int64)):
            given = getattr(self, field).dtype
            if given != expected:
                raise ValueError(f"{field} has type {given}, expected {expected}; convert it.")

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.state, self.tokens, self.token_mask, self.embodiment
