"""What is written is read back by readers that are not ours, also after the writer was killed or the disk was full."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.definitions import MessageType, message_type, standard_types
from flow_policy_ros.data.bags.mcap_writer import COMPRESSIONS, McapWriter
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.runtime.types import Chunk, Features, Plan

STAMP = 1_700_000_000_123_456_789
STRING = "std_msgs/msg/String"
QOS = yaml.safe_dump([
    {"history": 1, "depth": 5, "reliability": 2, "durability": 1, "deadline": {"sec": 9223372036, "nsec": 854775807},
     "lifespan": {"sec": 9223372036, "nsec": 854775807}, "liveliness": 1,
     "liveliness_lease_duration": {"sec": 9223372036, "nsec": 854775807}, "avoid_ros_namespace_conventions": False}
]).strip()  # fmt: skip


def data(rng: np.random.Generator, size: int) -> bytes:
    return bytes(rng.integers(0, 256, size, dtype=np.uint8))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_bytes_and_instants_come_back(tmp_path: Path, compression: str) -> None:
    rng = np.random.default_rng(0)
    sent = [(f"/t{k % 3}", STAMP + k, STAMP + k - 5, data(rng, int(rng.integers(0, 50_000)))) for k in range(200)]
    with Rosbag2Writer(tmp_path / "bag", compression, {"robot": "hand", "success": "true"}) as bag:
        channels = {f"/t{k}": bag.add_topic(f"/t{k}", message_type(STRING), QOS) for k in range(3)}
        for k, (topic, received, published, payload) in enumerate(sent):
            bag.file.write(channels[topic], received, payload, published, k)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    with file.open("rb") as stream:
        read = [(c.topic, m.log_time, m.publish_time, m.data, m.sequence) for _, c, m in make_reader(stream).iter_messages()]
    assert read == [(*row, k) for k, row in enumerate(sent)]
    with Reader(tmp_path / "bag") as reader:
        assert [(c.topic, t, bytes(raw)) for c, t, raw in reader.messages()] == [(t, r, p) for t, r, _, p in sent]
        assert reader.message_count == 200
        assert reader.start_time == STAMP and reader.end_time == STAMP + 200  # rosbags counts the end as behind the last
        for connection in reader.connections:
            (offered,) = connection.ext.offered_qos_profiles
            assert (offered.depth, offered.reliability.name, offered.durability.name) == (5, "BEST_EFFORT", "TRANSIENT_LOCAL")
            assert connection.digest.startswith("RIHS01_")
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["custom_data"] == {"robot": "hand", "success": "true"}


def test_an_empty_bag_is_a_bag(tmp_path: Path) -> None:
    Rosbag2Writer(tmp_path / "bag").close()
    with Reader(tmp_path / "bag") as reader:
        assert reader.message_count == 0 and list(reader.messages()) == []


@pytest.mark.parametrize("kind", [messages.JOINT_STATE, messages.TRAJECTORY, messages.DIAGNOSTICS])
def test_a_definition_says_all_that_the_type_is_made_of(kind: str) -> None:
    """A reader that knows no types builds them from the text, as Foxglove does."""
    given = get_types_from_msg(message_type(kind).text, kind)
    store = get_typestore(Stores.EMPTY)
    store.register(given)
    assert store.hash_rihs01(kind) == standard_types().hash_rihs01(kind) == message_type(kind).type_hash


def test_the_standard_types_do_where_no_package_is_installed() -> None:
    kind = "tf2_msgs/msg/TFMessage"
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(message_type(kind).text, kind))
    assert store.hash_rihs01(kind) == standard_types().hash_rihs01(kind)


def test_a_definition_is_taken_from_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "our_msgs" / "msg"
    folder.mkdir(parents=True)
    text = "uint8 THUMB=0 # no type\nTip[<=3] tips\nstring<=7 name 'x'\nsensor_msgs/JointState[2] states\n"
    (folder / "Finger.msg").write_text(text)
    (folder / "Tip.msg").write_text("# a comment\n\nfloat64 force\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    message_type.cache_clear()
    found = message_type("our_msgs/msg/Finger")
    assert found.encoding == "ros2msg" and found.text.startswith("uint8 THUMB=0")
    parts = [line for line in found.text.splitlines() if line.startswith("MSG: ")]
    assert parts == ["MSG: our_msgs/Tip", "MSG: sensor_msgs/JointState", "MSG: std_msgs/Header", "MSG: builtin_interfaces/Time"]
    (folder / "Tip.msg").unlink()
    message_type.cache_clear()
    assert message_type("our_msgs/msg/Finger") == MessageType("our_msgs/msg/Finger")  # half a definition is none
    message_type.cache_clear()


WRITER = """
import os, sys
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.data.bags.definitions import message_type
bag = Rosbag2Writer(sys.argv[1])
channel = bag.add_topic("/a", message_type("std_msgs/msg/String"))
for k in range(300):
    bag.file.write(channel, k, bytes([k % 256]) * 1000)
    if k == 249:
        bag.file.flush()
os.kill(os.getpid(), 9)
"""


def test_after_a_kill_everything_flushed_is_there(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "bag")])
    assert done.returncode == -9
    assert not (tmp_path / "bag" / "metadata.yaml").exists()
    (file,) = (tmp_path / "bag").glob("*.mcap")
    assert streamed(file) == [(k, bytes([k % 256]) * 1000) for k in range(250)]


def streamed(file: Path) -> list[tuple[int, bytes]]:
    """Messages of a file without an end, in the order in which they lie in it."""
    found = []
    with file.open("rb") as stream:
        try:
            for record in StreamReader(stream).records:
                if isinstance(record, Message):
                    found.append((record.log_time, record.data))
        except EndOfFile:  # where it is cut off
            pass
    return found


LIMITED = """
import sys
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.data.bags.definitions import message_type
bag = Rosbag2Writer(sys.argv[1], "none")
channel = bag.add_topic("/a", message_type("std_msgs/msg/String"))
try:
    for k in range(100):
        bag.file.write(channel, k, bytes([k]) * 100_000)
    print("no error")
except OSError as error:
    print("error", bag.file.counts["/a"], bag.file.lost, bag.file.interrupted)
bag.close()
"""


def test_a_full_disk_leaves_whole_chunks(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails in the midst of a chunk."""
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))

    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "bag")], capture_output=True, text=True, preexec_fn=limit)
    word, count, lost, interrupted = done.stdout.split()
    assert (word, interrupted) == ("error", "True"), done.stderr
    (file,) = (tmp_path / "bag").glob("*.mcap")
    found = streamed(file)
    assert found == [(k, bytes([k]) * 100_000) for k in range(len(found))]
    assert len(found) == int(count) > 0 and int(lost) > 0
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["message_count"] == len(found)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"compression is 'gzip', expected one of zstd, lz4, none"):
        McapWriter(tmp_path / "a.mcap", "gzip")
    McapWriter(tmp_path / "a.mcap").close()
    with pytest.raises(ValueError, match=r"a\.mcap exists already"):
        McapWriter(tmp_path / "a.mcap")
    with pytest.raises(ValueError, match=r"cannot be written \(No such file"):
        McapWriter(tmp_path / "absent" / "a.mcap")
    with pytest.raises(ValueError, match=r"bag folder .* exists already"):
        Rosbag2Writer(tmp_path)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("filled", [(True, True, True), (True, False, True), (True, True, False), (True, False, False)])
def test_joint_states_are_those_of_the_serialiser(count: int, filled: tuple[bool, bool, bool]) -> None:
    store, rng = standard_types(), np.random.default_rng(count)
    names = tuple("j" * (k + 1) for k in range(count))
    rows = [rng.normal(size=count) if there else None for there in filled]
    message = messages._header(STAMP), list(names), *(np.zeros(0) if row is None else row for row in rows)
    expected = store.serialize_cdr(store.types[messages.JOINT_STATE](*message), messages.JOINT_STATE)
    assert messages.joint_state(STAMP, names, *rows) == bytes(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", ["", "a", "ab", "abc", "abcd", "123456789"])
@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (1, 3), (4, 2), (3, 0)])
@pytest.mark.parametrize("letters", [1, 3, 4])
def test_trajectories_are_those_of_the_serialiser(frame: str, shape: tuple[int, int], letters: int) -> None:
    """Wherever in the message the points come to lie."""
    store, rng = standard_types(), np.random.default_rng(3)
    names = tuple("jkl"[k] * letters for k in range(shape[1]))
    rows, times = rng.normal(size=shape), [k * 700_000_001 for k in range(shape[0])]
    point, duration = store.types["trajectory_msgs/msg/JointTrajectoryPoint"], store.types["builtin_interfaces/msg/Duration"]
    none = np.zeros(0)
    points = [point(row, none, none, none, duration(t // 10**9, t % 10**9)) for row, t in zip(rows, times, strict=True)]
    message = store.types[messages.TRAJECTORY](messages._header(STAMP, frame), list(names), points)
    expected = store.serialize_cdr(message, messages.TRAJECTORY)
    assert messages._trajectory(STAMP, frame, names, rows, times) == bytes(expected)


def test_our_messages_are_those_of_the_nodes() -> None:
    """Serialised without ROS, read by ROS."""
    pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message

    from flow_policy_ros.ros import images
    from flow_policy_ros.ros import messages as ros
    from flow_policy_ros.runtime.types import JointState, Setpoint

    rng = np.random.default_rng(1)
    names, rows = ("thumb", "finger"), rng.normal(size=(3, 2))
    state = JointState(STAMP, names, rows[0], rows[1], rows[2])
    chunk, plan = Chunk(STAMP, 20_000_000, names, rows), Plan(STAMP, 10_000_000, names, rows, STAMP - 7)
    seen = Features(STAMP, "objects", rng.normal(size=(2, 3)).astype(np.float32))
    setpoint = Setpoint(STAMP, names, rows[0], rows[1], rows[2])
    pairs = [
        (messages.joint_state(STAMP, names, *rows), ros.joint_state_to_message(state)),
        (messages.chunk(chunk), ros.chunk_to_message(chunk)),
        (messages.plan(plan), ros.plan_to_message(plan)),
        (messages.features(seen), images.features_to_message(seen)),
        (messages.command(STAMP, names, rows[0], rows[1], "joint_trajectory", 10**7)[1],
         ros.setpoint_to_message(setpoint, "joint_trajectory", 10**7)),
        (messages.command(STAMP, names, rows[0], rows[1], "float64_array", 1)[1],
         ros.setpoint_to_message(setpoint, "float64_array", 1)),
        (messages.command(STAMP, names, rows[0], rows[1], "joint_state", 1)[1],
         ros.setpoint_to_message(setpoint, "joint_state", 1)),
    ]
    for ours, theirs in pairs:
        assert deserialize_message(ours, type(theirs)) == theirs  # bytes differ where ROS leaves gaps as they were in memory


def test_a_bag_of_ours_opens_with_any_reader(tmp_path: Path) -> None:
    picture: NDArray[np.uint8] = np.zeros((0,), np.uint8)
    with Rosbag2Writer(tmp_path / "bag") as bag:
        bag.put("/image", messages.COMPRESSED_IMAGE, STAMP, messages.compressed_image(STAMP, "front", picture))
        statuses = [messages.status("command", 2, "fault", {"a": 1, "b": 0.5})]
        bag.put("/diagnostics", messages.DIAGNOSTICS, STAMP + 1, messages.diagnostics(STAMP, statuses))
        bag.put("/info", messages.STATUS, STAMP + 2, messages.lone_status("chunk", 0, "", {"nfe": 3}))
    with AnyReader([tmp_path / "bag"]) as reader:
        read = {c.topic: reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()}
    (one,) = read["/diagnostics"].status
    assert (one.level, one.message, [(p.key, p.value) for p in one.values]) == (2, "fault", [("a", "1"), ("b", "0.5000")])
    assert read["/info"].values[0].value == "3" and read["/image"].header.frame_id == "front"
