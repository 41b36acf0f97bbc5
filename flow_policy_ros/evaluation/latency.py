"""Measuring how long perception and inference take on this machine, and remembering it.

A profile is measured once per machine, checkpoint, detector and step count and kept in the user's cache, so that runs
on one machine inject the same delays; give a file to inject another machine's. What a busy machine gave serves the run that
measured it, with a warning, and is not kept.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from flow_policy_ros.runtime.latency import NO_LATENCY, LatencyProfile

MEASUREMENTS = 40
WARM_UP = 5


def cache_folder() -> Path:
    """Where measured profiles are kept: ``$XDG_CACHE_HOME/flow_policy_ros`` or ``~/.cache/flow_policy_ros``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flow_policy_ros"


def measure(stages: dict[str, Callable[[int], object]]) -> LatencyProfile:
    """Time each stage's call (given the repetition's number) ``MEASUREMENTS`` times after a warm-up, and say whether the machine
    was busy."""
    samples: dict[str, tuple[float, ...]] = {}
    computed: dict[str, float] = {}
    load = os.getloadavg()[0]
    for stage, call in stages.items():
        durations = []
        for repetition in range(WARM_UP + MEASUREMENTS):
            if repetition == WARM_UP:
                processor = time.process_time()
            start = time.perf_counter()
            call(repetition)
            durations.append((time.perf_counter() - start) * 1e3)
        computed[stage] = (time.process_time() - processor) * 1e3
        samples[stage] = tuple(round(x, 3) for x in durations[WARM_UP:])
    cores = os.cpu_count() or 1
    machine = f"{platform.machine()}, {cores} cores, {time.strftime('%Y-%m-%d')}"
    return LatencyProfile(samples, machine, busyness(samples, computed, max(load, os.getloadavg()[0]), cores))


WAITED = 1.5
"""Who takes so many times the processor time that it uses was waiting for a processor."""
SPREAD = 3.0
"""A 99% sample of so many times the median tells of a machine that did something else while it measured."""
REMEASURE = "chunks and commands depend on it. Measure again with --latency remeasure when it is quiet."


def busyness(samples_ms: Mapping[str, Sequence[float]], computed_ms: Mapping[str, float], load: float, cores: int) -> str:
    """Why durations that were measured so say little of the machine, in words; empty where it was quiet.

    ``computed_ms`` is the processor time that all samples of a stage took together, of all threads; ``load`` the greatest
    average number of running tasks (``os.getloadavg``), ours among them. Work that is steady shows in both of them, and only work
    that comes and goes in the spread of the samples.
    """
    found = []
    for stage, samples in samples_ms.items():
        waited = 1.0 - computed_ms[stage] / sum(samples) if sum(samples) > 0.0 else 0.0
        if waited > 1.0 - 1.0 / WAITED:
            found.append(f"{stage} waited {waited:.0%} of its time for a processor")
    if load > cores + 0.5:
        found.append(f"{load:.1f} tasks ran on {cores} cores")
    return ", ".join([*found, *spread(samples_ms)])


def spread(samples_ms: Mapping[str, Sequence[float]]) -> list[str]:
    """Words for each stage whose samples (ms) spread by more than ``SPREAD``."""
    found = []
    for stage, samples in samples_ms.items():
        median, most = np.percentile(samples, (50, 99)) if samples else (0.0, 0.0)
        if most > SPREAD * median > 0.0:
            found.append(f"{stage} took {median:.1f} ms at the median and {most:.1f} ms at the 99th percentile")
    return found


def profile_for(mode: str, identity: dict[str, object], stages: Callable[[], dict[str, Callable[[int], object]]]) -> Path | None:
    """The profile's file for ``mode``: ``none`` → None, ``measured`` → this machine's (measured now if it never was while the
    machine was quiet), ``remeasure`` → the same, measured now in any case, else a path.

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
        profile = measure(stages())
        if profile.busy:
            path = path.with_name(f"{path.stem}-busy-{os.getpid()}.json")
            atexit.register(path.unlink, missing_ok=True)
        profile.save(path)
    return path


def doubts(profile: LatencyProfile) -> str:
    """That the machine was busy when the profile was measured, with why and the remedy; empty where nothing tells of it."""
    why = profile.busy or ", ".join(spread(profile.samples_ms))  # files from elsewhere do not say
    return f"measured on a busy machine: {why}; {REMEASURE}" if why else ""


def load_profile(path: Path | None) -> LatencyProfile:
    """The profile in ``path``, or no latency."""
    return NO_LATENCY if path is None else LatencyProfile.load(path)
