"""``flow_policy bench instructed``: does the instruction decide? The same scenes under the instruction for every goal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.instructed import Pairing, Reach
    from flow_policy_ros.evaluation.setup import Loaded, Selection

TASK = "relocate_goals"


@dataclass(frozen=True)
class Arguments:
    """How often another instruction makes the robot reach another goal: paired episodes of relocate_goals, in lockstep.

    In each scene every goal is asked for once, in a sentence that differs in the goal's word alone.
    """

    checkpoint: Path = Path("adroit_relocate_goals_deep")
    """Checkpoint folder, or the name of one that ships."""
    detector: Path | None = None
    """What makes the features of a checkpoint that observes the camera: folder of a detector, or of another extractor's model."""
    seeds: int = 100
    """How many scenes, from --seed on."""
    seed: int = 5000
    """Seed of the first scene, and of the policy's noise."""
    held_out: bool = False
    """Ask in phrasings that no demonstration was recorded with."""
    nodes: bool = False
    """Drive through the ROS nodes, as processes over DDS, which hear the instruction on its topic."""
    steps: int = 10
    """Solver steps per chunk."""
    control_steps: int = 150
    """Control steps (10 ms) per episode."""
    latency: str = "none"
    """Injected delay: none, measured (on this machine, once), or a profile's path."""
    repeats: int = 100
    """Chunks per step count whose time is measured."""
    json: Path | None = None
    """Write the figures to this file as well, after every scene: scenes that it has already are kept and not run again."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench instructed")
    require_file("--json", arguments.json)
    require_positive(
        ("--seeds", arguments.seeds), ("--control-steps", arguments.control_steps), ("--repeats", arguments.repeats)
    )  # fmt: skip
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, object]:
    """``rows``: of the file's those of other settings, then this one's: the settings, network, parameters, ``chunk_ms`` (p50 by
    solver steps, one thread), ``seeds`` run so far, ``flip_rate`` with its 95% ``flip_interval``, fractions of episodes ``right``,
    ``wrong`` and ``none``, ``pairings`` (seed and the goal reached for each goal asked for)."""
    from rich.console import Console
    from rich.progress import track

    from flow_policy_ros.evaluation.instructed import Pairing, paired
    from flow_policy_ros.evaluation.setup import load, select
    from flow_policy_ros.sim.instructions import HELD_OUT, TRAINING
    from flow_policy_ros.sim.tasks import TASKS

    observation = "state" if arguments.detector is None else "camera"
    selection = select(
        TASK, observation, arguments.checkpoint, arguments.detector, None, steps=arguments.steps, policy_seed=arguments.seed
    )
    settings = {
        "checkpoint": str(arguments.checkpoint), "held_out": arguments.held_out, "nodes": arguments.nodes, "steps": arguments.steps,
        "seed": arguments.seed, "control_steps": arguments.control_steps, "latency": arguments.latency,
    }  # fmt: skip
    rows = rows_of(arguments.json)
    row = next((row for row in rows if settings.items() <= row.items()), None)
    others = [other for other in rows if other is not row]
    done = [Pairing(**pairing) for pairing in (row or {"pairings": []})["pairings"]]
    known = {pairing.seed for pairing in done}
    wanted = [seed for seed in range(arguments.seed, arguments.seed + arguments.seeds) if seed not in known]
    if row is None:
        row = settings | speed(selection.checkpoint, arguments.repeats)
    if wanted:
        loaded = load(selection, arguments.latency)
        with (through_nodes if arguments.nodes else in_process)(selection, loaded, arguments.control_steps) as reach:
            title = f"{selection.checkpoint.name}, paired"
            for seed in track(wanted, description=title, console=Console(stderr=True)):
                done.append(paired(TASKS[TASK].goals, reach, seed, HELD_OUT if arguments.held_out else TRAINING))
                row |= figures(done)
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps({"rows": [*others, row]}, indent=1) + "\n")
    return {"rows": [*others, row]}


def rows_of(file: Path | None) -> list[dict[str, Any]]:
    """The rows in a file of this benchmark; none when it does not exist. Raises ``ValueError`` for another file."""
    if file is None or not file.is_file():
        return []
    try:
        rows = list(json.loads(file.read_text())["rows"])
        if not all("pairings" in row for row in rows):
            raise KeyError("pairings")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--json {file} holds no rows of this benchmark ({error!r}); give another file.") from error
    return rows


def figures(pairings: list[Pairing]) -> dict[str, Any]:
    """What the scenes amount to, and the scenes themselves."""
    from flow_policy_ros.evaluation.instructed import interval, scores

    flips = sum(pairing.flipped for pairing in pairings)
    return {
        "seeds": len(pairings),
        "flips": flips,
        "flip_interval": [round(end, 3) for end in interval(flips, len(pairings))],
        **scores(pairings),
        "pairings": [asdict(pairing) for pairing in sorted(pairings, key=lambda pairing: pairing.seed)],
    }


def speed(checkpoint: Path, repeats: int) -> dict[str, Any]:
    """Network, parameters, and the time of a whole chunk on one thread at 1 and 10 solver steps, ms (p50)."""
    from flow_policy_ros.cli import bench_sampling
    from flow_policy_ros.policy.checkpoint import load_checkpoint

    alone = bench_sampling.Arguments(
        (checkpoint,), steps=(1, 10), repeats=repeats, threads=(1,), backends=("eager",), opponents=False
    )
    measured: Any = bench_sampling.measure(alone)["rows"]
    return {
        "network": load_checkpoint(checkpoint).model.network_name,
        "parameters": measured[0]["parameters"],
        "chunk_ms": {str(row["steps"]): row["ms_p50"] for row in measured},
    }


@contextmanager
def in_process(selection: Selection, loaded: Loaded, control_steps: int) -> Iterator[Reach]:
    """Lockstep in this process."""
    from flow_policy_ros.evaluation.closed_loop import run_episode
    from flow_policy_ros.sim.robot import AdroitRobot

    robot = AdroitRobot(selection.task, loaded.robot)

    def reach(instruction: str, seed: int, episode: int) -> str | None:
        robot.instruct(instruction)
        return run_episode(robot, loaded.stack, seed, episode, control_steps).goal_reached or None

    yield reach
    robot.close()


@contextmanager
def through_nodes(selection: Selection, loaded: Loaded, control_steps: int) -> Iterator[Reach]:
    """The same through the nodes: the simulator's publishes the instruction, the policy's hears it."""
    from flow_policy_ros.cli.over_ros import node_specs
    from flow_policy_ros.resources import share
    from flow_policy_ros.ros.conductor import Conductor

    with Conductor(loaded.robot, node_specs(selection, loaded, False), False, share() / "config" / "fastdds.xml") as conductor:

        def reach(instruction: str, seed: int, episode: int) -> str | None:
            return conductor.run(seed, episode, control_steps, instruction=instruction).status.goal_reached or None

        yield reach
