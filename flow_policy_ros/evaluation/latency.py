"""Measuring how long perception and inference take on this machine, and remembering it.

A profile is measured once per machine, checkpoint, detector and step count and kept in the user's cache, so that runs
on one machine inject the same delays; give a file to inject another machine's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flow_policy_ros.runtime.latency import NO_LATENCY, LatencyProfile

MEASUREMENTS = 40
WARM_UP = 5


def cache_folder() -> Path:
    """Where measured profiles are kept: ``$XDG_CACHE_HOME/flow_policy_ros`` or ``~/.cache/flow_policy_ros``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flow_policy_ros"


def measure(stages: dict[str, Callable[[int], object]]) -> LatencyProfile:
    """Time each stage's call (given the repetition's number) ``MEASUREMENTS`` times after a warm-up."""
    samples: dict[str, tuple[float, ...]] = {}
    for stage, call in stages.items():
        durations = []
        for repetition in range(WARM_UP + MEASUREMENTS):
            start = time.perf_counter()
            call(repetition)
            durations.append((time.perf_counter() - start) * 1e3)
        samples[stage] = tuple(round(x, 3) for x in durations[WARM_UP:])
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"
    return LatencyProfile(samples, machine)


def profile_for(mode: str, identity: dict[str, object], stages: Callable[[], dict[str, Callable[[int], object]]]) -> Path | None:
    """The profile's file for ``mode``: ``none`` → None, ``measured`` → this machine's (measured now if it never was),
    ``remeasure`` → the same, measured now in any case, else a path.

    ``identity`` tells runs apart that need profiles of their own (checkpoint, detector, steps); ``stages`` is called only
    to measure.
    Raises ``ValueError`` for a file that cannot be read.
    """
    if mode == "none":
        return None
    if mode not in ("measured", "remeasure"):
        LatencyProfile.load(mode)
        return Path(mode)
    key = hashlib.sha256(json.dumps([platform.node(), os.cpu_count(), identity], sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / f"latency-{key}.json"
    if mode == "remeasure" or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        measure(stages()).save(path)
    return path


SPREAD = 3.0
"""A 99% sample of so many times the median tells of a machine that did something else while it measured."""


def spread_problems(path: Path | None) -> list[str]:
    """A sentence for each stage whose samples spread by more than ``SPREAD``."""
    profile, found = load_profile(path), []
    for stage, samples in profile.samples_ms.items():
        median, most = np.percentile(samples, (50, 99)) if samples else (0.0, 0.0)
        if most > SPREAD * median > 0.0:
            found.append(
                f"latency profile {path}: {stage} took {median:.1f} ms at the median and {most:.1f} ms at the 99th percentile, as "
                "on a busy machine; chunks and commands depend on it. Measure again with --latency remeasure while nothing else "
                "runs."
            )
    return found


def load_profile(path: Path | None) -> LatencyProfile:
    """The profile in ``path``, or no latency."""
    return NO_LATENCY if path is None else LatencyProfile.load(path)
