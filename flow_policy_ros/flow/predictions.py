"""What a network's output means: the velocity itself, or the chunk at its end. Adding one is a class and a line below.

Both describe the same velocity field, and everything that integrates or guides it sees velocities only. They differ in
what is learned. A velocity u = actions - noise carries the noise, of which no observation says anything: the network has to pass
all of it on. Where the chunk is nearly a function of the observation, as in demonstrations of one skill, an output that is the
chunk has nothing to pass on and is learned from fewer of them (docs/training.md has the figures).
"""

from __future__ import annotations

from typing import Protocol

import torch

from flow_policy_ros.flow.shapes import broadcast_time, require_shape
from flow_policy_ros.flow.solvers import FixedGridSolver, Solver

LEAST_REMAINING = 0.05
"""The remaining time 1 - t that a distance is divided by is no shorter than this; at t = 1 nothing remains (Li & He 2025)."""


class Prediction(Protocol):
    """The meaning of a network's output (B, H, A)."""

    def velocity(self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity (B, H, A) at x (B, H, A) and forward time t (B,) or (B, H)."""

    def target(self, noise: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """What the output is to be on the straight path from ``noise`` to ``actions``, all (B, H, A)."""

    def weight(self, t: torch.Tensor) -> torch.Tensor:
        """How much squared errors of the output count in training, shaped like t."""

    def require(self, solver: Solver) -> None:
        """Raise ``ValueError`` for a solver that asks for the velocity where there is none."""


class PredictVelocity:
    """The output is the velocity u = actions - noise (Lipman et al. 2023; Liu et al. 2023)."""

    def velocity(self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """See ``Prediction``."""
        return output

    def target(self, noise: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """See ``Prediction``."""
        return actions - noise

    def weight(self, t: torch.Tensor) -> torch.Tensor:
        """See ``Prediction``: all alike."""
        return torch.ones_like(t)

    def require(self, solver: Solver) -> None:
        """See ``Prediction``: any."""


class PredictChunk:
    """The output is the chunk where the path ends; the velocity leads there in the time that remains: (output - x) / (1 - t).

    Known as data prediction, or x-prediction (Salimans & Ho 2022; Li & He 2025). One Euler step from noise gives the output
    itself. Only solvers that never ask for t = 1 can follow it: there the chunk is reached and no way remains.
    """

    def velocity(self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """See ``Prediction``. Raises ``ValueError`` for another shape."""
        require_shape("output", output, tuple(x.shape))
        return (output - x) / (1.0 - broadcast_time(t, x)).clamp(min=LEAST_REMAINING)

    def target(self, noise: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """See ``Prediction``."""
        return actions

    def weight(self, t: torch.Tensor) -> torch.Tensor:
        """See ``Prediction``: 1 / (1 - t), half way (in powers of 1 - t) between the error of the chunk, which leaves the end of
        the path inexact, and that of the velocity, which learns little else."""
        return 1.0 / (1.0 - t).clamp(min=LEAST_REMAINING)

    def require(self, solver: Solver) -> None:
        """See ``Prediction``."""
        if not isinstance(solver, FixedGridSolver) or solver.times(1)[-1] >= 1.0:
            raise ValueError("the policy predicts chunks, which only the solvers euler and midpoint can follow; choose one.")


PREDICTIONS: dict[str, type[Prediction]] = {"velocity": PredictVelocity, "chunk": PredictChunk}


def make_prediction(name: str) -> Prediction:
    """The prediction of this name. Raises ``ValueError`` listing the known ones."""
    if name not in PREDICTIONS:
        raise ValueError(f"unknown prediction {name!r}; known: {', '.join(PREDICTIONS)}.")
    return PREDICTIONS[name]()
