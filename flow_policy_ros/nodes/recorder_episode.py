"""One episode that is being written: a queue, a thread that empties it into a bag, and a guard of the disk. Knows no ROS.

Whoever puts messages in never waits for the disk. What does not fit the queue is dropped, counted and said.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flow_policy_ros.data.bags.definitions import MessageType
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer

FLUSH_S = 0.5
"""A message is on the disk after this time, and the time that writing takes."""
GB = 1e9


@dataclass(frozen=True)
class Source:
    """A topic as it is recorded: ``qos`` is what its publishers offered."""

    topic: str
    what: MessageType
    qos: str


@dataclass(frozen=True)
class DiskGuard:
    """How much may be written: ``min_free`` bytes stay free on the disk, ``max_size`` bytes are written at most (0: no limit)."""

    min_free: float
    max_size: float = 0.0

    def problem(self, folder: Path, written: int) -> str | None:
        """Why nothing more may be written to ``folder``, where ``written`` bytes were; None when something may."""
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:  # a disk that was unplugged
            return f"the folder {folder} is gone ({error.strerror}). Bring its disk back, or record to another one."
        if free < self.min_free:
            return (
                f"the disk of {folder} has {free / GB:.2f} GB free, and {self.min_free / GB:g} GB are to stay free "
                "(recorder.min_free_gb). Make room, or record to another disk."
            )
        if self.max_size and written >= self.max_size:
            return (
                f"{written / GB:.3f} GB were recorded, which is what recorder.max_gb allows ({self.max_size / GB:g}). Raise it to "
                "record more."
            )
        return None


@dataclass(frozen=True)
class EpisodeReport:
    """An episode that has ended: ``counts`` messages of each topic in the bag, ``overflow`` those that the disk was too slow for,
    ``lost`` those that did not arrive (None where the middleware does not tell). ``problem`` is why it ended if nobody asked."""

    path: Path
    seconds: float
    size: int
    counts: Mapping[str, int]
    overflow: Mapping[str, int]
    lost: Mapping[str, int | None]
    problem: str = ""

    @property
    def messages(self) -> int:
        """In the bag."""
        return sum(self.counts.values())


@dataclass
class _Queue:
    items: deque[tuple[Any, ...]] = field(default_factory=deque)
    size: int = 0
    ended: bool = False


class Episode:
    """Writes from construction to ``stop``. ``put`` is for one thread, ``stop`` and the rest for any."""

    def __init__(
        self,
        path: Path,
        compression: str,
        custom: Mapping[str, str],
        guard: Callable[[int], str | None],
        queue_bytes: int,
    ) -> None:
        """``guard`` says, given the bytes of this bag, why it has to end, or None. Raises ``ValueError`` when ``path`` exists or
        cannot be made."""
        self.path = path
        self.problem = ""
        self.overflow: dict[str, int] = {}
        self._bag = Rosbag2Writer(path, compression, custom)
        self._guard = guard
        self._room = queue_bytes
        self._queue = _Queue()
        self._arrived = threading.Condition()
        self._channels: dict[str, int] = {}
        self._begun = time.monotonic()
        self._seconds: float | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether messages are still taken."""
        return self._thread.is_alive() and not self._queue.ended

    @property
    def seconds(self) -> float:
        """Since the beginning; of an episode that has ended, all of it."""
        return time.monotonic() - self._begun if self._seconds is None else self._seconds

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._bag.file.size

    @property
    def waiting(self) -> int:
        """Bytes in the queue."""
        return self._queue.size

    @property
    def counts(self) -> dict[str, int]:
        """Messages of each topic, written so far."""
        return dict(self._bag.file.counts)

    @property
    def messages(self) -> int:
        """Written so far."""
        return sum(self.counts.values())

    def put(self, source: Source, received: int, data: bytes, published: int | None, sequence: int) -> None:
        """A message for the bag."""
        queue = self._queue
        with self._arrived:
            if queue.ended:
                return
            if queue.size + len(data) > self._room:
                self.overflow[source.topic] = self.overflow.get(source.topic, 0) + 1
                return
            queue.items.append((source, received, data, published, sequence))
            queue.size += len(data)
            if len(queue.items) == 1:
                self._arrived.notify()

    def stop(self, lost: Mapping[str, int | None], custom: Mapping[str, str] | None = None) -> EpisodeReport:
        """Write what waits, end the bag. ``custom`` goes to its metadata."""
        with self._arrived:
            self._queue.ended = True
            self._arrived.notify()
        self._thread.join()
        custom = {**(custom or {}), **_losses(self.overflow, lost), **({"problem": self.problem} if self.problem else {})}
        self._bag.custom.update(custom)
        try:
            self._bag.close()
        except OSError as error:
            self.problem = self.problem or _disk(self.path, error)
        file = self._bag.file
        return EpisodeReport(self.path, self.seconds, file.size, dict(file.counts), dict(self.overflow), dict(lost), self.problem)

    def label(self, key: str, value: str) -> None:
        """Custom data of the metadata, also after ``stop``. Raises ``ValueError`` when it cannot be written then."""
        self._bag.custom[key] = value
        if self._queue.ended and not self._thread.is_alive():
            try:
                self._bag.write_metadata()
            except OSError as error:
                raise ValueError(_disk(self.path, error)) from error

    def remove(self) -> None:
        """Delete the bag's files, and its folder. Raises ``ValueError`` when somebody else put something there, which stays."""
        for path in (self._bag.file.path, self.path / "metadata.yaml"):
            path.unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except OSError as error:
            raise ValueError(
                f"the messages of {self.path} were removed, but not the folder ({error.strerror}): look what else is in it."
            ) from error

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            self.problem = _disk(self.path, error)
        except Exception as error:  # a thread that dies in silence would record nothing
            self.problem = f"{type(error).__name__}: {error}. This is a bug; report it."
        with self._arrived:
            self._queue.ended = True
            self._queue.items.clear()
            self._queue.size = 0
        self._seconds = time.monotonic() - self._begun

    def _write(self) -> None:
        file, queue = self._bag.file, self._queue
        flushed = time.monotonic()
        while True:
            with self._arrived:
                left_s = flushed + FLUSH_S - time.monotonic()
                self._arrived.wait_for(lambda: queue.items or queue.ended, timeout=max(left_s, 0.0))
                item = queue.items.popleft() if queue.items else None
                if item is None and queue.ended:
                    return
                queue.size -= len(item[2]) if item else 0
            if item is not None:
                source, received, data, published, sequence = item
                channel = self._channels.get(source.topic)
                if channel is None:
                    channel = self._channels[source.topic] = self._bag.add_topic(source.topic, source.what, source.qos)
                file.write(channel, received, data, published, sequence)
            if time.monotonic() - flushed >= FLUSH_S:
                file.flush()
                flushed = time.monotonic()
                problem = self._guard(file.size)
                if problem is not None:
                    self.problem = problem
                    return


def _losses(overflow: Mapping[str, int], lost: Mapping[str, int | None]) -> dict[str, str]:
    """For the metadata: what a recording lacks is a part of it."""
    total = sum(count or 0 for count in lost.values())
    known = all(count is not None for count in lost.values())
    return {"messages_lost": str(total) if known else "unknown", "messages_overflowed": str(sum(overflow.values()))}


def _disk(path: Path, error: OSError) -> str:
    return f"{path} could not be written ({error.strerror}); what was written before can be read. Make room, or use another disk."
