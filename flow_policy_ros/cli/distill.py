"""``flow_policy distill``: a trained policy in, a one-step policy and a report on it out."""

# No postponed annotations here: tyro could not resolve those of a class that is local to a function.
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from flow_policy_ros.training.config import DistillConfig
    from flow_policy_ros.training.distill import Teacher

HELP = "distil a policy to one solver step (reflow)"
REPORT = "distillation.json"


def main(argv: list[str]) -> int:
    """Returns 0, or 1 when a parity gate failed or Ctrl-C or --stop-at ended it early. Raises as ``distill`` for bad input."""
    import tyro

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.training.config import DistillConfig
    from flow_policy_ros.training.distill import distill
    from flow_policy_ros.training.gates import GateError

    @dataclass(frozen=True)
    class Arguments:
        """Distil a trained policy until one solver step is enough, and report how well it went."""

        config: Annotated[DistillConfig, tyro.conf.arg(name="")]
        task: Literal["", "door", "hammer", "pen", "relocate"] = ""
        """Measure success on this task with the state observation, student at 1, 2, 4 and 10 steps and teacher."""
        episodes: int = 50
        """Episodes per number of steps, with --task."""
        first_seed: int = 5000
        """Seed of the first episode, with --task."""
        json: Path | None = None
        """Write steps, samples_per_s, loss, validation, checkpoint, gates and the report to this file."""

    arguments = tyro.cli(Arguments, args=argv, prog="flow_policy distill")
    require_file("--json", arguments.json)
    if arguments.task:
        require_measurable(arguments.config, arguments.task, arguments.episodes, arguments.first_seed)
    try:
        distilled = distill(arguments.config, shlex.join(["flow_policy", "distill", *argv]))
    except GateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures: dict[str, Any] = {"gates": [asdict(gate) for gate in distilled.gates]}
    if distilled.result is not None:
        figures |= asdict(distilled.result) | {"finished": distilled.finished}
    if distilled.finished:
        figures["report"] = figures_of(arguments.config, distilled.teacher)
        if arguments.task:
            figures["success"] = success_of(arguments.config, arguments.task, arguments.episodes, arguments.first_seed)
        text = json.dumps(figures, indent=2) + "\n"
        (arguments.config.out / REPORT).write_text(text)
        show(figures, arguments.config.out)
    else:
        print("ended early; the same command with --resume goes on there", file=sys.stderr)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if distilled.finished else 1


def require_measurable(config: "DistillConfig", task: str, episodes: int, seed: int) -> None:
    """Raises ``ValueError``-derived errors where ``success_of`` could not run, before hours of training and not after them."""
    from flow_policy_ros.evaluation.setup import load, select
    from flow_policy_ros.policy.checkpoint import load_checkpoint

    if episodes < 1:
        raise ValueError(f"--episodes is {episodes}, expected at least 1; leave --task out to measure no success.")
    if seed < 0:
        raise ValueError(f"--first-seed is {seed}, expected at least 0.")
    codecs = load_checkpoint(config.teacher).codecs
    if any(stream.name == "detections" for codec in codecs for stream in codec.contract.streams):
        raise ValueError(
            f"--task measures with the state observation, but teacher {config.teacher} observes 'detections'; leave --task out, "
            "and measure teacher and student with 'flow_policy evaluate'."
        )
    load(select(task, "state", config.teacher, None, None, steps=config.teacher_steps, policy_seed=seed), "none")


def figures_of(config: "DistillConfig", teacher: "Teacher") -> dict[str, Any]:
    """The report on the finished student, with chunk latencies."""
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.training.distill import DEPLOYED_STEPS
    from flow_policy_ros.training.distill_report import chunk_latency_ms, report

    robot = teacher.checkpoint.codecs[0].contract.robot
    student = FlowPolicy.load(config.out, robot=robot)
    figures = report(teacher, student.model, config.teacher_steps)
    counted = [(FlowPolicy.load(config.teacher, robot=robot), config.teacher_steps)]
    measured = chunk_latency_ms(counted + [(student, steps) for steps in DEPLOYED_STEPS])
    figures["latency_ms"] = {"teacher": measured[0]} | dict(zip(map(str, DEPLOYED_STEPS), measured[1:], strict=True))
    figures["latency_ratio"] = measured[0] / measured[1]
    return figures


def success_of(config: "DistillConfig", task: str, episodes: int, seed: int) -> dict[str, Any]:
    """Closed-loop successes of teacher and student, with the delay of each measured and injected."""
    from rich.progress import track

    from flow_policy_ros.evaluation.closed_loop import run_episode
    from flow_policy_ros.evaluation.setup import load, select
    from flow_policy_ros.sim.robot import AdroitRobot
    from flow_policy_ros.training.distill import DEPLOYED_STEPS

    runs = [("teacher", config.teacher, config.teacher_steps)]
    runs += [(str(steps), config.out, steps) for steps in DEPLOYED_STEPS]
    successes = {}
    for name, checkpoint, steps in runs:
        loaded = load(select(task, "state", checkpoint, None, None, steps=steps, policy_seed=seed), "measured")
        robot = AdroitRobot(task, loaded.robot)
        which = "teacher" if name == "teacher" else f"student, {steps} steps"
        numbers = track(range(episodes), description=f"{task}, {which}")
        successes[name] = sum(run_episode(robot, loaded.stack, seed + i, i, 200).success for i in numbers)
    return {"task": task, "episodes": episodes, "seed": seed, "successes": successes}


def show(figures: dict[str, Any], out: Path) -> None:
    """The report as a table."""
    from rich.console import Console
    from rich.table import Table

    report, success = figures["report"], figures.get("success")
    columns = ["teacher", *report["chunk_error"]]
    table = Table("", *(name if name == "teacher" else f"student, {name} steps" for name in columns), title=str(out))
    table.add_row("chunk error, rad or m", *(f"{report['chunk_error'].get(name, 0.0):.4f}" for name in columns))
    table.add_row("coverage of the teacher", *(f"{report['coverage'][name]:.3f}" for name in columns))
    table.add_row("chunk latency, ms", *(f"{report['latency_ms'][name]:.2f}" for name in columns))
    if success:
        table.add_row(
            f"success, {success['task']}", *(f"{success['successes'][name]} of {success['episodes']}" for name in columns)
        )
    console = Console()
    console.print(table)
    bent = report["straightness"]
    console.print(
        f"straightness (0 is straight): teacher {bent['teacher']:.4f}, student {bent['student']:.4f}; one step of the student is "
        f"{report['latency_ratio']:.1f} times as fast as the teacher; {len(figures['gates'])} parity gates passed"
    )
