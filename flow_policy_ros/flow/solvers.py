"""Solvers of dx/dt = v(x, t) from t = 0 (noise) to t = 1 (data), over one velocity callable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flow_policy_ros.flow.shapes import require_shape

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""v(x (B, H, A), t (B,)) -> (B, H, A)."""


@dataclass(frozen=True)
class SolveResult:
    """``x`` (B, H, A) at t = 1 and ``nfe``, how often the velocity was evaluated."""

    x: torch.Tensor
    nfe: int


class Solver(ABC):
    """A method with a fixed grid of ``steps`` equal steps."""

    def solve(self, velocity: Velocity, x0: torch.Tensor, steps: int) -> SolveResult:
        """Integrate from ``x0`` (B, H, A). Raises ``ValueError`` for another shape, or fewer than one step."""
        if x0.ndim != 3:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, H, A).")
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected at least 1.")
        nfe = 0

        def counted(x: torch.Tensor, t: float) -> torch.Tensor:
            nonlocal nfe
            nfe += 1
            v = velocity(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
            require_shape("velocity", v, tuple(x.shape))
            return v

        x = x0
        for k in range(steps):
            x = self._step(counted, x, k / steps, 1.0 / steps)
        return SolveResult(x, nfe)

    @abstractmethod
    def _step(
        self, velocity: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, t: float, dt: float
    ) -> torch.Tensor:
        """x (B, H, A) at t + dt."""


class Euler(Solver):
    """First order, one evaluation per step."""

    def _step(
        self, velocity: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, t: float, dt: float
    ) -> torch.Tensor:
        return x + dt * velocity(x, t)


class Midpoint(Solver):
    """Second order, two evaluations per step."""

    def _step(
        self, velocity: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, t: float, dt: float
    ) -> torch.Tensor:
        return x + dt * velocity(x + 0.5 * dt * velocity(x, t), t + 0.5 * dt)


SOLVERS: dict[str, type[Solver]] = {"euler": Euler, "midpoint": Midpoint}


def make_solver(name: str) -> Solver:
    """The solver of this name. Raises ``ValueError`` listing the known ones."""
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}.")
    return SOLVERS[name]()
