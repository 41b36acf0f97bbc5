"""Many fuzzed scenarios of the safety stage, their violations and figures. A scenario is ``fuzz_scenarios``', what must not be
``fuzz_checks``'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

import numpy as np

from flow_policy_ros.evaluation.fuzz_checks import Violation, violations
from flow_policy_ros.evaluation.fuzz_scenarios import MakeLoop, Scenario
from flow_policy_ros.safety.command_loop import CommandLoop

TICKS = 1000
"""Per scenario."""


@dataclass
class Outcome:
    """What one scenario gave: ``states`` and ``faults`` how often, ``setpoints`` published, ``took_ns`` of each tick."""

    index: int
    ticks: int
    setpoints: int
    states: Counter[str]
    faults: Counter[str]
    rejections: Counter[str]
    took_ns: list[int]
    violations: list[Violation]


@dataclass
class Result:
    """All scenarios together; ``found`` is (scenario, violation)."""

    seed: int
    scenarios: int = 0
    ticks: int = 0
    setpoints: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    took_ns: list[int] = field(default_factory=list)
    found: list[tuple[int, Violation]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one scenario."""
        self.scenarios += 1
        self.ticks += outcome.ticks
        self.setpoints += outcome.setpoints
        self.states.update(outcome.states)
        self.faults.update(outcome.faults)
        self.rejections.update(outcome.rejections)
        self.took_ns += outcome.took_ns
        self.found += [(outcome.index, violation) for violation in outcome.violations]

    def figures(self) -> dict[str, object]:
        """As JSON; ``violations`` name the scenario (``--only``) and the tick."""
        p50, p99, most = np.percentile(self.took_ns, (50, 99, 100)) / 1e3 if self.took_ns else (0.0, 0.0, 0.0)
        return {
            "seed": self.seed,
            "scenarios": self.scenarios,
            "ticks": self.ticks,
            "setpoints": self.setpoints,
            "violations": [
                {"scenario": index, "check": v.check, "tick": v.tick, "detail": v.detail} for index, v in self.found
            ],
            "states": dict(self.states.most_common()),
            "faults": dict(self.faults.most_common()),
            "rejections": dict(self.rejections.most_common()),
            "tick_us": {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "max": round(float(most), 1)},
        }


def play(seed: int, index: int, ticks: int = TICKS, make_loop: MakeLoop = CommandLoop) -> Outcome:
    """One scenario; the same for the same (seed, index, ticks)."""
    scenario = Scenario(seed, index, make_loop)
    record = scenario.play(ticks)
    moments = record.moments
    counts = scenario.statistics()
    return Outcome(
        index,
        len(moments),
        sum(m.position is not None for m in moments),
        Counter(m.state for m in moments),
        Counter(counts.faults),
        Counter(counts.rejections),
        scenario.took_ns,
        violations(record),
    )


def fuzz(
    ticks: int, seed: int, jobs: int = 1, progress: Callable[[Result], None] | None = None, make_loop: MakeLoop = CommandLoop
) -> Result:
    """At least ``ticks`` ticks in scenarios of ``TICKS``, in ``jobs`` processes; ``progress`` after each scenario.

    Scenarios that end early by a violation count as far as they came.
    """
    result = Result(seed)
    indices = range(-(-ticks // TICKS))
    if jobs == 1:
        for index in indices:
            result.add(play(seed, index, make_loop=make_loop))
            if progress is not None:
                progress(result)
        return result
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for outcome in pool.map(partial(play, seed, make_loop=make_loop), indices, chunksize=4):
            result.add(outcome)
            if progress is not None:
                progress(result)
    return result
