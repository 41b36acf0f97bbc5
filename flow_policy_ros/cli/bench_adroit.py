"""``flow_policy bench adroit --checkpoints``: closed-loop success of several checkpoints on the same seeded episodes.

Without ``--checkpoints`` it is the Adroit table, which trains its policies itself: ``bench_table``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal


@dataclass(frozen=True)
class Arguments:
    """Closed-loop success of several checkpoints on the same seeded episodes, every one with its own measured delay.

    Without --checkpoints: the Adroit table (see its --help).
    """

    checkpoints: tuple[Path, ...]
    """Checkpoint folders, or names of those that ship, with the state observation."""
    task: Literal["door", "hammer", "pen", "relocate", "relocate_goals"] = "door"
    """Which Adroit task; of relocate_goals the goals are asked for in turn, in phrasings drawn by seed."""
    steps: tuple[int, ...] = (10,)
    """Solver steps; one row per checkpoint and number."""
    episodes: int = 100
    """Episodes per row."""
    seed: int = 5000
    """Seed of the first episode, and of the policy's noise."""
    latency: str = "measured"
    """Injected delay: measured (on this machine), none, or a profile's path."""
    json: Path | None = None
    """Write the figures to this file as well; rows that it has already are kept and not run again."""


def main(argv: list[str]) -> int:
    """Returns 0, of the table 1 when cells are left; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli import bench_table
    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    if not any(word.partition("=")[0] == "--checkpoints" for word in argv):
        return bench_table.main(argv)
    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench adroit")
    require_file("--json", arguments.json)
    require_positive(("--episodes", arguments.episodes))
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, object]:
    """``rows`` of task, checkpoint, network, steps, episodes, seed, latency, successes, success_rate, inference_ms, sha256."""
    import json

    rows = []
    if arguments.json and arguments.json.is_file():
        try:
            rows = list(json.loads(arguments.json.read_text())["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--json {arguments.json} holds no rows of this benchmark ({error!r}); give another file.") from error
    for path in arguments.checkpoints:
        for steps in arguments.steps:
            wanted = {
                "task": arguments.task, "checkpoint": str(path), "steps": steps, "episodes": arguments.episodes,
                "seed": arguments.seed, "latency": arguments.latency,
            }  # fmt: skip
            if any(wanted.items() <= row.items() for row in rows):
                continue
            rows.append(wanted | run(path, steps, arguments))
            if arguments.json:
                arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return {"rows": rows}


def run(path: Path, steps: int, arguments: Arguments) -> dict[str, object]:
    """One row's episodes."""
    import time

    from rich.console import Console
    from rich.progress import track

    from flow_policy_ros.evaluation.closed_loop import run_episode
    from flow_policy_ros.evaluation.instructed import ask
    from flow_policy_ros.evaluation.setup import load, select
    from flow_policy_ros.evaluation.summary import summarise
    from flow_policy_ros.policy.checkpoint import load_checkpoint
    from flow_policy_ros.sim.robot import AdroitRobot

    selection = select(arguments.task, "state", path, None, None, steps=steps, policy_seed=arguments.seed)
    loaded = load(selection, arguments.latency)
    robot = AdroitRobot(arguments.task, loaded.robot)
    begin = time.monotonic()
    title = f"{path.name}, {steps} steps"
    numbers = track(range(arguments.episodes), description=title, console=Console(stderr=True))
    outcomes = []
    for i in numbers:
        ask(robot, "", arguments.seed + i)
        outcomes.append(run_episode(robot, loaded.stack, arguments.seed + i, i, 200))
    summary = summarise(outcomes, loaded, time.monotonic() - begin, arguments.seed)
    return {
        "network": load_checkpoint(selection.checkpoint).model.network_name,
        "successes": summary["successes"],
        "success_rate": summary["success_rate"],
        "inference_ms": summary["latency_ms"]["inference"],
        "trajectory_sha256": summary["trajectory_sha256"],
    }
