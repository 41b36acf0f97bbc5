"""``flow_policy replay``: recordings through the code that runs on the robot, and a verdict with reasons on each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    import tyro

    from flow_policy_ros.evaluation.replay.index import Row
    from flow_policy_ros.evaluation.replay.pool import Done
    from flow_policy_ros.evaluation.replay.run import Job

HELP = "run a policy over recordings through the code that runs on the robot, and judge it"
COLOURS = {"good": "green", "bad": "red", "unjudged": "bright_black", "refused": "yellow"}
"""Of the words for a verdict."""
PROBLEMS = 6
"""So many problems are printed; metrics.json has them all."""


@dataclass(frozen=True)
class Arguments:
    """Run a policy over recordings through the very code that runs on the robot, and judge whether it may run there.

    Open loop: joint states and images are as they were recorded, whatever the policy commands. Exit code 0: good; 1: a verdict is
    bad, or a recording tells too little for one (unjudged); 2: refused, or one of several recordings was.
    """

    bags: tyro.conf.Positional[tuple[Path, ...]]
    """Recordings: rosbag2 folders, or .mcap, .db3 or .bag files; or folders of them."""
    checkpoint: Path
    """Checkpoint folder, or the name of a shipped one."""
    robot: Path
    """Robot file, or the name of a shipped one."""
    out: Path
    """Folder for metrics.json, replay.mcap and report.html; with several recordings one folder in it for each, and
    report.html lists them. What an older replay left there is removed; other files stay."""
    detector: Path | None = None
    """Detector folder; default: the shipped one for the robot, where the checkpoint observes detections."""
    inject: str = ""
    """Disturbances, separated by commas: delay=120ms±40 (of inference), delay=20ms..80ms, spike=300ms@5%, drop=2% (chunks),
    drop-frames=10%; drawn by seed, so that a run repeats."""
    latency: str = "measured"
    """Injected perception and inference delay: measured (on this machine, once, and kept in
    ~/.cache/flow_policy_ros), remeasure (now again: if it was busy then), none, or a profile's path."""
    mode: Literal["", "receding", "ensemble", "rtc", "rtc_identity", "rtc_trained"] = ""
    """How chunks follow each other, as --set policy.mode; default: as the robot file says."""
    steps: int | None = None
    """Solver steps per chunk, as --set policy.steps; default: as the robot file says."""
    seed: int | None = None
    """Seed of the policy's noise and of what is injected, as --set policy.seed; default: as the robot file says."""
    stamps: Literal["header", "receive"] = "header"
    """Which stamps are an input's: its header's, or, where the clocks of robot and recorder disagree, those of its receipt."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A parameter of the policy, command or perception node, NAME:=VALUE, such as policy.mode:=rtc or safety.scale.GROUP=0.5 (for
    command.group_scale); may be repeated."""
    save_params: Path | None = None
    """Write what was chosen with --set, --mode and --steps as a file that the nodes load: --ros-args --params-file FILE."""
    batch: int = 1
    """So many chunks are sampled together, ahead, which is faster and differs by float rounding; 1: as on the robot."""
    compare: Path | None = None
    """Another checkpoint, replayed on the same recordings and shown beside the first in the report."""
    compare_set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A parameter of the variant beside, on top of --set; may be repeated."""
    jobs: int = 1
    """So many recordings at a time, in processes of their own."""
    ray: str = ""
    """Replay on a Ray cluster: its address, or local; needs the package ray, and the same files on every machine."""
    json: Path | None = None
    """Write the figures to this file too."""


def main(argv: list[str]) -> int:
    """Returns the exit code; bad input raises ``ValueError``-derived errors with the remedy."""
    global tyro  # where the annotations above are looked up
    import tyro

    return replay(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy replay"))


def replay(arguments: Arguments) -> int:
    """Check everything, replay, print what came of it, write what was asked for."""
    from rich.console import Console

    from flow_policy_ros.cli.outputs import make_folder, require_file
    from flow_policy_ros.evaluation.replay.index import index_row, write_index
    from flow_policy_ros.evaluation.replay.run import REFUSED, remove_products, require_apart, worst_verdict, write_json
    from flow_policy_ros.evaluation.replay.stack import ReplayError
    from flow_policy_ros.runtime.parameters import ParameterError

    if not arguments.bags:
        raise ParameterError("no recording is given; give one or more bag folders, or .mcap, .db3 or .bag files.")
    if arguments.jobs < 1:
        raise ParameterError(f"--jobs is {arguments.jobs}, expected 1 or more.")
    require_file("--json", arguments.json)
    require_file("--save-params", arguments.save_params)
    make_folder("--out", arguments.out)
    jobs = make_jobs(arguments)
    require_apart(jobs, arguments.out)
    remove_products(arguments.out)
    results = run(arguments, jobs)
    if len(results) == 1 and REFUSED in results[0][1]:
        raise ReplayError(results[0][1][REFUSED])
    console = Console(soft_wrap=True)
    for job, figures in results:
        tell(console, job, figures)
    summary = results[0][1]
    if len(results) > 1:
        names = [job.out.name for job, _ in results]
        verdict = worst_verdict([figures for _, figures in results])
        reasons = [f"{name}: {reason}" for name, (_, f) in zip(names, results, strict=True) for reason in f.get("reasons", ())]
        summary = {"verdict": verdict, "reasons": reasons, "bags": dict(zip(names, (f for _, f in results), strict=True))}
        rows = [index_row(job.out.name, job.bag, [name for name, _ in job.variants], figures) for job, figures in results]
        tell_table(console, rows)
        print(f"  {write_index(arguments.out / 'report.html', rows, verdict)}")
        write_json(arguments.out / "metrics.json", summary)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
    return {"good": 0, "unjudged": 1, "bad": 1}.get(worst_verdict([figures for _, figures in results]), 2)


def make_jobs(arguments: Arguments) -> list[Job]:
    """The variants, loaded once here so that what is wrong with them is said before anything runs, and one job per recording."""
    from dataclasses import replace

    from flow_policy_ros import resources
    from flow_policy_ros.evaluation.replay.presample import require_batches
    from flow_policy_ros.evaluation.replay.run import Job, prepare
    from flow_policy_ros.evaluation.replay.stack import ReplaySelection
    from flow_policy_ros.runtime.inject import Injection
    from flow_policy_ros.runtime.overlay import parse_settings, write_overlay
    from flow_policy_ros.runtime.parameters import PolicyParameters, from_flat
    from flow_policy_ros.runtime.robot import load_robot

    bags = [bag for path in arguments.bags for bag in bags_of(path)]
    robot = load_robot(resources.robot_file(arguments.robot))
    shortcuts = {"policy.mode": arguments.mode or None, "policy.steps": arguments.steps, "policy.seed": arguments.seed}
    texts = [f"{name}={value}" for name, value in shortcuts.items() if value is not None] + list(arguments.set)
    settings = parse_settings(texts, robot)
    first = ReplaySelection(
        robot=Path(robot.path),
        checkpoint=resources.checkpoint(arguments.checkpoint),
        detector=None if arguments.detector is None else resources.checkpoint(arguments.detector),
        settings=settings,
        injection=Injection.parse(arguments.inject),
        latency=arguments.latency,
        batch=arguments.batch,
    )
    selections = [(str(arguments.checkpoint), first)]
    if arguments.compare is not None or arguments.compare_set:
        other = {**settings, **parse_settings(arguments.compare_set, replace(robot, parameters={**robot.parameters, **settings}))}
        checkpoint = first.checkpoint if arguments.compare is None else resources.checkpoint(arguments.compare)
        name = " ".join([*([] if arguments.compare is None else [str(arguments.compare)]), *arguments.compare_set])
        selections.append((name, replace(first, checkpoint=checkpoint, settings=other)))
    for _, one in selections if arguments.batch > 1 else ():
        require_batches(from_flat(PolicyParameters, "policy", {**robot.parameters, **one.settings}))
    variants = [(name, prepare(one)) for name, one in selections]
    if arguments.save_params is not None:
        kept = {name: value for name, value in settings.items() if name != "policy.seed" or arguments.seed is None}
        write_overlay(arguments.save_params, kept, f"For {robot.name}, on top of its robot file. Written by flow_policy replay.")
    folders = [arguments.out] if len(bags) == 1 else [arguments.out / name for name in names_of(bags)]
    return [Job(bag, out, tuple(variants), arguments.stamps) for bag, out in zip(bags, folders, strict=True)]


def bags_of(path: Path) -> list[Path]:
    """The recording that ``path`` is, or those in the folder; what nothing is known of is left to whoever opens it.

    Raises ``ReplayError`` for datasets and episodes, which have to be converted first.
    """
    from flow_policy_ros.data.bag_recording import bags_in
    from flow_policy_ros.data.lerobot.read import is_dataset
    from flow_policy_ros.evaluation.replay.stack import ReplayError

    found = [] if is_dataset(path) or path.suffix == ".npz" else bags_in(path)
    if not found and (is_dataset(path) or path.suffix == ".npz" or any(path.glob("*.npz"))):
        kind = "a LeRobot dataset" if is_dataset(path) else "made of episodes (.npz)"
        raise ReplayError(
            f"{path} is {kind}, not a recording. Make bags of it first: flow_policy convert {path} --to bag --robot ROBOT --out "
            "BAGS; then replay BAGS."
        )
    return found or [path]


def names_of(bags: Sequence[Path]) -> list[str]:
    """A folder name for each recording; recordings of one name are numbered."""
    names: list[str] = []
    for bag in bags:
        stem = bag.resolve().name if bag.is_dir() else bag.name.partition(".")[0] or bag.name
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return names


def run(arguments: Arguments, jobs: Sequence[Job]) -> list[Done]:
    """Every job, in the order in which they were given, with a bar in seconds of the recordings."""
    from flow_policy_ros.evaluation.replay.pool import run_here, run_in_processes, run_on_ray
    from flow_policy_ros.evaluation.replay.run import duration_of
    from flow_policy_ros.training.progress import ProgressBar

    total = sum(duration_of(job) for job in jobs)
    length = max(1, round(total))
    bar = ProgressBar(length, 0, title="replay", unit="s of recording")
    done = 0.0

    def tell(seconds: float) -> None:
        nonlocal done
        done += seconds
        bar.update(min(round(done), length), f"{done:.0f} of {total:.0f} s")

    processes = min(arguments.jobs, len(jobs))
    results: Iterator[Done]
    if arguments.ray:
        results = run_on_ray(jobs, arguments.ray)
    elif processes > 1:
        results = run_in_processes(jobs, processes, tell)
    else:
        results = run_here(jobs, tell)
    found: dict[int, Done] = {}
    try:
        for job, figures in results:
            found[[id(j) for j in jobs].index(id(job))] = (job, figures)
            if arguments.ray:
                tell(duration_of(job))
        tell(total - done)  # ticks end a little off the recording's end, and what was refused early is done too
    finally:
        bar.close()
    return [found[k] for k in sorted(found)]


def tell(console: Any, job: Job, figures: dict[str, Any]) -> None:
    """A verdict with its reasons, for people."""
    from rich.markup import escape

    from flow_policy_ros.evaluation.replay.run import REFUSED

    if REFUSED in figures:
        console.print(f"[bold]{escape(str(job.bag))}[/]: [yellow]refused[/]: {escape(figures[REFUSED])}")
        return
    variants = [figures, *([figures["compare"]] if "compare" in figures else [])]
    for (name, _), variant in zip(job.variants, variants, strict=True):
        colour = COLOURS[variant["verdict"]]
        head = f"[bold]{escape(str(job.bag))}[/], {escape(name)}: [{colour}]{variant['verdict']}[/]"
        factor = variant.get("realtime_factor") or 0.0
        given = variant["injected_ms"].get("inference")
        delay = "" if given is None else f"; inference given {given['p50']:.0f} ms (99%: {given['p99']:.0f} ms)"
        console.print(f"{head}, {variant['duration_s']:.1f} s at {factor:.1f} × real time{delay}")
        for reason in variant["reasons"]:
            console.print(f"  {escape(reason)}")
        problems = variant["problems"]
        for problem in problems[:PROBLEMS]:
            console.print(f"  [dim]{escape(problem)}[/]")
        if len(problems) > PROBLEMS:
            console.print(f"  [dim]and {len(problems) - PROBLEMS} more, in {escape(str(job.out / 'metrics.json'))}[/]")
    console.print(f"  {escape(str(job.out / 'report.html'))}")


def tell_table(console: Any, rows: Sequence[Row]) -> None:
    """All recordings at a glance."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("recording", "verdict", "failed checks")
    for row in rows:
        for number, (variant, verdict, failed) in enumerate(row.variants):
            word = f"[{COLOURS[verdict]}]{verdict}[/]{escape(f' ({variant})' if variant else '')}"
            table.add_row(escape(row.name) if number == 0 else "", word, escape(failed))
    console.print(table)
