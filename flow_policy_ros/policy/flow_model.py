"""A flow policy as a torch module, on normalised tensors: a loss, a sampler, and one velocity beneath both.

Which network it is, how it was paired with noise, whether it knows a null condition: all of it is configuration. Units,
names and normalisation are the codec's; checkpoints on disk are ``checkpoint``'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from flow_policy_ros.flow.couplings import make_coupling
from flow_policy_ros.flow.guidance import guided_velocity
from flow_policy_ros.flow.losses import masked_mse
from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.predictions import make_prediction
from flow_policy_ros.flow.prefix import CleanPrefix, draw_prefix, times_with_prefix
from flow_policy_ros.flow.shapes import broadcast_time, chunk_mask, require_shape
from flow_policy_ros.flow.solvers import Solver, SolveResult, Velocity, make_solver
from flow_policy_ros.flow.time_samplers import make_time_sampler
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.registry import make_network, network_config

NULLS = ("learned", "zeros")


@dataclass(frozen=True)
class FlowConfig:
    """How a velocity field is trained and integrated. Raises ``ValueError`` naming what is out of bounds.

    ``time_sampler``, ``coupling``, ``solver``: names of ``flow``. ``condition_dropout``: share of the training samples that
    see the null observation instead of their own, which is ``learned`` or ``zeros`` (``null``); above 0, classifier-free
    guidance is possible. ``prefix``: the longest committed prefix in steps that training shows clean (training-time RTC).
    ``predicts``: what the network's output means, a name of ``flow.predictions``.
    """

    time_sampler: str = "uniform"
    coupling: str = "independent"
    solver: str = "euler"
    condition_dropout: float = 0.0
    null: str = "learned"
    prefix: int = 0
    predicts: str = "velocity"

    def __post_init__(self) -> None:
        if not 0.0 <= self.condition_dropout < 1.0:
            raise ValueError(f"condition_dropout is {self.condition_dropout}, expected at least 0 and less than 1.")
        if self.null not in NULLS:
            raise ValueError(f"null is {self.null!r}, expected one of {NULLS}.")
        if self.prefix < 0:
            raise ValueError(f"prefix is {self.prefix} steps, expected 0 or more.")


class FlowModel(nn.Module):
    """Conditional flow matching on chunks (B, H, A) given a ``Conditioning`` (Lipman et al. 2023; Liu et al. 2023).

    ``network`` and ``sizes`` choose the architecture, ``shape`` its (padded) sizes, ``action_dims`` how many of the A
    action dimensions are real for each of the E embodiments (all of them when not given). On padded dimensions noise,
    chunk and velocity are zero, in training and in sampling. Raises ``ValueError`` for unknown names and misfits.
    """

    objective: ClassVar[str] = "flow"
    """Its name in ``objectives``, where what else a network can be trained for is."""
    unguided: ClassVar[str] = ""
    """Why a chunk cannot be made to continue another, with the remedy; empty where it can."""
    noisy: ClassVar[bool] = True
    """Whether chunks begin as noise; else as zeros."""
    stepwise: ClassVar[bool] = True
    """Whether more steps take longer, and give better chunks."""
    loss_on: ClassVar[str] = "velocities"
    """What the loss is the squared error of, normalised."""
    needless_gates: ClassVar[frozenset[str]] = frozenset()
    """Parity gates that compare what this objective does not have."""
    action_mask: torch.Tensor | None

    def __init__(
        self,
        network: str,
        sizes: dict[str, Any],
        shape: NetworkShape,
        flow: FlowConfig = FlowConfig(),
        action_dims: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        action_dims = action_dims or (shape.action,) * shape.embodiments
        if len(action_dims) != shape.embodiments or not all(1 <= dims <= shape.action for dims in action_dims):
            raise ValueError(
                f"action_dims is {action_dims}, expected {shape.embodiments} numbers from 1 to {shape.action}, one per "
                "embodiment."
            )
        if flow.prefix >= shape.horizon:
            raise ValueError(f"prefix is {flow.prefix} steps, expected fewer than the horizon of {shape.horizon}.")
        self.shape, self.flow, self.action_dims = shape, flow, tuple(action_dims)
        self.network_name = network
        self.network_config = network_config(network, sizes)
        self.network = make_network(network, self.network_config, shape)
        self._times = make_time_sampler(flow.time_sampler)
        self._coupling = make_coupling(flow.coupling)
        self.solver = make_solver(flow.solver)
        self.prediction = make_prediction(flow.predicts)
        self.prediction.require(self.solver)
        if flow.condition_dropout > 0 and flow.null == "learned":
            self.null_state = nn.Parameter(torch.zeros(shape.state))
            self.null_tokens = nn.Parameter(torch.zeros(shape.tokens, shape.channels))
        padded = any(dims < shape.action for dims in action_dims)
        table = torch.arange(shape.action, device="cpu") < torch.tensor(action_dims, device="cpu")[:, None]  # see models.embeddings
        self.register_buffer("action_mask", table if padded else None, persistent=False)

    def compute_loss(
        self,
        actions: torch.Tensor,
        observation: Conditioning,
        mask: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss (scalar) of ``actions`` (B, H, A), where ``mask`` (B, H) or (B, H, A) is true.

        Noise and times come from ``generator`` (on the CPU) or torch's global one. Raises ``ValueError`` naming the field
        for another shape, and for NaN or Inf.
        """
        return self.pair_loss(*self.training_pairs(actions, observation, mask, generator))

    def training_pairs(
        self,
        actions: torch.Tensor,
        observation: Conditioning,
        mask: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Conditioning, torch.Tensor]:
        """The arguments of ``pair_loss`` for recorded ``actions``: noise and times drawn, conditions dropped, mask (B, H, A)
        without padded dimensions and committed prefixes."""
        self._check(actions, "actions", len(observation))
        mask = self.real_mask(mask, observation)
        # Paired first and masked after: rows change places, and embodiments differ in what is padded.
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        noise = self._masked(self._coupling.pair(noise, actions, mask), observation.embodiment)
        t = self.draw_times(len(actions), generator).to(actions.device)
        if self.flow.prefix > 0:
            prefix = draw_prefix(len(actions), self.shape.horizon, self.flow.prefix, generator).to(actions.device)
            t, mask = times_with_prefix(t, prefix), mask & ~prefix[:, :, None]
        return noise, actions, t, self._dropped(observation, generator), mask

    def pair_loss(
        self,
        noise: torch.Tensor,
        actions: torch.Tensor,
        t: torch.Tensor,
        observation: Conditioning,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of given pairs (``noise``, ``actions``), both (B, H, A), at times t (B,) or (B, H)."""
        x, _ = straight_path(noise, actions, t)
        output = self._output(x, t, self.condition(observation))
        weight = broadcast_time(self.prediction.weight(t), actions).sqrt()
        return masked_mse(weight * output, weight * self.prediction.target(noise, actions), mask)

    forward = pair_loss

    def sample(
        self,
        observation: Conditioning,
        steps: int,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        guidance_scale: float = 1.0,
        guide: Callable[[Velocity], Velocity] | None = None,
        solver: Solver | None = None,
    ) -> SolveResult:
        """Chunks (B, H, A) in ``steps`` steps of ``solver`` (default: the trained one), from ``noise`` (B, H, A) if given.

        ``guidance_scale`` s gives v_null + s (v - v_null) (Ho & Salimans 2022) and costs nothing at 1. ``guide`` wraps the
        velocity, for real-time chunking. Raises ``ValueError`` for other shapes, NaN, fewer than one step, a scale
        without a trained null condition, or a solver that cannot follow what the network predicts.
        """
        solver = solver or self.solver
        self.require_solver(solver)
        if noise is None:
            noise = self.draw_noise(observation, generator)
        self._check(noise, "noise", len(observation))
        velocity = self._bound(observation, guidance_scale)
        velocity, start = guide(velocity) if guide else velocity, self._masked(noise, observation.embodiment)
        if isinstance(velocity, CleanPrefix):
            start = velocity.start(start)
        return solver.solve(velocity, start, steps)

    def condition(self, observation: Conditioning) -> tuple[Any, torch.Tensor | None]:
        """What ``velocity`` needs of an observation, computed once per chunk. Raises ``ValueError`` for a misfit."""
        observation.check(self.shape)
        # Masked tokens may hold anything: the networks leave them out.
        for name, values in (("state", observation.state), ("tokens", observation.visible_tokens)):
            if not _finite(values):
                raise ValueError(f"{name} of the observation holds NaN or Inf, expected finite numbers; leave the sample out.")
        self._require_known(observation.embodiment)
        return self.network.condition(observation), self._real(observation.embodiment)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, cache: tuple[Any, torch.Tensor | None]) -> torch.Tensor:
        """Velocity (B, H, A) at x (B, H, A), t (B,) or (B, H): zero on padded dimensions, whatever x holds there."""
        real = cache[1]
        velocity = self.prediction.velocity(self._output(x, t, cache), x, t)
        return velocity if real is None else torch.where(real, velocity, 0.0)

    def draw_noise(self, observation: Conditioning, generator: torch.Generator | None = None) -> torch.Tensor:
        """Standard normal (B, H, A) float32, zero on padded dimensions; drawn on the CPU."""
        shape = (len(observation), self.shape.horizon, self.shape.action)
        noise = torch.randn(shape, generator=generator).to(observation.state.device)
        return self._masked(noise, observation.embodiment)

    def draw_times(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Training times (B,), on the CPU."""
        return self._times.sample(batch, generator)

    def null(self, observation: Conditioning) -> Conditioning:
        """The null observation, once per sample of ``observation``. Raises ``ValueError`` where none was trained."""
        self.require_null()
        if self.flow.null == "zeros":
            state, tokens = torch.zeros_like(observation.state), torch.zeros_like(observation.tokens)
        else:
            state = self.null_state.expand_as(observation.state)
            tokens = self.null_tokens.expand_as(observation.tokens)
        hidden = torch.ones(len(observation), dtype=torch.bool, device=state.device)
        prefix = None if observation.prefix is None else observation.prefix.hide(hidden)
        return Conditioning(state, tokens, torch.ones_like(observation.token_mask), observation.embodiment, prefix)

    def real_mask(self, mask: torch.Tensor, observation: Conditioning) -> torch.Tensor:
        """``mask`` (B, H) or (B, H, A) as (B, H, A) bool, false on padded dimensions. Raises ``ValueError``."""
        mask = chunk_mask(mask, (len(observation), self.shape.horizon, self.shape.action))
        real = self._real(observation.embodiment)
        return mask if real is None else mask & real

    def require_solver(self, solver: Solver) -> None:
        """Raise ``ValueError`` for a solver that cannot follow what the network predicts."""
        self.prediction.require(solver)

    def require_null(self) -> None:
        """Raise ``ValueError`` when no null condition was trained, which guidance needs."""
        if self.flow.condition_dropout == 0:
            raise ValueError(
                "guidance_scale is not 1, but the model has no trained null condition; use scale 1, or train with "
                "--condition-dropout above 0."
            )

    def described(self) -> str:
        """How it is trained and sampled, a line of Markdown without its full stop."""
        flow = self.flow
        guided = f", condition dropout {flow.condition_dropout:g} (null {flow.null})" if flow.condition_dropout else ""
        prefix = f", committed prefix up to {flow.prefix} points" if flow.prefix else ""
        return (
            f"Flow: straight path, the network predicts the {flow.predicts}, training times `{flow.time_sampler}`, "
            f"coupling `{flow.coupling}`, solver `{flow.solver}`{guided}{prefix}"
        )

    def _output(self, x: torch.Tensor, t: torch.Tensor, cache: tuple[Any, torch.Tensor | None]) -> torch.Tensor:
        """What the network says (B, H, A), zero on padded dimensions."""
        inner, real = cache
        if real is None:
            return self.network.velocity(x, t, inner)
        return torch.where(real, self.network.velocity(torch.where(real, x, 0.0), t, inner), 0.0)

    def _bound(self, observation: Conditioning, guidance_scale: float) -> Velocity:
        """The velocity of this observation, guided if the scale is not 1."""
        if guidance_scale == 1.0:
            cache = self.condition(observation)
            return lambda x, t: self.velocity(x, t, cache)
        pair = self.condition(Conditioning.cat((self.null(observation), observation)))
        return guided_velocity(lambda x, t: self.velocity(x, t, pair), guidance_scale)

    def _dropped(self, observation: Conditioning, generator: torch.Generator | None) -> Conditioning:
        """The observation with some samples replaced by the null one."""
        if self.flow.condition_dropout == 0:
            return observation
        drop = (torch.rand(len(observation), generator=generator) < self.flow.condition_dropout).to(observation.state.device)
        null = self.null(observation)
        return Conditioning(
            torch.where(drop[:, None], null.state, observation.state),
            torch.where(drop[:, None, None], null.tokens, observation.tokens),
            torch.where(drop[:, None], null.token_mask, observation.token_mask),
            observation.embodiment,
            None if observation.prefix is None else observation.prefix.hide(drop),
        )

    def _masked(self, chunk: torch.Tensor, embodiment: torch.Tensor) -> torch.Tensor:
        real = self._real(embodiment)
        return chunk if real is None else torch.where(real, chunk, 0.0)

    def _real(self, embodiment: torch.Tensor) -> torch.Tensor | None:
        """Which action dimensions are real, (B, 1, A) bool; None where all are. Raises ``ValueError`` for an unknown one."""
        if self.action_mask is None:
            return None
        self._require_known(embodiment)
        return self.action_mask[embodiment][:, None, :]

    def _require_known(self, embodiment: torch.Tensor) -> None:
        known, given = self.shape.embodiments, set(embodiment.tolist())
        if not given <= set(range(known)):
            raise ValueError(
                f"embodiment is {sorted(given)}, expected numbers from 0 to {known - 1}: the model has {known}. Use the "
                "checkpoint trained for this robot."
            )

    def _check(self, chunk: torch.Tensor, field: str, batch: int) -> None:
        require_shape(field, chunk, (batch, self.shape.horizon, self.shape.action))
        if not _finite(chunk):
            raise ValueError(f"{field} holds NaN or Inf, expected finite numbers; leave the sample out.")


def _finite(values: torch.Tensor) -> bool:
    """Whether all are; a sum, which is one operation, settles it unless finite numbers overflow in it."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())
