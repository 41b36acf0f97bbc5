"""Recordings that are whole: every storage and compression, order, limits, types; and all of the shared ones."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import zstandard
from bag_support import (
    PERIOD,
    SAMPLE,
    START,
    STATE,
    STORE,
    TYPES,
    cdr,
    numbers,
    shared,
    state,
    states,
    write_folder,
    write_mcap,
    write_ros1,
)
from mcap.writer import CompressionType, IndexType
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from flow_policy_ros.data.bags import pieces
from flow_policy_ros.data.bags.bag import BagError, RawMessage, Topic
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.bags.storage import Definition
from flow_policy_ros.data.bags.typestore import TypeLibrary

N = 60


def check(path: Path, count: int = N) -> None:
    bag = open_bag(path)
    try:
        assert bag.problems == []
        assert bag.topics["/joint_states"].type == STATE and bag.topics["/joint_states"].count == count
        assert (bag.start, bag.end) == (START, START + (count - 1) * PERIOD)
        for _ in range(2):  # messages may be asked for again
            assert numbers(bag) == list(range(count))
        assert numbers(bag, start=START + 5 * PERIOD, stop=START + 8 * PERIOD) == [5, 6, 7]
        assert list(bag.messages([])) == [] and list(bag.messages(["/nothing"])) == []
        received = [message.received for message in bag.messages()]
        assert received == [START + k * PERIOD for k in range(count)]
        assert bag.problems == []
    finally:
        bag.close()


@pytest.mark.parametrize("compression", list(CompressionType), ids=lambda c: c.name)
@pytest.mark.parametrize("chunking", [True, False], ids=["chunks", "plain"])
def test_mcap(tmp_path: Path, compression: CompressionType, chunking: bool) -> None:
    check(write_mcap(tmp_path / "a.mcap", states(N), compression=compression, use_chunking=chunking))


@pytest.mark.parametrize("absent", ["index", "statistics", "summary", "crc"])
def test_mcap_with_less(tmp_path: Path, absent: str) -> None:
    options = {
        "index": {"index_types": IndexType.NONE},
        "statistics": {"use_statistics": False},
        "summary": {"repeat_channels": False, "repeat_schemas": False, "use_summary_offsets": False, "use_statistics": False,
                    "index_types": IndexType.NONE},
        "crc": {"enable_crcs": False},
    }
    check(write_mcap(tmp_path / "a.mcap", states(N), **options[absent]))  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name)
@pytest.mark.parametrize("compression", [None, *CompressionMode], ids=lambda c: c.name if c else "plain")
def test_folder(tmp_path: Path, storage: StoragePlugin, compression: CompressionMode | None) -> None:
    if compression in (CompressionMode.NONE, CompressionMode.STORAGE) and storage is StoragePlugin.SQLITE3:
        pytest.skip("SQLite does not compress")
    check(write_folder(tmp_path / "bag", states(N), storage, compression))


@pytest.mark.parametrize("suffix", [".zst", ".zstd", ""])
def test_a_compressed_file_alone(tmp_path: Path, suffix: str) -> None:
    plain = write_mcap(tmp_path / "plain.mcap", states(N)).read_bytes()
    packed = tmp_path / f"a.mcap{suffix}"
    packed.write_bytes(zstandard.compress(plain))
    check(packed)


@pytest.mark.parametrize("compression", [None, *Ros1Writer.CompressionFormat], ids=lambda c: c.name if c else "none")
def test_ros1(tmp_path: Path, compression: Ros1Writer.CompressionFormat | None) -> None:
    check(write_ros1(tmp_path / "a.bag", N, compression))


def test_ros1_field_names_are_those_of_ros2(tmp_path: Path) -> None:
    definition = "Header header\nfloat64[9] K\n" + "=" * 80 + "\nMSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"
    library = TypeLibrary({"my_msgs/msg/Lens": Definition("ros1msg", definition)})
    raw = np.array([7, 3, 4, 0], "<u4").tobytes() + np.arange(9.0).tobytes()
    message = library.decode(Topic("/lens", "my_msgs/msg/Lens", "ros1"), RawMessage("/lens", 0, raw))
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (3, 4)
    assert message.k.tolist() == list(range(9))


def test_receipt_out_of_order_within_and_between_chunks_and_files(tmp_path: Path) -> None:
    shuffled = states(N)
    np.random.default_rng(0).shuffle(shuffled)  # type: ignore[arg-type]
    check(write_mcap(tmp_path / "a.mcap", shuffled))
    check(write_mcap(tmp_path / "b.mcap", shuffled, use_chunking=False))
    check(write_folder(tmp_path / "sqlite", shuffled))
    folder = tmp_path / "split"
    folder.mkdir()
    write_mcap(folder / "x_10.mcap", shuffled[:20])
    write_mcap(folder / "x_9.mcap", shuffled[20:])
    bag = open_bag(folder)
    assert numbers(bag) == list(range(N))


def test_pieces_beyond_the_cache_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = states(N)
    np.random.default_rng(1).shuffle(shuffled)  # type: ignore[arg-type]
    path = write_mcap(tmp_path / "a.mcap", shuffled, compression=CompressionType.ZSTD)
    monkeypatch.setattr(pieces, "CACHE", 3000)
    check(path)


def test_equal_instants_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    same = [(START, message) for _, message in states(N)]
    assert numbers(open_bag(write_mcap(tmp_path / "a.mcap", same))) == list(range(N))
    assert numbers(open_bag(write_folder(tmp_path / "b", same))) == list(range(N))


def test_memory_of_a_message_is_its_own(tmp_path: Path) -> None:
    """A view into a chunk would hold the chunk."""
    bag = open_bag(write_mcap(tmp_path / "a.mcap", states(N)))
    assert all(type(message.data) is bytes and len(message.data) < 200 for message in bag.messages())


def test_nothing_is_written_beside_the_recording(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bag", states(N))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        check(folder)
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    finally:
        folder.chmod(0o755)


def test_temporary_copies_go_with_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "bag", states(N), compression=CompressionMode.FILE)
    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    bag = open_bag(folder)
    assert any(room.iterdir())
    bag.close()
    assert not any(room.iterdir())


class TestTypes:
    MINE = "float64 x\nOther[] others\n" + "=" * 80 + "\nMSG: my_msgs/Other\nstring name\n"

    def test_the_recordings_own(self, tmp_path: Path) -> None:
        data = b"\x00\x01\x00\x00" + np.array([2.5]).tobytes() + np.array([1, 3], "<u4").tobytes() + b"ab\x00\x00"
        path = write_mcap(tmp_path / "a.mcap", [(START, data)], "/mine", definition=self.MINE, kind="my_msgs/msg/Mine")
        bag = open_bag(path)
        (message,) = map(bag.decode, bag.messages())
        assert message.x == 2.5 and [other.name for other in message.others] == ["ab"]

    def test_idl(self, tmp_path: Path) -> None:
        text = "=" * 80 + "\nIDL: my_msgs/msg/Mine\nmodule my_msgs { module msg { struct Mine { double x; }; }; };\n"
        data = b"\x00\x01\x00\x00" + np.array([2.5]).tobytes()
        kind = "my_msgs/msg/Mine"
        path = write_mcap(tmp_path / "a.mcap", [(START, data)], "/mine", definition=text, encoding="ros2idl", kind=kind)
        bag = open_bag(path)
        assert [bag.decode(message).x for message in bag.messages()] == [2.5]

    def test_another_definition_of_a_known_type_counts(self, tmp_path: Path) -> None:
        data = b"\x00\x01\x00\x00" + np.array([2.5]).tobytes()
        bag = open_bag(write_mcap(tmp_path / "a.mcap", [(START, data)], definition="float64 only\n"))
        assert [bag.decode(message).only for message in bag.messages()] == [2.5]

    def test_of_message_definitions_in_sqlite(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(1), version=9)
        with sqlite3.connect(next(folder.glob("*.db3"))) as database:
            database.execute("UPDATE topics SET type='my_msgs/msg/Mine'")
            database.execute("DELETE FROM message_definitions")
            database.execute(
                "INSERT INTO message_definitions (topic_type, encoding, encoded_message_definition, type_description_hash) "
                "VALUES ('my_msgs/msg/Mine', 'ros2msg', 'float64 x', '')"
            )
            database.execute("UPDATE messages SET data=?", (b"\x00\x01\x00\x00" + np.array([2.5]).tobytes(),))
        bag = open_bag(folder)
        assert [bag.decode(message).x for message in bag.messages()] == [2.5]
        assert any("the files that it is my_msgs/msg/Mine" in problem for problem in bag.problems)

    def test_an_unknown_one_passes_raw_and_is_refused_when_decoded(self, tmp_path: Path) -> None:
        empty = [(START, b"\x00\x01\x00\x00")]
        path = write_mcap(tmp_path / "a.mcap", empty, "/odd", definition="", kind="odd_msgs/msg/Odd", encoding="")
        bag = open_bag(path)
        (message,) = bag.messages()
        with pytest.raises(BagError, match=r"odd_msgs/msg/Odd of topic /odd.*stores message definitions"):
            bag.decode(message)

    def test_the_fast_way_of_joint_states_is_the_general_one(self) -> None:
        rng = np.random.default_rng(0)
        library = TypeLibrary({})
        topic = Topic("/joint_states", STATE, "cdr")
        for _ in range(300):
            names = [("joint_" * int(rng.integers(0, 3)))[: rng.integers(0, 9)] + "ä" for _ in range(rng.integers(0, 4))]
            sizes = rng.integers(0, 4, 3)
            message = state(int(rng.integers(0, 1 << 60)), names, rng.normal(size=sizes[0]), velocity=rng.normal(size=sizes[1]),
                            effort=rng.normal(size=sizes[2]))
            message.header.frame_id = "base"[: rng.integers(0, 5)]
            data = cdr(message)
            fast, slow = library.decode(topic, RawMessage("/joint_states", 0, data)), STORE.deserialize_cdr(data, STATE)
            assert repr(fast) == repr(slow) == repr(message)
            for cut in rng.integers(4, len(data) - 3, 3).tolist():  # cut off: refused as the general way does
                with pytest.raises(BagError, match="/joint_states received at"):
                    library.decode(topic, RawMessage("/joint_states", 0, data[:cut]))


class TestJson:
    def write(self, path: Path, *trees: object, kind: str = STATE) -> Path:
        data = [(START + k, json.dumps(tree).encode()) for k, tree in enumerate(trees)]
        return write_mcap(path, data, definition="{}", encoding="jsonschema", kind=kind, message_encoding="json")

    def test_by_field_names(self, tmp_path: Path) -> None:
        tree = {"header": {"stamp": {"sec": 1, "nsec": 2}, "frame_id": ""}, "name": ["a"], "position": [3], "velocity": []}
        bag = open_bag(self.write(tmp_path / "a.mcap", tree))
        (message,) = map(bag.decode, bag.messages())
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 2)
        assert message.position.dtype == np.float64 and message.position.tolist() == [3.0] and len(message.effort) == 0

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        wrong = [{"names": ["a"]}, {"position": "abc"}, {"position": [[1.0]]}, {"name": [1]}, [1], {"header": 3}]
        bag = open_bag(self.write(tmp_path / "a.mcap", *wrong))
        messages = list(bag.messages())
        assert len(messages) == len(wrong)
        for message in messages:
            with pytest.raises(BagError, match="is no sensor_msgs/msg/JointState"):
                bag.decode(message)

    def test_an_unknown_type_is_refused(self, tmp_path: Path) -> None:
        bag = open_bag(self.write(tmp_path / "a.mcap", {}, kind="robotics.Action"))
        with pytest.raises(BagError, match="jsonschema alone"):
            bag.decode(next(bag.messages()))

    def test_bytes_as_base64(self, tmp_path: Path) -> None:
        bag = open_bag(self.write(tmp_path / "a.mcap", {"format": "jpeg", "data": "AQID"}, kind="sensor_msgs/msg/CompressedImage"))
        assert bag.decode(next(bag.messages())).data.tolist() == [1, 2, 3]


def test_one_topic_of_two_types(tmp_path: Path) -> None:
    other = TYPES["std_msgs/msg/String"](data="x")
    folder = write_folder(tmp_path / "bag", [*states(3), (START + 1, other)])
    bag = open_bag(folder)
    assert len(list(bag.messages())) == 3
    assert any("1 message of the latter left out" in problem for problem in bag.problems)


def test_an_empty_recording(tmp_path: Path) -> None:
    bag = open_bag(write_mcap(tmp_path / "a.mcap", []))
    assert (bag.start, bag.end, list(bag.messages()), bag.problems) == (None, None, [], [])


EXPECTED = {  # messages, types that cannot be decoded, words in problems
    "so101-rebag/ep4": (270, 0, ()),
    "so101-rebag/ep5": (486, 0, ()),
    "ats-mcap-short/ros2bag_ats_2025-12-02_12-44-28": (6553, 0, ()),
    "ats-emptynames-motion/ros2bag_static_ats_invz": (11321, 0, ()),
    "lbr-reordered/rosbag2_2023_02_01-11_21_54": (5683, 0, ()),
    "mars-arm-zstd/calibration_bag": (28770, 0, ()),
    "kr5-ros1/trajectory_data.bag": (562, 0, ()),
    "json-mcap/trajectory_20250527_003358_00m02s.mcap": (22, 3, ()),
    "rosbag2-edges/compressed_bag_file_zstd": (0, 0, ()),
    "rosbag2-edges/mcap_bag_with_topics_and_service_events": (10, 2, ()),
    "rosbag2-edges/mcap_split3_nometa": (3177, 0, ("no metadata.yaml",)),
    "rosbag2-edges/mcap_wbag_split5": (6074, 0, ("2623 to 3034 ns",)),
    "rosbag2-edges/sqlite3_convert_a": (150, 2, ()),
    "rosbag2-edges/sqlite3_empty_bag": (0, 0, ("disagree on the QoS of /rosout", "disagree on the QoS of /parameter_events")),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_shared(name: str) -> None:
    count, undecodable, words = EXPECTED[name]
    bag = open_bag(shared(name))
    try:
        messages = list(bag.messages())
        assert len(messages) == count == sum(topic.count or 0 for topic in bag.topics.values())
        received = [message.received for message in messages]
        assert received == sorted(received)
        refused = set()
        for message in messages[:: max(1, count // 500)] if not undecodable else messages:
            try:
                bag.decode(message)
            except BagError:
                refused.add(bag.topics[message.topic].name)
        assert len(refused) == undecodable
        assert len(bag.problems) == len(words)
        assert all(any(word in problem for problem in bag.problems) for word in words), bag.problems
    finally:
        bag.close()


def test_the_sample() -> None:
    bag = open_bag(SAMPLE)
    assert bag.problems == [] and bag.kind == "rosbag2, MCAP"
    assert {name: topic.count for name, topic in bag.topics.items()} == {
        "/camera/image_raw/compressed": 25, "/command/executed": 200, "/joint_states": 200, "/policy/chunk": 49,
    }


def test_a_folder_of_recordings_names_them() -> None:
    with pytest.raises(BagError, match=r"no recording.*ros2bag_ats_2025-12-02_12-44-28"):
        open_bag(shared("ats-mcap-short"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_permission(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", states(1))
    path.chmod(0)
    with pytest.raises(BagError, match="Permission denied"):
        open_bag(path)
