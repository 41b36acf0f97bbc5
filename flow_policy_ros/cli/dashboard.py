"""``flow_policy dashboard``: a robot on one page of the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any


@dataclass(frozen=True)
class Arguments:
    """Shows a running robot in the terminal: state and faults, rates and delays, each joint's set-point beside its measured
    position, which limits acted. q or Ctrl-C ends it.

    It only listens, with best effort. Domain and discovery are the environment's.
    """

    robot: str
    """Robot file, or the name of one that ships."""
    namespace: str = ""
    """Name space of the robot's nodes, such as left."""
    diagnostics: str = "/diagnostics"
    """Topic on which its nodes report; of one of the two robots of 'flow_policy bringup two' /left/diagnostics."""
    once: bool = False
    """Print one page, as soon as every part has spoken, and end."""
    wait: float = 5.0
    """With --once: seconds to wait for what is silent."""
    rate_hz: float = 4.0
    """Pages a second."""
    use_sim_time: bool = False
    """Instants are those of /clock, for a robot in a simulation."""
    json: Path | None = None
    """With --once: write the figures of the page to this file as well."""


def main(argv: list[str]) -> int:
    """Becomes the dashboard node, whose exit code is 0; 1 when the last page had a fault, a node's error, or a silent command node
    in it; 2 when the input is bad."""
    import tyro

    from flow_policy_ros import resources
    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.ros.processes import NodeSpec, become

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy dashboard")
    require_file("--json", arguments.json)
    if arguments.json is not None and not arguments.once:
        raise ValueError("--json writes the figures of one page; give --once too.")
    robot = resources.robot_file(arguments.robot)
    become(NodeSpec("dashboard_node", parameters(arguments, robot), remaps(arguments)))


def remaps(arguments: Arguments) -> dict[str, str]:
    """The node's name space and topic of diagnostics, where they are not the usual ones."""
    space = {"__ns": "/" + arguments.namespace.strip("/")} if arguments.namespace else {}
    return space | ({"/diagnostics": arguments.diagnostics} if arguments.diagnostics != "/diagnostics" else {})


def parameters(arguments: Arguments, robot: Path) -> dict[str, Any]:
    """The node's, by full name; ``robot`` is the robot file."""
    return {
        "robot_file": str(robot),
        "use_sim_time": arguments.use_sim_time,
        "dashboard.once": arguments.once,
        "dashboard.wait_s": arguments.wait,
        "dashboard.rate_hz": arguments.rate_hz,
        "dashboard.report": "" if arguments.json is None else str(arguments.json),
    }
