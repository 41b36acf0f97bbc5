"""One recording: opened, replayed, and what came of it written. Which parts there are is said on the command line.

A ``Job`` is one recording with its variants and travels to other processes (``pool``). Each is done in one process alone, so that
results do not depend on how many there are.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flow_policy_ros.data.bags.bag import Bag, BagError
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.evaluation.latency import doubts, load_profile
from flow_policy_ros.evaluation.replay.engine import replay
from flow_policy_ros.evaluation.replay.inputs import trained_ranges
from flow_policy_ros.evaluation.replay.metrics import Metrics
from flow_policy_ros.evaluation.replay.records import ReplayMeta, ReplaySink
from flow_policy_ros.evaluation.replay.replay_bag import ReplayBag
from flow_policy_ros.evaluation.replay.report import Variant, write_report
from flow_policy_ros.evaluation.replay.stack import (
    ReplayError,
    ReplayParts,
    ReplaySelection,
    events_of,
    load_replay,
    sources_of,
)
from flow_policy_ros.evaluation.replay.traces import Traces
from flow_policy_ros.evaluation.replay.worst import Worst
from flow_policy_ros.safety.command_loop import limits_in_force

REFUSED = "refused"
"""Key of a recording that could not be replayed, with the reason; in the place of a verdict."""
SAID = 3
"""So many problems of the recording itself are said when it is refused."""
VERDICTS = ("good", "unjudged", REFUSED, "bad")
"""From best to worst."""

PRODUCTS = ("metrics.json", "report.html", "replay.mcap", "replay_compare.mcap")
"""What a replay writes into its folder."""

Progress = Callable[[float], None]
"""Told by how many seconds of the recording a replay has gone on."""


@dataclass(frozen=True)
class Job:
    """One recording: ``bag``, the folder ``out`` for what comes of it, ``variants`` (name, selection), which ``stamps`` count."""

    bag: Path
    out: Path
    variants: tuple[tuple[str, ReplaySelection], ...]
    stamps: Literal["header", "receive"] = "header"


def prepare(selection: ReplaySelection) -> ReplaySelection:
    """Load a selection, so that what is wrong with it is said now, and settle what is measured: every process then injects the
    same delays. Raises ``ValueError``-derived errors with the remedy."""
    loaded = _loaded(_Key(selection))
    latency = "none" if loaded.profile is None else str(loaded.profile.absolute())
    settled = replace(selection, latency=latency, detector=loaded.parts.detector)
    _LOADED[_Key(settled)] = replace(loaded, selection=settled)
    return settled


def duration_of(job: Job) -> float:
    """Seconds that replaying ``job`` has to go through, all variants together; 0 where nothing tells before it is read."""
    try:
        bag = open_bag(job.bag)
    except BagError:
        return 0.0
    try:
        seconds = 0.0 if bag.start is None or bag.end is None else (bag.end - bag.start) / 1e9
        return seconds * len(job.variants)
    finally:
        bag.close()


def run_job(job: Job, progress: Progress = lambda seconds: None) -> dict[str, Any]:
    """Replay one recording and write ``metrics.json``, ``replay.mcap`` and ``report.html``; the figures of the first variant, with
    those of a second one under ``compare``. A recording that is refused gives the reason under ``refused`` alone.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    remove_products(job.out)  # of an older run: whatever happens now, its verdict is not that of this one
    try:
        reported = [_variant(job, k, progress) for k in range(len(job.variants))]
    except (ValueError, OSError) as error:  # every refusal is one; one recording does not end the others
        refused = {REFUSED: " ".join(str(error).split())}
        write_json(job.out / "metrics.json", refused)
        return refused
    metrics: dict[str, Any] = dict(reported[0].metrics)
    if len(reported) > 1:
        metrics["compare"] = dict(reported[1].metrics)
    write_report(job.out / "report.html", reported)
    write_json(job.out / "metrics.json", metrics)
    return metrics


def remove_products(out: Path) -> None:
    """Remove what an older replay wrote into the folder ``out`` (see ``products``), and nothing else."""
    folders = {path.parent for path in products(out)} - {out}
    for path in products(out):
        if path.is_file() or path.is_symlink():
            path.unlink()
    for folder in folders:
        with contextlib.suppress(OSError):  # it has other files, or is gone
            folder.rmdir()


def products(out: Path) -> list[Path]:
    """Where a replay into ``out`` writes; and, where an older one was of several recordings, what it wrote about each."""
    try:
        older = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        bags = [str(name) for name in older["bags"]] if "verdict" in older else []
    except (OSError, ValueError, KeyError, TypeError):
        bags = []
    folders = [*(out / name for name in bags if Path(name).name == name and name != ".."), out]
    return [folder / f"{name}{end}" for folder in folders for name in PRODUCTS for end in ("", ".part")]


def require_apart(jobs: Sequence[Job], out: Path) -> None:
    """Raise ``ReplayError`` when something in ``out`` that is removed or written would be a recording, or part of one."""
    touched = [path.resolve() for folder in (out, *(job.out for job in jobs)) for path in products(folder)]
    for job in jobs:
        bag = job.bag.resolve()
        if any(bag == path or bag in path.parents for path in touched):
            raise ReplayError(f"--out {out}: results would be written over or into the recording {job.bag}; give another folder.")


def _variant(job: Job, number: int, progress: Progress) -> Variant:
    """One variant of a job, replayed."""
    name, selection = job.variants[number]
    loaded = _loaded(_Key(selection))
    bag = open_bag(job.bag)
    try:
        return _replayed(job, name, "replay.mcap" if number == 0 else "replay_compare.mcap", loaded, bag, progress)
    except ReplayError as error:
        raise ReplayError(" ".join([str(error), *bag.problems[:SAID]])) from error  # what is damaged may be the reason
    finally:
        bag.close()


def _replayed(job: Job, name: str, file: str, loaded: ReplayParts, bag: Bag, progress: Progress) -> Variant:
    robot = loaded.robot
    sources = sources_of(bag, loaded)
    events = events_of(bag, robot, sources, job.stamps)
    stack, ahead = loaded.open(sources)
    meta = meta_of(job, loaded)
    limits = limits_in_force(robot, loaded.parts.command_parameters)
    metrics = Metrics(robot, trained_ranges(loaded.parts.policy), limits)
    traces, worst = Traces(), Worst(robot)
    sinks: list[ReplaySink] = [metrics, traces, worst, ReplayBag(job.out / file, robot)]
    told: list[int] = []

    def tell(now: int) -> None:
        told.append(now)
        progress((now - told[-2]) / 1e9 if len(told) > 1 else 0.0)
        del told[:-1]

    done = replay(events, stack, sinks, meta, sources.camera, ahead, tell)
    figures = metrics.result()
    figures["wall_s"] = round(done.wall_s, 3)
    figures["realtime_factor"] = round(done.duration_s / done.wall_s, 4) if done.wall_s > 0 else None
    found = [*bag.problems, *events.problems, *sources.problems, *done.problems]
    if doubtful := doubts(load_profile(loaded.profile)):
        found.append(f"latency profile {loaded.profile}: {doubtful}")
    if figures["recorded_refused"]:
        refused, commands = figures["recorded_refused"], figures["recorded_commands"]
        found.append(
            f"{refused} of {commands} recorded commands were not used: their stamps go back, or "
            "lie over a second from their receipt. Where that is not an outlier, take the instants of receipt: --stamps receive."
        )
    figures["problems"] = list(dict.fromkeys([*figures.get("problems", ()), *found]))
    return Variant(name, figures, traces.data(), worst.moments(), robot.groups)


def meta_of(job: Job, loaded: ReplayParts) -> ReplayMeta:
    """What is replayed, for the record."""
    robot, selection, parts = loaded.robot, loaded.selection, loaded.parts
    profile = load_profile(loaded.profile)
    settings: dict[str, object] = {
        **selection.settings,
        "policy.mode": parts.policy_parameters.mode,
        "policy.steps": parts.policy_parameters.steps,
        "policy.seed": parts.policy_parameters.seed,
        "policy.rate_hz": parts.policy_parameters.rate_hz,
        "command.rate_hz": parts.command_parameters.rate_hz,
        "detector": "" if parts.detector is None else str(parts.detector),
        "inject": str(selection.injection),
        "latency": "none" if loaded.profile is None else loaded.profile.name,
        "latency_sha256": profile.sha256(),
        "latency_measured_on": profile.measured_on,
        "stamps": job.stamps,
        "batch": selection.batch,
        "robot_file": robot.path,
    }
    period_ns = round(1e9 / parts.command_parameters.rate_hz)
    return ReplayMeta(str(job.bag), robot.name, str(selection.checkpoint), robot.joints, period_ns, settings)


class _Key:
    """A selection by which what was loaded is found again; selections hold dictionaries, which have no hash."""

    def __init__(self, selection: ReplaySelection) -> None:
        self.selection = selection
        self._text = repr(selection)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


_LOADED: dict[_Key, ReplayParts] = {}
MOST_LOADED = 4


def _loaded(key: _Key) -> ReplayParts:
    """Networks are loaded once in a process, whatever the number of recordings."""
    if key not in _LOADED:
        while len(_LOADED) >= MOST_LOADED:
            del _LOADED[next(iter(_LOADED))]
        _LOADED[key] = load_replay(key.selection)
    return _LOADED[key]


def write_json(path: Path, content: object) -> None:
    """Write at once or not at all, so that what was interrupted leaves no half of a file."""
    partial_path = path.with_name(path.name + ".part")
    partial_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial_path, path)


def worst_verdict(results: Sequence[dict[str, Any]]) -> str:
    """The worst of ``VERDICTS``."""
    return max((REFUSED if REFUSED in r else str(r["verdict"]) for r in results), key=VERDICTS.index)
