"""What of a decoded message an inspection looks at, whatever its topic: header stamp, joint values.

More is looked at than a robot uses: a trajectory of many points by its first one, say. What a message is to a robot is
``data.bag_messages``', what is wrong with it ``data.inspection_findings``'.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flow_policy_ros.data import bag_messages as m
from flow_policy_ros.runtime.types import FloatArray, JointState

JOINTS = (m.JOINT_STATE, m.TRAJECTORY, m.CONTROLLER_STATE, m.ARRAY)
MEASURED, WANTED = "measured", "wanted"


@dataclass(frozen=True)
class Row:
    """Joint values (J,) of one message. ``part`` is ``measured`` or ``wanted`` where the type says which, else empty."""

    part: str
    names: tuple[str, ...]
    position: FloatArray
    velocity: FloatArray | None


def header_stamp(message: Any) -> int | None:
    """The stamp of the message's header, ns; None without one."""
    return m.stamp_of(message) if hasattr(getattr(message, "header", None), "stamp") else None


def leading_stamp(encoding: str, data: bytes | memoryview) -> int | None:
    """The same without decoding, of a message that begins with its header; None where that cannot be done."""
    if encoding == "cdr" and len(data) >= 12 and data[0] == 0 and data[1] in (0, 1):
        sec, nanosec = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    elif encoding == "ros1" and len(data) >= 12:
        _, sec, nanosec = struct.unpack_from("<III", data, 0)
    else:
        return None
    return int(sec) * m.SECOND_NS + int(nanosec)


def begins_with_header(message: Any) -> bool:
    """Whether the first field of its type is a header."""
    return next(iter(getattr(message, "__dataclass_fields__", {})), "") == "header"


def joint_rows(type_name: str, message: Any) -> Iterator[Row]:
    """The joint values in a message of one of ``JOINTS``: none in an empty trajectory, two in a controller's state.

    Raises ``BadInput`` for a message whose parts do not fit together.
    """
    if type_name == m.JOINT_STATE:
        yield _measured("", m.joint_state(message))
    elif type_name == m.ARRAY:
        _, names, position = m.array_command(message)
        yield Row("", names, position, None)
    elif type_name == m.CONTROLLER_STATE:
        yield _measured(MEASURED, m.controller_state(message))
        _, names, position = m.controller_command(message)
        yield Row(WANTED, names, position, None)
    elif len(message.points):
        first = np.array(message.points[0].positions, dtype=np.float64)
        yield Row("", tuple(message.joint_names), first, None)


def _measured(part: str, state: JointState) -> Row:
    return Row(part, state.names, state.position, state.velocity)
