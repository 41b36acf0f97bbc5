"""The vector flow policy as a torch module, on normalised tensors: a loss, a sampler, and one velocity beneath both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from flow_policy_ros.flow.losses import masked_mse
from flow_policy_ros.flow.paths import straight_path
from flow_policy_ros.flow.shapes import require_shape
from flow_policy_ros.flow.solvers import SolveResult, make_solver
from flow_policy_ros.flow.time_samplers import make_time_sampler
from flow_policy_ros.models.network import NetworkShape
from flow_policy_ros.models.registry import make_network, network_config


class VectorFlowModel(nn.Module):
    """Conditional flow matching on chunks (B, H, A) given an observation vector (B, S).

    ``network`` and ``sizes`` choose the architecture, ``time_sampler`` the training times, ``solver`` the integrator.
    Raises ``ValueError`` for unknown names.
    """

    def __init__(
        self,
        network: str,
        sizes: dict[str, Any],
        shape: NetworkShape,
        time_sampler: str = "uniform",
        solver: str = "euler",
    ) -> None:
        super().__init__()
        self.shape = shape
        self.network_name = network
        self.network_config = network_config(network, sizes)
        self.time_sampler_name, self.solver_name = time_sampler, solver
        self.network = make_network(network, self.network_config, shape)
        self._times = make_time_sampler(time_sampler)
        self._solver = make_solver(solver)

    def compute_loss(
        self,
        actions: torch.Tensor,
        observation: torch.Tensor,
        mask: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss (scalar) of ``actions`` (B, H, A), ``observation`` (B, S), ``mask`` (B, H) or (B, H, A).

        Noise and times come from ``generator`` (on the CPU) or torch's global one. Raises ``ValueError``.
        """
        require_shape("actions", actions, (len(actions), self.shape.horizon, self.shape.action))
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        t = self._times.sample(len(actions), generator).to(actions.device)
        x, target = straight_path(noise, actions, t)
        return masked_mse(self.network.velocity(x, t, self.network.condition(observation)), target, mask)

    forward = compute_loss

    def sample(
        self,
        observation: torch.Tensor,
        steps: int,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> SolveResult:
        """Chunks (B, H, A) for ``observation`` (B, S) in ``steps`` solver steps, from ``noise`` (B, H, A) if given.

        Raises ``ValueError`` for other shapes or fewer than one step.
        """
        shape = (len(observation), self.shape.horizon, self.shape.action)
        if noise is None:
            noise = torch.randn(shape, generator=generator).to(observation.device)
        require_shape("noise", noise, shape)
        cache = self.network.condition(observation)
        return self._solver.solve(lambda x, t: self.network.velocity(x, t, cache), noise, steps)
