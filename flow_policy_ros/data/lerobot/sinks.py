"""What frames become, one folder or file for each episode, which is whole or not there: staged for a dataset, a bag, an ``.npz``.

Every sink takes the frames of one unit and gives the episodes that it made of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.data.lerobot.frames import JOINT_STATE, Frame, Notes
from flow_policy_ros.data.lerobot.layout import Shape, check_names
from flow_policy_ros.data.lerobot.sources import Unit, part_name
from flow_policy_ros.data.lerobot.staging import Decode, EpisodeWriter, png
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import EncodedImage, Features


@dataclass(frozen=True)
class Made:
    """One finished episode at ``path``."""

    path: Path
    frames: int


class Sink(Protocol):
    """Takes the frames of a unit into files under ``folder``; sentences go to ``problems``."""

    def take(self, folder: Path, unit: Unit, notes: Notes, frames: Iterator[Frame], problems: list[str]) -> Iterator[Made]: ...


@dataclass(frozen=True)
class DatasetSink:
    """Staged episodes for ``write.write_dataset``."""

    robot: Robot
    fps: int
    images: str
    decode: Decode
    threads: int = 0

    def take(self, folder: Path, unit: Unit, notes: Notes, frames: Iterator[Frame], problems: list[str]) -> Iterator[Made]:
        for number, episode in groupby(frames, key=lambda frame: frame.episode):
            writer: EpisodeWriter | None = None
            try:
                for frame in episode:
                    if writer is None:
                        shape = self._shape(frame, problems)
                        if shape is None:
                            continue
                        writer = EpisodeWriter(folder / f"episode_{number:04d}", shape, self.decode, self.threads)
                    writer.add(frame)
                staged = None if writer is None else writer.finish(notes)
            except BaseException:
                if writer is not None:
                    writer.abandon()
                raise
            if writer is not None:
                problems += writer.problems
            if staged is not None:
                yield Made(staged.folder, staged.frames)

    def _shape(self, frame: Frame, problems: list[str]) -> Shape | None:
        """What the episode looks like, going by its first frame; None when an image of it cannot be decoded."""
        sizes: dict[str, tuple[int, int]] = {}
        for camera, image in frame.images.items():
            try:
                height, width, _ = self.decode(image).shape
            except ValueError as error:
                if len(problems) < 20:
                    problems.append(f"camera '{camera}' at the beginning: {error} The frame is left out.")
                return None
            sizes[camera] = (height, width)
        streams = {name: (values.shape[0], values.shape[1]) for name, values in frame.features.items()}
        check_names((*sizes, *streams))
        return Shape(self.fps, self.robot.name, self.robot.joints, sizes, streams, self.images)


@dataclass(frozen=True)
class BagSink:
    """Bags (MCAP) under the robot file's names, everything received at its frame's instant, header stamps as they were.

    Images are PNG, without loss; an input that did not change is not written again.
    """

    robot: Robot
    decode: Decode

    def take(self, folder: Path, unit: Unit, notes: Notes, frames: Iterator[Frame], problems: list[str]) -> Iterator[Made]:
        topics = {camera.name: "/" + camera.topic.strip("/").removesuffix("/compressed") for camera in self.robot.cameras}
        unknown: set[str] = set()
        for number, episode in groupby(frames, key=lambda frame: frame.episode):
            name = part_name(unit, number)
            partial = folder / ".partial"
            shutil.rmtree(partial, ignore_errors=True)
            success = "" if notes.success is None else str(notes.success).lower()
            custom = {"robot": self.robot.name, "task": notes.task, "success": success, "source": notes.source}
            with Rosbag2Writer(partial / name, custom=custom) as bag:
                count = 0
                taken: dict[str, int] = {}
                for frame in episode:
                    self._write(bag, frame, taken, topics, unknown)
                    count += 1
            os.replace(partial / name, folder / name)
            partial.rmdir()
            yield Made(folder / name, count)
        for camera in sorted(unknown):
            problems.append(f"camera '{camera}' of the dataset is not in the robot file; its images are left out.")

    def _write(self, bag: Rosbag2Writer, frame: Frame, taken: dict[str, int], topics: dict[str, str], unknown: set[str]) -> None:
        robot, now = self.robot, frame.stamp
        if _is_new(taken, frame, JOINT_STATE):
            names, stamp = _spoken(robot.joints, robot.naming.names), taken[JOINT_STATE]
            data = messages.joint_state(stamp, names, frame.state.astype(np.float64))
            bag.put("/" + robot.joint_state_topic.strip("/"), messages.JOINT_STATE, now, data)
        for camera, image in frame.images.items():
            if camera not in topics:
                unknown.add(camera)
            elif _is_new(taken, frame, camera):
                data = messages.compressed_image(taken[camera], camera, self._png(image), "png")
                bag.put(f"{topics[camera]}/compressed", messages.COMPRESSED_IMAGE, now, data)
        for stream, values in frame.features.items():
            if _is_new(taken, frame, stream):
                data = messages.features(Features(taken[stream], stream, values))
                bag.put(f"/features/{stream}", messages.IMAGE, now, data)
        topic = "command/executed" if robot.recorded is None else robot.recorded.topic
        names = robot.joints if robot.recorded is None else _spoken(robot.joints, robot.recorded.naming.names)
        data = messages.joint_state(now, names, frame.action.astype(np.float64))
        bag.put("/" + topic.removeprefix("~").strip("/"), messages.JOINT_STATE, now, data)

    def _png(self, image: EncodedImage) -> NDArray[np.uint8]:
        if image.encoding == "compressed" and bytes(image.data[:8]) == b"\x89PNG\r\n\x1a\n":
            return np.frombuffer(image.data, dtype=np.uint8)
        return np.frombuffer(png(self.decode(image)), dtype=np.uint8)


@dataclass(frozen=True)
class NpzSink:
    """Episodes for training (``data.episodes``): joints, commands and feature streams; they hold no images."""

    robot: Robot
    fps: int

    def take(self, folder: Path, unit: Unit, notes: Notes, frames: Iterator[Frame], problems: list[str]) -> Iterator[Made]:
        tick = round(1e9 / self.fps)
        for number, episode in groupby(frames, key=lambda frame: frame.episode):
            first, state, action = 0, [], []
            taken: dict[str, int] = {}
            streams: dict[str, tuple[list[int], list[NDArray[np.float32]]]] = {}
            for frame in episode:
                first = first or frame.stamp
                state.append(frame.state)
                action.append(frame.action)
                for name, values in frame.features.items():
                    before = taken.get(name)
                    if _is_new(taken, frame, name) and (before is None or taken[name] > before):
                        stamps, rows = streams.setdefault(name, ([], []))
                        stamps.append(taken[name])
                        rows.append(values)
            commands = np.asarray(action, dtype=np.float64)
            made = Episode(
                task=notes.task,
                seed=unit.number if notes.seed is None else notes.seed,
                success=notes.success is not False,
                dt_ns=tick,
                stamps=first + tick * np.arange(len(state), dtype=np.int64),
                joints=self.robot.joints,
                position=np.asarray(state, dtype=np.float64),
                commands=commands,
                label=commands,
                streams={name: (np.array(stamps, dtype=np.int64), np.array(rows)) for name, (stamps, rows) in streams.items()},
                robot=self.robot.name,
            )
            path = folder / f"{part_name(unit, number)}.npz"
            made.save(path)
            if notes.success is None:
                problems.append("nobody noted whether it succeeded; it is written as a success.")
            if frame.images:
                problems.append(f"episodes hold no images; those of {', '.join(frame.images)} are left out.")
            yield Made(path, len(state))


def _is_new(taken: dict[str, int], frame: Frame, name: str) -> bool:
    """Whether the input has another header stamp than in the frame before; ``taken`` remembers it."""
    stamp = frame.taken(name)
    if taken.get(name) == stamp:
        return False
    taken[name] = stamp
    return True


def _spoken(joints: tuple[str, ...], meanings: Mapping[str, str]) -> tuple[str, ...]:
    """What messages call the joints, so that the robot file's names lead back to them."""
    words = {joint: name for name, joint in meanings.items()}
    return tuple(words.get(joint, joint) for joint in joints)
