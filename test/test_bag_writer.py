"""A bag that we write is read back, value for value, by an independent reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader

from flow_policy_ros.data.bag_recording import noted_success
from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Chunk, Features, JointState

STAMP = 1_700_000_000_123_456_789


def test_round_trip(tmp_path: Path) -> None:
    names = ("a", "b")
    positions = np.arange(6.0).reshape(3, 2)
    picture = np.full((32, 48, 3), (200, 30, 60), dtype=np.uint8)
    with BagWriter(tmp_path / "bag") as bag:
        bag.joint_state(JointState(STAMP, names, np.array([0.1, -0.2]), np.array([1.0, 2.0])))
        bag.command(STAMP + 1, names, np.array([0.3, 0.4]), np.zeros(2))
        bag.image(STAMP + 2, picture)
        bag.features(Features(STAMP + 2, "objects", np.array([[0.5, -1.0]], np.float32)), STAMP + 4)
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
    received, objects = read["/features/objects"]
    assert (received, objects.header.frame_id, objects.data.view("<f4").tolist()) == (STAMP + 4, "objects", [0.5, -1.0])
    import cv2

    image = np.asarray(cv2.imdecode(read["/camera/image_raw/compressed"][1].data, cv2.IMREAD_COLOR))[..., ::-1]
    assert image.shape == picture.shape and np.abs(image.astype(int) - picture).mean() < 3


def test_an_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        BagWriter(tmp_path)


def test_a_demonstration_becomes_a_bag(tmp_path: Path) -> None:
    from flow_policy_ros.evaluation.bag import write_demonstration
    from flow_policy_ros.evaluation.demonstrate import Recording

    stamps, rows = STAMP + 10_000_000 * np.arange(5), np.arange(10.0).reshape(5, 2)
    objects = np.arange(15, dtype=np.float32).reshape(5, 1, 3)
    limits = {joint: {"position": [0.0, 20.0], "velocity": 1.0, "acceleration": 1.0} for joint in ("a", "b")}
    block = {"name": "two_joints", "joints": ["a", "b"], "limits": limits}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": block}}}))
    robot = load_robot(tmp_path / "robot.yaml")
    write_demonstration(tmp_path / "bag", Recording(7, True, stamps, rows, rows + 1, rows + 2, objects, {}), "door", robot)
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["custom_data"] == {"robot": "two_joints", "task": "door", "success": "true", "seed": "7"}
    assert noted_success(tmp_path / "bag") is True
    with AnyReader([tmp_path / "bag"]) as reader:
        read = [(c.topic, t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages()]
    assert [t for topic, t, _ in read if topic == "/joint_states"] == stamps.tolist()
    np.testing.assert_array_equal([m.position for topic, _, m in read if topic == "/joint_states"], rows)
    commands = [m for topic, _, m in read if topic == "/command/executed"]
    np.testing.assert_array_equal([m.position for m in commands], rows + 1)  # what was executed, not what was meant
    np.testing.assert_allclose([m.velocity for m in commands], [[0, 0], *[[200, 200]] * 4], rtol=1e-3)
    np.testing.assert_array_equal([m.data.view("<f4") for topic, _, m in read if topic == "/features/objects"], objects[:, 0])


def test_an_episode_of_a_policy_has_its_object_state_and_says_how_it_went(tmp_path: Path, root: Path) -> None:
    from flow_policy_ros.evaluation.bag import write_bag
    from flow_policy_ros.evaluation.record import EpisodeRecord

    stamps, rows = STAMP + 10_000_000 * np.arange(3), np.arange(6.0).reshape(3, 2)
    seen = [Features(stamp, "objects", np.full((1, 2), k, np.float32)) for k, stamp in enumerate(stamps.tolist())]
    robot = load_robot(root / "config/robots/adroit_door.yaml")
    for success in (True, False):
        record = EpisodeRecord(7, success, 1, ("a", "b"), stamps, rows, rows, ["active"] * 3, [], [], features=seen)
        write_bag(tmp_path / f"{success}", record, "door", robot)
        assert noted_success(tmp_path / f"{success}") is success
    (tmp_path / "True").rename(tmp_path / "bag")
    custom = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["custom_data"]
    assert custom == {"robot": "adroit_door", "task": "door", "success": "true", "seed": "7"}
    with AnyReader([tmp_path / "bag"]) as reader:
        read = [(t, reader.deserialize(raw, c.msgtype).data.view("<f4").tolist()) for c, t, raw in reader.messages()
                if c.topic == "/features/objects"]
    assert read == [(stamp, [k, k]) for k, stamp in enumerate(stamps.tolist())]
