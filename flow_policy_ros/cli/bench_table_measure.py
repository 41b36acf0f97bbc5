"""The results of the Adroit table's rows: episodes of a policy, or of the expert itself, counted by both definitions of success."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow_policy_ros.cli.bench_table_place import FINISHED, Workplace, read, simulated
from flow_policy_ros.evaluation.adroit_table import CAMERA, CONTROL_STEPS, EXPERT, LEROBOT, ROWS, Cell

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.setup import Loaded


def evaluate(place: Workplace, cell: Cell, name: str, checkpoint: Path) -> dict[str, Any]:
    """The result of a trained row: its episodes, without injected delay."""
    from flow_policy_ros.evaluation.closed_loop import run_episode
    from flow_policy_ros.evaluation.summary import summarise

    protocol, begin = place.protocol, time.monotonic()
    with _loaded(place, cell, name, checkpoint) as loaded:
        robot = simulated(cell.task)
        outcomes = [
            run_episode(robot, loaded.stack, protocol.first_seed + i, i, cell.control_steps)
            for i in _episodes(place, f"{cell.name}, {ROWS[name].title}")
        ]
        robot.close()
    figures = summarise(outcomes, loaded, time.monotonic() - begin, protocol.first_seed)
    return {
        "line": cell.line, "row": name, "seed": cell.seed,
        **_counted([(outcome.success, outcome.success_steps) for outcome in outcomes], robot.task.strict_steps, place),
        "control_steps": cell.control_steps,
        "steps": ROWS[name].steps,
        "inference_ms": figures["latency_ms"].get("inference"),
        "joint_intervention_rate": figures["joint_intervention_rate"],
        "trajectory_sha256": figures["trajectory_sha256"],
        "wall_s": figures["wall_s"],
        "checkpoint": checkpoint.name,
        "training": read(checkpoint / FINISHED),
    }  # fmt: skip


def _loaded(place: Workplace, cell: Cell, name: str, checkpoint: Path) -> contextlib.AbstractContextManager[Loaded]:
    """The policy of a trained row with its loops, without delays."""
    if ROWS[name].objective == LEROBOT:
        from flow_policy_ros.cli.bench_table_lerobot import served

        return served(place, cell, name, checkpoint)
    from flow_policy_ros.evaluation.setup import load, select

    detector = place.detector(cell.task) if cell.observation == CAMERA else None
    steps, seed = max(1, ROWS[name].steps), place.protocol.first_seed
    selection = select(cell.task, cell.observation, checkpoint, detector, None, steps=steps, policy_seed=seed)
    return contextlib.nullcontext(load(selection, "none"))


def evaluate_expert(place: Workplace, task: str) -> dict[str, Any]:
    """The result of the expert itself, through the same limits as the policies."""
    from flow_policy_ros.evaluation.demonstrate import demonstrate
    from flow_policy_ros.sim.expert import Expert

    begin, robot, steps = time.monotonic(), simulated(task), CONTROL_STEPS[EXPERT]
    expert = Expert(place.weights(task).parent, robot.task.expert_name)
    outcomes = []
    for i in _episodes(place, f"{task}, expert"):
        demonstrate(robot, expert, place.protocol.first_seed + i, steps, 0.0)
        outcomes.append((robot.success, robot.success_steps))
    return {
        "line": {"task": task, "source": EXPERT, "demonstrations": 0, "observation": ""}, "row": EXPERT, "seed": 0,
        **_counted(outcomes, robot.task.strict_steps, place),
        "control_steps": steps,
        "wall_s": round(time.monotonic() - begin, 3),
    }  # fmt: skip


def _counted(outcomes: list[tuple[bool, int]], strict_steps: int, place: Workplace) -> dict[str, Any]:
    first = place.protocol.first_seed
    return {
        "episodes": len(outcomes),
        "first_seed": first,
        "successes": sum(success for success, _ in outcomes),
        "strict_successes": sum(held > strict_steps for _, held in outcomes),
        "strict_steps": strict_steps,
        "per_episode": [{"seed": first + i, "success": s, "success_steps": held} for i, (s, held) in enumerate(outcomes)],
    }


def _episodes(place: Workplace, title: str) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    yield from track(range(place.protocol.episodes), description=title, console=Console(stderr=True))
