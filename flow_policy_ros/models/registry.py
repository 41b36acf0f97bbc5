"""Networks by name: adding one is a file with a class and its configuration, and a line in ``NETWORKS``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.models.dit import DiT, DiTConfig
from flow_policy_ros.models.dit_cross import DiTCross, DiTCrossConfig
from flow_policy_ros.models.embodiment_dit import EmbodimentDiT, EmbodimentDiTConfig
from flow_policy_ros.models.expert import DeepFusionExpert, ExpertConfig
from flow_policy_ros.models.feature_prefix import DeepFeatures, DeepFeaturesConfig
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.residual_mlp import ResidualMLP, ResidualMLPConfig
from flow_policy_ros.models.shared import SharedCausal, SharedConfig, SharedMutual
from flow_policy_ros.models.unet1d import UNet1D, UNet1DConfig

NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    "residual_mlp": (ResidualMLP, ResidualMLPConfig),
    "unet1d": (UNet1D, UNet1DConfig),
    "dit": (DiT, DiTConfig),
    "dit_cross": (DiTCross, DiTCrossConfig),
    "embodiment_dit": (EmbodimentDiT, EmbodimentDiTConfig),
    "deep_features": (DeepFeatures, DeepFeaturesConfig),
}
VLM_NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {
    "deep_expert": (DeepFusionExpert, ExpertConfig),
    "deep_causal": (SharedCausal, SharedConfig),
    "deep_mutual": (SharedMutual, SharedConfig),
}
"""Networks that need images and an instruction, ``Conditioning.prefix``, and the description of a vision-language model."""


def network_config(name: str, sizes: Mapping[str, Any]) -> Any:
    """The frozen configuration of network ``name``, with ``sizes`` (numbers, or text of numbers; ``vlm`` is text) set.

    Raises ``ValueError`` for an unknown network or size, listing the known ones, and for a size below 1.
    """
    cls: Any = _known(name)[1]
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for size, value in sizes.items():
        if size not in defaults:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise ValueError(f"network {name!r} has no size {size!r}; its sizes and their defaults: {known}.")
        if isinstance(defaults[size], str):
            values[size] = str(value)
            continue
        try:
            values[size] = int(value)
        except ValueError:
            raise ValueError(f"size {size!r} of network {name!r} is {value!r}, expected a number.") from None
        least = 0 if defaults[size] == 0 else 1  # what may be left out has a default of 0
        if values[size] < least:
            raise ValueError(f"size {size!r} of network {name!r} is {value!r}, expected at least {least}.")
    return cls(**values)


def make_network(name: str, config: Any, shape: NetworkShape) -> VelocityNetwork:
    """The network ``name`` with random weights. Raises ``ValueError`` for an unknown name."""
    network: VelocityNetwork = _known(name)[0](shape, config)
    return network


def _known(name: str) -> tuple[type[Any], type[Any]]:
    known = NETWORKS | VLM_NETWORKS
    if name not in known:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(known)}.")
    return known[name]
