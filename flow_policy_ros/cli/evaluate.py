"""``flow_policy evaluate``: closed-loop success in the simulator, in lockstep, seeded and deterministic."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.record import EpisodeRecord
    from flow_policy_ros.evaluation.setup import Selection
    from flow_policy_ros.runtime.robot import Robot

HELP = "closed-loop success in the simulator, headless, seeded, deterministic"


@dataclass(frozen=True)
class Arguments:
    """Closed-loop success in the simulator, headless, seeded, deterministic.

    Exit code 0: ran; 1: ran, and the policy stopped on bad input or the guard reported a fault; 2: refused.
    """

    task: Literal["door", "hammer", "pen", "relocate", "relocate_goals"] = "door"
    """Which Adroit task."""
    observation: Literal["camera", "state"] | None = None
    """camera: joint positions and detections; state: joint positions and the simulator's object state. Default: camera, for
    relocate_goals state."""
    instruction: str = ""
    """What the robot is to do, in words, for checkpoints that read an instruction. relocate_goals: which goal counts as success;
    empty: the goals in turn, in phrasings drawn by seed."""
    episodes: int = 50
    """How many episodes; episode i resets the simulator with seed + i."""
    seed: int = 5000
    """Seed of the first episode, and of the policy's noise."""
    checkpoint: Path | None = None
    """Checkpoint folder; default: the shipped one for task and observation."""
    detector: Path | None = None
    """Detector folder; default: the shipped one for the task."""
    robot: Path | None = None
    """Robot file; default config/robots/adroit_<task>.yaml."""
    steps: int = 10
    """Solver steps per chunk."""
    solver: Literal["", "euler", "midpoint", "heun", "rk4", "rk45"] = ""
    """Integrator; empty for the checkpoint's own."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; other than 1 needs a checkpoint trained with --condition-dropout."""
    deadline_ms: float = 0.0
    """As many solver steps as fit this time (ms), measured at start, and no more than --steps; 0 for no deadline."""
    mode: Literal["receding", "ensemble", "rtc", "rtc_identity", "rtc_trained"] = "receding"
    """How chunks follow each other: the newest replaces, predictions are averaged, or real-time chunking (exact, without
    gradients, or as trained with --prefix)."""
    latency: str = "measured"
    """Injected perception and inference delay: measured (on this machine, once, and kept in ~/.cache/flow_policy_ros),
    remeasure (now again: if it was busy then), none, or a profile's path."""
    inject: str = ""
    """Disturbances, separated by commas: delay=0.2 (s, of inference), delay=0.02..0.08 (evenly between), spike=0.3@0.05 (s at a
    probability), drop-chunks=0.1, drop-frames=0.2 (probabilities); drawn by seed, so that a run repeats."""
    limit_scale: float = 1.0
    """Factor on the robot file's velocity, acceleration and jerk limits, 0.01 to 10; with --ros at most 1, as on a robot."""
    control_steps: int = 200
    """Control steps (10 ms) per episode."""
    ros: bool = False
    """Run the same through the ROS nodes, as processes over DDS."""
    out: Path | None = None
    """Folder for a report with video; pictures are kept only with it or with --bag."""
    bag: Path | None = None
    """Folder for one rosbag2 (MCAP) per episode: camera, joint states, object state, set-points, chunks."""
    json: Path | None = None
    """Write the figures to this file."""


def main(argv: list[str]) -> int:
    """Returns the exit code; bad input raises ``ValueError``-derived errors with the remedy."""
    import tyro

    return evaluate(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy evaluate"))


def evaluate(arguments: Arguments) -> int:
    """Run the episodes, print the table, write what was asked for."""
    from rich.console import Console

    from flow_policy_ros.cli.outputs import make_folder, require_file
    from flow_policy_ros.evaluation.setup import default_observation, select
    from flow_policy_ros.evaluation.summary import print_summary
    from flow_policy_ros.runtime.inject import Injection
    from flow_policy_ros.runtime.parameters import ParameterError, SimParameters, check

    if arguments.episodes < 1:
        raise ParameterError(f"--episodes is {arguments.episodes}, expected 1 or more.")
    check(SimParameters, "steps", arguments.control_steps, "--control-")
    require_file("--json", arguments.json)
    make_folder("--out", arguments.out)
    make_folder("--bag", arguments.bag)
    observation = arguments.observation or default_observation(arguments.task)
    selection = select(
        arguments.task, observation, arguments.checkpoint, arguments.detector, arguments.robot,
        steps=arguments.steps, policy_seed=arguments.seed, limit_scale=arguments.limit_scale,
    )
    selection = replace(
        selection, solver=arguments.solver, guidance_scale=arguments.guidance, deadline_s=arguments.deadline_ms * 1e-3,
        mode=arguments.mode, injection=Injection.parse(arguments.inject), instruction=arguments.instruction,
    )
    start = time.monotonic()
    summary = (over_ros if arguments.ros else in_process)(arguments, selection, start)
    summary = {"task": arguments.task, "observation": observation, "steps": arguments.steps, "mode": arguments.mode,
               "inject": str(selection.injection), "limit_scale": arguments.limit_scale, **summary}
    print_summary(Console(), summary)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if summary["faults"] else 0


def in_process(arguments: Arguments, selection: Selection, start: float) -> dict[str, Any]:
    """Lockstep in this process."""
    from rich.progress import track

    from flow_policy_ros.evaluation.closed_loop import run_episode
    from flow_policy_ros.evaluation.instructed import ask
    from flow_policy_ros.evaluation.record import Recorder
    from flow_policy_ros.evaluation.setup import load
    from flow_policy_ros.evaluation.summary import summarise
    from flow_policy_ros.sim.robot import AdroitRobot
    from flow_policy_ros.sim.tasks import TASKS

    loaded = load(selection, arguments.latency)
    robot = AdroitRobot(arguments.task, loaded.robot)
    outcomes, records = [], []
    for i in track(range(arguments.episodes), description=f"{arguments.task}, {selection.checkpoint.name}"):
        recorder = Recorder(robot) if arguments.out is not None or arguments.bag is not None else None
        ask(robot, arguments.instruction, arguments.seed + i)
        result = run_episode(robot, loaded.stack, arguments.seed + i, i, arguments.control_steps, recorder)
        outcomes.append(result)
        if recorder is not None:
            records.append(recorder.record(result))
    strict = TASKS[arguments.task].strict_steps
    summary = summarise(outcomes, loaded, wall_s=time.monotonic() - start, seed=arguments.seed, strict_steps=strict)
    keep(arguments, records, summary, loaded.robot)
    return summary


def over_ros(arguments: Arguments, selection: Selection, start: float) -> dict[str, Any]:
    """The same episodes through the nodes, in lockstep over DDS."""
    from flow_policy_ros.cli.over_ros import run_over_ros
    from flow_policy_ros.evaluation.limit_scale import refuse_on_a_robot
    from flow_policy_ros.evaluation.setup import load
    from flow_policy_ros.evaluation.summary import summarise
    from flow_policy_ros.sim.tasks import TASKS

    refuse_on_a_robot(selection.limit_scale)
    loaded = load(selection, arguments.latency)
    run = run_over_ros(selection, loaded, arguments.episodes, arguments.seed, arguments.control_steps)
    strict = TASKS[arguments.task].strict_steps
    summary = summarise(run.outcomes, loaded, time.monotonic() - start, arguments.seed, False, run.reported, strict)
    keep(arguments, run.records, summary, loaded.robot)
    return summary


def keep(arguments: Arguments, records: list[EpisodeRecord], summary: dict[str, Any], robot: Robot) -> None:
    """Write the report and the bags that were asked for."""
    if arguments.out is not None:
        from flow_policy_ros.evaluation.report import write_report

        print(write_report(arguments.out, records, summary))
    if arguments.bag is not None:
        from flow_policy_ros.evaluation.bag import write_bag

        arguments.bag.mkdir(parents=True, exist_ok=True)
        for record in records:
            write_bag(arguments.bag / f"seed_{record.seed}", record, arguments.task, robot)
        print(arguments.bag)
