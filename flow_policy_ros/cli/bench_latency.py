"""``flow_policy bench latency``: success and smoothness over inference delay, per way of executing chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.setup import Loaded

CAPTION = (
    "ms: inference delay. seam, inside, raw: jump of the set-point where chunks meet, elsewhere, and without splicing, mrad "
    "(p95). ratio: acceleration at seams over elsewhere. limited: joint set-points changed. slowed: chunks. held: ticks "
    "without a chunk."
)
NAIVE = "naive"
"""The opponent, ``evaluation.naive_executor``: no mode of the policy, and no safety stage."""


@dataclass(frozen=True)
class Arguments:
    """Success and smoothness over injected inference delay, for each mode and for a naive executor in the same episodes.

    naive plays the newest chunk as it is and jumps at the seams, as other runners do: positions clipped, nothing else limited.
    The table is on standard error, JSON with more figures on standard output.
    """

    task: Literal["door", "hammer", "pen", "relocate"] = "door"
    """Which Adroit task; state observation."""
    delays: str = "0,4,8,16,20"
    """Injected inference delay, in control steps of 10 ms, separated by commas."""
    checkpoint: Path | None = None
    """Checkpoint folder with the state observation; default: the shipped one. rtc_trained needs one trained with --prefix."""
    modes: tuple[Literal["naive", "receding", "ensemble", "rtc", "rtc_identity", "rtc_trained"], ...] = (
        "naive", "receding", "ensemble", "rtc", "rtc_identity", "rtc_trained",
    )  # fmt: skip
    """Ways of executing chunks."""
    episodes: int = 20
    """Episodes per row."""
    seed: int = 5000
    """Seed of the first episode, and of the policy's noise."""
    steps: int = 10
    """Solver steps per chunk."""
    control_steps: int = 200
    """Control steps (10 ms) per episode."""
    jobs: int = 1
    """Rows run at the same time, each in a process of its own."""
    json: Path | None = None
    """Write the figures to this file as well; rows that it has already are kept and not run again."""
    plot: Path | None = None
    """Draw the rows: .html to explore, .svg for documents."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro
    from rich.console import Console

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file
    from flow_policy_ros.evaluation.latency_plot import WRITERS, write_plot

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench latency")
    require_file("--json", arguments.json)
    require_file("--plot", arguments.plot)
    if arguments.plot is not None and arguments.plot.suffix not in WRITERS:
        raise ValueError(f"--plot {arguments.plot}: expected a name that ends in {' or '.join(WRITERS)}.")
    require_positive(("--episodes", arguments.episodes), ("--jobs", arguments.jobs), ("--steps", arguments.steps))
    require_positive(("--control-steps", arguments.control_steps))
    rows = measure(arguments)
    Console(stderr=True).print(table(rows))
    print_json({"rows": rows}, arguments.json)
    if arguments.plot is not None:
        write_plot(arguments.plot, rows, f"{arguments.task}: execution of chunks under inference delay")
    return 0


def delays_of(text: str) -> list[int]:
    """Control steps, ascending. Raises ``ValueError``."""
    try:
        delays = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ValueError(f"--delays '{text}' holds what is no whole number, expected control steps such as 0,4,8.") from error
    if delays[0] < 0 or delays[-1] > 1000:
        raise ValueError(f"--delays '{text}': expected control steps from 0 to 1000.")
    return delays


def measure(arguments: Arguments) -> list[dict[str, Any]]:
    """The rows asked for (see ``run``), in the order of modes and delays."""
    from rich.console import Console
    from rich.progress import track

    checkpoint = str(arguments.checkpoint or f"adroit_{arguments.task}_state")
    weights = fingerprint(checkpoint)
    wanted = [
        {
            "task": arguments.task, "checkpoint": checkpoint, "weights": weights, "mode": mode, "delay_steps": delay,
            "episodes": arguments.episodes, "seed": arguments.seed, "steps": arguments.steps,
            "control_steps": arguments.control_steps,
        }
        for mode in dict.fromkeys(arguments.modes) for delay in delays_of(arguments.delays)
    ]  # fmt: skip
    kept = rows_of(arguments.json)
    missing = [row for row in wanted if _found(row, kept) is None]
    for mode in dict.fromkeys(row["mode"] for row in missing):
        prepare(next(row for row in missing if row["mode"] == mode))  # what cannot run is refused before anything runs
    title, console = f"{arguments.task}, {arguments.episodes} episodes a row", Console(stderr=True)
    for row in track(_ran(missing, arguments.jobs), title, total=len(missing), console=console, disable=not missing):
        kept.append(row)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps({"rows": kept}, indent=1) + "\n")
    return [row for row in (_found(identity, kept) for identity in wanted) if row is not None]


def fingerprint(checkpoint: str) -> str:
    """Of the weights, so that rows of another training under the same name are not kept; empty where there are none."""
    import hashlib

    from flow_policy_ros import resources

    weights = resources.checkpoint(checkpoint) / "model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else ""


def _ran(rows: Sequence[dict[str, Any]], jobs: int) -> Iterator[dict[str, Any]]:
    """Each row with its figures, as they get done."""
    if jobs == 1:
        yield from map(run, rows)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, row) for row in rows]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:  # after an error or an interrupt, what has not begun does not begin
            pool.shutdown(cancel_futures=True)


def rows_of(file: Path | None) -> list[dict[str, Any]]:
    """The rows of an earlier run; none without a file. Raises ``ValueError`` for a file of something else."""
    if file is None or not file.is_file():
        return []
    try:
        rows = list(json.loads(file.read_text())["rows"])
        return [row for row in rows if row["delay_ms"] >= 0]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--json {file} holds no rows of this benchmark ({error!r}); give another file.") from error


def _found(identity: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return next((row for row in rows if identity.items() <= row.items()), None)


def prepare(row: dict[str, Any]) -> Loaded:
    """The objects of a row. Raises ``ValueError``-derived errors for what the checkpoint cannot do."""
    from dataclasses import replace

    from flow_policy_ros.evaluation.naive_executor import NaiveExecutor
    from flow_policy_ros.evaluation.setup import load, select
    from flow_policy_ros.runtime.inject import Injection
    from flow_policy_ros.sim.robot import CONTROL_STEP_NS

    delay_s = row["delay_steps"] * CONTROL_STEP_NS / 1e9
    naive = row["mode"] == NAIVE
    checkpoint = Path(row["checkpoint"])
    selection = select(row["task"], "state", checkpoint, None, None, steps=row["steps"], policy_seed=row["seed"])
    selection = replace(selection, mode="receding" if naive else row["mode"], injection=Injection(delay=(delay_s, delay_s)))
    loaded = load(selection, "none")
    if naive:
        loaded = replace(loaded, stack=replace(loaded.stack, command=NaiveExecutor(loaded.robot)))
    return loaded


def run(row: dict[str, Any]) -> dict[str, Any]:
    """``row`` with its figures: success, ``seam`` (``evaluation.seams.SeamFigures``), limits that acted, sha256 of the motion.

    ``slowed_share``: of the chunks followed, those slowed down. ``held_share``: of the ticks after the first set-point of a
    chunk, those without a chunk to follow.
    """
    import time

    import torch

    from flow_policy_ros.evaluation.closed_loop import run_episode
    from flow_policy_ros.evaluation.seams import SeamObserver, SeamSamples
    from flow_policy_ros.evaluation.summary import summarise
    from flow_policy_ros.sim.robot import CONTROL_STEP_NS, AdroitRobot

    torch.set_num_threads(1)
    loaded = prepare(row)
    robot = AdroitRobot(row["task"], loaded.robot)
    begin = time.monotonic()
    outcomes, samples, delays = [], [], []
    for i in range(row["episodes"]):
        observer = SeamObserver()
        outcome = run_episode(robot, loaded.stack, row["seed"] + i, i, row["control_steps"], observer)
        outcomes.append(outcome)
        samples.append(observer.samples(outcome.commands, CONTROL_STEP_NS / 1e9, loaded.robot.limits.acceleration))
        delays += observer.delays
    robot.close()
    summary = summarise(outcomes, loaded, time.monotonic() - begin, row["seed"])
    statistics = outcomes[-1].statistics
    return row | {
        "delay_ms": row["delay_steps"] * CONTROL_STEP_NS / 1e6,
        "successes": summary["successes"],
        "success_rate": summary["success_rate"],
        "strict_success_rate": summary["strict_success_rate"],
        "seam": SeamSamples.pool(samples).figures().to_json(),
        "interventions": {kind: sum(joints.values()) for kind, joints in summary["interventions"].items()},
        "joint_intervention_rate": summary["joint_intervention_rate"],
        "slowed_share": statistics.chunks_slowed / statistics.chunks if statistics.chunks else 0.0,
        "held_share": held_share([outcome.states for outcome in outcomes]),
        "consumed_delay_ms": max(delays, default=0) / 1e6,
        "chunks": summary["chunks"],
        "stale": summary["stale"],
        "faults": summary["faults"],
        "rejections": summary["rejections"],
        "trajectory_sha256": summary["trajectory_sha256"],
        "wall_s": summary["wall_s"],
    }


def held_share(episodes: Sequence[Sequence[str]]) -> float:
    """Of the ticks from the first ACTIVE one on, those that are not."""
    later = [state for states in episodes if "ACTIVE" in states for state in states[states.index("ACTIVE") :]]
    return sum(state != "ACTIVE" for state in later) / max(1, len(later))


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows for people, a ``rich`` table."""
    from rich.table import Table

    def milli(value: float | None) -> str:
        return "–" if value is None else f"{1e3 * value:.1f}"

    shown = Table(title=CAPTION, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("mode", no_wrap=True)
    for name in ("ms", "success", "seam", "inside", "raw", "ratio", "limited", "slowed", "held", "faults"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        seam = row["seam"]
        ratio = seam["acceleration_ratio"]
        shown.add_row(
            row["mode"], f"{row['delay_ms']:g}", f"{row['successes']}/{row['episodes']}",
            milli(seam["position_seam"]["p95"]), milli(seam["position_inside"]["p95"]), milli(seam["takeover"]["p95"]),
            "–" if ratio is None else f"{ratio:.2f}", f"{row['joint_intervention_rate']:.1%}", f"{row['slowed_share']:.0%}",
            f"{row['held_share']:.0%}", str(sum(row["faults"].values())),
        )  # fmt: skip
    return shown
