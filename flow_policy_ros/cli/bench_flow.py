"""``flow_policy bench flow``: how well samples match data, ours beside torchcfm with the same network and the same batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True)
class Arguments:
    """Eight Gaussians, the observation says which four: the same network trained by this package and by torchcfm."""

    networks: tuple[str, ...] = ()
    """Networks by name; all without it."""
    steps: int = 800
    """Optimiser steps."""
    seeds: int = 2
    """Independent repetitions; the figures are their means."""
    samples: int = 2000
    """Samples per observation that are compared with data."""
    threads: int = 1
    """Threads of the tensor library."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when a network's samples are worse than 1.05 times torchcfm's."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench flow")
    require_file("--json", arguments.json)
    require_positive(("--steps", arguments.steps), ("--seeds", arguments.seeds), ("--threads", arguments.threads))
    require_positive(("--samples", arguments.samples))
    figures, worse = measure(arguments)
    print_json(figures, arguments.json)
    return 1 if worse else 0


def measure(arguments: Arguments) -> tuple[dict[str, object], list[str]]:
    """``rows`` of name, coupling, energy_distance and sliced_wasserstein of ours and theirs, their ratios, modes covered."""
    import torch

    from flow_policy_ros.evaluation.toy import compare
    from flow_policy_ros.models.registry import NETWORKS

    torch.set_num_threads(arguments.threads)
    rows = [
        compare(name, coupling, arguments.steps, arguments.seeds, arguments.samples)
        for name in arguments.networks or tuple(NETWORKS)
        for coupling in ("independent", "optimal_transport")
    ]
    worse = [row.name for row in rows if row.coupling == "independent" and row.energy_ratio > LIMIT]
    return {"limit": LIMIT, "rows": [row.to_json() for row in rows]}, worse


LIMIT = 1.05
"""Greatest energy distance to the data allowed, as a multiple of torchcfm's."""
