"""Real-time chunking by inpainting: sampling is guided so that the new chunk continues the previous one.

Black, Galliker & Levine 2025, "Real-time execution of action chunking flow policies". For any network, as trained; what a
network trained for it does instead is in ``prefix``. Which steps are committed, and what the previous chunk became on the
robot, is the caller's to say.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch

from flow_policy_ros.flow.shapes import broadcast_time, require_shape
from flow_policy_ros.flow.solver import Velocity, evaluate

SCHEDULES = ("exponential", "linear")


def rtc_weights(horizon: int, delay: int, execute: int, schedule: str = "exponential") -> torch.Tensor:
    """How strongly each step (H,) float32 is held to the previous chunk: 1, then decaying, then 0 (eq. 5).

    ``horizon`` H, ``delay`` d and ``execute`` s in steps: the first d are committed, and of the previous chunk, of which s
    were executed, H - s remain. ``linear`` is the ramp itself, ``exponential`` lin (e^lin - 1) / (e - 1).
    Raises ``ValueError`` unless 0 <= d <= s <= H - d, and for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}.")
    if delay < 0 or 2 * delay > horizon:
        raise ValueError(
            f"horizon is {horizon}, delay {delay} and execute {execute} steps; with this horizon a delay of 0 to {horizon // 2} "
            "is allowed. Sample faster, or train longer chunks."
        )
    if not delay <= execute <= horizon - delay:
        raise ValueError(
            f"horizon is {horizon}, delay {delay} and execute {execute} steps; with this horizon and delay an execute of "
            f"{delay} to {horizon - delay} is allowed."
        )
    end = horizon - execute
    i = torch.arange(horizon, dtype=torch.float64)
    ramp = ((delay - 1 - i) / (end - delay + 1) + 1).clamp(0.0, 1.0)
    if schedule == "exponential":
        ramp = ramp * torch.expm1(ramp) / (math.e - 1)
    return torch.where(i < end, ramp, 0.0).float()


class ChunkGuidance(ABC):
    """A velocity pulled towards ``previous`` (B, H, A) with ``weights`` (H,): what the two variants share.

    v + min(beta, (1 - t)/t * (t^2 + (1 - t)^2)/(1 - t)^2) g (eq. 2 to 4), where g carries the error
    e = weights (previous - x_hat) of the estimate x_hat = x + (1 - t) v back to x. The factor is ``beta`` at t = 0, and at
    t = 1, its limit there. Where a weight is 0, ``previous`` is never read; dimensions where noise, velocity and ``previous``
    are zero stay zero. Guidance needs steps: with fewer than about five of Euler's the pull overshoots (the exact one also
    at a small ``beta``, between two modes, where the Jacobian is large), with ten it does not.

    Raises ``ValueError`` for another shape, weights outside [0, 1], a ``beta`` that is negative or not finite, and for NaN or
    Inf in ``previous`` where it counts.
    """

    def __init__(self, velocity: Velocity, previous: torch.Tensor, weights: torch.Tensor, beta: float = 5.0) -> None:
        if previous.ndim != 3:
            raise ValueError(f"previous has shape {tuple(previous.shape)}, expected (B, H, A).")
        require_shape("weights", weights, tuple(previous.shape[1:2]))
        if not ((weights >= 0) & (weights <= 1)).all():
            raise ValueError(f"weights are {weights.tolist()}, expected numbers from 0 to 1; make them with rtc_weights.")
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta is {beta}, expected a finite number of at least 0, such as 5.")
        counts = (weights > 0).to(previous.device)[:, None]
        previous = torch.where(counts, previous, 0.0)
        if not torch.isfinite(previous).all():
            raise ValueError("previous holds NaN or Inf in steps of weight above 0, expected finite actions.")
        self._velocity, self._previous, self._weights, self._beta = velocity, previous, weights, beta

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity (B, H, A), detached, at x (B, H, A) and t (B,) or (B, H), in [0, 1]. Raises ``ValueError``."""
        require_shape("x", x, tuple(self._previous.shape))
        time = broadcast_time(t, x)
        v, g = self._velocity_and_pull(x, t, 1.0 - time)
        # t (1 - t) = 0 at both ends gives inf, which beta bounds; the numerator is at least 1/2, so there is no 0 / 0.
        factor = (time.square() + (1.0 - time).square()) / (time * (1.0 - time)).clamp(min=0.0)
        return v + factor.clamp(max=self._beta) * g

    @abstractmethod
    def _velocity_and_pull(
        self, x: torch.Tensor, t: torch.Tensor, left: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """v and g, both (B, H, A) and detached; ``left`` is 1 - t, ready to multiply x."""

    def _error(self, x: torch.Tensor, v: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        weights = self._weights.to(x)[:, None]
        # where(), since a step of weight 0 has nothing to say, whatever x is there.
        return torch.where(weights > 0, (self._previous.to(x) - (x + left * v)) * weights, 0.0)


class RealTimeGuidance(ChunkGuidance):
    """Exact: g is the vector-Jacobian product of x -> x_hat, through the network, with e. About twice the time of plain
    sampling. See ``ChunkGuidance``.

    Works under ``torch.no_grad`` (gradients are enabled for the product alone). A call raises ``ValueError`` under
    ``torch.inference_mode``, and when no gradient flows from x through ``velocity``, as in an exported graph.
    """

    def _velocity_and_pull(
        self, x: torch.Tensor, t: torch.Tensor, left: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_inference_mode_enabled() or x.is_inference():
            raise ValueError(
                "RealTimeGuidance needs gradients through the network, which torch.inference_mode forbids; sample under "
                "torch.no_grad, or use JacobianFreeGuidance."
            )
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            v = evaluate(self._velocity, at, t)
            e = self._error(x, v.detach(), left)
            # As a sum, exactly equal: given a vector to multiply with, torch imports sympy, most of a second at a node's start.
            through = torch.autograd.grad((v * (left * e)).sum(), at, allow_unused=True)[0] if v.requires_grad else None
        if through is None:
            raise ValueError(
                f"RealTimeGuidance: no gradient flows from x through the velocity ({_name(self._velocity)}), as through an "
                "exported graph or one that runs under torch.no_grad; sample with the torch network, or use "
                "JacobianFreeGuidance."
            )
        return v.detach(), e + through


class JacobianFreeGuidance(ChunkGuidance):
    """Approximate: g = e, as if the estimate moved with x alone. Costs nothing, needs no gradients, runs anywhere, also on
    exported graphs and under ``torch.inference_mode``; the network does not rearrange what is not held. See
    ``ChunkGuidance``."""

    def _velocity_and_pull(
        self, x: torch.Tensor, t: torch.Tensor, left: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        v = evaluate(self._velocity, x, t).detach()
        return v, self._error(x, v, left)


def _name(velocity: Velocity) -> str:
    return getattr(velocity, "__qualname__", type(velocity).__qualname__)
