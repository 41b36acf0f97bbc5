"""How fast recordings are replayed, several at a time, and whether memory grows with their length. Made for ``bench replay``.

Each measurement has processes of its own, so that none sees what another one loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, TypeVar

import torch

from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.inspection import inspect_bag
from flow_policy_ros.data.lerobot.convert import Conversion, convert
from flow_policy_ros.data.lerobot.sources import BAG_FPS, Rules, find_units
from flow_policy_ros.evaluation.bench_bags import bytes_of
from flow_policy_ros.evaluation.replay.cost import stage_costs
from flow_policy_ros.evaluation.replay.run import REFUSED, Job, duration_of, prepare, run_job
from flow_policy_ros.evaluation.replay.stack import ReplayError
from flow_policy_ros.evaluation.resident import Resident
from flow_policy_ros.runtime.realtime import resident_mb
from flow_policy_ros.vision.decode import decode

Given = TypeVar("Given")

TOGETHER_S = 600.0
"""So long processes wait for each other, at most: they load the same things."""
_together: Any = None  # in a process of a measurement: where they wait for each other


def alone(step: Callable[..., Given], *arguments: Any) -> Given:
    """What ``step`` gives in a new process of one thread."""
    return in_processes(step, [arguments])[0]


def in_processes(step: Callable[..., Given], calls: Sequence[tuple[Any, ...]]) -> list[Given]:
    """What ``step`` gives for each of ``calls``, each in a process of one thread; ``wait_for_others`` lets them begin as one."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(len(calls))
    with ProcessPoolExecutor(len(calls), mp_context=context, initializer=_begin, initargs=(together,)) as pool:
        futures = [pool.submit(step, *call) for call in calls]
        return [future.result() for future in futures]


def _begin(together: Any) -> None:
    global _together
    _together = together
    torch.set_num_threads(1)


def wait_for_others() -> None:
    """Until every process of the measurement is here. Raises ``ReplayError`` when one of them never comes."""
    try:
        _together.wait(TOGETHER_S)
    except BrokenBarrierError as error:
        raise ReplayError("another process of the measurement did not start.") from error


def measure(jobs: Sequence[Job]) -> dict[str, Any]:
    """``jobs``, all at the same time in a process each.

    ``bag_s`` of all recordings together, ``wall_s`` from the common start to the last report, ``realtime_factor`` of both,
    ``cpu_s`` of all processes in that time; ``start_s`` to load programs and networks before it; ``resident_mb_start`` and
    ``resident_mb_end`` of one process; ``verdict``, ``commands_sha256`` and ``ticks`` of the first, and its ``stages``
    (``cost.stage_costs``), measured in another run, alone. Raises ``ReplayError`` for a refused recording.
    """
    begun = time.monotonic()
    done = in_processes(_one, [(job,) for job in jobs])
    wall = max(one["end"] for one in done) - min(one["begin"] for one in done)
    seconds = sum(one["figures"]["duration_s"] for one in done)
    first = done[0]["figures"]
    return {
        "bag_s": round(seconds, 2), "wall_s": round(wall, 3), "realtime_factor": round(seconds / wall, 2),
        "cpu_s": round(sum(one["cpu_s"] for one in done), 3), "start_s": round(min(one["begin"] for one in done) - begun, 2),
        "resident_mb_start": round(done[0]["resident"][0], 1), "resident_mb_end": round(done[0]["resident"][1], 1),
        "verdict": first["verdict"], "ticks": first["ticks"], "commands_sha256": first["commands_sha256"],
        "stages": {name: round(value, 3) for name, value in alone(stage_costs, jobs[0]).items()},
    }  # fmt: skip


def _one(job: Job) -> dict[str, Any]:
    """A job in this process: figures, instants of begin and end (s, the machine's clock), resident MB before and after."""
    for _, selection in job.variants:
        prepare(selection)
    before = resident_mb(os.getpid())
    wait_for_others()
    begin, cpu = time.monotonic(), time.process_time()
    figures = run_job(job)
    end, cpu = time.monotonic(), time.process_time() - cpu
    if REFUSED in figures:
        raise ReplayError(figures[REFUSED])
    return {"figures": figures, "begin": begin, "end": end, "cpu_s": cpu, "resident": (before, resident_mb(os.getpid()))}


def replay_memory(job: Job) -> dict[str, Any]:
    """Resident memory while ``job`` is done in this process (see ``Resident``), ``wall_s``, ``bag_s`` and ``realtime_factor``."""
    for _, selection in job.variants:
        prepare(selection)
    length, gone = max(duration_of(job), 1e-9), 0.0
    resident = Resident(bytes_of(job.bag) / 1e9)

    def tell(seconds: float) -> None:
        nonlocal gone
        gone += seconds
        resident.at(gone / length)

    begun = time.monotonic()
    figures = run_job(replace(job), tell)
    if REFUSED in figures:
        raise ReplayError(figures[REFUSED])
    wall = time.monotonic() - begun
    return {"wall_s": round(wall, 1), "bag_s": round(length, 1), "realtime_factor": round(length / wall, 2), **resident.result()}


def inspect_memory(bag: Path) -> dict[str, Any]:
    """The same while ``bag`` is inspected in this process."""
    resident, begun, opened = Resident(bytes_of(bag) / 1e9), time.monotonic(), open_bag(bag)
    inspect_bag(opened, decode, resident.at)
    opened.close()
    return {"wall_s": round(time.monotonic() - begun, 1), **resident.result()}


def convert_memory(bag: Path, out: Path, robot: Path) -> dict[str, Any]:
    """The same while ``bag`` is converted to a LeRobot dataset in the new folder ``out``."""
    resident, begun = Resident(bytes_of(bag) / 1e9), time.monotonic()
    wanted = Conversion(robot, out, "lerobot-v3", Rules(BAG_FPS))
    convert(find_units([bag]), wanted, decode, lambda done, everything: resident.at(done / everything))
    return {"wall_s": round(time.monotonic() - begun, 1), **resident.result()}
