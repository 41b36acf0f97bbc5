"""The Adroit table's row of LeRobot's own DiffusionPolicy: trained and served by the interpreter that ``--lerobot`` names.

It is an opponent: its network, loss and training are LeRobot's (benchmarks/lerobot_table.py), while demonstrations, samples, the
loop and the episodes are those of the other rows.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_policy_ros.cli.bench_table_place import FINISHED, Workplace, read, write
from flow_policy_ros.evaluation.adroit_table import CAMERA, LEROBOT, ROWS, Cell, Row

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.adroit_table_pipe import Child
    from flow_policy_ros.evaluation.setup import Loaded

SCRIPT = Path("benchmarks") / "lerobot_table.py"
CONTRACT, SAMPLES = "contract.json", "samples.npz"
PATIENCE_S = 300.0
"""A child that says nothing for so long hangs: at start it imports LeRobot, then a step or a chunk takes a second of a core."""


def require_lerobot(place: Workplace) -> None:
    """Raises ``ValueError`` for rows that lack LeRobot, or an interpreter that no row uses."""
    from flow_policy_ros import resources

    rows = [name for name in place.protocol.rows if ROWS[name].objective == LEROBOT]
    if not rows and place.lerobot is not None:
        known = " ".join(name for name, row in ROWS.items() if row.objective == LEROBOT)
        raise ValueError(f"--lerobot is given, but no row uses it; add {known} to --rows, or leave it out.")
    if not rows:
        return
    if place.lerobot is None:
        others = " ".join(name for name in place.protocol.rows if name not in rows)
        remedy = f", or give --rows {others}" if others else ""
        raise ValueError(
            f"row {rows[0]} needs --lerobot, the interpreter of an environment with LeRobot ({SCRIPT} says how it is made){remedy}."
        )
    if shutil.which(place.lerobot) is None:
        raise ValueError(f"--lerobot {place.lerobot} is no program that can be run; expected a Python interpreter with LeRobot.")
    if not (resources.share() / SCRIPT).is_file():
        raise ValueError(f"--lerobot needs {SCRIPT}, which is in the source tree only; run it from there.")
    if CAMERA in place.protocol.observations:
        raise ValueError(f"row {rows[0]} is for --observations state alone; leave camera out, or the row.")


def train_lerobot(place: Workplace, cell: Cell, row: Row, data: Path, remaining_s: Callable[[], float]) -> Path | None:
    """The finished policy of the row, None when the time ran out before; it then goes on where it was last saved.

    Raises ``ChildError``, ``EpisodeError``.
    """
    import numpy as np

    from flow_policy_ros.data.episodes import load_episodes
    from flow_policy_ros.evaluation.adroit_table_lerobot import contract_of, samples_of
    from flow_policy_ros.training.progress import ProgressBar

    out, recipe, learner = place.checkpoint(cell, row), place.protocol.recipes[cell.task], place.protocol.lerobot
    episodes = load_episodes(data)
    contract = contract_of(episodes[0], recipe.streams, round(recipe.chunk_dt * 1e9), learner.horizon, learner.observations)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / SAMPLES, allow_pickle=False, **samples_of(episodes, contract))
    write(out / CONTRACT, contract.to_json())
    options = [
        "--samples", str(out / SAMPLES), "--minutes", str(learner.minutes), "--seed", str(cell.seed), "--batch", str(learner.batch),
        "--joint-noise", str(recipe.joint_noise), "--down-dims", *map(str, learner.down_dims),
    ]  # fmt: skip
    bar: ProgressBar | None = None
    try:
        with _running(place, "train", out, options) as child:
            while remaining_s() > 0:
                said = child.answer()
                if "finished" in said:
                    write(out / FINISHED, {**_figures(child, said["finished"]), "decides": place.decides(cell, row)})
                    (out / SAMPLES).unlink()
                    return out
                step, steps, loss = _progress(child, said)
                bar = bar or ProgressBar(steps, step, shown=True)
                bar.update(step, f"LeRobot, {cell.name}, loss {loss:.4f}")
    finally:
        if bar is not None:
            bar.close()
    return None


@contextlib.contextmanager
def served(place: Workplace, cell: Cell, name: str, checkpoint: Path) -> Iterator[Loaded]:
    """What runs the episodes of a row of LeRobot's, as long as the block lasts. Raises ``ChildError``."""
    from flow_policy_ros.evaluation.adroit_table_lerobot import LeRobotPolicy, lerobot_stack
    from flow_policy_ros.evaluation.setup import Loaded
    from flow_policy_ros.resources import robot_file
    from flow_policy_ros.runtime.contract import Contract
    from flow_policy_ros.runtime.robot import load_robot

    robot, steps = load_robot(robot_file(f"adroit_{cell.task}")), ROWS[name].steps
    contract = Contract.from_json(read(checkpoint / CONTRACT) or {})
    with _running(place, "serve", checkpoint, []) as child:
        policy = LeRobotPolicy(child, contract, steps)
        yield Loaded(robot, lerobot_stack(robot, policy, steps, place.protocol.first_seed), None)


def _running(place: Workplace, work: str, out: Path, options: list[str]) -> contextlib.AbstractContextManager[Child]:
    from flow_policy_ros import resources
    from flow_policy_ros.evaluation.adroit_table_pipe import child

    command = [str(place.lerobot), str(resources.share() / SCRIPT), work, "--out", str(out), *options]
    return child(command, f"--lerobot {place.lerobot} ({work})", f"see {SCRIPT} for how its environment is made", PATIENCE_S)


def _progress(child: Child, said: dict[str, Any]) -> tuple[int, int, float]:
    try:
        return int(said["step"]), int(said["steps"]), float(said["loss"])
    except (KeyError, TypeError, ValueError) as error:
        raise child.wrong(f"said {said}, expected step, steps and loss") from error


def _figures(child: Child, said: object) -> dict[str, Any]:
    if not isinstance(said, dict) or not {"steps", "loss", "core_minutes"} <= set(said):
        raise child.wrong(f"finished with {said}, expected at least steps, loss and core_minutes")
    return said
