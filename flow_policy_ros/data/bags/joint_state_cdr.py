"""The one message that comes hundreds of times a second, decoded five times faster than any type can be: CDR ``JointState``.

Anything unusual is left to the general decoder (``data.bags.typestore``), which says what is wrong with it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

JOINT_STATE = "sensor_msgs/msg/JointState"
LITTLE_ENDIAN = b"\x00\x01"
HEAD = struct.Struct("<iII")  # seconds, nanoseconds, bytes of frame_id
COUNT = struct.Struct("<I")
BODY = 4  # where the fields begin and alignment is counted from


class JointStateDecoder:
    """Decodes into the classes of ``store``, which must define ``JointState`` as every ROS 2 does.

    Joint names are read once and recognised by their bytes from then on, since publishers do not change theirs.
    """

    def __init__(self, store: Typestore) -> None:
        self._state: Any = store.types[JOINT_STATE]
        self._header: Any = store.types["std_msgs/msg/Header"]
        self._time: Any = store.types["builtin_interfaces/msg/Time"]
        self._block = b""  # bytes of the list of names
        self._names: list[str] = []

    def decode(self, data: bytes) -> Any:
        """The message, or None when it is not of the usual form."""
        if data[:2] != LITTLE_ENDIAN or len(data) < BODY + HEAD.size:
            return None
        seconds, nanoseconds, letters = HEAD.unpack_from(data, BODY)
        at = BODY + HEAD.size
        if not letters or letters > len(data) - at or data[at + letters - 1]:
            return None
        try:
            frame = data[at : at + letters - 1].decode()
            at += letters
            at += -at % 4
            if not (self._block and data.startswith(self._block, at)) and not self._learn(data, at):
                return None
            at += len(self._block)
            position, at = _doubles(data, at)
            velocity, at = _doubles(data, at)
            effort, at = _doubles(data, at)
        except (struct.error, ValueError):
            return None
        if at + 3 < len(data):
            return None
        return self._state(self._header(self._time(seconds, nanoseconds), frame), [*self._names], position, velocity, effort)

    def _learn(self, data: bytes, begin: int) -> bool:
        """Read the list of names at ``begin``; False when it does not fit in the message."""
        (count,) = COUNT.unpack_from(data, begin)
        at, names = begin + 4, []
        if count > (len(data) - at) // 5:
            return False
        for _ in range(count):
            at += -at % 4
            (letters,) = COUNT.unpack_from(data, at)
            at += 4
            if not letters or letters > len(data) - at or data[at + letters - 1]:
                return False
            names.append(data[at : at + letters - 1].decode())
            at += letters
        self._block, self._names = data[begin:at], names
        return True


def _doubles(data: bytes, at: int) -> tuple[NDArray[np.float64], int]:
    """A sequence of float64 (N,) and where it ends. Raises ``ValueError`` or ``struct.error`` where it does not fit."""
    at += -at % 4
    (count,) = COUNT.unpack_from(data, at)
    at += 4
    if not count:
        return np.zeros(0), at
    at += (BODY - at) % 8
    return np.frombuffer(data, "<f8", count, at), at + 8 * count
