"""``flow_policy featurize``: run the detector over recorded episodes, re-rendered as the robot's camera sees them."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

HELP = "run the detector over recorded episodes"
BEFORE_START_NS = 500_000_000
"""Stamp of the picture before the start: longer ago than any delay in training, so that the very first tick is learned."""


@dataclass(frozen=True)
class Arguments:
    """Add the feature stream ``detections`` to recorded episodes. Episodes that have it already are left alone."""

    episodes: Path
    """Folder of recorded episodes (flow_policy demonstrate)."""
    out: Path
    """Folder for the episodes with features."""
    detector: Path | None = None
    """Detector folder; default: the shipped one for the task."""
    robot: Path | None = None
    """Robot file; default config/robots/adroit_<task>.yaml."""
    every: int = 4
    """Control steps between pictures; finer than the camera's rate, so that training meets every phase."""
    jobs: int = 1
    """Processes."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    return featurize(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy featurize"))


def featurize(arguments: Arguments) -> int:
    """Write one episode with features for each without."""
    from rich.progress import track

    from flow_policy_ros.data.episodes import EXTRACTOR_FILE, EpisodeError

    paths = sorted(arguments.episodes.glob("*.npz"))
    if not paths:
        raise EpisodeError(f"folder {arguments.episodes} holds no episodes (*.npz); record some with flow_policy demonstrate.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    todo = [path for path in paths if not (arguments.out / path.name).exists()]
    shares = [todo[i :: arguments.jobs * 8] for i in range(arguments.jobs * 8)]
    with ProcessPoolExecutor(max_workers=arguments.jobs) as pool:
        futures = [pool.submit(featurize_files, share, arguments) for share in shares if share]
        identity = None
        for future in track(as_completed(futures), total=len(futures), description="features"):
            identity = future.result()
    if identity is not None:
        (arguments.out / EXTRACTOR_FILE).write_text(json.dumps({"detections": identity}, indent=1) + "\n")
    print(f"{len(todo)} episodes with features in {arguments.out}, {len(paths) - len(todo)} were there already")
    return 0


def featurize_files(paths: list[Path], arguments: Arguments) -> dict[str, object]:
    """One process's share; returns the identity of what made the features."""
    from dataclasses import replace

    import numpy as np

    from flow_policy_ros import resources
    from flow_policy_ros.data.episodes import Episode
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.sim.robot import AdroitRobot
    from flow_policy_ros.vision.detector import load_detector
    from flow_policy_ros.vision.features import DetectionFeatures

    task = Episode.load(paths[0]).task
    robot = AdroitRobot(task, load_robot(arguments.robot or resources.robot_file(f"adroit_{task}")))
    extractor = DetectionFeatures(load_detector(arguments.detector or resources.checkpoint(f"adroit_{task}_detector")))
    for path in paths:
        episode = Episode.load(path)
        ticks = range(0, len(episode.stamps), arguments.every)
        values = []
        for k in ticks:
            robot.set_sim_state({name: column[k] for name, column in episode.sim_state.items()})
            values.append(extractor.extract(robot.render(), int(episode.stamps[k])).values)
        # The robot stood still before its start, in view of the camera: what it would have seen until the first picture.
        stamps = np.concatenate([episode.stamps[:1] - BEFORE_START_NS, episode.stamps[list(ticks)]])
        streams = {**episode.streams, extractor.stream: (stamps, np.array([values[0], *values]))}
        replace(episode, streams=streams).save(arguments.out / path.name)
    robot.close()
    return extractor.identity()
