"""``flow_policy bench replay``: how many times as fast as real time recordings are replayed, and whether memory stays flat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.replay.run import Job

Row = Literal["states", "states alone", "states one step", "states exported", "camera"]
ROWS: tuple[Row, ...] = ("states", "states alone", "states one step", "states exported", "camera")
SAMPLE = "samples/adroit_door/seed_5000"


@dataclass(frozen=True)
class Arguments:
    """Replay recordings that were made long by repetition: joint states, object state and commands at 100 Hz of the simulated
    robot (states), and the camera sample (camera)."""

    seconds: float = 60.0
    """Length of each recording, at least, s."""
    batch: int = 64
    """Chunks sampled together in the rows of states but "states alone"; there, and of the camera, one by one, as on a robot."""
    jobs: int = 2
    """Recordings of states at a time, each in a process of one thread; the camera's is one."""
    rows: tuple[Row, ...] = ROWS
    """What to measure."""
    memory_gb: float = 0.0
    """Also go through recordings of at least this size (10^9 bytes), one of states and one with raw images, and look at resident
    memory in replay, inspect and convert; 0: not."""
    task: Literal["door", "pen", "hammer", "relocate"] = "door"
    """Task of the simulated robot whose shipped state policy is used."""
    json: Path | None = None
    """Write the figures to this file as well."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import math

    import tyro

    from flow_policy_ros.cli.bench import require_positive
    from flow_policy_ros.cli.outputs import print_json, require_file

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy bench replay")
    require_file("--json", arguments.json)
    require_positive(("--batch", arguments.batch), ("--jobs", arguments.jobs))
    if not (math.isfinite(arguments.seconds) and arguments.seconds >= 1.0):
        raise ValueError(f"--seconds is {arguments.seconds}, expected at least 1.")
    if not 0.0 <= arguments.memory_gb <= 100.0:
        raise ValueError(f"--memory-gb is {arguments.memory_gb}, expected 0 to 100.")
    print_json(measure(arguments), arguments.json)
    return 0


def measure(arguments: Arguments) -> dict[str, Any]:
    """``rows`` (``evaluation.replay.speed.measure``, with name, policy, steps, batch and jobs); ``memory``: rows of name, kind of
    recording, its ``gb``, and resident memory (``evaluation.resident``)."""
    import shutil
    import tempfile

    from flow_policy_ros.evaluation.bench_bags import long_bag, record_states, with_raw_images

    with tempfile.TemporaryDirectory(prefix="flow_policy_bench_") as name:
        folder = Path(name)
        short: dict[str, Path] = {}
        if arguments.memory_gb or set(arguments.rows) - {"camera"}:
            short["states"] = record_states(folder / "episode", arguments.task)
        if arguments.memory_gb or "camera" in arguments.rows:
            short["camera"] = sample()
        long = {kind: long_bag(bag, folder / f"{kind}_long", arguments.seconds) for kind, bag in short.items()}
        rows = [told(row(wanted, arguments, long, folder)) for wanted in dict.fromkeys(arguments.rows)]
        memory: list[dict[str, Any]] = []
        if arguments.memory_gb:
            short["images"] = with_raw_images(short["camera"], folder / "raw")
            for kind in ("states", "images"):
                bag = long_bag(short[kind], folder / f"{kind}_gb", size=round(arguments.memory_gb * 1e9), compression="none")
                memory += resident_rows(kind, bag, arguments, folder)
                shutil.rmtree(bag)
    return {"rows": rows, "memory": memory}


def sample() -> Path:
    """The recording with a camera that ships. Raises ``ValueError`` where it does not."""
    from flow_policy_ros import resources

    path = resources.share() / SAMPLE
    if not path.is_dir():
        raise ValueError(f"the sample recording {path} is not there; run this in the source tree, or with --rows states.")
    return path


def row(name: Row, arguments: Arguments, long: dict[str, Path], folder: Path) -> dict[str, Any]:
    """One measurement."""
    from flow_policy_ros.evaluation.replay.speed import measure as measured

    kind = "camera" if name == "camera" else "states"
    batch = arguments.batch if name in ("states", "states one step", "states exported") else 1
    jobs = 1 if kind == "camera" else arguments.jobs
    made = [job_of(kind, long[kind], folder / f"{name}_{k}", arguments, batch, 1 if name == "states one step" else None)
            for k in range(jobs)]  # fmt: skip
    if name == "states exported":
        made = with_graphs(made, folder)
    _, selection = made[0].variants[0]
    said = {"name": name, "policy": selection.checkpoint.name, "steps": selection.settings.get("policy.steps", "robot file"),
            "batch": batch, "jobs": jobs}  # fmt: skip
    return said | measured(made)


def job_of(kind: str, bag: Path, out: Path, arguments: Arguments, batch: int, steps: int | None = None) -> Job:
    """A replay by the policy that ships for the task, without injected delay."""
    from flow_policy_ros import resources
    from flow_policy_ros.evaluation.replay.run import Job
    from flow_policy_ros.evaluation.replay.stack import ReplaySelection

    task = arguments.task if kind == "states" else "door"
    selection = ReplaySelection(
        resources.robot_file(f"adroit_{task}"), resources.checkpoint(f"adroit_{task}_{'state' if kind == 'states' else 'camera'}"),
        settings={} if steps is None else {"policy.steps": steps}, batch=batch,
    )  # fmt: skip
    return Job(bag, out, ((selection.checkpoint.name, selection),))


def with_graphs(jobs: list[Job], folder: Path) -> list[Job]:
    """The same, of a copy of the checkpoint with exported graphs, by ONNX Runtime."""
    import shutil
    from dataclasses import replace

    from flow_policy_ros.policy.graphs import write_graphs

    (label, selection), *_ = jobs[0].variants
    copy = folder / selection.checkpoint.name
    shutil.copytree(selection.checkpoint, copy)
    write_graphs(copy)
    selection = replace(selection, checkpoint=copy, settings={**selection.settings, "policy.backend": "onnx"})
    return [replace(job, variants=((label, selection),)) for job in jobs]


def resident_rows(kind: str, bag: Path, arguments: Arguments, folder: Path) -> list[dict[str, Any]]:
    """Memory in replay, inspect and convert of one recording."""
    from flow_policy_ros.evaluation.bench_bags import bytes_of
    from flow_policy_ros.evaluation.replay.speed import alone, convert_memory, inspect_memory, replay_memory

    job = job_of("states" if kind == "states" else "camera", bag, folder / f"{kind}_replayed", arguments, arguments.batch)
    said = {"recording": kind, "gb": round(bytes_of(bag) / 1e9, 3)}
    robot = job.variants[0][1].robot
    return [
        told({"name": "inspect", **said, **alone(inspect_memory, bag)}),
        told({"name": "convert", **said, **alone(convert_memory, bag, folder / f"{kind}_converted", robot)}),
        told({"name": "replay", **said, **alone(replay_memory, job)}),
    ]


def told(row: dict[str, Any]) -> dict[str, Any]:
    """A row, said at once to people who wait: all of them may take long."""
    import sys

    print(", ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, dict)), file=sys.stderr, flush=True)
    return row
