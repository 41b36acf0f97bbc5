"""``flow_policy convert``: bags and episodes into LeRobot datasets, and datasets into bags or episodes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    import tyro

HELP = "convert bags to LeRobot datasets, and back"


@dataclass(frozen=True)
class Arguments:
    """Convert recordings: bags, episodes (.npz), and local LeRobot datasets (v3.0, v2.1) into any of them.

    What a robot knew at each frame's instant is written: the newest joint state and images received by then, and the command for
    it. An interrupted conversion goes on with the same command. Exit code 1: some recording gave no episode.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Bags, folders of bags or of episodes, or folders of LeRobot datasets."""
    robot: Path
    """Robot file, or the name of a shipped one."""
    out: Path
    """Folder for the dataset, the bags or the episodes; new, or of an interrupted conversion."""
    to: Literal["lerobot-v3", "lerobot-v2.1", "bag", "episodes"] = "lerobot-v3"
    """What to make. bag: an MCAP bag for each episode; episodes: an .npz for each, for training, without images."""
    fps: int | None = None
    """Frames per second, Hz; default: that of the dataset or of the episodes, 30 for bags."""
    images: Literal["video", "png"] = "video"
    """Images of a dataset: as video (AV1, with loss, small) or as PNG in its tables (without loss)."""
    jobs: int = 1
    """So many recordings at a time, in processes of their own."""
    max_gap: float = 1.0
    """Seconds without a joint state, or without an image of a camera, after which a recording is cut into episodes."""
    command_gap: float = 0.5
    """Commands further apart, in s, belong to different motions (as with train --max-gap): nothing in between is converted."""
    stamps: Literal["header", "receive"] = "header"
    """Which stamps are an input's: its header's, or, where clocks disagree, those of its receipt."""
    task: str = ""
    """The task in words; default: what the recording says, else the robot's name."""
    json: Path | None = None
    """Write the figures to this file."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when a recording gave no episode; bad input raises ``ValueError``-derived errors."""
    global tyro  # where the annotations above are looked up
    import tyro

    return convert(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy convert"))


def convert(arguments: Arguments) -> int:
    """Convert with a progress bar, and say what came of it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from flow_policy_ros import resources
    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.data.lerobot import convert as conversion
    from flow_policy_ros.data.lerobot.sources import Rules
    from flow_policy_ros.vision.decode import decode

    require_file("--json", arguments.json)
    check(arguments)
    robot = resources.robot_file(arguments.robot)
    units, fps = conversion.plan(arguments.sources, arguments.fps)
    rules = Rules(fps, arguments.max_gap, arguments.stamps, arguments.task, arguments.command_gap)
    wanted = conversion.Conversion(robot, arguments.out, arguments.to, rules, arguments.images, arguments.jobs)
    console = Console(stderr=True)
    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None)
        summary = conversion.convert(
            units, wanted, decode, lambda done, everything: progress.update(bar, completed=done, total=everything)
        )
    for line in said(summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print(outcome(summary))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures(summary), indent=1) + "\n")
    return int(any(source["episodes"] == 0 for source in summary["sources"]))


def said(summary: dict[str, Any]) -> list[str]:
    """What was lost and what is to be noted, a line each; what is equal of many recordings is said once."""
    lines = []
    for kind, prefix in (("problems", ""), ("notes", "note: ")):
        of: dict[str, list[str]] = {}
        for source in summary["sources"]:
            for text in source[kind]:
                of.setdefault(text, []).append(source["source"])
        for text, names in of.items():
            others = f" and {len(names) - 1} other{'s' * (len(names) > 2)}" if len(names) > 1 else ""
            lines.append(f"{prefix}{names[0]}{others}: {text}")
    return lines


def outcome(summary: dict[str, Any]) -> str:
    """What there is now, in a line."""
    cameras = [f"camera {name} {width}×{height}" for name, (height, width) in summary["cameras"].items()]
    parts = [
        f"{summary['episodes']} episode{'s' * (summary['episodes'] != 1)}", f"{summary['frames']} frames at {summary['fps']} Hz",
        f"{summary['joints']} joints", *cameras,
    ]  # fmt: skip
    again = ", made before" if summary.get("already") else ""
    return f"{', '.join(parts)}, in {summary['out']} ({summary['out_mb']:.1f} MB){again}"


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What is of use to others in a summary."""
    return {key: value for key, value in summary.items() if key != "fingerprint"}


def check(arguments: Arguments) -> None:
    """Raises ``ValueError`` for numbers that cannot be meant, before any work is done."""
    import math

    from flow_policy_ros import resources
    from flow_policy_ros.runtime.robot import load_robot

    load_robot(resources.robot_file(arguments.robot))
    if not arguments.sources:
        raise ValueError("no source is given; give bags, folders of bags or episodes, or folders of LeRobot datasets.")
    if arguments.fps is not None and not 1 <= arguments.fps <= 1000:
        raise ValueError(f"--fps {arguments.fps}: expected 1 to 1000 Hz.")
    if not (math.isfinite(arguments.max_gap) and arguments.max_gap > 0):
        raise ValueError(f"--max-gap {arguments.max_gap}: expected seconds above zero.")
    if not (math.isfinite(arguments.command_gap) and arguments.command_gap > 0):
        raise ValueError(f"--command-gap {arguments.command_gap}: expected seconds above zero.")
    if not 1 <= arguments.jobs <= 256:
        raise ValueError(f"--jobs {arguments.jobs}: expected 1 to 256 processes.")
    inside = [source for source in arguments.sources if source.resolve() == arguments.out.resolve()]
    if inside:
        raise ValueError(f"--out {arguments.out} is one of the sources; give another folder.")
