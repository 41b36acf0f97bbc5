"""What the rows of the Adroit table are measured with, each made once and kept: demonstrations, then policies trained on them.

Where it is kept is ``bench_table_place``'s, the measuring ``bench_table_measure``'s.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_policy_ros.cli.bench_table_place import FINISHED, Workplace, simulated, write
from flow_policy_ros.evaluation.adroit_table import CAMERA, DEMONSTRATION_SEEDS, EXPERT, FLOW, LEROBOT, STATE, Cell, Row, digest

if TYPE_CHECKING:
    from flow_policy_ros.training.config import DistillConfig, TrainConfig

TRIES = 20
"""Episodes tried per demonstration at most: an expert that fails more of them is not one."""


def demonstrations(place: Workplace, cell: Cell) -> Path:
    """Folder with exactly the cell's episodes, of a camera's cell with its detections. Raises ``ValueError``-derived errors."""
    sources = place.shown(cell.task, cell.source)
    folder = place.out / "data" / f"{cell.name}_{digest({**sources, **place.seen(cell)})}"
    if folder.is_dir():
        return folder
    if cell.observation == CAMERA:
        plain = demonstrations(place, Cell(cell.task, cell.demonstrations, STATE, cell.seed, cell.source))
        pool = _featurized(place, cell, plain)
        files = [pool / path.name for path in sorted(plain.glob("*.npz"))] + [pool / "extractor.json"]
    else:
        whose = f"s{cell.seed}" if cell.source == EXPERT else cell.source
        pool = place.out / "demonstrations" / f"{cell.task}_{whose}_{digest(sources)}"
        (_record if cell.source == EXPERT else _convert)(place, cell, pool)
        files = sorted(pool.glob("*.npz"))[: cell.demonstrations]
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in files:
        shutil.copy(file, partial)
    partial.rename(folder)
    return folder


def _record(place: Workplace, cell: Cell, pool: Path) -> None:
    """Record what ``pool`` lacks of the expert's first episodes, from where it stands."""
    from rich.console import Console
    from rich.progress import track

    from flow_policy_ros.evaluation.demonstrate import demonstrate
    from flow_policy_ros.sim.expert import Expert

    pool.mkdir(parents=True, exist_ok=True)
    seed = DEMONSTRATION_SEEDS * (1 + cell.seed)
    there = sorted(int(path.stem.removeprefix("episode_")) for path in pool.glob("*.npz"))
    last = seed + TRIES * cell.demonstrations
    seed = there[-1] + 1 if there else seed
    missing = range(len(there), cell.demonstrations)
    if not missing:
        return
    robot, disturbance = simulated(cell.task), place.protocol.recipes[cell.task].disturbance
    expert = Expert(place.weights(cell.task).parent, robot.task.expert_name)
    for _ in track(missing, description=f"demonstrations, {cell.task}, seed {cell.seed}", console=Console(stderr=True)):
        while not (recording := demonstrate(robot, expert, seed, cell.control_steps, disturbance)).success:
            seed += 1
            if seed > last:
                raise ValueError(f"the expert of {place.weights(cell.task)} fails nearly always on task '{cell.task}'.")
        recording.episode(cell.task, robot.robot.name, robot.robot.joints).save(pool / f"episode_{seed:06d}.npz")
        seed += 1


def _convert(place: Workplace, cell: Cell, pool: Path) -> None:
    """People's demonstrations as episodes, those that ``pool`` lacks."""
    from flow_policy_ros.evaluation.human_door import human_episodes

    pool.mkdir(parents=True, exist_ok=True)
    if len(list(pool.glob("*.npz"))) >= cell.demonstrations:
        return
    assert place.human is not None  # place.shown has looked
    episodes = human_episodes(place.human, simulated(cell.task))
    if len(episodes) < cell.demonstrations:
        raise ValueError(f"--human {place.human} holds {len(episodes)} demonstrations, expected {cell.demonstrations}.")
    for episode in episodes:
        episode.save(pool / f"episode_{episode.seed:06d}.npz")


def _featurized(place: Workplace, cell: Cell, episodes: Path) -> Path:
    from flow_policy_ros.cli.featurize import Arguments, featurize

    whose = f"s{cell.seed}" if cell.source == EXPERT else cell.source
    decides = {**place.shown(cell.task, cell.source), **place.seen(cell)}
    pool = place.out / "demonstrations" / f"{cell.task}_{whose}_camera_{digest(decides)}"
    with contextlib.redirect_stdout(sys.stderr):
        featurize(Arguments(episodes=episodes, out=pool, detector=str(place.detector(cell.task))))
    return pool


def train_config(place: Workplace, cell: Cell, row: Row, data: Path) -> TrainConfig:
    """What ``flow_policy train`` is told for the row's policy, or its student's teacher."""
    from flow_policy_ros.training.config import TrainConfig

    recipe = place.protocol.recipes[cell.task]
    options: dict[str, Any] = dict(
        data=(data,), out=place.checkpoint(cell, row), resume=True, seed=cell.seed, network=recipe.network, sizes=recipe.sizes,
        horizon=recipe.horizon, chunk_dt=recipe.chunk_dt, joint_noise=recipe.joint_noise, streams=recipe.streams, validation=0.0,
        store="fp16", objective=row.objective, **_schedule(cell, place, recipe.steps, 500),
    )  # fmt: skip
    if row.objective == FLOW:
        options["predicts"] = recipe.predicts
    if cell.observation == CAMERA:
        first = ("detections",) if recipe.first else ()
        options |= {"streams": ("detections",), "tokens": recipe.tokens, "first": first, "feature_noise": recipe.feature_noise}
    return TrainConfig(**options)


def distill_config(place: Workplace, cell: Cell, row: Row, teacher: Path, data: Path) -> DistillConfig:
    """What ``flow_policy distill`` is told for the student of ``teacher``."""
    from flow_policy_ros.training.config import DistillConfig

    recipe = place.protocol.recipes[cell.task]
    return DistillConfig(
        teacher=teacher, data=(data,), out=place.checkpoint(cell, row), resume=True, seed=cell.seed, count=recipe.pairs,
        rectify=recipe.rectify, store="fp16", **_schedule(cell, place, recipe.student_steps, 100),
    )  # fmt: skip


def _schedule(cell: Cell, place: Workplace, steps: int, warmup: int) -> dict[str, Any]:
    recipe = place.protocol.recipes[cell.task]
    return {
        "steps": steps, "batch": recipe.batch, "precision": recipe.precision, "warmup": min(warmup, steps // 8),
        "save_every": max(1, steps // 4), "validate_every": steps,
    }  # fmt: skip


def trained(place: Workplace, cell: Cell, row: Row, remaining_s: Callable[[], float]) -> Path | None:
    """The finished policy of the row, None when the time ran out before; it then goes on the next time.

    Raises ``KeyboardInterrupt`` when Ctrl-C ended it, ``ValueError``-derived errors for bad input.
    """
    out = place.checkpoint(cell, row)
    if (out / FINISHED).is_file():
        return out
    data = demonstrations(place, cell)
    teacher = trained(place, cell, Row("", row.objective, 0), remaining_s) if row.student else None
    if (row.student and teacher is None) or remaining_s() <= 0:
        return None
    if row.objective == LEROBOT:
        from flow_policy_ros.cli.bench_table_lerobot import train_lerobot

        return train_lerobot(place, cell, row, data, remaining_s)
    with contextlib.redirect_stdout(sys.stderr):
        if teacher is not None:
            from flow_policy_ros.training.distill import distill

            distilled = distill(
                distill_config(place, cell, row, teacher, data), _command(cell), lambda: remaining_s() <= 0
            )
            finished, result = distilled.finished, distilled.result
        else:
            from flow_policy_ros.training.trainer import train

            result = train(train_config(place, cell, row, data), _command(cell), lambda: remaining_s() <= 0)
            finished = result.finished
    if finished:
        assert result is not None
        how = {"steps": result.steps, "samples_per_s": result.samples_per_s, "loss": result.loss}
        write(out / FINISHED, {**how, "decides": place.decides(cell, row)})
        _forget_state(out)
        return out
    if remaining_s() > 0:
        raise KeyboardInterrupt
    return None


def _command(cell: Cell) -> str:
    return f"flow_policy bench adroit ({cell.name})"


def _forget_state(out: Path) -> None:
    """What a finished policy needs no more, ten times its own size: optimiser state, pairs, the student's first stage."""
    for path in (out / "training", out / "rectified", out / "pairs"):
        shutil.rmtree(path, ignore_errors=True)
