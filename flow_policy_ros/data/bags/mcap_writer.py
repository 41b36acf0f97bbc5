"""Writing one MCAP file so that whatever happens to the process, everything but the last chunk can be read.

Serialised messages go in; nothing is decoded. When to flush is the caller's affair: this reads no clock. A rosbag2 folder around
the file is in ``rosbag2_writer``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mcap.writer import CompressionType, Writer

from flow_policy_ros.data.bags.definitions import MessageType, message_type

COMPRESSIONS = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "none": CompressionType.NONE}
CHUNK_BYTES = 1 << 20
"""A chunk goes to the file when it has this size. What a kill may cost."""


class McapWriter:
    """An MCAP file of profile ``ros2``; use as a context manager. Topics come into being with ``add_topic`` or ``put``.

    ``counts`` are the messages of each topic, ``start`` and ``end`` the instants of the first and last. After an ``OSError`` (a
    full disk) the file is cut back to what is whole: it is ``interrupted``, has no index, and can be read; ``counts`` are then what
    is in it, and ``lost`` messages are not.
    """

    def __init__(self, path: str | Path, compression: str = "zstd", chunk_bytes: int = CHUNK_BYTES) -> None:
        """``compression`` is ``zstd``, ``lz4`` or ``none``. Raises ``ValueError`` when the file exists or cannot be made."""
        self.path = Path(path)
        self.counts: dict[str, int] = {}
        self.start: int | None = None
        self.end: int | None = None
        self.lost = 0
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression is '{compression}', expected one of {', '.join(COMPRESSIONS)}.")
        self._file = _File(self.path)
        self._writer = Writer(self._file, chunk_size=chunk_bytes, compression=COMPRESSIONS[compression])  # type: ignore[arg-type]
        self._schemas: dict[str, int] = {}
        self._topics: dict[int, str] = {}
        self._channels: dict[str, int] = {}
        self.interrupted = False
        self._safe: tuple[dict[str, int], int | None, int | None] = ({}, None, None)  # what is in the file: counts, start, end
        self._writer.start(profile="ros2", library="flow_policy_ros")

    def __enter__(self) -> McapWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.position

    def add_topic(self, topic: str, what: MessageType, qos: str = "", encoding: str = "cdr") -> int:
        """A number for ``write``. ``qos`` is what its publishers offered, as rosbag2 writes it (YAML)."""
        if what.name not in self._schemas:
            self._schemas[what.name] = self._guarded(
                self._writer.register_schema, what.name, what.encoding, what.text.encode()
            )
        metadata = {"offered_qos_profiles": qos, **({"topic_type_hash": what.type_hash} if what.type_hash else {})}
        channel: int = self._guarded(self._writer.register_channel, topic, encoding, self._schemas[what.name], metadata)
        self._topics[channel] = topic
        self._channels[topic] = channel
        self.counts[topic] = 0
        return channel

    def write(self, channel: int, received: int, data: bytes, published: int | None = None, sequence: int = 0) -> None:
        """One serialised message, received at ``received`` and published at ``published`` (ns)."""
        self.counts[self._topics[channel]] += 1
        self.start = received if self.start is None else min(self.start, received)
        self.end = received if self.end is None else max(self.end, received)
        self._guarded(
            self._writer.add_message, channel, received, data, received if published is None else published, sequence & 0xFFFFFFFF
        )

    def put(self, topic: str, type_name: str, received: int, data: bytes) -> None:
        """``write`` to a topic by name, which is added when it is new."""
        channel = self._channels.get(topic)
        self.write(self.add_topic(topic, message_type(type_name)) if channel is None else channel, received, data)

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """A record beside the messages, in the file at once."""
        self._guarded(self._writer.add_metadata, name, dict(values))

    def flush(self) -> None:
        """Everything so far into the file, and to the disk."""
        self._guarded(self._writer.flush)
        self._file.sync()

    def close(self) -> None:
        """Write the index and end the file. Raises ``OSError`` when there is no room for it; the messages can be read all the
        same. May be called again."""
        if self._file.closed:
            return
        try:
            if not self.interrupted:
                self._guarded(self._writer.flush)  # by itself: where the index has no room, the messages may have
                self._guarded(self._writer.finish)
                self._file.sync()
        finally:
            self._file.close()

    def _guarded(self, step: Any, *arguments: Any) -> Any:
        if self.interrupted:
            raise ValueError(f"{self.path} was not written to the end; nothing more can be added.")
        whole = self._file.position
        try:
            result = step(*arguments)
        except OSError:
            self.interrupted = True
            self._file.cut(whole)
            counts, self.start, self.end = self._safe
            self.lost = sum(self.counts.values()) - sum(counts.values())
            self.counts = {topic: counts.get(topic, 0) for topic in self.counts}
            raise
        if self._file.position != whole and step != self._writer.add_metadata:  # a chunk was ended
            self._safe = (dict(self.counts), self.start, self.end)
        return result


class _File:
    """What the writer of the format writes to: every write goes to the operating system at once, whole, so that a kill loses
    nothing that was written and a full disk is told here and not when the file is closed."""

    def __init__(self, path: Path) -> None:
        try:
            self._number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError as error:
            raise ValueError(f"{path} exists already; give another name or remove it.") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror}); give a path where you may write.") from error
        self.position = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        while len(view):
            done = os.write(self._number, view)
            self.position += done
            view = view[done:]
        return len(data)

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing waits."""

    def sync(self) -> None:
        os.fdatasync(self._number)

    def cut(self, size: int) -> None:
        os.ftruncate(self._number, size)
        os.lseek(self._number, size, os.SEEK_SET)
        self.position = size

    def close(self) -> None:
        self.closed = True
        os.close(self._number)
