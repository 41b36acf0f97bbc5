"""LeRobot datasets as recordings in memory, one for each episode, for training; images are not looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.lerobot.frames import JOINT_STATE
from flow_policy_ros.data.lerobot.layout import ACTION, AGE, STATE
from flow_policy_ros.data.lerobot.read import Dataset, EpisodeEntry, open_dataset
from flow_policy_ros.data.lerobot.sources import columns
from flow_policy_ros.data.recording import Instruction, Recording, Stream
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.robot import Robot


def lerobot_recordings(path: str | Path, robot: Robot | None = None) -> Iterator[Recording]:
    """The episodes of the dataset, in their order; joints are ``robot``'s, or without it all that observation and action share.

    An input counts as received at the instant of the first frame that has it, and keeps its header stamp where the dataset knows.
    Raises ``DatasetError`` naming the file.
    """
    dataset = open_dataset(path)
    joints = tuple(name for name in dataset.state_names if name in dataset.action_names) if robot is None else robot.joints
    told = JointNaming() if robot is None else robot.naming
    actions = told if robot is None or robot.recorded is None else robot.recorded.naming
    counts = [dataset.features[name]["shape"][0] for name in (STATE, ACTION)]
    state = columns(f"dataset {path}: {STATE}", dataset.state_names, counts[0], told, joints)
    action = columns(f"dataset {path}: {ACTION}", dataset.action_names, counts[1], actions, joints)
    for entry in dataset.episodes:
        yield _recording(dataset, entry, joints, state, action, dataset.robot if robot is None else robot.name)


def _recording(
    dataset: Dataset, entry: EpisodeEntry, joints: tuple[str, ...], state: list[int], action: list[int], robot: str
) -> Recording:
    states, commands = _Column(), _Column()
    streams = {name: _Column() for name in dataset.streams}
    for frame in dataset.frames(entry, ()):
        states.see(frame.taken(JOINT_STATE), frame.stamp, frame.state[state])
        commands.see(frame.stamp, frame.stamp, frame.action[action])
        for name, values in frame.features.items():
            streams[name].see(frame.taken(name), frame.stamp, values)
    stamps, received, position = states.arrays()
    regular = AGE not in dataset.features and len(set(np.diff(stamps).tolist())) == 1
    return Recording(
        joints, stamps, received, position.astype(np.float64), commands.arrays()[0], commands.arrays()[2].astype(np.float64),
        streams={name: Stream(*column.arrays()) for name, column in streams.items()},
        robot=robot, task=entry.notes.task, success=entry.notes.success,
        source=f"{dataset.root} episode {entry.number}", tick_ns=int(stamps[1] - stamps[0]) if regular else 0,
        instructions=(Instruction(int(received[0]), entry.notes.task),) if entry.notes.task else (),
    )  # fmt: skip


class _Column:
    """One input's values, each once."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._received: list[int] = []
        self._values: list[NDArray[np.float32]] = []

    def see(self, stamp: int, received: int, values: NDArray[np.float32]) -> None:
        if not self._stamps or self._stamps[-1] != stamp:
            self._stamps.append(stamp)
            self._received.append(received)
            self._values.append(values)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        return np.array(self._stamps, dtype=np.int64), np.array(self._received, dtype=np.int64), np.array(self._values)
