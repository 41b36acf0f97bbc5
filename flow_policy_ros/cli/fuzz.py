"""``flow_policy fuzz``: random, adversarial and malformed input for the safety stage; counts what must not happen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.fuzz import Result


@dataclass(frozen=True)
class Arguments:
    """Throws robots, chunks, joint states, clocks, switches and parameters at the safety stage and checks every set-point.

    A scenario is 1000 ticks of one robot and is drawn from the seed and its number.
    """

    ticks: int = 50_000
    """Control ticks, in whole scenarios."""
    seed: int = 0
    """Other seeds, other scenarios."""
    only: int | None = None
    """Play this scenario alone, to see a violation again."""
    jobs: int = 1
    """Processes."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when a violation was found."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy fuzz")
    require_file("--json", arguments.json)
    require_positive(("--ticks", arguments.ticks), ("--jobs", arguments.jobs))
    for option, number in (("--seed", arguments.seed), ("--only", arguments.only or 0)):
        if number < 0:
            raise ValueError(f"{option} is {number}, expected zero or above.")
    result = run(arguments)
    print_json(result.figures(), arguments.json)
    return 1 if result.found else 0


def run(arguments: Arguments) -> Result:
    """The scenarios that are asked for, with a line about progress on standard error."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flow_policy_ros.evaluation.fuzz import TICKS, Result, fuzz, play

    if arguments.only is not None:
        result = Result(arguments.seed)
        result.add(play(arguments.seed, arguments.only))
        return result
    columns = (TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]} violations"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("fuzz", total=-(-arguments.ticks // TICKS) * TICKS, found=0)
        return fuzz(
            arguments.ticks,
            arguments.seed,
            arguments.jobs,
            lambda result: bar.update(task, completed=result.ticks, found=len(result.found)),
        )
