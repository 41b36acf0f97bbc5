"""``flow_policy featurize``: run the detector over recordings: episodes, re-rendered as the robot's camera sees them, or the
pictures in bags."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

HELP = "run the detector over recorded episodes and bags"
BEFORE_START_NS = 500_000_000
"""Stamp of the picture before the start: longer ago than any delay in training, so that the very first tick is learned."""


@dataclass(frozen=True)
class Arguments:
    """Write recordings with the feature stream ``detections``, to train on. Those that are there already are left alone."""

    episodes: Path
    """Folder of recorded episodes (flow_policy demonstrate), a bag, or a folder of bags (of LeRobot folders: convert --to bag)."""
    out: Path
    """Folder for the episodes with features; of bags it gets all that training needs."""
    detector: str | None = None
    """Detector folder, or the name of one that ships; default: the shipped one for the robot."""
    robot: str | None = None
    """Robot file, or the name of one that ships; default for episodes: config/robots/adroit_<task>.yaml."""
    every: int = 4
    """Control steps between pictures of episodes; finer than the camera's rate, so that training meets every phase."""
    stamps: Literal["header", "receive"] = "header"
    """What bags are dated by: header stamps, or the instants of receipt where nobody set the stamps."""
    jobs: int = 1
    """Processes."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``-derived errors."""
    import tyro

    return featurize(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy featurize"))


def featurize(arguments: Arguments) -> int:
    """Write one episode with features for each without, or the recordings of each bag."""
    from rich.progress import track

    from flow_policy_ros.data.bag_recording import bags_in
    from flow_policy_ros.data.episodes import EXTRACTOR_FILE, no_episodes

    paths = sorted(arguments.episodes.glob("*.npz"))
    bags = [] if paths else bags_in(arguments.episodes)
    if not paths and not bags:
        raise no_episodes(arguments.episodes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    todo = [path for path in paths or bags if not _product(path, arguments, 0 if bags else None).exists()]
    shares = [todo[i :: arguments.jobs * 8] for i in range(arguments.jobs * 8)]
    with ProcessPoolExecutor(max_workers=arguments.jobs) as pool:
        work = featurize_bags if bags else featurize_files
        futures = [pool.submit(work, share, arguments) for share in shares if share]
        identity = None
        for future in track(as_completed(futures), total=len(futures), description="features"):
            identity = future.result()
    if identity is not None:
        (arguments.out / EXTRACTOR_FILE).write_text(json.dumps({"detections": identity}, indent=1) + "\n")
    what, done = "bags" if bags else "episodes", len(paths or bags) - len(todo)
    print(f"{len(todo)} {what} with features in {arguments.out}, {done} were there already")
    return 0


def featurize_bags(paths: list[Path], arguments: Arguments) -> dict[str, object]:
    """One process's share of bags; returns the identity of what made the features. Looks at the first camera of the robot file,
    as the perception node does."""
    import sys

    from flow_policy_ros import resources
    from flow_policy_ros.data.bag_events import ImageEvent
    from flow_policy_ros.data.bag_recording import read_recording
    from flow_policy_ros.data.episodes import EpisodeError
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.runtime.types import Features
    from flow_policy_ros.vision.decode import decode
    from flow_policy_ros.vision.detector import load_detector
    from flow_policy_ros.vision.features import DetectionFeatures

    if arguments.robot is None:
        raise EpisodeError(f"{paths[0]} names no joints and cameras of a robot; give the robot file: --robot.")
    robot = load_robot(resources.robot_file(arguments.robot))
    if not robot.cameras:
        raise EpisodeError(f"robot file {robot.path} has no camera; add one under robot.cameras.")
    extractor = DetectionFeatures(load_detector(_detector(arguments, robot.name)))

    def extract(event: ImageEvent) -> Features | None:
        return extractor.extract(decode(event.image), event.stamp) if event.camera == robot.cameras[0].name else None

    for path in paths:
        recordings = read_recording(path, robot, extract, stamps=arguments.stamps)
        for problem in dict.fromkeys(problem for recording in recordings for problem in recording.problems):
            print(f"warning: {path}: {problem}", file=sys.stderr)
        if not any(extractor.stream in recording.streams for recording in recordings):
            raise EpisodeError(f"{path} holds no picture of the camera '{robot.cameras[0].name}' that can be used.")
        for number, recording in reversed(list(enumerate(recordings))):  # the first one says that all are there
            recording.save(_product(path, arguments, number))
    return extractor.identity()


def _product(path: Path, arguments: Arguments, number: int | None) -> Path:
    """Where the episode, or recording ``number`` of a bag, is written."""
    return arguments.out / (path.name if number is None else f"{path.resolve().name}_{number:03d}.npz")


def _detector(arguments: Arguments, robot: str) -> Path:
    """The one that was asked for, else the one that ships for ``robot``."""
    from flow_policy_ros import resources

    name = arguments.detector or f"{robot}_detector"
    try:
        folder = resources.checkpoint(name)
    except resources.ResourceError as error:
        shipped = ", ".join(entry for entry in resources.names("checkpoints") if entry.endswith("_detector"))
        what = f"--detector {name} does not exist" if arguments.detector else f"no detector ships for robot '{robot}'"
        raise ValueError(
            f"{what}; give with --detector a folder that 'flow_policy train-detector' wrote, or the name of one that ships "
            f"({shipped})."
        ) from error
    if not (folder / "detector.json").is_file() and folder.suffix != ".pt":
        raise ValueError(f"--detector {name} is no detector's folder: {folder} has no detector.json. Give one that has.")
    return folder


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
    robot = AdroitRobot(task, load_robot(resources.robot_file(arguments.robot or f"adroit_{task}")))
    extractor = DetectionFeatures(load_detector(_detector(arguments, f"adroit_{task}")))
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
