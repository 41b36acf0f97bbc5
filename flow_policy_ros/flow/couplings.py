"""Which noise is trained towards which chunk of a minibatch. Adding a coupling is a class and a line below."""

from __future__ import annotations

from typing import Protocol

import torch

from flow_policy_ros.flow.shapes import chunk_mask, require_shape


class Coupling(Protocol):
    """Pairs noise with actions inside one minibatch."""

    def pair(self, noise: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``noise`` (B, H, A) with its rows permuted: row b of the result goes with row b of ``actions`` (B, H, A).

        ``mask`` (B, H) or (B, H, A), true where an entry of ``actions`` is real; what is masked may hold anything. A noise
        row may move to a sample with other padding: whoever keeps noise at zero on padded dimensions pairs full noise first
        and masks it afterwards. Raises ``ValueError`` for another shape.
        """


class Independent:
    """Noise and actions stay as drawn: conditional flow matching (Lipman et al. 2023)."""

    def pair(self, noise: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See ``Coupling``."""
        _real(noise, actions, mask)
        return noise


class OptimalTransport:
    """The permutation with the least total squared distance over unmasked entries: minibatch OT-CFM (Pooladian et al. 2023,
    "Multisample flow matching"; Tong et al. 2024), assigned exactly in O(B^3).

    It straightens the paths of an *unconditional* flow. A policy is conditional, and there it costs something: rows of one
    batch belong to different observations, so an observation sees only the noise nearest to its own actions. Given the
    observation the noise is then no longer N(0, I) in training, while sampling draws N(0, I): the network is asked for
    velocities where it was never trained (Cheng & Schwing 2025, "The curse of conditions"). The mismatch grows with the
    batch size and with how much the observation tells of the action. Within one observation (all rows alike) nothing is lost.
    """

    def pair(self, noise: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See ``Coupling``. Raises ``ValueError`` also for NaN or Inf in ``noise`` or unmasked ``actions``."""
        # Here: training alone assigns, and scipy's optimisers take a robot's policy node most of a second to import.
        from scipy.optimize import linear_sum_assignment

        real = _real(noise, actions, mask).flatten(1)
        # float64 on the CPU, where the assignment runs: differences of large sums decide who goes where.
        n = noise.detach().flatten(1).double().cpu()
        a = torch.where(real, actions.detach().flatten(1), 0.0).double().cpu()
        m = real.double().cpu()
        for field, values in (("noise", n), ("actions", a)):
            if not torch.isfinite(values).all():
                raise ValueError(f"{field} hold NaN or Inf where they are not masked, expected finite numbers; mask such entries.")
        # Row: chunk, column: noise; each chunk's own mask says which entries count.
        cost = m @ n.square().T - 2.0 * (a @ n.T) + a.square().sum(dim=1, keepdim=True)
        _, chosen = linear_sum_assignment(cost.numpy())
        return noise[torch.as_tensor(chosen, device=noise.device)]


COUPLINGS: dict[str, type[Coupling]] = {"independent": Independent, "optimal_transport": OptimalTransport}


def make_coupling(name: str) -> Coupling:
    """The coupling of this name. Raises ``ValueError`` listing the known ones."""
    if name not in COUPLINGS:
        raise ValueError(f"unknown coupling {name!r}; known: {', '.join(COUPLINGS)}.")
    return COUPLINGS[name]()


def _real(noise: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask as (B, H, A) bool, all three shapes checked."""
    if actions.ndim != 3:
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected (B, H, A).")
    require_shape("noise", noise, tuple(actions.shape))
    return chunk_mask(mask, tuple(actions.shape))
