"""``flow_policy inspect``: what is in a recording, a checkpoint or a robot file, and whether they fit each other.

What was found is shown in tables and, with ``--json``, written whole. Finding it is ``data.inspection``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

PROGRAM = "flow_policy inspect"


@dataclass(frozen=True)
class Arguments:
    """Say what is in a recording, a checkpoint or a robot file, and what is wrong with it.

    With --robot and --checkpoint: whether the recording can be replayed by them, and what is missing. Problems are what was asked
    for: the exit code is 0, and 2 where nothing can be read at all.
    """

    target: str
    """Recording (folder or file), checkpoint (folder) or robot file (YAML); the last two also by the names of those that ship."""
    robot: str | None = None
    """Robot file to judge by, or the name of one that ships."""
    checkpoint: str | None = None
    """Checkpoint to judge by, or the name of one that ships."""
    json: Path | None = None
    """Write everything that was found to this file too."""
    write_robot: Path | None = None
    """Write a robot file for the recording to this new file: whole but for limits, names and topics marked TODO."""


def main(argv: list[str]) -> int:
    """Returns 0; what cannot be read raises ``ValueError``."""
    import json

    import tyro

    from flow_policy_ros.cli.outputs import require_file

    kind = Annotated[Arguments, tyro.conf.arg(name="")]
    arguments = tyro.cli(kind, args=argv, prog=PROGRAM, config=(tyro.conf.PositionalRequiredArgs,))
    require_file("--json", arguments.json)
    require_file("--write-robot", arguments.write_robot)
    what = kind_of(arguments.target)
    if arguments.write_robot is not None and what != "recording":
        raise ValueError(f"--write-robot makes a robot file from a recording, and {arguments.target} is a {what}. Leave it out.")
    if arguments.write_robot is not None and arguments.write_robot.exists():
        raise ValueError(f"--write-robot {arguments.write_robot} exists already and is left alone; give another file.")
    content = {"recording": recording, "checkpoint": checkpoint, "robot": robot}[what](arguments)
    if arguments.json is not None:
        from flow_policy_ros.cli.inspect_tables import plain

        arguments.json.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return 0


def kind_of(target: str) -> str:
    """``recording``, ``checkpoint`` or ``robot``, by what lies at the path; else by the names of what ships."""
    from flow_policy_ros import resources

    path = Path(target).expanduser()
    if target and path.exists():
        if path.is_dir():
            return "checkpoint" if any((path / name).is_file() for name in ("contract.json", "detector.json")) else "recording"
        if path.suffix in (".yaml", ".yml") and path.name != "metadata.yaml":
            return "robot"
        return "recording"
    for kind in ("checkpoint", "robot"):
        if target in resources.names(f"{kind}s"):
            return kind
    raise resources.ResourceError(
        f"'{target}' is neither a path that exists nor the name of something that ships. Give a recording (folder or file), a "
        "checkpoint "
        f"({', '.join(resources.names('checkpoints'))}) or a robot file ({', '.join(resources.names('robots'))})."
    )


def refuse_other_data(path: Path) -> None:
    """Datasets and episodes are no recordings: raises ``ValueError`` with what the folder is, and how it becomes one."""
    from flow_policy_ros.data.lerobot.read import is_dataset

    if is_dataset(path):
        what = "a LeRobot dataset"
    elif path.suffix == ".npz":
        what = "an episode (.npz)"
    elif path.is_dir() and next(path.glob("*.npz"), None) is not None:
        what = "a folder of episodes (.npz)"
    else:
        return
    raise ValueError(
        f"{path} is {what}, and inspect reads recordings (bags). Make bags of it with 'flow_policy convert {path} --robot ROBOT "
        "--to bag --out DIR' and inspect those; 'flow_policy train' reads it as it is."
    )


def recording(arguments: Arguments) -> dict[str, Any]:
    """Read a recording once, show it, write the robot file that was asked for, and return what was found."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from flow_policy_ros.cli.inspect_tables import show_recording
    from flow_policy_ros.data.bags.open import open_bag
    from flow_policy_ros.data.inspection import inspect_bag
    from flow_policy_ros.data.inspection_findings import findings
    from flow_policy_ros.data.inspection_fit import fit
    from flow_policy_ros.data.inspection_sketch import sketch
    from flow_policy_ros.vision.decode import decode

    given_robot, contract = judges(arguments)
    path = Path(arguments.target).expanduser()
    refuse_other_data(path)
    bag = open_bag(path.parent if path.name == "metadata.yaml" else path)
    columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=1.0)
            found = inspect_bag(bag, decode, lambda share: progress.update(task, completed=share))
    finally:
        bag.close()
    judged = None if given_robot is None else fit(found, given_robot, contract)
    proposal = sketch(found)
    content = show_recording(
        found, findings(found, given_robot), given_robot, judged, proposal if given_robot is None else [], arguments.write_robot
    )
    if arguments.write_robot is not None:
        if not proposal:
            raise ValueError(f"--write-robot {arguments.write_robot}: the recording has no joint values to make a robot file of.")
        arguments.write_robot.write_text("\n".join(proposal) + "\n", encoding="utf-8")
    return content


def checkpoint(arguments: Arguments) -> dict[str, Any]:
    """Show a checkpoint or a detector, and whether it fits the robot file."""
    from flow_policy_ros import resources
    from flow_policy_ros.cli.inspect_parts import show_checkpoint, show_detector
    from flow_policy_ros.runtime.robot import load_robot

    folder = resources.checkpoint(arguments.target)
    if (folder / "detector.json").is_file():
        return show_detector(folder)
    return show_checkpoint(folder, None if arguments.robot is None else load_robot(resources.robot_file(arguments.robot)))


def robot(arguments: Arguments) -> dict[str, Any]:
    """Show a robot file, and whether the checkpoint fits it."""
    from flow_policy_ros import resources
    from flow_policy_ros.cli.inspect_parts import show_robot
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.runtime.robot import load_robot

    given = load_robot(resources.robot_file(arguments.target))
    if arguments.checkpoint is None:
        return show_robot(given, None)
    return show_robot(given, load_checkpoint(resources.checkpoint(arguments.checkpoint)).codec_of(given.name).contract)


def judges(arguments: Arguments) -> Any:
    """The robot and the contract to judge by, None where none is given. A checkpoint alone is judged by no robot and refused."""
    from flow_policy_ros import resources
    from flow_policy_ros.runtime.robot import load_robot

    given = None if arguments.robot is None else load_robot(resources.robot_file(arguments.robot))
    if arguments.checkpoint is None:
        return given, None
    if given is None:
        raise ValueError("--checkpoint needs --robot, which says what of the recording the policy would observe. Give both.")
    from flow_policy_ros.policy.checkpoint import load_checkpoint

    return given, load_checkpoint(resources.checkpoint(arguments.checkpoint)).codec_of(given.name).contract
