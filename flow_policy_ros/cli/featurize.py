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
    from flow_policy_ros.vision.features import FeatureExtractor

HELP = "run a detector or another feature extractor over recorded episodes and bags"
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
    """Folder for the episodes with features; of bags it gets all that training needs."""
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
    """What a vlm reads beside the picture where a recording has no instruction of its own."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A parameter of the perception node, NAME=VALUE, such as perception.grid=4x4, on top of the robot file's; may be repeated."""
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

    from flow_policy_ros.data.bag_recording import bags_in
    from flow_policy_ros.data.episodes import EXTRACTOR_FILE, load_extractors, no_episodes

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
    identities: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        results: Iterator[dict[str, dict[str, Any]]] = (work(share, arguments) for share in shares if share)
        if arguments.jobs != 1:
            # Not forked: a graphics context, or a tensor library's threads, that this process has already would hang there.
            pool = stack.enter_context(ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")))
            futures = [pool.submit(work, share, arguments) for share in shares if share]
            results = (future.result() for future in as_completed(futures))
        for made in track(results, total=sum(map(bool, shares)), description="features"):
            identities = made
    if identities:
        before = load_extractors(arguments.episodes) if paths else {}  # of streams that the episodes had already
        (arguments.out / EXTRACTOR_FILE).write_text(json.dumps({**before, **identities}, indent=1) + "\n")
    what, done = "bags" if bags else "episodes", len(paths or bags) - len(todo)
    print(f"{len(todo)} {what} with features in {arguments.out}, {done} were there already")
    return 0


def featurize_bags(paths: list[Path], arguments: Arguments) -> dict[str, dict[str, Any]]:
    """One process's share of bags; returns the identity of what made each stream."""
    import sys

    from flow_policy_ros import resources
    from flow_policy_ros.data.bag_events import ImageEvent
    from flow_policy_ros.data.bag_recording import read_recording
    from flow_policy_ros.data.episodes import EpisodeError
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.runtime.types import Features
    from flow_policy_ros.vision.extractors import Instructed, picture

    if arguments.robot is None:
        raise EpisodeError(f"{paths[0]} names no joints and cameras of a robot; give the robot file: --robot.")
    robot = load_robot(resources.robot_file(arguments.robot))
    extractors = make_extractors(arguments, robot, robot.name)
    kept: dict[str, dict[str, Any]] = {}
    readers = [extractor for extractor in extractors.values() if isinstance(extractor, Instructed) and extractor.speaks]

    for path in paths:
        told = instructions_in(path, robot) if readers else []

        def extract(event: ImageEvent, told: list[tuple[int, str]] = told) -> Features | None:
            if event.camera not in extractors:
                return None
            extractor = extractors[event.camera]
            if isinstance(extractor, Instructed) and extractor.speaks:
                heard = [text for received, text in told if received <= event.received]
                extractor.instruct(heard[-1] if heard else arguments.instruction)
            return extractor.extract(picture(event.image), event.stamp)

        kept = identities_in(path, robot, arguments.keep)
        recordings = read_recording(path, robot, extract, stamps=arguments.stamps, features=arguments.keep)
        for problem in dict.fromkeys(problem for recording in recordings for problem in recording.problems):
            print(f"warning: {path}: {problem}", file=sys.stderr)
        for camera, extractor in extractors.items():
            if not any(extractor.stream in recording.streams for recording in recordings):
                said = dict.fromkeys(problem for recording in recordings for problem in recording.problems)
                raise EpisodeError(
                    f"{path} holds no picture of the camera '{camera}' that can be used. {' '.join(list(said)[:3])}".rstrip()
                )
        for number, recording in reversed(list(enumerate(recordings))):  # the first one says that all are there
            recording.save(_product(path, arguments, number))
    return {**kept, **{extractor.stream: extractor.identity() for extractor in extractors.values()}}


def identities_in(path: Path, robot: Robot, streams: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What made recorded ``streams``, as ``features/STREAM/info`` of a bag says. Raises ``EpisodeError`` for a bag without."""
    from dataclasses import replace

    from flow_policy_ros.data.bag_events import BagEvents
    from flow_policy_ros.data.bag_messages import TEXTS
    from flow_policy_ros.data.bags.open import open_bag
    from flow_policy_ros.data.episodes import EpisodeError

    found: dict[str, dict[str, Any]] = {}
    if not streams:
        return found
    bag = open_bag(path)
    try:
        topics = BagEvents(bag, replace(robot, cameras=()), features=streams).streams
        for stream in streams:
            info = bag.topics.get(f"{topics.get(stream)}/info")
            said = [bag.decode(message) for message in bag.messages([info.name])] if info and info.type in TEXTS else []
            try:
                found[stream] = dict(json.loads(TEXTS[info.type](said[-1]))) if info and said else {}
            except (ValueError, TypeError):
                found[stream] = {}
            if not found[stream]:
                raise EpisodeError(
                    f"{path} does not say what made the stream '{stream}' that is to be kept (--keep): features/{stream} and "
                    f"features/{stream}/info are not both in it. Leave it out, or record both topics."
                )
    finally:
        bag.close()
    return found


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


def featurize_files(paths: list[Path], arguments: Arguments) -> dict[str, dict[str, Any]]:
    """One process's share; returns the identity of what made the stream."""
    from dataclasses import replace

    import numpy as np

    from flow_policy_ros import resources
    from flow_policy_ros.data.episodes import Episode
    from flow_policy_ros.runtime.robot import load_robot
    from flow_policy_ros.sim.robot import AdroitRobot
    from flow_policy_ros.vision.extractors import Instructed

    task = Episode.load(paths[0]).task
    file = load_robot(resources.robot_file(arguments.robot or f"adroit_{task}"))
    extractors = make_extractors(arguments, file, f"adroit_{task}")
    others = [camera for camera in extractors if camera != file.cameras[0].name]
    if others:
        raise ValueError(f"--camera {' '.join(others)}: the simulation has the camera '{file.cameras[0].name}' alone; name that.")
    extractor = extractors[file.cameras[0].name]
    robot = AdroitRobot(task, file)
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
    return {extractor.stream: extractor.identity()}


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
        made: list[FeatureExtractor] = [FrameFeatures(arguments.size, camera.name) for camera in cameras]
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
