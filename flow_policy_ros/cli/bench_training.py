"""``flow_policy bench training``: training samples per second, every network on the same data, and how fast data is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal


@dataclass(frozen=True)
class Arguments:
    """Training samples per second of networks, on the same episodes."""

    data: Path
    """Folder of episodes (*.npz), bag or LeRobot folder."""
    robot: Path | None = None
    """Robot file, or the name of one that ships, for bags and LeRobot folders."""
    networks: tuple[str, ...] = ()
    """Networks by name, at their default sizes; all of them without this and --checkpoints."""
    checkpoints: tuple[Path, ...] = ()
    """Checkpoint folders, or names of those that ship, whose networks are measured at their sizes, with random weights."""
    streams: tuple[str, ...] = ("objects",)
    """Feature streams of the episodes to observe."""
    steps: int = 20
    """Optimiser steps that count; a few before them do not."""
    batch: int = 128
    """Samples per optimiser step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the forward pass."""
    threads: int = 1
    """Threads of the tensor library."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench training")
    require_file("--json", arguments.json)
    require_positive(("--steps", arguments.steps), ("--batch", arguments.batch), ("--threads", arguments.threads))
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, object]:
    """``rows`` of name, parameters, batch, precision, threads, samples_per_s, and data_ratio: how many times as fast samples are
    made, by one process that does nothing else; ``data``: samples cut and turned into tensors per second."""
    import contextlib
    import sys
    import tempfile
    from dataclasses import replace

    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.training.config import TrainConfig
    from flow_policy_ros.training.data import load_training_data
    from flow_policy_ros.training.throughput import window_throughput
    from flow_policy_ros.training.trainer import train

    rows: list[dict[str, object]] = []
    made: dict[str, float] = {}
    for name, network, sizes in architectures(arguments):
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(
                data=(arguments.data,), robot=(arguments.robot,) if arguments.robot else (), out=Path(folder) / "run",
                streams=arguments.streams, network=network, sizes=sizes,
                batch=arguments.batch, precision=arguments.precision, threads=arguments.threads, validation=0.0,
                steps=arguments.steps + 3, stop_at=3,
            )  # fmt: skip
            with contextlib.redirect_stdout(sys.stderr):  # progress; standard output is for the figures
                train(config)  # fills caches
                result = train(replace(config, resume=True, stop_at=None))
            model = load_checkpoint(config.out).model
            made = made or window_throughput(load_training_data(config), config)
        rows.append(
            {
                "name": name,
                "network": network,
                "parameters": sum(p.numel() for p in model.parameters()),
                "batch": arguments.batch,
                "precision": arguments.precision,
                "threads": arguments.threads,
                "samples_per_s": round(result.samples_per_s, 1),
                "data_ratio": round(made["tensors_per_s"] / result.samples_per_s, 1),
            }
        )
    return {"rows": rows, "data": made}


def architectures(arguments: Arguments) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name of the row, network, its sizes as options) of what is to be measured."""
    from dataclasses import asdict

    from flow_policy_ros.models.registry import NETWORKS
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.resources import checkpoint

    found: list[tuple[str, str, tuple[str, ...]]] = [(name, name, ()) for name in arguments.networks]
    for given in arguments.checkpoints:
        folder = checkpoint(given)
        model = load_checkpoint(folder).model
        sizes = tuple(f"{size}={value}" for size, value in asdict(model.network_config).items())
        found.append((folder.name, model.network_name, sizes))
    return found or [(name, name, ()) for name in NETWORKS]
