"""Recordings made for tests: joint states in every storage, to be damaged afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_typestore

from flow_policy_ros.data.bags.bag import Bag

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES: dict[str, Any] = STORE.types
STATE = "sensor_msgs/msg/JointState"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
PERIOD = 10_000_000
SHARED = Path(__file__).resolve().parents[2] / "shared" / "bags"
SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "adroit_door" / "seed_5000"


def shared(name: str) -> Path:
    """A recording of the shared folder; skips where it is absent."""
    if not (SHARED / name).exists():
        pytest.skip(f"no shared recording {name} here")
    return SHARED / name


def header(stamp: int, frame: str = "") -> Any:
    seconds, nanoseconds = divmod(stamp, SECOND)
    time = TYPES["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def state(stamp: int, names: Sequence[str] = ("a", "b"), position: Sequence[float] = (0.5, -0.5), **more: Any) -> Any:
    empty = np.zeros(0)
    values = {"velocity": empty, "effort": empty} | {key: np.array(value, np.float64) for key, value in more.items()}
    return TYPES[STATE](header=header(stamp), name=list(names), position=np.array(position, np.float64), **values)


def cdr(message: Any) -> bytes:
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


def states(count: int, start: int = START) -> list[tuple[int, Any]]:
    """(received, joint state): number k has position (k, -k)."""
    return [(start + k * PERIOD, state(start + k * PERIOD - 1000, position=(k, -k))) for k in range(count)]


def numbers(bag: Bag, topic: str = "/joint_states", **limits: Any) -> list[int]:
    """Which of ``states`` a recording gives."""
    return [int(bag.decode(message).position[0]) for message in bag.messages([topic], **limits)]


def write_mcap(
    path: Path,
    messages: Iterable[tuple[int, Any]],
    topic: str = "/joint_states",
    *,
    definition: str | None = None,
    encoding: str = "ros2msg",
    kind: str = STATE,
    message_encoding: str = "cdr",
    chunk_size: int = 2000,
    compression: CompressionType = CompressionType.NONE,
    **options: Any,
) -> Path:
    """An MCAP file of messages (objects or bytes)."""
    text = STORE.generate_msgdef(kind, ros_version=2)[0] if definition is None else definition
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, compression=compression, **options)
        writer.start(profile="ros2")
        schema = writer.register_schema(kind, encoding, text.encode())
        channel = writer.register_channel(topic, message_encoding, schema)
        for received, message in messages:
            data = message if isinstance(message, bytes) else cdr(message)
            writer.add_message(channel, received, data, received)
        writer.finish()
    return path


def write_folder(
    path: Path,
    messages: Iterable[tuple[int, Any]],
    storage: StoragePlugin = StoragePlugin.SQLITE3,
    compression: CompressionMode | None = None,
    topic: str = "/joint_states",
    version: int = 8,
) -> Path:
    """A rosbag2 folder with metadata."""
    writer = Rosbag2Writer(path, version=version, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for received, message in messages:
            kind = message.__msgtype__
            if kind not in connections:
                connections[kind] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[kind], received, cdr(message))
    return path


def write_ros1(path: Path, count: int, compression: Any = None, chunk: int = 1000) -> Path:
    """A ROS 1 bag of joint states like ``states``."""
    store = get_typestore(Stores.ROS1_NOETIC)
    types: dict[str, Any] = store.types
    writer = Ros1Writer(path)
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        writer.chunk_threshold = chunk
        connection = writer.add_connection("/joint_states", STATE, typestore=store)
        for k in range(count):
            received = START + k * PERIOD
            seconds, nanoseconds = divmod(received, SECOND)
            head = types["std_msgs/msg/Header"](
                seq=k, stamp=types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds), frame_id=""
            )
            message = types[STATE](
                header=head, name=["a", "b"], position=np.array([k, -k], np.float64), velocity=np.zeros(0), effort=np.zeros(0)
            )
            writer.write(connection, received, store.serialize_ros1(message, STATE))
    return path
