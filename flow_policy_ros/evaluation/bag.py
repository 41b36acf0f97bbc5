"""An episode's record as a rosbag2 folder: camera, joint states, set-points, chunks, as a robot would have recorded them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.evaluation.record import EpisodeRecord
from flow_policy_ros.runtime.types import JointState


def write_bag(path: str | Path, record: EpisodeRecord) -> None:
    """Write ``record`` to the new folder ``path``, messages in the order of their stamps. Raises ``ValueError`` when it exists."""
    frames, chunks = dict(record.frames), {chunk.stamp: chunk for chunk in record.chunks}
    seconds = np.gradient(record.stamps.astype(np.float64) / 1e9)[:, None]
    velocity = np.diff(record.command, axis=0, prepend=record.command[:1]) / seconds
    with BagWriter(path) as bag:
        for k, stamp in enumerate(record.stamps.tolist()):
            bag.joint_state(JointState(stamp, record.joints, record.position[k]))
            if stamp in frames:
                bag.image(stamp, frames[stamp])
            if stamp in chunks:
                bag.chunk(chunks[stamp])
            if not np.isnan(record.command[k]).any():
                bag.command(stamp, record.joints, record.command[k], np.nan_to_num(velocity[k]))
