"""Solvers by name, and those with a fixed grid of equal steps. The adaptive one is ``dormand_prince``'s.

Values are not checked here: NaN in the noise or from the network gives NaN in that sample's chunk and in no other.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from flow_policy_ros.flow.dormand_prince import DormandPrince
from flow_policy_ros.flow.solver import Solver, SolveResult, Velocity, advance, evaluate, require_start, require_steps

__all__ = [
    "RK4",
    "SOLVERS",
    "DormandPrince",
    "Euler",
    "FixedGridSolver",
    "Heun",
    "Midpoint",
    "SolveResult",
    "Solver",
    "Velocity",
    "make_solver",
]


class FixedGridSolver(Solver):
    """An explicit Runge-Kutta method over ``steps`` equal steps: a subclass states its Butcher tableau (Butcher 1964).

    ``nodes`` c, ``stages`` the rows of the strictly lower triangular A, ``weights`` b.
    """

    nodes: ClassVar[tuple[float, ...]]
    stages: ClassVar[tuple[tuple[float, ...], ...]]
    weights: ClassVar[tuple[float, ...]]

    def solve(self, velocity: Velocity, x0: torch.Tensor, steps: int) -> SolveResult:
        """See ``Solver``."""
        require_start(x0, steps)
        times = iter(self.times(steps))
        dt = 1.0 / steps
        x = x0
        for _ in range(steps):
            slopes: list[torch.Tensor] = []
            for row in self.stages:
                t = torch.full((len(x),), next(times), dtype=x.dtype, device=x.device)
                slopes.append(evaluate(velocity, advance(x, dt, row, slopes), t))
            x = advance(x, dt, self.weights, slopes)
        return SolveResult(x, steps * self.evaluations)

    def times(self, steps: int) -> tuple[float, ...]:
        """See ``Solver``. Exactly the numbers that ``solve`` passes on, before rounding to the type of x."""
        require_steps(steps)
        return tuple((k + node) / steps for k in range(steps) for node in self.nodes)


class Euler(FixedGridSolver):
    """First order, one evaluation per step."""

    evaluations = 1
    nodes = (0.0,)
    stages = ((),)
    weights = (1.0,)


class Midpoint(FixedGridSolver):
    """Second order, two evaluations per step; never evaluates at t = 1."""

    evaluations = 2
    nodes = (0.0, 0.5)
    stages = ((), (0.5,))
    weights = (0.0, 1.0)


class Heun(FixedGridSolver):
    """Second order, two evaluations per step, both ends averaged; evaluates at t = 1."""

    evaluations = 2
    nodes = (0.0, 1.0)
    stages = ((), (1.0,))
    weights = (0.5, 0.5)


class RK4(FixedGridSolver):
    """Fourth order, four evaluations per step (Kutta 1901); evaluates at t = 1."""

    evaluations = 4
    nodes = (0.0, 0.5, 0.5, 1.0)
    stages = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


SOLVERS: dict[str, type[Solver]] = {
    "euler": Euler,
    "midpoint": Midpoint,
    "heun": Heun,
    "rk4": RK4,
    "rk45": DormandPrince,
}


def make_solver(name: str) -> Solver:
    """The solver of this name. Raises ``ValueError`` listing the known ones."""
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}.")
    return SOLVERS[name]()
