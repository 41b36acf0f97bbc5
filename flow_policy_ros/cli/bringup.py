"""``flow_policy bringup``: everything that a robot needs, started in order and watched, where ``ros2 launch`` is or is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.ros.bringup import Bringup
    from flow_policy_ros.ros.course import Course, End

KINDS: dict[str, str] = {
    "policy": "perception, policy and command node for a robot whose driver runs",
    "sim": "the simulated robot and the policy's nodes",
    "replay": "a recording played to the policy's nodes",
    "record": "the recorder",
    "two": "two robots in name spaces",
}


@dataclass(frozen=True)
class Running:
    """How it is run."""

    print: bool = False
    """Show what would be started, in which order and with which parameters, and start nothing."""
    json: Path | None = None
    """Write that to this file, and how it ended."""


def usage() -> str:
    """The text of ``flow_policy bringup --help``."""
    rows = "\n".join(f"  {name:<8}{text}" for name, text in KINDS.items())
    return (
        f"usage: flow_policy bringup KIND [OPTIONS]\n\n{rows}\n\n'flow_policy bringup KIND --help' lists a kind's options; "
        "'ros2 launch flow_policy_ros KIND.launch.py' has the same ones\n(two: bringup.launch.py). Ctrl-C stops the robot and "
        "ends all. Exit codes: 0 ended by a signal, 1 a node died, 2 refused."
    )


def main(argv: list[str]) -> int:
    """Returns the exit code; bad input raises ``ValueError``."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    kind, *rest = argv
    if kind not in KINDS:
        raise ValueError(f"unknown bring-up '{kind}'; the kinds are {', '.join(KINDS)}.")
    return bringup(kind, rest)


def bringup(kind: str, argv: list[str]) -> int:
    """One kind, with its options."""
    import os
    import sys

    import tyro

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.ros.enclaves import refuse_unsecured
    from flow_policy_ros.ros.supervisor import Supervisor

    make, options = kinds()[kind]
    refuse_launch_words(options, argv)
    given, running = tyro.cli(
        tuple[Annotated[options, tyro.conf.arg(name="")], Annotated[Running, tyro.conf.arg(name="")]],  # type: ignore[valid-type]
        args=argv,
        prog=f"flow_policy bringup {kind}",
        description=options.__doc__,
    )
    require_file("--json", running.json)
    described = make(given)
    if running.print:
        show(described)
        write(running.json, described)
        return 0
    require_ros()
    refuse_unsecured(described.enclaves, os.environ)
    supervisor = Supervisor(described, lambda line: print(line, flush=True))
    end = supervisor.run()
    write(running.json, described, end, supervisor.course)
    print(f"{'ended' if end.code == 0 else 'error'}: {end.reason}", file=sys.stderr if end.code else sys.stdout)
    return end.code


def kinds() -> dict[str, tuple[Any, type]]:
    """What makes a description, and of which options, by kind."""
    from flow_policy_ros.ros import bringup, bringup_options

    return {
        "policy": (bringup.policy_bringup, bringup_options.PolicyOptions),
        "sim": (bringup.sim_bringup, bringup_options.SimOptions),
        "replay": (bringup.replay_bringup, bringup_options.ReplayOptions),
        "record": (bringup.record_bringup, bringup_options.RecordOptions),
        "two": (bringup.two_robots, bringup_options.TwoOptions),
    }


def refuse_launch_words(options: type, argv: list[str]) -> None:
    """Raises ``ParameterError`` for a word as ``ros2 launch`` takes it, NAME:=VALUE, with what is to be written here."""
    import re

    from flow_policy_ros.ros.bringup_options import refuse_unknown
    from flow_policy_ros.runtime.parameters import ParameterError

    for before, word in zip(["", *argv], argv, strict=False):
        found = re.fullmatch(r"([A-Za-z_][\w-]*):=(.*)", word, re.DOTALL)
        if found and not before.startswith("-"):  # else it is the value of an option, which judges it
            refuse_unknown(options, [found[1]])
            option = "--" + found[1].replace("_", "-")
            flags = {"true": option, "false": option.replace("--", "--no-", 1)}
            here = flags.get(found[2], f"{option} {found[2]}")
            raise ParameterError(f"'{word}' is how ros2 launch is given it; here it is {here}.")


def require_ros() -> None:
    """Raises ``ModuleNotFoundError`` here, and not in every node."""
    from importlib.util import find_spec

    if find_spec("rclpy") is None:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")


def show(described: Bringup) -> None:
    """The order as a table, then each node's parameters."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=described.text, title_justify="left")
    for heading in ("node", "program", "after", ""):
        table.add_column(heading, overflow="fold")
    for node in described.nodes:
        traits = {"started again": node.respawn, "managed": node.managed, "a step": node.task, "looks on": node.onlooker}
        cells = [
            node.path, " ".join([node.module, *node.arguments]), "\n".join(node.after),
            ", ".join(name for name, holds in traits.items() if holds),
        ]  # fmt: skip
        table.add_row(*map(Text, cells))  # no mark-up in what users give
    console = Console()
    console.print(table)
    for node in described.nodes:
        renamed = [f"  {name} → {other}" for name, other in node.remaps.items()]
        renamed += [f"  enclave {node.enclave}"] if node.enclave else []
        for line in [node.path, *(f"  {name}: {value}" for name, value in node.parameters.items()), *renamed]:
            console.print(Text(line), soft_wrap=True)


def write(file: Path | None, described: Bringup, end: End | None = None, course: Course | None = None) -> None:
    """The description as JSON, with how it ended where it ran."""
    import json
    from dataclasses import asdict

    if file is None:
        return
    figures: dict[str, Any] = {"bringup": described.text, "nodes": [{"path": n.path, **asdict(n)} for n in described.nodes]}
    if end is not None and course is not None:
        figures |= {"reason": end.reason, "exit_code": end.code, "respawns": dict(course.respawns)}
    file.write_text(json.dumps(figures, indent=1) + "\n")
