"""``flow_policy record``: the topics of a robot into bags, one for each episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Arguments:
    """Records a robot's topics to rosbag2 (MCAP), a folder for each episode, until it is told to end (q, Ctrl-C).

    Space starts and stops an episode, s and f label it success or failure, d deletes it; without a terminal --start or the
    services record/start, record/stop, record/success and record/discard do. Domain and discovery are the environment's.
    """

    robot: str
    """Robot file, or the name of one that ships; its topics are recorded: joint states, cameras, commands, chunks, features,
    diagnostics, clock, transforms."""
    out: Path
    """Folder for the recordings."""
    topics: tuple[str, ...] = ()
    """Further topics; * stands for any part of a name (quote it)."""
    all: bool = False
    """Record every topic."""
    name: str = "episode"
    """Beginning of an episode's folder name; a number follows."""
    start: bool = False
    """Begin the first episode at once, and end the program with it if the disk is full."""
    min_free_gb: float = 2.0
    """GB that stay free on the disk: an episode ends, and none begins, with less."""
    max_gb: float = 0.0
    """GB of all episodes of this run together, about; 0 for no limit."""
    compression: Literal["zstd", "lz4", "none"] = "zstd"
    """Of the chunks in the file. none costs the least time and the most room."""
    use_sim_time: bool = False
    """Instants of receipt are those of /clock, for a robot in a simulation."""
    json: Path | None = None
    """Write what was recorded to this file as well."""


def main(argv: list[str]) -> int:
    """Becomes the recorder node, whose exit code is 0; 1 when an episode was ended by the disk, has no joint states, or never began
    for want of /clock; 2 when the input is bad."""
    import tyro

    from flow_policy_ros import resources
    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.ros.processes import NodeSpec, become

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy record")
    require_file("--json", arguments.json)
    become(NodeSpec("recorder_node", parameters(arguments, resources.robot_file(arguments.robot))))


def parameters(arguments: Arguments, robot: Path) -> dict[str, Any]:
    """The node's, by full name; ``robot`` is the robot file."""
    return {
        "robot_file": str(robot),
        "use_sim_time": arguments.use_sim_time,
        "recorder.out": str(arguments.out),
        "recorder.name": arguments.name,
        "recorder.topics": " ".join(arguments.topics),
        "recorder.everything": arguments.all,
        "recorder.autostart": arguments.start,
        "recorder.min_free_gb": arguments.min_free_gb,
        "recorder.max_gb": arguments.max_gb,
        "recorder.compression": arguments.compression,
        "recorder.report": "" if arguments.json is None else str(arguments.json),
    }
