"""Distances between two sets of samples, for comparing what two samplers draw. Task success is ``evaluation``'s."""

from __future__ import annotations

import torch


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| over all pairs of a (N, D) and b (M, D) (Szekely & Rizzo 2013).

    In the unit of the samples, not its square; never negative, 0 for equal sets. Counts the pairs of a sample with itself, so
    two sets of one distribution lie about E|a - a'| (1/N + 1/M) apart. Memory grows with (N + M)^2. Raises ``ValueError`` for
    other shapes, NaN or Inf.
    """
    a, b = _samples(a, b)

    def mean(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # Not by inner products, which lose the small distances.
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").mean()

    return max(0.0, (2.0 * mean(a, b) - mean(a, a) - mean(b, b)).item())


def sliced_wasserstein(
    a: torch.Tensor, b: torch.Tensor, projections: int, generator: torch.Generator | None = None
) -> float:
    """Sliced 2-Wasserstein distance of a (N, D) and b (M, D), in their unit (Bonneel et al. 2015).

    Root mean square of the exact one-dimensional distances along ``projections`` directions, uniform on the sphere and drawn
    from ``generator`` on the CPU. Raises ``ValueError`` for other shapes, NaN or Inf, or fewer than one projection.
    """
    a, b = _samples(a, b)
    if projections < 1:
        raise ValueError(f"projections is {projections}, expected at least 1; 100 is usual.")
    directions = torch.randn(a.shape[1], projections, dtype=torch.float64, generator=generator).to(a.device)
    directions = directions / directions.norm(dim=0)
    n, m = len(a), len(b)
    # Both quantile functions are constant between the levels i/N and j/M; in units of 1/(N M) these are integers.
    levels = torch.unique(torch.cat((torch.arange(n + 1) * m, torch.arange(m + 1) * n))).to(a.device)
    lower, width = levels[:-1], levels.diff().double() / (n * m)
    quantiles_a = (a @ directions).sort(dim=0).values[lower // m]
    quantiles_b = (b @ directions).sort(dim=0).values[lower // n]
    return (width @ (quantiles_a - quantiles_b).square()).mean().sqrt().item()


def _samples(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as float64, checked."""
    for name, samples in (("a", a), ("b", b)):
        if samples.ndim != 2 or len(samples) == 0:
            raise ValueError(f"{name} has shape {tuple(samples.shape)}, expected (N, D) with at least one sample.")
        if not torch.isfinite(samples).all():
            raise ValueError(f"{name} holds NaN or Inf, expected finite samples.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a has {a.shape[1]} dimensions and b {b.shape[1]}, expected the same.")
    return a.detach().double(), b.detach().to(a.device).double()
