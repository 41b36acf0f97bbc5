"""``flow_policy take-over``: a policy drives, the expert takes over: recordings of recovery from the policy's own states."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

if TYPE_CHECKING:
    from flow_policy_ros.evaluation.setup import Selection
    from flow_policy_ros.vision.features import FeatureExtractor

HELP = "record the expert taking over from a policy (DAgger)"


@dataclass(frozen=True)
class Arguments:
    """Let a policy drive for a random while, then record the expert from there. Failed recoveries are dropped."""

    expert: Path
    """Folder with <task>_expert.npz (published DAPG expert weights)."""
    checkpoint: Path
    """The policy that drives first."""
    out: Path
    """Folder for the episodes, one .npz each."""
    task: Literal["door", "hammer", "pen", "relocate"] = "door"
    """Which Adroit task."""
    observation: Literal["camera", "state"] = "camera"
    """What the policy observes."""
    detector: Path | None = None
    """Detector folder; default: the shipped one for the task."""
    robot: Path | None = None
    """Robot file; default config/robots/adroit_<task>.yaml."""
    episodes: int = 300
    """Episodes to try."""
    steps: int = 120
    """Control steps (10 ms) of the expert."""
    longest: int = 180
    """Longest time the policy drives, control steps; drawn evenly from 4 on."""
    latency: str = "measured"
    """Injected delay while the policy drives: measured, none, or a profile's path."""
    seed: int = 50000
    """Seed of the first episode."""
    jobs: int = 1
    """Processes."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    return record(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy take-over"))


def record(arguments: Arguments) -> int:
    """Record in ``jobs`` processes; episodes in the folder are kept, so that an interrupted run goes on."""
    from multiprocessing import get_context

    from rich.progress import track

    from flow_policy_ros.data.episodes import EXTRACTOR_FILE
    from flow_policy_ros.evaluation.latency import doubts
    from flow_policy_ros.evaluation.setup import load

    loaded = load(selected(arguments), arguments.latency)
    if loaded.profile is not None:  # measured once: processes that measure side by side find the machine busy
        arguments = replace(arguments, latency=str(loaded.profile.absolute()))
    if said := doubts(loaded.stack.latency):
        print(f"warning: delays {said}", file=sys.stderr)
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    shares = [list(seeds[i :: arguments.jobs * 8]) for i in range(arguments.jobs * 8)]
    kept = 0
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:  # as in featurize
        futures = [pool.submit(record_seeds, share, arguments) for share in shares if share]
        for future in track(as_completed(futures), total=len(futures), description="taking over"):
            count, identities = future.result()
            kept += count
            if identities:
                (arguments.out / EXTRACTOR_FILE).write_text(json.dumps(identities, indent=1) + "\n")
    print(f"{kept} recoveries from {arguments.episodes} tries in {arguments.out}")
    return 0


def selected(arguments: Arguments) -> Selection:
    """What drives first."""
    from flow_policy_ros.evaluation.setup import select

    return select(arguments.task, arguments.observation, arguments.checkpoint, arguments.detector, arguments.robot)


def record_seeds(seeds: list[int], arguments: Arguments) -> tuple[int, dict[str, dict[str, Any]]]:
    """One process's share: how many recoveries were kept, and the identity of what made the features, by stream."""
    import numpy as np

    from flow_policy_ros.evaluation.demonstrate import take_over
    from flow_policy_ros.evaluation.setup import load
    from flow_policy_ros.sim.expert import Expert
    from flow_policy_ros.sim.robot import AdroitRobot

    loaded = load(selected(arguments), arguments.latency)
    robot = AdroitRobot(arguments.task, loaded.robot)
    expert = Expert(arguments.expert, robot.task.expert_name)
    perception = loaded.stack.perception
    stream = "" if perception is None else cast("FeatureExtractor", perception).stream
    kept = 0
    for seed in seeds:
        path = arguments.out / f"takeover_{seed:06d}.npz"
        if path.exists():
            continue
        after = int(np.random.default_rng([seed, 11]).integers(4, arguments.longest, endpoint=True))
        recording = take_over(robot, loaded.stack, expert, seed, after, arguments.steps)
        if recording.success:
            episode = recording.episode(arguments.task, loaded.robot.name, loaded.robot.joints)
            episode.save(path)
            kept += 1
    robot.close()
    return kept, {} if perception is None else {stream: dict(perception.identity())}
