"""What can be converted, as units of work: a bag, an episode file, an episode of a LeRobot dataset. Each gives frames.

How frames are made of events lives in ``resample``; what becomes of them in ``sinks``.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from flow_policy_ros.data.bag_events import BagEvent, BagEvents, CommandEvent, FeaturesEvent, ImageEvent, JointStateEvent
from flow_policy_ros.data.bag_recording import bags_in, noted_success, recorded_streams
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.chunk_rows import MAX_GAP_S
from flow_policy_ros.data.episodes import read_npz
from flow_policy_ros.data.lerobot.frames import JOINT_STATE, NOTE, DatasetError, Frame, Notes
from flow_policy_ros.data.lerobot.layout import INFO
from flow_policy_ros.data.lerobot.read import Dataset, EpisodeEntry, is_dataset, open_dataset
from flow_policy_ros.data.lerobot.resample import Wanted, resample
from flow_policy_ros.data.recording import Recording, load_recording
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Features, JointState
from flow_policy_ros.runtime.yaml_bounded import load_yaml

BAG_FPS = 30
_PART = re.compile(r"(.+)_[0-9]{2,}")
_MOTOR_SUFFIX = ".pos"
"""What LeRobot's drivers put behind the name of a motor."""

Done = Callable[[float], None]
"""Is told which fraction of a unit has been read."""


@dataclass(frozen=True)
class Unit:
    """One recording to convert: a bag, an episode file, or episode ``number`` of a dataset. ``size`` in bytes."""

    kind: Literal["bag", "npz", "dataset"]
    path: Path
    name: str
    size: int
    number: int = 0


@dataclass(frozen=True)
class Rules:
    """How recordings become frames. ``stamps`` is ``header`` or ``receive``; ``task`` "" means what the recording says.

    On a regular grid commands may be as far apart as its instants, whatever ``command_gap_s`` says."""

    fps: int
    max_gap_s: float = 1.0
    stamps: Literal["header", "receive"] = "header"
    task: str = ""
    command_gap_s: float = MAX_GAP_S


def find_units(sources: Sequence[Path]) -> list[Unit]:
    """The recordings in ``sources``, in their order, those of a folder by name; no two make an episode of the same name.

    Raises ``DatasetError`` for a source without any."""
    units: list[Unit] = []
    for source in sources:
        found = _units_of(source)
        if not found:
            raise DatasetError(
                f"{source} is no recording: expected a bag (a rosbag2 folder, .mcap, .db3, .bag), a folder of bags or of episodes "
                "(*.npz), an episode, or the folder of a LeRobot dataset (meta/info.json)."
            )
        units += found
    return _with_names_of_their_own(units)


def part_name(unit: Unit, number: int) -> str:
    """What episode ``number`` of a unit is called where episodes are files."""
    return unit.name if number == 0 else f"{unit.name}_{number:02d}"


def _with_names_of_their_own(units: Sequence[Unit]) -> list[Unit]:
    """A unit has its name and those of all parts that it may fall into (``part_name``); who comes later is called otherwise."""
    names: set[str] = set()
    bases: set[str] = set()  # whose parts' names those are, if they are parts'
    found = []
    for unit in units:
        name, count = unit.name, 1
        while name in names or name in bases or _base(name) in names:
            count += 1
            name = f"{unit.name}-{count}"
        names.add(name)
        bases.add(_base(name))
        found.append(replace(unit, name=name))
    return found


def _base(name: str) -> str:
    part = _PART.fullmatch(name)
    return part[1] if part else ""


def natural_fps(unit: Unit) -> int:
    """The rate that a unit has of itself; ``BAG_FPS`` for a bag."""
    if unit.kind == "dataset":
        return _dataset(unit.path).fps
    if unit.kind == "npz":
        tick_ns = _recording(unit.path)[0].tick_ns
        return max(1, round(1e9 / tick_ns)) if tick_ns else BAG_FPS
    return BAG_FPS


def read_unit(unit: Unit, robot: Robot, rules: Rules, problems: list[str], done: Done) -> tuple[Notes, Iterator[Frame]]:
    """What is known of a unit, and its frames; what could not be used goes to ``problems`` while they are read.

    Raises ``ValueError``-derived errors for a unit that cannot be read at all.
    """
    if unit.kind == "bag":
        task, success = _noted_task(unit.path), noted_success(unit.path)
        return Notes(unit.name, rules.task or task or robot.name, success), _of_bag(unit, robot, rules, problems, done)
    if unit.kind == "npz":
        recording, seed = _recording(unit.path)
        notes = Notes(unit.name, rules.task or recording.task or robot.name, recording.success, seed)
        wanted = Wanted(robot.joints, streams=tuple(recording.streams))
        events = _watched(recording_events(recording), int(recording.received[0]), int(recording.received[-1]), done)
        return notes, _resampled(events, wanted, rules, problems, recording.tick_ns / 1e9)
    dataset = _dataset(unit.path)
    entry = dataset.episodes[unit.number]
    notes = replace(entry.notes, task=rules.task or entry.notes.task or robot.name)
    return notes, _of_dataset(dataset, entry, robot, rules, problems, done)


def recording_events(recording: Recording) -> Iterator[BagEvent]:
    """What a recording in memory says, in the order of receipt; commands are received when they are stamped."""
    states = (
        (int(received), 0, k, JointStateEvent(int(received), JointState(int(stamp), recording.joints, position)))
        for k, (stamp, received, position) in enumerate(zip(recording.stamps, recording.received, recording.position, strict=True))
    )
    features = [
        [
            (int(received), 1, k, FeaturesEvent(int(received), Features(int(stamp), name, values)))
            for k, (stamp, received, values) in enumerate(zip(*stream, strict=True))
        ]
        for name, stream in recording.streams.items()
    ]
    commands = (
        (int(stamp), 2, k, CommandEvent(int(stamp), int(stamp), recording.joints, position))
        for k, (stamp, position) in enumerate(zip(recording.command_stamps, recording.commands, strict=True))
    )
    rows: list[Iterable[tuple[int, int, int, BagEvent]]] = [states, *features, commands]
    for _, _, _, event in heapq.merge(*rows, key=lambda row: row[:3]):
        yield event


def frame_events(frames: Iterable[Frame], joints: tuple[str, ...]) -> Iterator[BagEvent]:
    """What frames say, each at its instant, for other frames to be made of it; an unchanged input is not said again."""
    taken: dict[str, int] = {}
    for frame in frames:
        now = frame.stamp
        new = {name for name in frame.ages if taken.get(name) != frame.taken(name)}
        taken |= {name: frame.taken(name) for name in new}
        if JOINT_STATE in new:
            yield JointStateEvent(now, JointState(frame.taken(JOINT_STATE), joints, frame.state.astype(np.float64)))
        for camera in (name for name in frame.images if name in new):
            yield ImageEvent(now, frame.taken(camera), camera, frame.images[camera])
        for stream in (name for name in frame.features if name in new):
            yield FeaturesEvent(now, Features(frame.taken(stream), stream, frame.features[stream]))
        yield CommandEvent(now, now, joints, frame.action.astype(np.float64))


def columns(what: str, names: tuple[str, ...], count: int, naming: JointNaming, joints: tuple[str, ...]) -> list[int]:
    """Where the robot's ``joints`` are among a dataset's ``names`` of ``count`` values. Raises ``ValueError`` listing both."""
    meant = [
        name.removesuffix(_MOTOR_SUFFIX) if name not in joints and name.endswith(_MOTOR_SUFFIX) else name
        for name in naming.rename(names, count)
    ]
    missing = [joint for joint in joints if meant.count(joint) != 1]
    if missing:
        raise DatasetError(
            f"{what} has values named {list(names)}, the robot file's joints {missing} are not there, or not just once. Say what "
            f"the names mean with {naming.key.removesuffix('_order')}_names in the robot file, or give the robot that was recorded."
        )
    return [meant.index(joint) for joint in joints]


def _of_bag(unit: Unit, robot: Robot, rules: Rules, problems: list[str], done: Done) -> Iterator[Frame]:
    bag = open_bag(unit.path)
    try:
        events = BagEvents(bag, robot, stamps=rules.stamps, features=recorded_streams(bag))
        cameras = tuple(name for name, topic in events.cameras.items() if bag.topics[topic].count != 0)
        wanted = Wanted(robot.joints, cameras, tuple(events.streams))
        yield from _resampled(_watched(events, bag.start, bag.end, done), wanted, rules, problems)
        problems += _with_notes(events, bag.problems, robot)
    finally:
        bag.close()


def _of_dataset(
    dataset: Dataset, entry: EpisodeEntry, robot: Robot, rules: Rules, problems: list[str], done: Done
) -> Iterator[Frame]:
    """The episode's frames, as they are, or others if the rate is to be another."""
    actions = robot.naming if robot.recorded is None else robot.recorded.naming
    counts = [dataset.features[name]["shape"][0] for name in ("observation.state", "action")]
    where = f"dataset {dataset.root}: "
    state = columns(where + "observation.state", dataset.state_names, counts[0], robot.naming, robot.joints)
    action = columns(where + "action", dataset.action_names, counts[1], actions, robot.joints)
    if dataset.left_out:
        problems.append(f"{dataset.root}: features {', '.join(dataset.left_out)} are not converted.")
    frames = _ordered(dataset.frames(entry, dataset.cameras), entry.frames, state, action, done)
    if rules.fps == dataset.fps:
        yield from frames
        return
    wanted = Wanted(robot.joints, dataset.cameras, dataset.streams)
    yield from _resampled(frame_events(frames, robot.joints), wanted, rules, problems, 1 / dataset.fps)


def _resampled(
    events: Iterable[BagEvent], wanted: Wanted, rules: Rules, problems: list[str], tick_s: float = 0.0
) -> Iterator[Frame]:
    return resample(events, wanted, rules.fps, rules.max_gap_s, problems, max(rules.command_gap_s, tick_s))


def _with_notes(events: BagEvents, of_bag: Sequence[str], robot: Robot) -> list[str]:
    """All that is to be said of a bag; that it never had a camera is no problem of its own, but a note."""
    absent = {camera.name for camera in robot.cameras} - set(events.cameras)
    found = [*events.problems, *(problem for problem in of_bag if problem not in events.problems)]
    said = []
    for sentence in found:
        camera = next((name for name in absent if sentence.startswith(f"robot.cameras.{name}.topic: topic")), None)
        if camera is not None and " is not in the recording" in sentence:
            sentence = f"{NOTE}no images of camera '{camera}': its topic is not in the recording."
        said.append(sentence)
    return said


def _ordered(frames: Iterator[Frame], count: int, state: list[int], action: list[int], done: Done) -> Iterator[Frame]:
    for number, frame in enumerate(frames):
        done(number / count)
        yield replace(frame, episode=0, state=frame.state[state], action=frame.action[action])


def _watched(events: Iterable[BagEvent], start: int | None, end: int | None, done: Done) -> Iterator[BagEvent]:
    """The events, with word of how far they are."""
    first, span = start or 0, max(1, (end or 0) - (start or 0))
    for event in events:
        done(min(1.0, max(0.0, (event.received - first) / span)))
        yield event


def _units_of(source: Path) -> list[Unit]:
    if is_dataset(source):
        dataset = _dataset(source)
        total = max(1, sum(entry.frames for entry in dataset.episodes))
        size = _size(source)
        return [
            Unit("dataset", source, f"{source.resolve().name}_{entry.number:06d}", size * entry.frames // total, k)
            for k, entry in enumerate(dataset.episodes)
        ]
    if source.suffix == ".npz" and source.is_file():
        return [Unit("npz", source, source.stem, _size(source))]
    bags = bags_in(source)
    if bags:
        return [Unit("bag", bag, _bag_name(bag), _size(bag)) for bag in bags]
    files = sorted(source.glob("*.npz")) if source.is_dir() else []
    return [Unit("npz", path, path.stem, _size(path)) for path in files]


def _dataset(path: Path) -> Dataset:
    """Opened once for all of its episodes."""
    return _opened(path, (path / INFO).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _opened(path: Path, _written: int) -> Dataset:
    return open_dataset(path)


def _bag_name(bag: Path) -> str:
    return bag.resolve().name if bag.is_dir() else bag.name.partition(".")[0] or bag.name


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def _recording(path: Path) -> tuple[Recording, int | None]:
    """An episode file, and its seed if it has one."""
    content = read_npz(path)
    return load_recording(path), int(content["seed"]) if "seed" in content else None


def _noted_task(bag: Path) -> str:
    """The task that whoever recorded the bag noted in its metadata; "" without."""
    try:
        metadata = load_yaml((bag / "metadata.yaml").read_text())
        return str(metadata["rosbag2_bagfile_information"]["custom_data"]["task"])
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError):
        return ""
