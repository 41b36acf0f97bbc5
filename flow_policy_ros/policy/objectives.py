"""What a network can be trained for besides flow matching: plain behaviour cloning and diffusion, to be measured against.

Same network, checkpoint, codec and deployment as ``FlowModel``, of which they are subclasses; adding one is a class and a line
below. They have no flow that could be configured, guided or distilled, and say so where somebody tries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from flow_policy_ros.flow.losses import masked_mse
from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.predictions import PredictChunk
from flow_policy_ros.flow.shapes import broadcast_time
from flow_policy_ros.flow.solver import require_steps
from flow_policy_ros.flow.solvers import Solver, SolveResult, Velocity
from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel

LEVELS, SCHEDULE = 100, "squaredcos_cap_v2"
"""Noise levels of diffusion and their schedule (Nichol & Dhariwal 2021), as in Diffusion Policy (Chi et al. 2023)."""
LEAST_LEVELS = 2
"""DDIM steps at least: the only level of a single one would be the last, where noise passes for the chunk."""
CLIP = 10.0
"""Estimates of the normalised chunk are clipped to this while sampling, as observations are: at the first levels, where the chunk
is a thousandth of the noise, a small error of the noise is a large one of the chunk."""
LEAST_TIME = 0.05
"""The time that a distance is divided by is no shorter than this where diffusion's noise is read as a velocity."""

PLAIN = FlowConfig()


class ObjectiveError(ValueError):
    """An objective that cannot be used; one paragraph with the remedy."""


class Opponent(FlowModel):
    """What the others have in common. ``flow`` must be left at its defaults; ``ValueError`` names what is not."""

    def __init__(
        self,
        network: str,
        sizes: dict[str, Any],
        shape: NetworkShape,
        flow: FlowConfig = PLAIN,
        action_dims: tuple[int, ...] = (),
    ) -> None:
        given = [field.name for field in dataclasses.fields(flow) if getattr(flow, field.name) != field.default]
        if given:
            options = ", ".join(f"--{name.replace('_', '-')} {getattr(flow, name)}" for name in given)
            raise ObjectiveError(f"objective {self.objective} has no flow, to which {options} would belong; leave that out.")
        super().__init__(network, sizes, shape, flow, action_dims)
        self._prepare()

    def _prepare(self) -> None:
        """Make what is needed besides the network."""
        raise NotImplementedError

    def require_solver(self, solver: Solver) -> None:
        """See ``FlowModel``."""
        if type(solver) is not type(self.solver):
            raise ObjectiveError(f"a {self.objective} policy has no velocity field to solve; leave policy.solver (--solver) empty.")

    def require_null(self) -> None:
        """Always raises ``ObjectiveError``."""
        raise ObjectiveError(
            f"guidance_scale is not 1, but a {self.objective} policy has no velocity field to guide; use scale 1, or a flow policy."
        )

    def _require_free(
        self, steps: int, guidance_scale: float, guide: Callable[[Velocity], Velocity] | None, solver: Solver | None
    ) -> None:
        """Raise ``ValueError`` for fewer than one step, and where sampling is to be guided or solved otherwise."""
        require_steps(steps)
        if guidance_scale != 1.0:
            self.require_null()
        if guide is not None:
            raise ObjectiveError(f"a chunk cannot be continued: {self.unguided}")
        if solver is not None:
            self.require_solver(solver)


class Regression(Opponent):
    """Plain behaviour cloning: one pass of the network, from zeros at t = 0, is the chunk; its mean squared error is the loss.

    The baseline of every comparison (Pomerleau 1988). It learns the mean: of two ways around an obstacle, the one through it.
    As a velocity field it leads from anywhere to that chunk.
    """

    objective = "regression"
    unguided = "a regression policy gives one chunk per observation, which nothing can guide; use receding or ensemble."
    noisy = stepwise = False
    loss_on = "chunks"
    needless_gates = frozenset({"time_grid", "noise_dtype", "noise_distribution"})

    def _prepare(self) -> None:
        self.prediction = PredictChunk()
        self._times = _Times(torch.zeros(1))

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
        """Chunks (B, H, A) in one evaluation, whatever ``steps`` and ``noise`` are. Raises ``ValueError`` for guides, guidance,
        solvers, and misfits of the observation."""
        self._require_free(steps, guidance_scale, guide, solver)
        cache = self.condition(observation)
        x = observation.state.new_zeros(len(observation), self.shape.horizon, self.shape.action)
        return SolveResult(self._output(x, x.new_zeros(len(x)), cache), 1)

    def described(self) -> str:
        """See ``FlowModel``."""
        return "Regression (plain behaviour cloning): one pass of the network is the chunk; steps, solver and noise mean nothing"

    def _output(self, x: torch.Tensor, t: torch.Tensor, cache: tuple[Any, torch.Tensor | None]) -> torch.Tensor:
        """The same chunk wherever it is asked."""
        return super()._output(torch.zeros_like(x), x.new_zeros(len(x)), cache)


class Diffusion(Opponent):
    """Denoising diffusion that predicts the noise (Ho et al. 2020), sampled by DDIM (Song et al. 2021), as Diffusion Policy is.

    Level k of ``LEVELS`` has x = alpha_k actions + sigma_k noise with alpha² + sigma² = 1. The network is given the time
    t_k = alpha_k / (alpha_k + sigma_k), at which the straight path holds both in the same proportion: 0 is noise, as everywhere.
    Raises ``ObjectiveError`` where diffusers, whose scheduler samples, is not installed.
    """

    objective = "diffusion"
    unguided = "a diffusion policy is sampled by DDIM, which nothing can guide; use receding or ensemble."
    loss_on = "noise"
    needless_gates = frozenset({"time_grid"})

    def _prepare(self) -> None:
        self._scheduler = make_scheduler()
        kept = self._scheduler.alphas_cumprod.double()
        self._levels = (kept.sqrt() / (kept.sqrt() + (1.0 - kept).sqrt())).float()
        self._times = _Times(self._levels)

    def pair_loss(
        self,
        noise: torch.Tensor,
        actions: torch.Tensor,
        t: torch.Tensor,
        observation: Conditioning,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Mean squared error of the predicted noise for given pairs (``noise``, ``actions``), both (B, H, A), at times t (B,)."""
        x, _ = straight_path(noise, actions, t)
        return masked_mse(self._output(_scaled(x, t), t, self.condition(observation)), noise, mask)

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
        """Chunks (B, H, A) in ``steps`` DDIM steps (at least ``LEAST_LEVELS``, at most ``LEVELS``), from ``noise`` (B, H, A) if
        given. Raises ``ValueError`` for guides, guidance, solvers, other shapes and NaN."""
        self._require_free(steps, guidance_scale, guide, solver)
        if noise is None:
            noise = self.draw_noise(observation, generator)
        self._check(noise, "noise", len(observation))
        x, cache = self._masked(noise, observation.embodiment), self.condition(observation)
        count = min(max(steps, LEAST_LEVELS), LEVELS)
        self._scheduler.set_timesteps(count)
        for level in self._scheduler.timesteps:
            t = self._levels[level].to(x).expand(len(x))
            x = self._scheduler.step(self._output(x, t, cache), level, x).prev_sample
        return SolveResult(x, count)

    def velocity(self, x: torch.Tensor, t: torch.Tensor, cache: tuple[Any, torch.Tensor | None]) -> torch.Tensor:
        """The predicted noise as velocity (B, H, A) of the straight path, (x - noise) / t: the same probability flow on another
        scale (Song et al. 2021, section 4.1). Sampling does not use it; what looks into a policy does."""
        away = (x - self._output(_scaled(x, t), t, cache)) / broadcast_time(t, x).clamp(min=LEAST_TIME)
        return away if cache[1] is None else torch.where(cache[1], away, 0.0)

    def described(self) -> str:
        """See ``FlowModel``."""
        return f"Diffusion: {LEVELS} levels (`{SCHEDULE}`), the network predicts the noise, sampled by DDIM"


OBJECTIVES: dict[str, type[FlowModel]] = {"flow": FlowModel, "regression": Regression, "diffusion": Diffusion}


def objective_of(name: str) -> type[FlowModel]:
    """The model class of this name. Raises ``ObjectiveError`` listing the known ones."""
    if name not in OBJECTIVES:
        raise ObjectiveError(f"unknown objective {name!r}; known: {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]


def make_scheduler() -> Any:
    """The DDIM scheduler of diffusers. Raises ``ObjectiveError`` where that is not installed."""
    try:
        from diffusers.schedulers.scheduling_ddim import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            DDIMScheduler,
        )
    except ImportError as error:  # of something that diffusers needs, too
        raise ObjectiveError(
            f"objective diffusion is sampled by diffusers, which cannot be imported ({' '.join(str(error).split())[:200]}); "
            "pip install -r requirements/benchmarks.txt."
        ) from error
    return DDIMScheduler(
        num_train_timesteps=LEVELS, beta_schedule=SCHEDULE, prediction_type="epsilon", clip_sample=True, clip_sample_range=CLIP
    )


class _Times:
    """``TimeSampler`` of some times only, all as likely."""

    def __init__(self, times: torch.Tensor) -> None:
        self._among = times

    @property
    def support(self) -> tuple[float, float]:
        """See ``TimeSampler``."""
        return float(self._among.min()), float(self._among.max())

    def sample(self, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """See ``TimeSampler``."""
        return self._among[torch.randint(0, len(self._among), (batch,), generator=generator)]


def _scaled(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A point of the straight path at t on the scale of diffusion, where the squares of both shares make 1."""
    time = broadcast_time(t, x)
    return x / (time.square() + (1.0 - time).square()).sqrt()
