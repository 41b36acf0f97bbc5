"""The adaptive solver: a pair of orders 5 and 4 whose difference sets the step, per sample. No fixed grid, no deadline."""

from __future__ import annotations

import math

import torch

from flow_policy_ros.flow.solver import Solver, SolveResult, Velocity, advance, evaluate, require_start

# Dormand & Prince 1980, table 2 (RK5(4)7M). The last row of stages is the fifth-order solution itself, so the last slope
# of a step is the first of the next (FSAL).
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES: tuple[tuple[float, ...], ...] = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

# Hairer, Norsett & Wanner 1993, II.4: aim a little below the tolerance, and change the step by bounded factors.
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


class DormandPrince(Solver):
    """Steps chosen so that each one's error stays under ``atol + rtol * |x|`` (root mean square over H and A).

    Every sample carries its own time and step, as in Hairer, Norsett & Wanner 1993 (eq. II.4.10 to 4.13): its result does
    not depend on who shares its batch. A sample that has arrived waits at t = 1 while the others go on, so ``nfe``, which
    counts batched evaluations, is the slowest sample's. Padded dimensions, whose velocity is zero, dilute the mean: with
    half of them padded the tolerance is 1.4 times as wide.

    ``max_nfe``: batched evaluations after which it gives up. Raises ``ValueError`` for tolerances that are not positive
    and for a ``max_nfe`` too small for one step.
    """

    evaluations = 6

    def __init__(self, atol: float = 1e-5, rtol: float = 1e-5, max_nfe: int = 1000) -> None:
        for name, value in (("atol", atol), ("rtol", rtol)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}, expected a positive number such as 1e-5.")
        if max_nfe < 1 + self.evaluations:
            raise ValueError(f"max_nfe is {max_nfe}, expected at least {1 + self.evaluations}, which one step needs.")
        self.atol, self.rtol, self.max_nfe = atol, rtol, max_nfe

    def solve(self, velocity: Velocity, x0: torch.Tensor, steps: int) -> SolveResult:
        """Integrate from ``x0`` (B, H, A) to t = 1; the first step tried is 1 / ``steps``.

        Raises ``ValueError`` as ``Solver`` says, for a velocity or an ``x0`` that is not finite (naming the samples), and
        when ``max_nfe`` is reached.
        """
        require_start(x0, steps)
        _require_finite("x0", x0, torch.zeros(len(x0), device=x0.device))
        x = x0
        # Times in float64: many small float32 steps would not add up to 1.
        t = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        dt = torch.full_like(t, 1.0 / steps)
        slope, nfe = self._slope(velocity, x, t), 1
        while bool((t < 1.0).any()):
            if nfe + self.evaluations > self.max_nfe:
                raise ValueError(
                    f"rk45 made {nfe} evaluations and reached t = {t.min().item():.4f}, expected to arrive within max_nfe = "
                    f"{self.max_nfe}; widen atol = {self.atol} and rtol = {self.rtol}, or take a solver with a fixed grid."
                )
            left = 1.0 - t
            h = torch.minimum(dt, left)  # 0 for a sample that has arrived
            width = h.to(x.dtype)[:, None, None]
            slopes, new = [slope], x
            for node, row in zip(_NODES, _STAGES, strict=True):
                new = advance(x, width, row, slopes)
                slopes.append(self._slope(velocity, new, (t + node * h).clamp(max=1.0)))
            nfe += self.evaluations
            error = self._error(x, new, advance(torch.zeros_like(x), width, _ERROR, slopes))
            accept = (error <= 1.0) & (left > 0.0)
            dt = h * (_SAFETY * error.clamp(min=1e-10) ** -0.2).clamp(_SHRINK, _GROW)
            t = torch.where(accept, torch.where(h < left, t + h, 1.0), t)
            x = torch.where(accept[:, None, None], new, x)
            slope = torch.where(accept[:, None, None], slopes[-1], slope)
        return SolveResult(x, nfe)

    def times(self, steps: int) -> tuple[float, ...]:
        """Raises ``ValueError``, always: the times depend on the velocity."""
        raise ValueError("rk45 has no fixed grid: it chooses its times by the velocity; take euler, midpoint, heun or rk4.")

    def _error(self, x: torch.Tensor, new: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
        """Error of a step in units of the tolerance, (B,) float64."""
        scale = self.atol + self.rtol * torch.maximum(x.abs(), new.abs())
        return (difference / scale).double().square().mean(dim=(1, 2)).sqrt()

    @staticmethod
    def _slope(velocity: Velocity, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = evaluate(velocity, x, t.to(x.dtype))
        _require_finite("velocity", v, t)
        return v


def _require_finite(field: str, values: torch.Tensor, t: torch.Tensor) -> None:
    """Raise ``ValueError`` naming the samples of ``values`` (B, H, A) with NaN or Inf, and their times t (B,)."""
    bad = ~torch.isfinite(values).all(dim=(1, 2)) if values.numel() else torch.zeros(0, dtype=torch.bool)
    if bad.any():
        samples = bad.nonzero()[:, 0].tolist()
        raise ValueError(
            f"{field} holds NaN or Inf in samples {samples} at t = {[round(time, 4) for time in t[bad].tolist()]}, expected "
            "finite numbers; an adaptive step needs an error estimate. Check the observation and the network's weights."
        )
