"""Opening a recording, whatever it is: a rosbag2 folder, or a single MCAP, SQLite or ROS 1 file, compressed or not."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flow_policy_ros.data.bags import mcap_records, sqlite_file
from flow_policy_ros.data.bags.bag import Bag, BagError, RawMessage, Topic
from flow_policy_ros.data.bags.decompress import ZSTD, Damaged, decompress, unpack
from flow_policy_ros.data.bags.mcap_file import McapFile
from flow_policy_ros.data.bags.pieces import Source, in_order
from flow_policy_ros.data.bags.ros1_file import Ros1File
from flow_policy_ros.data.bags.rosbag2_folder import check, files_of
from flow_policy_ros.data.bags.sqlite_file import SqliteFile
from flow_policy_ros.data.bags.storage import Complaints, Definition, Storage, count_of
from flow_policy_ros.data.bags.typestore import TypeLibrary


def open_bag(path: str | Path) -> Bag:
    """Open the recording ``path``; nothing is ever written to it. Raises ``BagError`` when nothing of it can be read."""
    path = Path(path)
    if not path.exists():
        raise BagError(f"recording {path} does not exist.")
    return _Recording(path)


class _Recording:
    """One or several files as one ``Bag``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._complaints = Complaints(self.problems)
        self._storages: list[Storage] = []
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        try:
            files, metadata = (files_of(path, self.problems)) if path.is_dir() else ([path], None)
            self._open(files)
        except OSError as error:
            self.close()
            raise BagError(f"recording {path} cannot be read: {error.strerror or error}.") from error
        except BaseException:
            self.close()
            raise
        self.kind = _kind(path, self._storages)
        self.topics = self._join()
        self.start = min((storage.start for storage in self._storages if storage.start is not None), default=None)
        self.end = max((storage.end for storage in self._storages if storage.end is not None), default=None)
        if metadata is not None:
            self.problems += check(metadata, self.topics, self.start, self.end)
            for name, topic in metadata.topics.items():
                have = self.topics.get(name)
                self.topics[name] = replace(topic, count=0) if have is None else replace(have, qos=have.qos or topic.qos)
        definitions: dict[str, Definition] = {}
        for storage in self._storages:
            definitions = storage.definitions | definitions
        self._types = TypeLibrary(definitions)

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """As ``Bag.messages``."""
        wanted = None if topics is None else frozenset(topics)
        sources: list[Source] = [
            (storage.start, partial(self._from, storage, wanted, start, stop))
            for storage in self._storages
            if storage.start is not None and storage.end is not None
            and (start is None or storage.end >= start) and (stop is None or storage.start < stop)
        ]
        return in_order(sources)

    def decode(self, message: RawMessage) -> Any:
        """As ``Bag.decode``."""
        return self._types.decode(self.topics[message.topic], message)

    def close(self) -> None:
        """Give files and temporary copies up."""
        for storage in self._storages:
            storage.close()
        if self._unpacked is not None:
            self._unpacked.cleanup()

    def _open(self, files: list[Path]) -> None:
        refused = []
        for file in files:
            try:
                self._storages.append(self._storage(file))
            except (BagError, OSError) as error:
                unread = f"{file.name} cannot be read: {error.strerror or error}." if isinstance(error, OSError) else str(error)
                refused.append(unread)
        if not self._storages:
            raise BagError(f"recording {self.path} cannot be used: {' '.join(refused)}")
        self.problems += [f"{sentence} Its messages are lost." for sentence in refused]

    def _storage(self, file: Path) -> Storage:
        name = file.name
        with file.open("rb") as opened:
            head = opened.read(len(sqlite_file.MAGIC))
        if not head:
            raise BagError(f"{name} is empty (0 bytes).")
        if head.startswith(ZSTD):
            file = self._unpack(file)
            with file.open("rb") as opened:
                head = opened.read(len(sqlite_file.MAGIC))
        if head.startswith(mcap_records.MAGIC):
            return McapFile(file, name, self.problems)
        if head == sqlite_file.MAGIC:
            return SqliteFile(file, name, self.problems)
        if head.startswith(b"#ROSBAG V"):
            return Ros1File(file, name, self.problems)
        raise BagError(
            f"{name} begins with {head[:8]!r}, which no MCAP, SQLite or ROS 1 recording does: it is another thing, or damaged."
        )

    def _unpack(self, file: Path) -> Path:
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="flow_policy_bag_")
        target = Path(self._unpacked.name) / f"{len(self._storages)}_{file.stem}"
        try:
            fault = unpack(file, target)
        except Damaged as error:
            raise BagError(f"{file.name} {error}.") from error
        if fault:
            self._complaints.say(f"{file.name} {fault}.")
        return target

    def _join(self) -> dict[str, Topic]:
        """Topics of all files by name, counts together; where files disagree on a type, the first one's counts."""
        topics: dict[str, Topic] = {}
        for storage in self._storages:
            for name, topic in storage.topics.items():
                have = topics.get(name)
                if have is None:
                    topics[name] = topic
                elif (have.type, have.encoding) != (topic.type, topic.encoding):
                    self._complaints.say(
                        f"{storage.path.name}: topic {name} is {topic.type} ({topic.encoding}), and in the files before "
                        f"{have.type} ({have.encoding}); {count_of(topic.count or 0, 'message')} left out."
                    )
                else:
                    count = None if have.count is None or topic.count is None else have.count + topic.count
                    topics[name] = replace(have, count=count, qos=have.qos or topic.qos)
        return {name: topics[name] for name in sorted(topics)}

    def _from(
        self, storage: Storage, topics: Collection[str] | None, start: int | None, stop: int | None
    ) -> Iterator[RawMessage]:
        """Messages of one file, each decompressed where it was compressed by itself."""
        same = {
            name for name, topic in storage.topics.items()
            if (topic.type, topic.encoding) == (self.topics[name].type, self.topics[name].encoding)
        }
        for message in storage.messages(same if topics is None else same & set(topics), start, stop):
            if message.data[:4] == ZSTD:  # no message of any encoding begins so
                try:
                    yield RawMessage(message.topic, message.received, decompress(message.data, "zstd", None))
                except Damaged as error:
                    self._complaints.lost("damaged messages", (message.topic, message.received), (
                        f"{storage.path.name}: the message of {message.topic} received at {message.received / 1e9:.3f} s {error}; "
                        "lost."
                    ))
            else:
                yield message


def _kind(path: Path, storages: list[Storage]) -> str:
    names = " and ".join(sorted({storage.kind for storage in storages}))
    files = "" if len(storages) == 1 else f", {len(storages)} files"
    return f"rosbag2, {names}{files}" if path.is_dir() else f"{names} file"
