"""Where the time of a replay goes: each part of it timed from outside, by what it takes and gives.

The replay itself is ``engine``'s, and what is done with one recording ``run``'s; neither is any different here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.evaluation.replay.engine import replay
from flow_policy_ros.evaluation.replay.inputs import trained_ranges
from flow_policy_ros.evaluation.replay.metrics import Metrics
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplaySink, ReplayTick
from flow_policy_ros.evaluation.replay.replay_bag import ReplayBag
from flow_policy_ros.evaluation.replay.report import Variant, write_report
from flow_policy_ros.evaluation.replay.run import Job, meta_of
from flow_policy_ros.evaluation.replay.stack import events_of, load_replay, sources_of
from flow_policy_ros.evaluation.replay.traces import Traces
from flow_policy_ros.evaluation.replay.worst import Worst
from flow_policy_ros.safety.command_loop import limits_in_force

Given = TypeVar("Given")


class Stopwatch:
    """``seconds`` spent within it, all together."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, step: Callable[..., Given], *arguments: Any) -> Given:
        """What ``step`` gives."""
        begun = time.perf_counter()
        try:
            return step(*arguments)
        finally:
            self.seconds += time.perf_counter() - begun

    def reading(self, items: Iterable[Given]) -> Iterator[Given]:
        """The ``items``; the time to get each is measured."""
        iterator = iter(items)
        missing = object()
        while (item := self.of(next, iterator, missing)) is not missing:
            yield item  # type: ignore[misc]


class TimedSink:
    """A ``ReplaySink`` that passes everything on to ``sink`` and measures what that takes."""

    def __init__(self, sink: ReplaySink) -> None:
        self.watch = Stopwatch()
        self._sink = sink

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._sink, name)
        timed = lambda *arguments: self.watch.of(step, *arguments)  # noqa: E731
        setattr(self, name, timed)
        return timed


class Stages:
    """A ``ReplaySink`` that adds up what the engine itself measured of ``perception``, ``policy`` and ``safety``, in s."""

    def __init__(self) -> None:
        self.perception = self.policy = self.safety = 0.0

    def begin(self, meta: ReplayMeta) -> None: ...

    def on_joint_state(self, state: object, received: int) -> None: ...

    def on_recorded(self, command: object) -> None: ...

    def on_bad(self, event: object) -> None: ...

    def on_features(self, seen: ReplayFeatures) -> None:
        self.perception += seen.duration_ms / 1e3

    def on_chunk(self, sampled: ReplayChunk) -> None:
        self.policy += sampled.duration_ms / 1e3

    def on_tick(self, tick: ReplayTick) -> None:
        self.safety += tick.duration_ms / 1e3

    def end(self) -> None: ...


def stage_costs(job: Job) -> dict[str, float]:
    """s of wall time by stage of a replay of ``job``'s first variant, in this process; files go to ``job.out``.

    ``ticks`` are how many; ``engine`` is what no other stage accounts for; ``opening`` is the recording, not the networks.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    loaded = load_replay(job.variants[0][1])
    opening, reading, report = Stopwatch(), Stopwatch(), Stopwatch()
    bag = opening.of(open_bag, job.bag)
    sources = opening.of(sources_of, bag, loaded)
    events = opening.of(events_of, bag, loaded.robot, sources, job.stamps)
    stack, ahead = loaded.open(sources)
    limits = limits_in_force(loaded.robot, loaded.parts.command_parameters)
    metrics = Metrics(loaded.robot, trained_ranges(loaded.parts.policy), limits)
    traces, worst = Traces(), Worst(loaded.robot)
    sinks: dict[str, ReplaySink] = {
        "metrics": metrics, "traces": traces, "worst": worst, "replay_bag": ReplayBag(job.out / "replay.mcap", loaded.robot),
    }  # fmt: skip
    timed = {name: TimedSink(sink) for name, sink in sinks.items()}
    stages = Stages()
    done = replay(reading.reading(events), stack, [stages, *timed.values()], meta_of(job, loaded), sources.camera, ahead)
    bag.close()
    write = lambda: _write(job.out, metrics, traces, worst, loaded.robot.groups)  # noqa: E731
    report.of(write)
    known = {
        "reading": reading.seconds, "perception": stages.perception, "policy": stages.policy, "safety": stages.safety,
        **{name: sink.watch.seconds for name, sink in timed.items()},
    }  # fmt: skip
    rest = done.wall_s - sum(known.values())
    return {"opening": opening.seconds, **known, "engine": rest, "report": report.seconds, "ticks": float(done.ticks)}


def _write(out: Path, metrics: Metrics, traces: Traces, worst: Worst, groups: dict[str, tuple[str, ...]]) -> None:
    figures = metrics.result() | {"wall_s": None, "realtime_factor": None, "problems": []}
    write_report(out / "report.html", [Variant("", figures, traces.data(), worst.moments(), groups)])
