"""Converting many recordings: in parallel, resumable, an episode whole or not there. Without a user interface.

Each recording is worked on in a folder of its own under ``OUT/.conversion``, named after what it is made of and how; it counts when
its ``unit.json`` is there. A run that was interrupted goes on with the recordings that do not have one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal

import av
import pyarrow as pa

from flow_policy_ros.data.lerobot.frames import NOTE, DatasetError
from flow_policy_ros.data.lerobot.layout import IMAGES, V21, V30
from flow_policy_ros.data.lerobot.read import open_dataset
from flow_policy_ros.data.lerobot.sinks import BagSink, DatasetSink, NpzSink, Sink
from flow_policy_ros.data.lerobot.sources import Rules, Unit, find_units, natural_fps, read_unit
from flow_policy_ros.data.lerobot.staging import Decode, StagedEpisode
from flow_policy_ros.data.lerobot.write import write_dataset
from flow_policy_ros.runtime.robot import load_robot

Target = Literal["lerobot-v3", "lerobot-v2.1", "bag", "episodes"]
VERSIONS = {"lerobot-v3": V30, "lerobot-v2.1": V21}
WORK, SUMMARY, UNIT = ".conversion", "conversion.json", "unit.json"
FORMAT = 2
POLL_S = 0.2

Show = Callable[[float, float], None]
"""Is told how many bytes of how many have been read."""


class StorageError(DatasetError):
    """The output cannot be written; what is complete stays."""


@dataclass(frozen=True)
class Conversion:
    """What to convert into the folder ``out``, and how. ``robot`` is the robot file's path, ``images`` ``video`` or ``png``."""

    robot: Path
    out: Path
    to: Target
    rules: Rules
    images: str = "video"
    jobs: int = 1


@dataclass(frozen=True)
class UnitReport:
    """What became of one recording: ``episodes`` as (name, frames), and what is to be said of it, notes among the ``problems``."""

    source: str
    episodes: tuple[tuple[str, int], ...]
    problems: tuple[str, ...]

    def real_problems(self) -> list[str]:
        """What was lost."""
        return [text for text in self.problems if not text.startswith(NOTE)]

    def notes(self) -> list[str]:
        """What tells of no loss."""
        return [text.removeprefix(NOTE) for text in self.problems if text.startswith(NOTE)]


def plan(sources: Sequence[Path], fps: int | None) -> tuple[list[Unit], int]:
    """The recordings, and the rate of frames: ``fps``, or the first recording's own. Raises ``ValueError``-derived errors."""
    units = find_units(sources)
    return units, natural_fps(units[0]) if fps is None else fps


def convert(units: Sequence[Unit], conversion: Conversion, decode: Decode, show: Show = lambda _done, _all: None) -> dict[str, Any]:
    """Convert; what came out, as JSON takes it. ``decode`` must be a function of a module, for other processes to find it.

    Raises ``StorageError`` when the output cannot be written, ``DatasetError`` when nothing can be converted or the folder holds
    something else.
    """
    began = time.monotonic()
    out, text = conversion.out, _fingerprint(units, conversion)
    done = _finished(out, text)
    if done is not None:
        return done
    with _storage(out), _open_work(out, conversion.to) as work:
        folders = [work / _key(unit, conversion) for unit in units]
        reports = _all_units(units, conversion, decode, folders, show)
        if conversion.to in VERSIONS:
            reports = _assemble(reports, folders, conversion)
        frames = [count for report in reports for _, count in report.episodes]
        if not frames:
            reasons = " ".join(f"{report.source}: {' '.join(report.real_problems()[:3]) or 'no frames.'}" for report in reports[:5])
            raise DatasetError(f"no episode could be made. {reasons}")
        size, wall = sum(unit.size for unit in units) / 1e6, time.monotonic() - began
        summary = {
            "to": conversion.to, "out": str(out), "fps": conversion.rules.fps, "episodes": len(frames), "frames": sum(frames),
            "joints": len(load_robot(conversion.robot).joints), "cameras": _cameras(conversion), "out_mb": round(_mb(out, work), 3),
            "sources": [{"source": r.source, "episodes": len(r.episodes), "frames": sum(n for _, n in r.episodes),
                         "problems": r.real_problems(), "notes": r.notes()} for r in reports],
            "problems": sum(len(report.real_problems()) for report in reports),
            "source_mb": round(size, 3), "wall_s": round(wall, 3), "mb_per_s": round(size / wall, 3), "fingerprint": text,
        }  # fmt: skip
        _replace_text(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
        shutil.rmtree(work)
    return summary


def convert_unit(
    unit: Unit, conversion: Conversion, decode: Decode, folder: Path, threads: int, done: Callable[[float], None]
) -> UnitReport:
    """One recording into ``folder``, which holds nothing else. An unreadable one gives no episodes and says why."""
    before = _load_report(folder)
    if before is not None:
        return before
    with _storage(conversion.out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        robot, rules = load_robot(conversion.robot), conversion.rules
        sink: Sink
        if conversion.to in VERSIONS:
            sink = DatasetSink(robot, rules.fps, conversion.images, decode, threads)
        elif conversion.to == "bag":
            sink = BagSink(robot, decode)
        else:
            sink = NpzSink(robot, rules.fps)
        problems: list[str] = []
        episodes: list[tuple[str, int]] = []
        try:
            notes, frames = read_unit(unit, robot, rules, problems, done)
            for made in sink.take(folder, unit, notes, frames, problems):
                episodes.append((made.path.name, made.frames))
        except StorageError:
            raise
        except ValueError as error:
            problems.append(str(error))
        report = UnitReport(str(unit.path), tuple(episodes), tuple(dict.fromkeys(problems)))
        _replace_text(folder / UNIT, json.dumps(asdict(report)))
    done(1.0)
    return report


def _all_units(
    units: Sequence[Unit], conversion: Conversion, decode: Decode, folders: Sequence[Path], show: Show
) -> list[UnitReport]:
    """Every recording's report, in order; bags and episode files go to their place as soon as their recording is done."""
    sizes = [max(1, unit.size) for unit in units]
    threads = max(1, (os.cpu_count() or 1) // conversion.jobs)
    reports: dict[int, UnitReport] = {}
    if conversion.jobs == 1:
        for k, unit in enumerate(units):
            before = sum(sizes[:k])

            def done(fraction: float, before: int = before, size: int = sizes[k]) -> None:
                show(before + fraction * size, sum(sizes))

            reports[k] = convert_unit(unit, conversion, decode, folders[k], threads, done)
            _publish(reports[k], folders[k], conversion)
        return [reports[k] for k in range(len(units))]
    context = multiprocessing.get_context("spawn")
    fractions = context.Array("d", len(units), lock=False)
    with ProcessPoolExecutor(conversion.jobs, mp_context=context, initializer=_start_worker, initargs=(fractions,)) as pool:
        futures: dict[Future[UnitReport], int] = {
            pool.submit(_work, k, unit, conversion, decode, folders[k], threads): k for k, unit in enumerate(units)
        }
        waiting = set(futures)
        try:
            while waiting:
                finished, waiting = wait(waiting, POLL_S, FIRST_COMPLETED)
                for future in finished:
                    k = futures[future]
                    reports[k] = future.result()
                    _publish(reports[k], folders[k], conversion)
                show(sum(fraction * size for fraction, size in zip(fractions, sizes, strict=True)), sum(sizes))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [reports[k] for k in range(len(units))]


_fractions: Any = None
"""In a worker: how far each recording is, shared with the process that shows it."""


def _start_worker(fractions: Any) -> None:
    global _fractions
    _fractions = fractions
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on writing where the next run writes too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(number: int, unit: Unit, conversion: Conversion, decode: Decode, folder: Path, threads: int) -> UnitReport:
    def done(fraction: float) -> None:
        _fractions[number] = fraction

    return convert_unit(unit, conversion, decode, folder, threads, done)


def _assemble(reports: list[UnitReport], folders: Sequence[Path], conversion: Conversion) -> list[UnitReport]:
    """The dataset from everything staged; episodes that do not look like the first are left out, and say so."""
    kept: list[StagedEpisode] = []
    result = []
    for report, folder in zip(reports, folders, strict=True):
        fitting, problems = 0, list(report.problems)
        for staged in (StagedEpisode.load(folder / name) for name, _ in report.episodes):
            other = kept[0].shape.difference(staged.shape) if kept else None
            if other is None:
                kept.append(staged)
                fitting += 1
            else:
                problems.append(f"an episode is left out, for it has {other}. Convert it into a dataset of its own.")
        episodes = tuple((staged.folder.name, staged.frames) for staged in kept[len(kept) - fitting :])
        result.append(UnitReport(report.source, episodes, tuple(dict.fromkeys(problems))))
    if kept:
        write_dataset(conversion.out, kept, VERSIONS[conversion.to])
    return result


def _cameras(conversion: Conversion) -> dict[str, list[int]]:
    """Height and width (pixels) of a dataset's cameras; bags keep what each image has, episodes have none."""
    if conversion.to not in VERSIONS:
        return {}
    dataset = open_dataset(conversion.out)
    return {camera: dataset.features[IMAGES + camera]["shape"][:2] for camera in dataset.cameras}


def _mb(out: Path, work: Path) -> float:
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and work not in path.parents) / 1e6


def _publish(report: UnitReport, folder: Path, conversion: Conversion) -> None:
    """Move finished bags and episode files to where they belong; those that are there already stay."""
    if conversion.to in VERSIONS:
        return
    for name, _ in report.episodes:
        if not (folder / name).exists():
            continue
        if (conversion.out / name).exists():
            raise DatasetError(
                f"{conversion.out / name}, which {report.source} is to become, is there already, of another recording or of this "
                "one as it was before; it is not replaced. Give a new folder."
            )
        os.replace(folder / name, conversion.out / name)


@contextmanager
def _open_work(out: Path, target: str) -> Iterator[Path]:
    """The folder for what is unfinished, for this run alone.

    Raises ``DatasetError`` for an output folder that holds something else, or that another run is working in."""
    work = out / WORK
    marker = work / "target"
    if not marker.is_file():
        if out.exists() and any(entry.name != WORK for entry in out.iterdir()):
            raise DatasetError(f"{out} is not empty, and not an unfinished conversion; give a new folder.")
        work.mkdir(parents=True, exist_ok=True)
        _replace_text(marker, target)
    with marker.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another conversion is working in {out}; wait for it, or give another folder.") from error
        before = file.read()
        if before != target:
            raise DatasetError(f"{out} holds an unfinished conversion to {before}; finish it, remove {work}, or give a new folder.")
        yield work


def _finished(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary of an earlier run that did just this; None when there was none."""
    try:
        summary = json.loads((out / SUMMARY).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict) or summary.get("fingerprint") != fingerprint:
        raise DatasetError(f"{out} holds another conversion, or its sources have changed since; give a new folder, or remove it.")
    return summary | {"already": True}


def _fingerprint(units: Sequence[Unit], conversion: Conversion) -> str:
    return _hash([_key(unit, conversion) for unit in units])


def _key(unit: Unit, conversion: Conversion) -> str:
    """Of what a recording is made and how: another file, robot file or option gives another name."""
    newest = max((file.stat().st_mtime_ns for file in unit.path.rglob("*")), default=0) if unit.path.is_dir() else 0
    facts = [
        FORMAT, unit.kind, str(unit.path.resolve()), unit.name, unit.number, unit.size, newest or unit.path.stat().st_mtime_ns,
        conversion.robot.read_text(), conversion.to, conversion.to in VERSIONS and conversion.images, asdict(conversion.rules),
    ]  # fmt: skip
    return _hash(facts)


def _hash(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def _load_report(folder: Path) -> UnitReport | None:
    """What an earlier run made of a recording; None when it did not end."""
    try:
        content = json.loads((folder / UNIT).read_text())
    except (OSError, ValueError):
        return None
    episodes = tuple((str(name), int(frames)) for name, frames in content["episodes"])
    return UnitReport(content["source"], episodes, tuple(content["problems"]))


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


@contextmanager
def _storage(out: Path) -> Iterator[None]:
    """Errors of files and disks as a sentence."""
    try:
        yield
    except (OSError, pa.ArrowException, av.error.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        file = getattr(error, "filename", None) or out
        raise StorageError(
            f"{file}: {reason}. What is complete stays: put that right (a full disk?), and the same command goes on where it "
            "stopped."
        ) from error
