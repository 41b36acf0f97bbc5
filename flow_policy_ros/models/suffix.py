"""Deep fusion (pi0, Black et al. 2024): state and action tokens that meet images and instruction in every layer.

What both forms share: how the tokens are made, what they may see, and how velocities are read off them. The forms, a smaller
transformer of its own weights or the vision-language model's own layers, are ``expert`` and ``shared``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.batched import Batched
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import SinusoidalTime
from flow_policy_ros.models.network import VelocityNetwork, zero_init
from flow_policy_ros.models.prefix import VlmPrefix
from flow_policy_ros.models.prefix_inputs import PrefixInputs

Seen = TypeVar("Seen", bound=Batched)


@dataclass(frozen=True)
class FusionCache(Generic[Seen]):
    """What stays over the steps of a chunk: what was ``seen``, the ``state`` token (B, 0 or 1, width), ``positions`` (B, n) of the
    n tokens of the suffix or of all, and ``mask`` (B, 1, queries, keys), 0 or a very negative number, added to the scores."""

    seen: Seen
    state: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor


class SuffixTokens(nn.Module):
    """State (B, S) to a token, actions with times to H tokens, tokens to velocities.

    Time is mixed into each action token, so it may differ per step: W2 silu(W1 (action, sinusoids of time)).
    """

    time_map: torch.Tensor

    def __init__(self, shape: NetworkShape, width: int) -> None:
        super().__init__()
        self.state_in = nn.Linear(shape.state, width) if shape.state else None
        self.action_in = nn.Linear(shape.action, width)
        self.sinusoid = SinusoidalTime(width)
        self.sinusoid.frequencies = pi0_frequencies(width // 2)
        self.mix = nn.Linear(2 * width, width)
        self.mixed = nn.Linear(width, width)
        self.out = zero_init(nn.Linear(width, shape.action))
        # Weights trained in reversed time (see ``pi0``) bring (1, -1) along: offset and slope of what they call time.
        self.register_buffer("time_map", torch.tensor([0.0, 1.0]))

    def state(self, state: torch.Tensor) -> torch.Tensor:
        """(B, S) to (B, 1, width), or (B, 0, width) where there is no state."""
        if self.state_in is None:
            return state.new_zeros(len(state), 0, self.out.in_features)
        return self.state_in(state)[:, None]

    def actions(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x (B, H, A) at t (B,) or (B, H) to (B, H, width)."""
        offset, slope = self.time_map.to(t.dtype)
        time = self.sinusoid(offset + slope * (t if t.ndim == 2 else t[:, None].expand(x.shape[:2])))
        return self.mixed(F.silu(self.mix(torch.cat((self.action_in(x), time), dim=2))))

    def velocity(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last hidden states (B, H, width) of the action tokens to (B, H, A)."""
        return self.out(hidden.to(self.out.weight.dtype))


class DeepFusion(VelocityNetwork, Generic[Seen]):
    """What both forms share. ``condition`` takes ``Conditioning.prefix``: the raw images and instruction, or what ``see`` made of
    them before, at its own rate. Raises ``ValueError`` where there is none, and for feature tokens, which this network does
    not read.

    The order of tokens is prefix, state (where S > 0), actions. The state sees the prefix and itself, actions see all.
    """

    prefix: VlmPrefix
    tokens: SuffixTokens
    seen_type: type[Seen]

    def __init__(self, shape: NetworkShape, vlm: str, geometry: int = 0) -> None:
        super().__init__(shape)
        if shape.tokens:
            raise ValueError(
                f"deep fusion reads images and an instruction, and no feature tokens, of which the data has {shape.tokens}; leave "
                "the feature streams out, or use dit_cross."
            )
        self.prefix = VlmPrefix(vlm, geometry)

    @abstractmethod
    def see(self, inputs: PrefixInputs) -> Seen:
        """What depends on images and instruction alone; made once per observation of theirs, reused by any number of chunks."""

    @abstractmethod
    def _cache(self, seen: Seen, state: torch.Tensor) -> FusionCache[Seen]:
        """The cache for what was seen and the state token (B, 0 or 1, width)."""

    @abstractmethod
    def _hidden(self, suffix: torch.Tensor, cache: FusionCache[Seen]) -> torch.Tensor:
        """The last hidden states (B, n, width) of the suffix (B, n, width)."""

    def _condition(self, observation: Conditioning) -> FusionCache[Seen]:
        given = observation.prefix
        if given is None:
            raise ValueError(
                f"the observation has neither images nor an instruction, which {type(self).__name__} needs; give them as "
                "Conditioning.prefix."
            )
        if len(given) != len(observation):
            raise ValueError(f"prefix has {len(given)} samples, expected {len(observation)}, as the state has.")
        seen = self.see(given) if isinstance(given, PrefixInputs) else given
        if not isinstance(seen, self.seen_type):
            raise ValueError(
                f"prefix is of type {type(seen).__name__}, expected {self.seen_type.__name__}; make it with this network."
            )
        self.prefix.require_room(seen.mask.shape[1] + bool(self.shape.state) + self.shape.horizon)
        return self._cache(seen, self.tokens.state(observation.state))

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: FusionCache[Seen]) -> torch.Tensor:
        if len(x) != len(cache.seen):
            raise ValueError(f"x has {len(x)} samples, expected {len(cache.seen)}, as the observation has.")
        suffix = torch.cat((cache.state, self.tokens.actions(x, t)), dim=1)
        hidden = self._hidden(suffix, cache)
        return self.tokens.velocity(hidden[:, -self.shape.horizon :])


def pi0_frequencies(count: int) -> torch.Tensor:
    """Those of ``SinusoidalTime``, rounded as in pi0's published code: its weights know them so, and the last bit of the fastest
    is 1e-4 rad at t = 1."""
    periods = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0.0, 1.0, count)
    return 1.0 / periods * 2 * math.pi


def suffix_mask(seen: torch.Tensor, state: int, horizon: int, dtype: torch.dtype) -> torch.Tensor:
    """What ``suffix_sees`` says, (B, 1, n, T + n), to be added to the scores."""
    return added(suffix_sees(seen, state, horizon)[:, None], dtype)


def suffix_sees(seen: torch.Tensor, state: int, horizon: int) -> torch.Tensor:
    """What ``state`` (0 or 1) and ``horizon`` action tokens see, (B, n, T + n) bool: all of the prefix that is ``seen`` (B, T),
    the state itself, the actions everything."""
    own = torch.ones(state + horizon, state + horizon, dtype=torch.bool, device=seen.device)
    own[:state, state:] = False
    batch, own_tokens = len(seen), state + horizon
    return torch.cat((seen[:, None].expand(-1, own_tokens, -1), own.expand(batch, -1, -1)), dim=2)


def added(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where ``visible``, else the most negative finite number: unlike infinity it never gives NaN."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def suffix_positions(next_position: torch.Tensor, tokens: int) -> torch.Tensor:
    """Positions (B, tokens) that go on from ``next_position`` (B,)."""
    return next_position[:, None] + torch.arange(tokens, device=next_position.device)
