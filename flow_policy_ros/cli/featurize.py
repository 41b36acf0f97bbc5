"""``flow_policy featurize``: run an extractor over recordings: episodes, re-rendered as the robot's camera sees them, or the
pictures in bags."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tyro

    from flow_policy_ros.runtime.robot import Robot
    from flow_policy_ros.vision.extractors import Instructed
    from flow_policy_ros.vision.features import FeatureExtractor

HELP = "add features to recorded episodes and bags"
ELSEWHERE = {
    "perception.extractor": "it is given with --extractor",
    "perception.detector": "it is given with --detector",
    "perception.model": "it is given with --model",
    "perception.cameras": "they are given with --camera",
    "perception.instruction": "it is given with --instruction",
    "perception.points": "points in space are made while recording",
    "perception.threads": "each process has one; use --jobs",
    "perception.overlay": "nothing is drawn",
}
"""Parameters that --set would change nothing with, and why."""
BEFORE_START_NS = 500_000_000
"""Stamp of the picture before the start: longer ago than any delay in training, so that the very first tick is learned."""


@dataclass(frozen=True)
class Arguments:
    """Write recordings with a feature stream, to train on: detections, unless --extractor says otherwise. Those that are there
    already are left alone."""

    episodes: Path
    """Folder of recorded episodes (flow_policy demonstrate), a bag, or a folder of bags (of LeRobot folders: convert --to bag)."""
    out: Path
    """Folder for the episodes with features; of bags it gets all that training needs. What is there already must have been made
    by the same extractor."""
    detector: str | None = None
    """Detector folder, or the name of one that ships; default: the shipped one for the robot."""
    extractor: Literal[
        "detections", "object_slots", "region_features", "yolo_tokens", "backbone", "vlm", "frames"
    ] = "detections"
    """What is made of the pictures, as perception.extractor; frames: the pictures themselves, of --size, for policies that run a
    vision-language model."""
    model: str | None = None
    """Of backbone and vlm: the folder of the model, or its hub name."""
    camera: tuple[str, ...] = ()
    """Cameras of the robot file; default: the first. The simulation has that alone."""
    stream: str = ""
    """Name of the first camera's stream, others' end with the camera's name; default: the extractor's own."""
    size: tuple[int, int] = (224, 224)
    """Height and width of frames in pixels."""
    keep: tuple[str, ...] = ()
    """Recorded feature streams of bags that are taken beside as they are, such as points; the bags say what made them."""
    instruction: str = ""
    """What a vlm reads beside the picture where a recording has no instruction of its own, or before one that can be read."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A parameter of the perception node, NAME:=VALUE, such as perception.grid:=4x4, on top of the robot file's; repeatable."""
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
    global tyro  # where the annotations above are looked up
    import tyro

    return featurize(tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy featurize"))


def featurize(arguments: Arguments) -> int:
    """Write one episode with features for each without, or the recordings of each bag."""
    from multiprocessing import get_context

    from rich.progress import track

    from flow_policy_ros.cli.features_made import require_same
    from flow_policy_ros.data.bag_recording import bags_in
    from flow_policy_ros.data.episodes import EXTRACTOR_FILE, no_episodes

    paths = sorted(arguments.episodes.glob("*.npz"))
    bags = [] if paths else bags_in(arguments.episodes)
    if not paths and not bags:
        raise no_episodes(arguments.episodes)
    if arguments.keep and not bags:
        raise ValueError("--keep is for bags; episodes keep the streams that they have.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    todo = [path for path in paths or bags if not _product(path, arguments, 0 if bags else None).exists()]
    shares = [todo[i :: arguments.jobs * 8] for i in range(arguments.jobs * 8)]
    work = featurize_bags if bags else featurize_files
    made = identities(paths, bags, arguments)
    require_same(arguments.out, made)
    (arguments.out / EXTRACTOR_FILE).write_text(json.dumps(made, indent=1) + "\n")  # first: what is left half done says it, too
    with ExitStack() as stack:
        results: Iterator[None] = (work(share, arguments) for share in shares if share)
        if arguments.jobs != 1:
            # Not forked: a graphics context, or a tensor library's threads, that this process has already would hang there.
            pool = stack.enter_context(ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")))
            futures = [pool.submit(work, share, arguments) for share in shares if share]
            results = (future.result() for future in as_completed(futures))
        for _ in track(results, total=sum(map(bool, shares)), description="features"):
            pass
    what, done = "bags" if bags else "episodes", len(paths or bags) - len(todo)
    print(f"{len(todo)} {what} with features in {arguments.out}, {done} were there already")
    return 0


def identities(paths: list[Path], bags: list[Path], arguments: Arguments) -> dict[str, dict[str, Any]]:
    """What makes, or made, each stream of the episodes at ``paths``, or else of ``bags``, by name. Raises ``ValueError``-derived
    errors where it cannot be made, and for bags whose streams to keep were not made by the same."""
    from flow_policy_ros.cli.features_made import differences, identities_in
    from flow_policy_ros.data.episodes import EpisodeError, load_extractors

    robot, extractors = prepare((paths or bags)[0], arguments, of_bags=bool(bags))
    before = load_extractors(arguments.episodes) if paths else {}  # of streams that the episodes had already
    for k, bag in enumerate(bags if arguments.keep else []):
        there = identities_in(bag, robot, arguments.keep)
        if k and there != before:
            raise EpisodeError(
                f"{bag} and {bags[0]} do not say the same of what made the streams that are to be kept (--keep): "
                f"{differences(before, there)}. Featurize them apart, each with its own --out."
            )
        before = there
    made = {**before, **{extractor.stream: extractor.identity() for extractor in extractors.values()}}
    return dict(json.loads(json.dumps(made)))


def prepare(path: Path, arguments: Arguments, of_bags: bool) -> tuple[Robot, dict[str, FeatureExtractor]]:
    """The robot of the bag, or the episode, at ``path``, and what looks at each of its cameras."""
    from flow_policy_ros import resources
    from flow_policy_ros.data.episodes import Episode, EpisodeError
    from flow_policy_ros.runtime.robot import load_robot

    if of_bags:
        if arguments.robot is None:
            raise EpisodeError(f"{path} names no joints and cameras of a robot; give the robot file: --robot.")
        robot = load_robot(resources.robot_file(arguments.robot))
        return robot, make_extractors(arguments, robot, robot.name)
    name = f"adroit_{Episode.load(path).task}"
    robot = load_robot(resources.robot_file(arguments.robot or name))
    extractors = make_extractors(arguments, robot, name)
    others = [camera for camera in extractors if camera != robot.cameras[0].name]
    if others:
        raise ValueError(f"--camera {' '.join(others)}: the simulation has the camera '{robot.cameras[0].name}' alone; name that.")
    return robot, extractors


class Orders:
    """Tells an extractor what a recording says by the time of each picture: every instruction once, in order. One that it cannot
    read leaves the one before, as on the robot, and is kept in ``refused``.

    ``first`` is what it is told before that; raises ``ExtractorError`` where it cannot be read.
    """

    def __init__(self, extractor: Instructed, first: str, told: list[tuple[int, str]]) -> None:
        self.refused: list[str] = []
        self._extractor, self._told, self._next = extractor, told, 0
        extractor.instruct(first)

    def until(self, received: int) -> None:
        """Tell it what was received up to that instant (ns), which must not be before the last."""
        while self._next < len(self._told) and self._told[self._next][0] <= received:
            try:
                self._extractor.instruct(self._told[self._next][1])
            except ValueError as error:
                self.refused.append(str(error))
            self._next += 1


def featurize_bags(paths: list[Path], arguments: Arguments) -> None:
    """One process's share of bags."""
    import sys

    from flow_policy_ros.data.bag_events import ImageEvent
    from flow_policy_ros.data.bag_recording import read_recording
    from flow_policy_ros.data.episodes import EpisodeError
    from flow_policy_ros.runtime.types import Features
    from flow_policy_ros.vision.extractors import Instructed, picture

    robot, extractors = prepare(paths[0], arguments, of_bags=True)
    readers = {name: e for name, e in extractors.items() if isinstance(e, Instructed) and e.speaks}

    for path in paths:
        told = instructions_in(path, robot) if readers else []
        orders = {camera: Orders(reader, arguments.instruction, told) for camera, reader in readers.items()}

        def extract(event: ImageEvent, orders: dict[str, Orders] = orders) -> Features | None:
            if event.camera not in extractors:
                return None
            if event.camera in orders:
                orders[event.camera].until(event.received)
            return extractors[event.camera].extract(picture(event.image), event.stamp)

        recordings = read_recording(path, robot, extract, stamps=arguments.stamps, features=arguments.keep)
        for problem in dict.fromkeys(problem for recording in recordings for problem in recording.problems):
            print(f"warning: {path}: {problem}", file=sys.stderr)
        for refused in dict.fromkeys(reason for one in orders.values() for reason in one.refused):
            print(f"warning: {path}: an instruction was refused, the one before stays: {refused}", file=sys.stderr)
        for camera, extractor in extractors.items():
            if not any(extractor.stream in recording.streams for recording in recordings):
                said = dict.fromkeys(problem for recording in recordings for problem in recording.problems)
                raise EpisodeError(
                    f"{path} holds no picture of the camera '{camera}' that can be used. {' '.join(list(said)[:3])}".rstrip()
                )
        for number, recording in reversed(list(enumerate(recordings))):  # the first one says that all are there
            recording.save(_product(path, arguments, number))


def instructions_in(path: Path, robot: Robot) -> list[tuple[int, str]]:
    """(instant of receipt in ns, text) of every instruction in a bag, in order."""
    from dataclasses import replace

    from flow_policy_ros.data.bag_events import BagEvents, InstructionEvent
    from flow_policy_ros.data.bags.open import open_bag

    bag = open_bag(path)
    try:
        events = BagEvents(bag, replace(robot, cameras=()))
        if events.instruction is None:
            return []
        return [(event.received, event.text) for event in events if isinstance(event, InstructionEvent)]
    finally:
        bag.close()


def featurize_files(paths: list[Path], arguments: Arguments) -> None:
    """One process's share of episodes."""
    from dataclasses import replace

    import numpy as np

    from flow_policy_ros.data.episodes import Episode
    from flow_policy_ros.sim.robot import AdroitRobot
    from flow_policy_ros.vision.extractors import Instructed

    file, extractors = prepare(paths[0], arguments, of_bags=False)
    extractor = extractors[file.cameras[0].name]
    robot = AdroitRobot(Episode.load(paths[0]).task, file)
    for path in paths:
        episode = Episode.load(path)
        if isinstance(extractor, Instructed) and extractor.speaks:
            extractor.instruct(episode.instruction or arguments.instruction)
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


def make_extractors(arguments: Arguments, robot: Robot, of: str) -> dict[str, FeatureExtractor]:
    """What looks at each of the cameras that were asked for, as the perception node would; ``of`` names the robot whose detector
    ships."""
    from dataclasses import replace

    from flow_policy_ros.data.episodes import EpisodeError
    from flow_policy_ros.runtime.overlay import parse_settings
    from flow_policy_ros.runtime.parameters import PerceptionParameters, from_flat
    from flow_policy_ros.vision.extractors import OF_A_DETECTOR, load_extractor, of_camera, source_of, with_source
    from flow_policy_ros.vision.frames import FrameFeatures

    if not robot.cameras:
        raise EpisodeError(f"robot file {robot.path} has no camera; add one under robot.cameras.")
    known = {camera.name: camera for camera in robot.cameras}
    strangers = [name for name in arguments.camera if name not in known]
    if strangers:
        raise ValueError(f"--camera {' '.join(strangers)}: robot file {robot.path} has the cameras {', '.join(known)}; name one.")
    cameras = [known[name] for name in dict.fromkeys(arguments.camera or (robot.cameras[0].name,))]
    if arguments.extractor == "frames":
        made: list[FeatureExtractor] = [
            FrameFeatures(arguments.size, camera.name, seen=(camera.height, camera.width)) for camera in cameras
        ]
    else:
        settings = parse_settings(arguments.set, robot, ELSEWHERE, "in featurize")
        flat = {**robot.parameters, **settings, "perception.extractor": arguments.extractor, "perception.instruction": ""}
        parameters = from_flat(PerceptionParameters, "perception", flat)
        by_detector = arguments.extractor in OF_A_DETECTOR
        if (arguments.model if by_detector else arguments.detector) is not None:
            wrong, right = ("--model", "--detector") if by_detector else ("--detector", "--model")
            raise ValueError(f"{wrong} is given, but the extractor '{arguments.extractor}' has its weights from {right}; use that.")
        if by_detector:
            parameters = with_source(parameters, _detector(arguments, of))
        elif arguments.model is not None:
            parameters = with_source(parameters, arguments.model)
        parameters = replace(parameters, threads=1)
        made = [load_extractor(parameters.extractor, source_of(parameters), camera, parameters) for camera in cameras]
    first = robot.cameras[0]
    pairs = zip(cameras, made, strict=True)
    return {camera.name: of_camera(extractor, camera.name, camera == first, arguments.stream) for camera, extractor in pairs}


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
