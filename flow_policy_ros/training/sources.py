"""What ``--data`` names, read: folders of episodes, bags, folders of bags, LeRobot folders, all as recordings.

How each is read is ``data``'s; splitting, statistics and batches are ``training.data``'s.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_policy_ros.data.bag_recording import bags_in, read_recording, recorded_streams
from flow_policy_ros.data.bags.bag import BagError
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.episodes import EpisodeError, load_extractors, no_episodes
from flow_policy_ros.data.lerobot.read import is_dataset
from flow_policy_ros.data.lerobot.recordings import lerobot_recordings
from flow_policy_ros.data.recording import Recording, read_recordings
from flow_policy_ros.data.windows import Ages
from flow_policy_ros.resources import robot_file
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.stream_cameras import greatest_ages_of
from flow_policy_ros.training.config import TrainConfig, TrainError
from flow_policy_ros.training.frames import FrameExtract, frame_streams, of_episodes


@dataclass(frozen=True)
class Source:
    """The recordings of one robot that ``path`` holds, what made their features (``extractors``), the greatest ages at which
    they are observed, and the ``weight`` in a mixture, None when none was given. ``frames`` are the streams of camera images."""

    path: Path
    weight: float | None
    robot: str
    recordings: tuple[Recording, ...]
    extractors: dict[str, dict[str, Any]]
    ages: Ages
    frames: tuple[str, ...] = ()


def read_sources(config: TrainConfig) -> list[Source]:
    """Every path of ``config.data``. Raises ``EpisodeError``, ``BagError``, ``TrainError`` or ``RobotFileError``."""
    entries = config.sources()
    twice = sorted({str(path) for k, (path, _) in enumerate(entries) if path.resolve() in {p.resolve() for p, _ in entries[:k]}})
    if twice:
        raise TrainError(f"--data names {twice} twice; give it once, with a weight (PATH=2) if it is to count for more.")
    datasets = [path for path, _ in entries if is_dataset(path)]
    bags = [path for path, _ in entries if path not in datasets and not any(path.glob("*.npz")) and bags_in(path)]
    foreign = [path for path, _ in entries if path in bags or path in datasets]
    if (bags or (datasets and config.robot)) and len(config.robot) not in (1, len(foreign)):
        raise TrainError(
            f"--robot has {len(config.robot)} robot files for {[str(path) for path in foreign]}; expected one, or one for each of "
            "them in this order. It says which topics and joints are the robot's."
        )
    robots = [load_robot(robot_file(file)) for file in config.robot]
    of_path = dict(zip(foreign, robots if len(robots) == len(foreign) else robots * len(foreign), strict=False))
    read = []
    for path, weight in entries:
        extractors: dict[str, dict[str, Any]] = {}
        if path in bags:
            extract = FrameExtract(config, of_path[path]) if config.frames else None
            recordings = _bags(path, of_path[path], config, extract)
            extractors = {} if extract is None else extract.extractors()
        elif path in datasets:
            recordings = list(lerobot_recordings(path, of_path.get(path)))
        elif path.is_dir():
            recordings = read_recordings(path)
        else:
            raise no_episodes(path)
        extractors |= load_extractors(path) if path.is_dir() else {}
        if config.frames and path not in bags:
            recordings, extractors = of_episodes(path, recordings, extractors, config)
        _require_streams(path, recordings, path in bags, path in datasets, config)
        read.append(_source(path, weight, recordings, robots, config, extractors))
    return read


def _source(
    path: Path,
    weight: float | None,
    recordings: Sequence[Recording],
    robots: Sequence[Robot],
    config: TrainConfig,
    extractors: dict[str, dict[str, Any]],
) -> Source:
    names = sorted({recording.robot for recording in recordings})
    if len(names) != 1:
        raise TrainError(f"{path} mixes episodes of the robots {names}; keep each in a folder of its own.")
    known = next((robot for robot in robots if robot.name == names[0]), None)
    frames = tuple(frame_streams(config).values())
    return Source(path, weight, names[0], tuple(recordings), extractors, _ages(recordings[0], known, config, extractors), frames)


def _bags(path: Path, robot: Robot, config: TrainConfig, extract: FrameExtract | None) -> list[Recording]:
    """What the bags hold; one that cannot be used is left out and said, unless it is the only one."""
    recordings: list[Recording] = []
    problems: dict[str, list[str]] = {}
    bags = bags_in(path)
    for bag in bags:
        try:
            looked_at = robot if extract is None else extract.robot
            found = read_recording(bag, looked_at, extract, stamps=config.stamps, features=config.streams)
        except (BagError, EpisodeError) as error:
            if len(bags) == 1:
                raise
            problems[f"left out, because {error}"] = [bag.name]
            continue
        for problem in found[0].problems:
            problems.setdefault(problem, []).append(bag.name)
        recordings += found
    for problem, names in problems.items():
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        print(f"warning: {path}: {names[0]}{others}: {problem}", file=sys.stderr)
    if not recordings:
        raise EpisodeError(f"none of the {len(bags)} bags in {path} can be used; see the warnings, and `flow_policy inspect`.")
    return recordings


def _require_streams(path: Path, recordings: Sequence[Recording], bags: bool, dataset: bool, config: TrainConfig) -> None:
    """Raise ``TrainError`` with the way out where a recording lacks a stream that is to be observed."""
    frames = tuple(frame_streams(config).values())
    lacking = [(r, name) for r in recordings for name in (*config.streams, *frames) if name not in r.streams]
    if not lacking:
        return
    recording, name = lacking[0]
    if name in frames:
        raise TrainError(f"{recording.source} holds no picture that can be used for --frames (stream '{name}'); see the warnings.")
    known = _streams_of_bag(Path(recording.source)) if bags else sorted(recording.streams)
    if known:
        raise TrainError(
            f"{recording.source} has no feature stream '{name}', only {known}. Name one of these with --streams, or compute the "
            "features first (flow_policy featurize)."
        )
    robot = f" --robot {config.robot[0]}" if len(config.robot) == 1 else " --robot ROBOT" if bags or dataset else ""
    first = f"flow_policy convert {path}{robot} --to bag --out bags` and `" if dataset else ""
    raise TrainError(
        f"{recording.source} has no feature streams. Train on joint states alone with `--streams` (no names), or run "
        f"`{first}flow_policy featurize --episodes {'bags' if dataset else path}{robot} --out features` first, and train on "
        "--data features."
    )


def _streams_of_bag(path: Path) -> list[str]:
    bag = open_bag(path)
    try:
        return recorded_streams(bag)
    finally:
        bag.close()


def _ages(
    recording: Recording, robot: Robot | None, config: TrainConfig, extractors: Mapping[str, dict[str, Any]]
) -> Ages:
    """As given; else as the robot's policy node judges them, those of its cameras too; no limit for simulated episodes, whose
    ticks are all on time."""
    if recording.tick_ns:
        live = Ages()
    else:
        given = {} if robot is None else robot.parameters
        joint_state_s, features_s = (
            float(given.get(f"policy.{name}", getattr(PolicyParameters, name)))
            for name in ("joint_state_max_age_s", "features_max_age_s")
        )
        cameras = {} if robot is None else _camera_ages(recording, robot, config, extractors)
        live = Ages(joint_state_s, features_s, cameras)
    return Ages(
        live.joint_state_s if config.joint_state_max_age is None else config.joint_state_max_age,
        live.features_s if config.features_max_age is None else config.features_max_age,
        live.streams_s if config.features_max_age is None else {},
    )


def _camera_ages(
    recording: Recording, robot: Robot, config: TrainConfig, extractors: Mapping[str, dict[str, Any]]
) -> dict[str, float]:
    observed = (*config.streams, *frame_streams(config).values())
    shapes = {name: recording.streams[name].values.shape for name in observed}
    streams = [StreamContract(name, shape[1], shape[2], extractors.get(name, {})) for name, shape in shapes.items()]
    return greatest_ages_of(streams, robot)
