"""Training-time real-time chunking: steps of a chunk that are already committed enter clean, at time 1 (data).

Black et al. 2025, "Training-time action conditioning for efficient real-time chunking". What guides a network that was not
trained so is in ``real_time_chunking``.
"""

from __future__ import annotations

import torch

from flow_policy_ros.flow.shapes import broadcast_time, require_shape
from flow_policy_ros.flow.solver import Velocity, evaluate


def draw_prefix(batch: int, horizon: int, longest: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Committed steps (batch, horizon) bool, on the CPU: the first d of each row, d uniform on 0 to ``longest`` inclusive.

    Raises ``ValueError`` unless 0 <= ``longest`` < ``horizon``: a step must remain to learn from.
    """
    if not 0 <= longest < horizon:
        raise ValueError(f"longest prefix is {longest} steps, expected 0 to {horizon - 1} with a horizon of {horizon}.")
    delay = torch.randint(0, longest + 1, (batch, 1), generator=generator)
    return torch.arange(horizon) < delay


def times_with_prefix(t: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """Time per step (B, H): ``t`` (B,), and 1 where ``prefix`` (B, H) bool is true. Raises ``ValueError``.

    On the straight path time 1 *is* the clean action, so nothing else has to be put in place in training; the loss is to
    be masked with the prefix's complement.
    """
    if prefix.ndim != 2:
        raise ValueError(f"prefix has shape {tuple(prefix.shape)}, expected (B, H).")
    if prefix.dtype != torch.bool:
        raise ValueError(f"prefix is of type {prefix.dtype}, expected bool.")
    require_shape("time", t, tuple(prefix.shape[:1]))
    return torch.where(prefix, 1.0, t[:, None])


class CleanPrefix:
    """A velocity whose first ``committed`` steps are those of ``previous`` (B, H, A), clean, and stay so.

    Solve it from ``start(noise)``. On the prefix x is clamped, its time is 1 and its velocity 0: no solver moves it, not even
    between its stages, so the prefix of the result equals ``previous`` bit for bit. ``velocity`` must take times (B, H). What
    ``previous`` holds after the prefix is never read.

    Raises ``ValueError`` for another shape, unless 0 <= ``committed`` < H, and for NaN or Inf in the prefix.
    """

    def __init__(self, velocity: Velocity, previous: torch.Tensor, committed: int) -> None:
        if previous.ndim != 3:
            raise ValueError(f"previous has shape {tuple(previous.shape)}, expected (B, H, A).")
        horizon = previous.shape[1]
        if not 0 <= committed < horizon:
            raise ValueError(
                f"committed is {committed} steps, expected 0 to {horizon - 1} with a horizon of {horizon}: a step must remain "
                "to sample."
            )
        if not torch.isfinite(previous[:, :committed]).all():
            raise ValueError(f"previous holds NaN or Inf in its {committed} committed steps, expected finite actions.")
        self._velocity = velocity
        self._shape = tuple(previous.shape)
        self._prefix = previous[:, :committed]
        self._mask = torch.arange(horizon, device=previous.device) < committed

    def start(self, x0: torch.Tensor) -> torch.Tensor:
        """Noise ``x0`` (B, H, A) with the prefix in place. Raises ``ValueError`` for another shape."""
        require_shape("x0", x0, self._shape)
        return self._clamped(x0)

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Velocity (B, H, A) at x (B, H, A), t (B,) or (B, H); zero on the prefix. Raises ``ValueError`` for other shapes."""
        require_shape("x", x, self._shape)
        times = torch.where(self._mask, 1.0, broadcast_time(t, x)[:, :, 0])
        v = evaluate(self._velocity, self._clamped(x), times)
        return torch.where(self._mask[:, None], 0.0, v)

    def _clamped(self, x: torch.Tensor) -> torch.Tensor:
        prefix = self._prefix.to(x)
        return torch.cat((prefix, x[:, prefix.shape[1] :]), dim=1)
