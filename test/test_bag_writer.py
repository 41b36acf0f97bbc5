"""A bag that we write is read back, value for value, by an independent reader."""

from __future__ import annotations

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.runtime.types import Chunk, JointState

STAMP = 1_700_000_000_123_456_789


def test_round_trip(tmp_path):
    names = ("a", "b")
    positions = np.arange(6.0).reshape(3, 2)
    picture = np.full((32, 48, 3), (200, 30, 60), dtype=np.uint8)
    with BagWriter(tmp_path / "bag") as bag:
        bag.joint_state(JointState(STAMP, names, np.array([0.1, -0.2]), np.array([1.0, 2.0])))
        bag.command(STAMP + 1, names, np.array([0.3, 0.4]), np.zeros(2))
        bag.image(STAMP + 2, picture)
        bag.chunk(Chunk(STAMP + 3, 20_000_000, names, positions))
    with AnyReader([tmp_path / "bag"]) as reader:
        read = {c.topic: (t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages()}
    state = read["/joint_states"][1]
    assert state.name == ["a", "b"] and state.position.tolist() == [0.1, -0.2] and state.velocity.tolist() == [1.0, 2.0]
    assert state.header.stamp.sec * 10**9 + state.header.stamp.nanosec == STAMP == read["/joint_states"][0]
    assert read["/command/executed"][1].position.tolist() == [0.3, 0.4]
    chunk = read["/policy/chunk"][1]
    np.testing.assert_array_equal([p.positions for p in chunk.points], positions)
    assert [p.time_from_start.nanosec for p in chunk.points] == [0, 20_000_000, 40_000_000]
    import cv2

    image = cv2.imdecode(read["/camera/image_raw/compressed"][1].data, cv2.IMREAD_COLOR)[..., ::-1]
    assert image.shape == picture.shape and np.abs(image.astype(int) - picture).mean() < 3


def test_an_existing_bag_is_not_overwritten(tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        BagWriter(tmp_path)
