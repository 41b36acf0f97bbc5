"""What a solver of dx/dt = v(x, t) offers, whatever its method. The methods themselves are in ``solvers`` and its siblings.

Time runs from 0 (noise) to 1 (data). Anything that changes the velocity (guidance, clean prefixes, another time
convention) wraps the callable; no solver knows of it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flow_policy_ros.flow.shapes import require_shape

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""v(x (B, H, A), t) -> (B, H, A). Solvers pass t as (B,); wrappers may pass one time per step, (B, H)."""


@dataclass(frozen=True)
class SolveResult:
    """``x`` (B, H, A) at t = 1 and ``nfe``, how often the (batched) velocity was evaluated."""

    x: torch.Tensor
    nfe: int


class Solver(ABC):
    """Integrates a velocity from noise to data. Immutable: one object serves any number of calls.

    ``evaluations``: how often one step evaluates the velocity.
    """

    evaluations: int

    @abstractmethod
    def solve(self, velocity: Velocity, x0: torch.Tensor, steps: int) -> SolveResult:
        """Integrate from ``x0`` (B, H, A), float32 or float64, to t = 1.

        Raises ``ValueError`` for an ``x0`` or a velocity of another shape, and for fewer than one step.
        """

    @abstractmethod
    def times(self, steps: int) -> tuple[float, ...]:
        """The times at which ``solve`` evaluates the velocity, in order, repeated where it evaluates twice.

        Raises ``ValueError`` for fewer than one step, and from a solver that has no fixed grid.
        """


def require_start(x0: torch.Tensor, steps: int) -> None:
    """Raise ``ValueError`` unless ``x0`` is (B, H, A) of floats and ``steps`` at least 1."""
    if x0.ndim != 3:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, H, A).")
    if not x0.is_floating_point():
        raise ValueError(f"x0 is of type {x0.dtype}, expected float32 or float64; convert it with .float().")
    require_steps(steps)


def require_steps(steps: int) -> None:
    """Raise ``ValueError`` unless ``steps`` is at least 1."""
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1.")


def evaluate(velocity: Velocity, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """v (B, H, A) at x (B, H, A) and t (B,). Raises ``ValueError`` when it comes back in another shape."""
    v = velocity(x, t)
    require_shape("velocity", v, tuple(x.shape))
    return v


def advance(
    x: torch.Tensor, dt: float | torch.Tensor, coefficients: tuple[float, ...], slopes: list[torch.Tensor]
) -> torch.Tensor:
    """x + dt * sum of coefficient * slope: one stage of a Runge-Kutta method. ``dt`` a number or (B, 1, 1)."""
    used = [(c, slope) for c, slope in zip(coefficients, slopes, strict=True) if c]
    if not used:
        return x
    # The slopes first: x is rounded once per stage, not once per slope.
    return x + dt * functools.reduce(torch.add, (c * slope for c, slope in used))
