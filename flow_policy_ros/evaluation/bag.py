"""An episode as a rosbag2 folder: camera, joint states, object state, instruction, set-points, chunks, as a robot would have
recorded them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.evaluation.demonstrate import Recording
from flow_policy_ros.evaluation.record import EpisodeRecord
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Features, FloatArray, JointState


def write_bag(path: str | Path, record: EpisodeRecord, task: str, robot: Robot) -> None:
    """Write ``record`` to the new folder ``path``, messages in the order of their stamps; the metadata says what that of
    ``write_demonstration`` does. Raises ``ValueError`` when the folder exists."""
    frames, chunks = dict(record.frames), {chunk.stamp: chunk for chunk in record.chunks}
    features = {seen.stamp: seen for seen in record.features}
    velocity = _velocity(record.stamps, record.command)
    with BagWriter(path, _noted(robot, task, record)) as bag:
        _tell(bag, record.stamps, record.instruction)
        for k, stamp in enumerate(record.stamps.tolist()):
            bag.joint_state(JointState(stamp, record.joints, record.position[k]))
            if stamp in frames:
                bag.image(stamp, frames[stamp])
            if stamp in features:
                bag.features(features[stamp])
            if stamp in chunks:
                bag.chunk(chunks[stamp])
            if not np.isnan(record.command[k]).any():
                bag.command(stamp, record.joints, record.command[k], np.nan_to_num(velocity[k]))


def write_demonstration(path: str | Path, recording: Recording, task: str, robot: Robot) -> None:
    """Write ``recording`` to the new folder ``path``: joint states, the commands that were executed, the object state and the
    instruction; no pictures. The metadata says what the recorder's does, robot and success, and task and seed. Raises
    ``ValueError`` when the folder exists."""
    velocity, joints = _velocity(recording.stamps, recording.command), robot.joints
    with BagWriter(path, _noted(robot, task, recording)) as bag:
        _tell(bag, recording.stamps, recording.instruction)
        for k, stamp in enumerate(recording.stamps.tolist()):
            bag.joint_state(JointState(stamp, joints, recording.position[k]))
            bag.features(Features(stamp, "objects", recording.objects[k]))
            bag.command(stamp, joints, recording.command[k], velocity[k])


def _noted(robot: Robot, task: str, episode: EpisodeRecord | Recording) -> dict[str, str]:
    return {"robot": robot.name, "task": task, "success": str(episode.success).lower(), "seed": str(episode.seed)}


def _tell(bag: BagWriter, stamps: NDArray[np.int64], instruction: str) -> None:
    """The instruction (if any) as it was in force before the first of ``stamps`` (T,) ns."""
    if instruction and len(stamps):
        bag.instruction(int(stamps[0]), instruction)


def _velocity(stamps: NDArray[np.int64], command: FloatArray) -> FloatArray:
    """Of set-points (T, J) at ``stamps`` (T,) ns: from the one before, as they were sent; rad/s or m/s."""
    seconds = np.gradient(stamps.astype(np.float64) / 1e9)[:, None]
    velocity: FloatArray = np.diff(command, axis=0, prepend=command[:1]) / seconds
    return velocity
