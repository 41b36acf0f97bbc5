"""``flow_policy bench adroit --out``: the whole Adroit table in one command that can be stopped and goes on where it was.

How a cell is made is ``bench_table_work``'s and ``bench_table_measure``'s, where it is kept ``bench_table_place``'s; the
protocol is ``evaluation.adroit_table``'s.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flow_policy_ros.evaluation.adroit_table import (
    CAMERA,
    EXPERT,
    FLOW,
    LEROBOT,
    RECIPES,
    ROWS,
    Cell,
    LeRobotRecipe,
    Protocol,
    Recipe,
    digest,
)

if TYPE_CHECKING:
    from flow_policy_ros.cli.bench_table_place import Workplace

PEOPLE = 25
"""Demonstrations in the published file."""


@dataclass(frozen=True)
class Arguments:
    """The Adroit table: demonstrations, training and evaluation of every cell, one after the other; what is complete in --out is
    kept and not made again, what was stopped goes on. The whole takes days on a CPU: choose cells, the rest can follow.

    A cell is a task, a number of demonstrations, an observation and a training seed. The table is written to --out as table.json,
    table.md and table.svg after every cell. Exit code 1: cells are left whose budget ran out.

    `flow_policy bench adroit --checkpoints ...` measures given checkpoints instead (see its --help).
    """

    out: Path
    """Folder for everything: demonstrations, policies, results, table."""
    expert: Path | None = None
    """Folder with <task>_expert.npz (published DAPG expert weights)."""
    tasks: tuple[str, ...] = Protocol.tasks
    """door, hammer, pen, relocate."""
    demonstrations: tuple[int, ...] = Protocol.demonstrations
    """How many of the expert's demonstrations."""
    observations: tuple[str, ...] = Protocol.observations
    """state: joint positions and the simulator's object state; camera: joint positions and the boxes of a detector."""
    rows: tuple[str, ...] = Protocol.rows
    """Which policies: expert, regression (behaviour cloning), flow_10, flow_2, flow_1 (solver steps), reflow_1 (student),
    diffusion_10 (DDIM); and lerobot_10 (LeRobot's own DiffusionPolicy, DDIM, with --lerobot; not among the default)."""
    seeds: tuple[int, ...] = Protocol.seeds
    """Training seeds; each has demonstrations of its own. All cells of the first come first."""
    episodes: int = Protocol.episodes
    """Episodes per row."""
    first_seed: int = Protocol.first_seed
    """Seed of the first episode, and of the policy's noise."""
    minutes: float = Protocol.minutes
    """Budget of one cell, wall time of all its rows together. A cell that has spent it stops, and goes on when given more; an
    evaluation that has begun is finished. 0: make nothing, write the table of what is there."""
    detector: tuple[str, ...] = ()
    """Detectors as TASK=FOLDER; default: the one that ships for the task."""
    human: Path | None = None
    """door_human_demos.npz: the same rows from its 25 demonstrations of people as well."""
    lerobot: Path | None = None
    """Interpreter of an environment with LeRobot, for the row lerobot_10 (see benchmarks/lerobot_table.py)."""
    lerobot_minutes: float = LeRobotRecipe.minutes
    """How long LeRobot's policy is trained for a cell, time of one core."""
    training_steps: int = 0
    """Optimiser steps instead of the recipes', of the student's stages in proportion; 0: as the recipes say."""


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when cells are left; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli.outputs import make_folder, print_json

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench adroit")
    place = workplace(arguments)
    make_folder("--out", arguments.out)
    require_possible(place)
    table = run(place)
    print_json(table, None)
    print((arguments.out / "table.md").read_text(), file=sys.stderr)
    return 1 if table["unfinished"] else 0


def workplace(arguments: Arguments) -> Workplace:
    """Options as a protocol and a place. Raises ``ValueError``."""
    from flow_policy_ros.cli.bench_table_place import Workplace

    if arguments.training_steps < 0:
        raise ValueError(f"--training-steps is {arguments.training_steps}, expected at least 0.")
    pairs = [entry.partition("=") for entry in arguments.detector]
    if any(not folder for _, _, folder in pairs):
        raise ValueError(f"--detector is {' '.join(arguments.detector)}, expected TASK=FOLDER, e.g. pen=checkpoints/pen_detector.")
    recipes = dict(RECIPES)
    if arguments.training_steps:
        recipes = {task: shortened(recipe, arguments.training_steps) for task, recipe in RECIPES.items()}
    protocol = Protocol(
        tasks=arguments.tasks, demonstrations=arguments.demonstrations, observations=arguments.observations, rows=arguments.rows,
        seeds=arguments.seeds, episodes=arguments.episodes, first_seed=arguments.first_seed, minutes=arguments.minutes,
        human=PEOPLE if arguments.human is not None else 0, recipes=recipes, lerobot=LeRobotRecipe(arguments.lerobot_minutes),
    )  # fmt: skip
    detectors = {task: Path(folder) for task, _, folder in pairs}
    return Workplace(arguments.out, protocol, arguments.expert, arguments.human, detectors, arguments.lerobot)


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with that many optimiser steps, and the student's pairs and stages in proportion."""
    share = steps / recipe.steps
    return replace(
        recipe,
        steps=steps,
        pairs=max(recipe.batch, round(share * recipe.pairs)),
        rectify=max(1, round(share * recipe.rectify)),
        student_steps=max(1, round(share * recipe.student_steps)),
    )


def require_possible(place: Workplace) -> None:
    """Raises ``ValueError`` for what a cell would lack, before hours of work and not after them."""
    import importlib.util

    from flow_policy_ros.cli.bench_table_lerobot import require_lerobot

    require_lerobot(place)
    for name in place.protocol.rows:
        needs = ROWS[name].needs
        if needs and importlib.util.find_spec(needs) is None:
            others = " ".join(row for row in place.protocol.rows if row != name)
            raise ValueError(
                f"row {name} needs the package '{needs}', which is missing; pip install -r requirements/benchmarks.txt, or give "
                f"--rows {others}."
            )
    for cell in place.protocol.cells():
        place.shown(cell.task, cell.source)
        if cell.observation == CAMERA:
            place.detector(cell.task)
    for task in experts(place.protocol):
        place.weights(task)


def experts(protocol: Protocol) -> tuple[str, ...]:
    """The tasks whose expert is measured itself."""
    return tuple(dict.fromkeys(cell.task for cell in protocol.cells())) if EXPERT in protocol.rows else ()


def run(place: Workplace) -> dict[str, Any]:
    """Make what is missing; the table, see ``table_of``. Raises ``KeyboardInterrupt`` on Ctrl-C, with the table written."""
    from flow_policy_ros.cli.bench_table_measure import evaluate_expert
    from flow_policy_ros.cli.bench_table_place import read, write

    for task in experts(place.protocol):
        if read(place.expert_result(task)) is None and place.protocol.minutes > 0:
            write(place.expert_result(task), evaluate_expert(place, task))
    table = write_table(place)
    for cell in place.protocol.cells():
        if all(place.result(cell, name).is_file() for name in trained_rows(place.protocol)):
            continue
        try:
            run_cell(place, cell)
        finally:
            table = write_table(place)
    return table


def run_cell(place: Workplace, cell: Cell) -> None:
    """Make the rows of a cell that have no result yet, as far as its budget reaches."""
    from flow_policy_ros.cli.bench_table_measure import evaluate
    from flow_policy_ros.cli.bench_table_place import read, write
    from flow_policy_ros.cli.bench_table_work import trained

    for name in trained_rows(place.protocol):
        file, before, begin = place.result(cell, name), sum(spent_s(place, cell).values()), time.monotonic()

        def remaining(before: float = before, begin: float = begin) -> float:
            return 60 * place.protocol.minutes - before - (time.monotonic() - begin)

        if read(file) is not None or remaining() <= 0:
            continue
        with accounted(place, cell, name):
            checkpoint = trained(place, cell, ROWS[name], remaining)
            if checkpoint is not None and remaining() > 0:
                write(file, evaluate(place, cell, name, checkpoint))


def trained_rows(protocol: Protocol) -> tuple[str, ...]:
    """All but the expert."""
    return tuple(name for name in protocol.rows if name != EXPERT)


@contextlib.contextmanager
def accounted(place: Workplace, cell: Cell, name: str) -> Iterator[None]:
    """Adds the block's wall time, however it ends, to what the cell has spent on the row; also on what rows share."""
    from flow_policy_ros.cli.bench_table_place import write

    begin = time.monotonic()
    try:
        yield
    finally:
        spent = spent_s(place, cell)
        spent[name] = round(spent.get(name, 0.0) + time.monotonic() - begin, 3)
        write(account(place, cell), {"cell": cell.name, "spent_s": spent})


def account(place: Workplace, cell: Cell) -> Path:
    """Where it is kept what a cell has spent, of this recipe."""
    recipe = place.protocol.recipes[cell.task]
    return place.out / "cells" / f"{cell.name}_{digest(recipe.decides(cell.observation, FLOW, student=True))}.json"


def spent_s(place: Workplace, cell: Cell) -> dict[str, float]:
    """Wall time in s that each row of the cell has taken, over all runs that were not killed."""
    from flow_policy_ros.cli.bench_table_place import read

    return dict((read(account(place, cell)) or {"spent_s": {}})["spent_s"])


def write_table(place: Workplace) -> dict[str, Any]:
    """Write table.json, table.md and table.svg of the results that there are.

    Keys: ``rows`` (see ``summarise_table``), ``cells`` (name, budget_minutes, spent_minutes and its parts), ``unfinished`` (names
    of cells that lack rows), ``episodes``, ``first_seed``, ``recipes``, and with a row of LeRobot's ``lerobot``, its recipe.
    """
    from dataclasses import asdict

    from flow_policy_ros.cli.bench_table_place import read, write
    from flow_policy_ros.evaluation.adroit_table_plot import write_table_plot
    from flow_policy_ros.evaluation.adroit_table_summary import summarise_table

    protocol, cells = place.protocol, place.protocol.cells()
    found = {(cell, name): read(place.result(cell, name)) for cell in cells for name in trained_rows(protocol)}
    own = [read(place.expert_result(task)) for task in experts(protocol)]
    lacking = dict.fromkeys(cell.name for (cell, _), result in found.items() if result is None)
    spent = {cell: spent_s(place, cell) for cell in cells}
    table: dict[str, Any] = {
        "episodes": protocol.episodes,
        "first_seed": protocol.first_seed,
        "rows": summarise_table([result for result in (*own, *found.values()) if result is not None]),
        "unfinished": [*lacking, *(f"{t}_{EXPERT}" for t, result in zip(experts(protocol), own, strict=True) if result is None)],
        "cells": [
            {
                "name": cell.name,
                "budget_minutes": protocol.minutes,
                "spent_minutes": round(sum(spent[cell].values()) / 60, 2),
                "rows_minutes": {name: round(seconds / 60, 2) for name, seconds in spent[cell].items()},
            }
            for cell in cells
        ],
        "recipes": {task: asdict(protocol.recipes[task]) for task in dict.fromkeys(cell.task for cell in cells)},
    }
    if any(ROWS[name].objective == LEROBOT for name in protocol.rows):
        table["lerobot"] = asdict(protocol.lerobot)
    write(place.out / "table.json", table)
    (place.out / "table.md").write_text(document(place, table))
    write_table_plot(place.out / "table.svg", table["rows"], "Adroit: success over demonstrations")
    return table


def document(place: Workplace, table: dict[str, Any]) -> str:
    """The table with what it says, in Markdown."""
    from flow_policy_ros.evaluation.adroit_table_summary import markdown

    protocol = place.protocol
    spent = [cell["spent_minutes"] for cell in table["cells"] if cell["spent_minutes"] > 0]
    more = " Demonstrations of people: 300 control steps instead of 200." if protocol.human else ""
    if "lerobot" in table:
        more += f" LeRobot's own policy: {protocol.lerobot.minutes:g} min of one core, weights not averaged."
    text = (
        f"Percent of {protocol.episodes} episodes (seeds {protocol.first_seed} to {protocol.first_seed + protocol.episodes - 1}): "
        f"success at any step, mean of training seeds {', '.join(map(str, protocol.seeds))} [95% interval] / held for more than 25 "
        f"control steps (pen 20). Last checkpoint, averaged weights, no injected delay.{more}\n\n{markdown(table['rows'])}\n"
    )
    if spent:
        text += f"Budget of a cell: {protocol.minutes:g} min; spent: {min(spent):g} to {max(spent):g} min (wall).\n"
    if table["unfinished"]:
        text += f"Not complete: {', '.join(table['unfinished'])}.\n"
    return text
