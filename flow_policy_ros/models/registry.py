"""Networks by name: adding one is a file with a class and its configuration, and a line in ``NETWORKS``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.models.dit import DiT, DiTConfig
from flow_policy_ros.models.dit_cross import DiTCross, DiTCrossConfig
from flow_policy_ros.models.embodiment_dit import EmbodimentDiT, EmbodimentDiTConfig
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.residual_mlp import ResidualMLP, ResidualMLPConfig
from flow_policy_ros.models.unet1d import UNet1D, UNet1DConfig

NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    "residual_mlp": (ResidualMLP, ResidualMLPConfig),
    "unet1d": (UNet1D, UNet1DConfig),
    "dit": (DiT, DiTConfig),
    "dit_cross": (DiTCross, DiTCrossConfig),
    "embodiment_dit": (EmbodimentDiT, EmbodimentDiTConfig),
}


def network_config(name: str, sizes: Mapping[str, Any]) -> Any:
    """The frozen configuration of network ``name``, with ``sizes`` (numbers, or text of numbers) set.

    Raises ``ValueError`` for an unknown network or size, listing the known ones, and for a size below 1.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}.")
    cls: Any = NETWORKS[name][1]
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for size, value in sizes.items():
        if size not in defaults:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise ValueError(f"network {name!r} has no size {size!r}; its sizes and their defaults: {known}.")
        try:
            values[size] = int(value)
        except ValueError:
            raise ValueError(f"size {size!r} of network {name!r} is {value!r}, expected a number.") from None
        if values[size] < 1:
            raise ValueError(f"size {size!r} of network {name!r} is {value!r}, expected at least 1.")
    return cls(**values)


def make_network(name: str, config: Any, shape: NetworkShape) -> VelocityNetwork:
    """The network ``name`` with random weights. Raises ``ValueError`` for an unknown name."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}.")
    network: VelocityNetwork = NETWORKS[name][0](shape, config)
    return network
