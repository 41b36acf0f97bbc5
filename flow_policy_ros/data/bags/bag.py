"""What a recording is to the rest of the package, whatever file it lies in: topics, and raw messages in the order of receipt.

Files are read in the modules beside this one; what messages mean is ``data.bag_events``'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class BagError(ValueError):
    """A recording that cannot be used at all; the message names the file, what was expected, and the remedy."""


@dataclass(frozen=True)
class Topic:
    """``type`` as ``sensor_msgs/msg/JointState``, also for ROS 1. ``encoding`` of its messages: ``cdr``, ``ros1``, ``json``, ….

    ``count`` is what the file's index says, None where there is none. ``qos`` is what publishers offered, as written in the
    bag ("" when unknown).
    """

    name: str
    type: str
    encoding: str
    count: int | None = None
    qos: str = ""


@dataclass(frozen=True)
class RawMessage:
    """One message as recorded: ``received`` is the instant of receipt (ns, the recorder's clock), ``data`` its serialised form."""

    topic: str
    received: int
    data: bytes | memoryview


class Bag(Protocol):
    """An opened recording. ``kind`` in words (``rosbag2, MCAP``); ``start`` and ``end`` ns of the first and last receipt, None when
    there is no message (or when nothing tells before all was read).

    ``problems`` are sentences on what is damaged, missing or contradictory, in the order found; reading adds to them.
    """

    path: Path
    kind: str
    topics: dict[str, Topic]
    start: int | None
    end: int | None
    problems: list[str]

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of ``topics`` (None: all) with start <= received < stop, ascending in ``received``.

        Streams: memory does not grow with the recording. What cannot be read is skipped, and ``problems`` says what was lost.
        May be called again.
        """
        ...

    def decode(self, message: RawMessage) -> Any:
        """The message as an object with the fields of its ROS 2 type. Raises ``BagError`` naming topic, type and remedy."""
        ...

    def close(self) -> None:
        """Give files and temporary copies up."""
        ...
