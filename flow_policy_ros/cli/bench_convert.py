"""``flow_policy bench convert``: bytes of recordings per second into datasets and episodes, and training samples out of these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

CONTROL_FPS = 100
"""Frames per second made of a recording of states, whose policy is trained at the control rate. With images: the default."""


@dataclass(frozen=True)
class Arguments:
    """Convert recordings that were made long by repetition, and read training samples from what comes of them."""

    seconds: float = 60.0
    """Length of each recording, at least, s."""
    jobs: int = 1
    """So many recordings at a time, in processes of their own; as many are converted."""
    checkpoint: str = "adroit_door_state"
    """Checkpoint whose network, with random weights, consumes the samples."""
    steps: int = 20
    """Optimiser steps to measure training by."""
    batch: int = 128
    """Samples per optimiser step."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import math

    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench convert")
    require_file("--json", arguments.json)
    require_positive(("--jobs", arguments.jobs), ("--steps", arguments.steps), ("--batch", arguments.batch))
    if not (math.isfinite(arguments.seconds) and arguments.seconds >= 1.0):
        raise ValueError(f"--seconds is {arguments.seconds}, expected at least 1.")
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, Any]:
    """``rows`` of recording (states, jpeg, raw), to, images, frames, source_mb, mb_per_s (of the recordings' bytes), frames_per_s;
    ``training``: rows of what samples are read from (states), with ``bench training``'s figures."""
    import tempfile

    from flow_policy_ros import resources
    from flow_policy_ros.cli.bench_replay import sample, told
    from flow_policy_ros.evaluation.bench_bags import long_bag, record_states, with_raw_images

    resources.checkpoint(arguments.checkpoint)
    with tempfile.TemporaryDirectory(prefix="flow_policy_bench_") as name:
        folder = Path(name)
        short = {"states": record_states(folder / "episode", "door"), "jpeg": sample()}
        short["raw"] = with_raw_images(short["jpeg"], folder / "raw_episode")
        for kind, bag in short.items():
            for k in range(arguments.jobs):
                long_bag(bag, folder / kind / f"{kind}_{k}", arguments.seconds, compression="none" if kind == "raw" else "zstd")
        wanted = [
            ("states", "lerobot-v3", "video"), ("states", "episodes", "video"), ("jpeg", "lerobot-v3", "video"),
            ("jpeg", "lerobot-v3", "png"), ("jpeg", "episodes", "video"), ("raw", "lerobot-v3", "video"),
            ("raw", "lerobot-v3", "png"),
        ]  # fmt: skip
        rows = [told(converted(kind, to, images, arguments, folder)) for kind, to, images in wanted]
        sources = {"bags": "states", "LeRobot v3": "states_lerobot-v3_video", "episodes": "states_episodes_video"}
        training = [told(consumed(source, folder / path, arguments)) for source, path in sources.items()]
    return {"rows": rows, "training": training}


def converted(kind: str, to: str, images: str, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """One conversion, in a new process."""
    from flow_policy_ros.evaluation.replay.speed import alone

    out = folder / f"{kind}_{to}_{images}"
    summary = alone(_convert, folder / kind, out, to, images, arguments.jobs, CONTROL_FPS if kind == "states" else None)
    frames, wall = summary["frames"], summary["wall_s"]
    return {
        "recording": kind, "to": to, "images": images if kind != "states" and to != "episodes" else "", "jobs": arguments.jobs,
        "fps": summary["fps"], "episodes": summary["episodes"], "frames": frames, "source_mb": summary["source_mb"], "wall_s": wall,
        "mb_per_s": summary["mb_per_s"], "frames_per_s": round(frames / wall, 1), "problems": summary["problems"],
    }  # fmt: skip


def _convert(source: Path, out: Path, to: Any, images: str, jobs: int, fps: int | None) -> dict[str, Any]:
    from flow_policy_ros import resources
    from flow_policy_ros.data.lerobot.convert import Conversion, convert, plan
    from flow_policy_ros.data.lerobot.sources import Rules
    from flow_policy_ros.vision.decode import decode

    units, fps = plan([source], fps)
    return convert(units, Conversion(resources.robot_file("adroit_door"), out, to, Rules(fps), images, jobs), decode)


def consumed(source: str, data: Path, arguments: Arguments) -> dict[str, Any]:
    """How fast samples are made of ``data``, and how fast the checkpoint's network consumes them."""
    from flow_policy_ros import resources
    from flow_policy_ros.cli import bench_training as training
    from flow_policy_ros.evaluation.replay.speed import alone
    from flow_policy_ros.policy.checkpoint import load_checkpoint

    path = resources.checkpoint(arguments.checkpoint)
    streams = tuple(stream.name for stream in load_checkpoint(path).codecs[0].contract.streams)
    given = training.Arguments(
        data, resources.robot_file("adroit_door") if source != "episodes" else None, checkpoints=(path,), streams=streams,
        steps=arguments.steps, batch=arguments.batch,
    )  # fmt: skip
    figures: dict[str, Any] = alone(training.measure, given)
    return {"data": source, **figures["rows"][0], **figures["data"]}
