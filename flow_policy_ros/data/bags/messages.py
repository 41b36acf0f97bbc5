"""The package's own messages in serialised form (CDR), for writing recordings without ROS.

The same messages as ``ros.messages`` and ``ros.images`` make for the nodes. What there is most of (joint states, trajectories,
features, lone statuses) is laid out here; everything else goes through rosbags' serialiser, which takes 10 to 100 times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bags.definitions import standard_types
from flow_policy_ros.runtime.types import Chunk, Features, FloatArray, Plan

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
SECOND_NS = 1_000_000_000
_NONE = np.zeros(0)
_LITTLE_ENDIAN = b"\0\1\0\0"
_NAMES_AT = 20
"""Where the joint names begin in a joint state whose ``frame_id`` is empty."""


def joint_state(
    stamp: int, names: tuple[str, ...], position: FloatArray, velocity: FloatArray | None = None, effort: FloatArray | None = None
) -> bytes:
    """``position`` (J,), ``velocity`` and ``effort`` (J,) or None for an empty field."""
    data = bytearray(_joint_names(names))
    struct.pack_into("<iI", data, 4, stamp // SECOND_NS, stamp % SECOND_NS)
    for row in (position, velocity, effort):
        values = _NONE if row is None else row
        data += struct.pack("<I", len(values))
        if len(values):
            data += bytes(-(len(data) - 4) % 8)  # doubles lie at multiples of their size behind the 4 bytes of the head
            data += np.ascontiguousarray(values, dtype="<f8").tobytes()
    return bytes(data)


def chunk(chunk: Chunk) -> bytes:
    """``header.stamp`` is the chunk's, point k lies ``k · dt_ns`` after it."""
    return _trajectory(chunk.stamp, "", chunk.names, chunk.positions, [k * chunk.dt_ns for k in range(len(chunk.positions))])


def plan(plan: Plan) -> bytes:
    """``frame_id`` is the stamp of its chunk, ns."""
    times = [k * plan.dt_ns for k in range(len(plan.positions))]
    return _trajectory(plan.stamp, str(plan.chunk_stamp), plan.names, plan.positions, times)


def command(
    stamp: int, names: tuple[str, ...], position: FloatArray, velocity: FloatArray | None, interface: str, period_ns: int
) -> tuple[str, bytes]:
    """Type and message of one set-point (A,) in the form of ``Robot.command_interface``; where that is whole trajectories, one of
    a single point, ``period_ns`` after the stamp. Only ``joint_state`` has a ``velocity``."""
    if interface == "float64_array":
        kinds = standard_types().types
        layout = kinds["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        return ARRAY, _serialise(kinds[ARRAY](layout=layout, data=np.ascontiguousarray(position, dtype=np.float64)))
    if interface == "joint_state":
        return JOINT_STATE, joint_state(stamp, names, position, velocity)
    return TRAJECTORY, _trajectory(stamp, "", names, position[None], [period_ns])


def features(seen: Features) -> bytes:
    """An image ``32FC1``: a row per token, a column per channel; ``frame_id`` the stream."""
    values = np.ascontiguousarray(seen.values, dtype="<f4")
    tokens, channels = values.shape
    data = bytearray(_LITTLE_ENDIAN + struct.pack("<iI", seen.stamp // SECOND_NS, seen.stamp % SECOND_NS))
    _add_text(data, seen.stream)
    data += bytes(-len(data) % 4) + struct.pack("<II", tokens, channels)
    _add_text(data, "32FC1")
    data += b"\0"  # little-endian
    data += bytes(-len(data) % 4) + struct.pack("<II", 4 * channels, 4 * values.size) + values.tobytes()
    return bytes(data)


def compressed_image(stamp: int, frame: str, data: NDArray[np.uint8], form: str = "jpeg") -> bytes:
    """A JPEG, or another picture of the format ``form``, (N,) as it is."""
    kind = standard_types().types[COMPRESSED_IMAGE]
    return _serialise(kind(header=_header(stamp, frame), format=form, data=data))


def text(words: str) -> bytes:
    """A ``String``."""
    return _serialise(standard_types().types[STRING](data=words))


def status(name: str, level: int, message: str, values: Mapping[str, object]) -> Any:
    """One status for ``diagnostics`` or, serialised, alone; floats get four digits behind the point, as on ``/diagnostics``."""
    kinds = standard_types().types
    pairs = [kinds["diagnostic_msgs/msg/KeyValue"](key=key, value=_shown(value)) for key, value in values.items()]
    return kinds[STATUS](level=level, name=name, message=message, hardware_id="", values=pairs)


def diagnostics(stamp: int, statuses: Sequence[Any]) -> bytes:
    """Of what ``status`` gives."""
    return _serialise(standard_types().types[DIAGNOSTICS](header=_header(stamp), status=list(statuses)))


def lone_status(name: str, level: int, message: str, values: Mapping[str, object]) -> bytes:
    """A status that is a message of its own."""
    data = bytearray(_LITTLE_ENDIAN + bytes([level]))
    for text in (name, message, ""):
        _add_text(data, text)
    data += bytes(-len(data) % 4) + struct.pack("<I", len(values))
    for key, value in values.items():
        _add_text(data, key)
        _add_text(data, _shown(value))
    return bytes(data)


def _add_text(data: bytearray, text: str) -> None:
    """A string at the end of a message that has been laid out so far."""
    letters = text.encode()
    data += bytes(-len(data) % 4) + struct.pack("<I", len(letters) + 1) + letters + b"\0"


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@cache
def _joint_names(names: tuple[str, ...]) -> bytes:
    """A joint state up to its names, the stamp left open."""
    kind = standard_types().types[JOINT_STATE]
    whole = _serialise(kind(header=_header(0), name=list(names), position=_NONE, velocity=_NONE, effort=_NONE))
    return whole[: len(whole) - 12]  # three empty fields


def _trajectory(stamp: int, frame: str, names: tuple[str, ...], positions: FloatArray, times: Sequence[int]) -> bytes:
    """Of points (N, A) with positions alone, ``times`` ns after the stamp."""
    count, width = positions.shape
    text = frame.encode() + b"\0"
    data = bytearray(_LITTLE_ENDIAN + struct.pack("<iII", stamp // SECOND_NS, stamp % SECOND_NS, len(text)) + text)
    data += bytes(-len(data) % 4) + _joint_names(names)[_NAMES_AT:] + struct.pack("<I", count)
    rows = _points(width, tuple(times)).copy()
    rows["positions"] = positions
    points = rows.tobytes()
    if count and width and (len(data) - 4) % 8 == 0:  # only before the first point: behind a point, the next one's doubles fit
        return bytes(data) + points[:4] + bytes(4) + points[4:]
    return bytes(data) + points


@lru_cache(maxsize=64)
def _points(width: int, times: tuple[int, ...]) -> NDArray[np.void]:
    """``JointTrajectoryPoint`` as they lie in a message, at ``times`` (ns), positions left open; three further fields are empty."""
    rows = np.zeros(len(times), dtype=[
        ("count", "<u4"), ("positions", "<f8", (width,)), ("empty", "<u4", (3,)), ("sec", "<i4"), ("nanosec", "<u4"),
    ])  # fmt: skip
    rows["count"] = width
    rows["sec"], rows["nanosec"] = np.divmod(np.asarray(times, dtype=np.int64), SECOND_NS)
    return rows


def _header(stamp: int, frame: str = "") -> Any:
    kinds = standard_types().types
    time = kinds["builtin_interfaces/msg/Time"](sec=stamp // SECOND_NS, nanosec=stamp % SECOND_NS)
    return kinds["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def _serialise(message: Any) -> bytes:
    return bytes(standard_types().serialize_cdr(message, message.__msgtype__))
