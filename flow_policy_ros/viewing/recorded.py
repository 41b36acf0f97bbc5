"""A recording as snapshots: the same messages, looked at as those of a live robot would have been.

Time is that of receipt. Nothing is judged; what a recording lacks is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_policy_ros.data import bag_messages as m
from flow_policy_ros.data.bags.bag import Bag, BagError
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.viewing.feed import ENTRIES
from flow_policy_ros.viewing.intake import Intake, Taken
from flow_policy_ros.viewing.pictures import FoundShelf
from flow_policy_ros.viewing.snapshot import Scene, Snapshot
from flow_policy_ros.viewing.topics import scene, selection
from flow_policy_ros.viewing.watch import Watch

MOST = ENTRIES - 500
"""Snapshots of one recording; a longer one is shown at a lower rate."""


@dataclass(frozen=True)
class Piece:
    """What is shown of a recording: from ``start`` ns on, for ``length_ns``, a snapshot every ``interval_ns``."""

    start: int
    length_ns: int
    interval_ns: int


class RecordedView:
    """The recording ``path``, seen by ``robot`` (None: by the names in it), at ``rate_hz`` or as fast as fits.

    ``start_s`` and ``seconds`` choose a piece of it (0: to its end). ``shelf`` has the pictures, ``problems`` what is wrong with
    the files. Close it when no more pictures are wanted.
    """

    def __init__(
        self, path: Path, robot: Robot | None, *, namespace: str = "", image: str = "", rate_hz: float = 15.0,
        start_s: float = 0.0, seconds: float = 0.0,
    ) -> None:
        """Raises ``BagError`` for what cannot be read, and for a recording of which nothing can be shown."""
        self._bag = open_bag(path)
        self._pictures: Bag | None = None
        self._path = path
        self.piece = piece(self._bag, path, rate_hz, start_s, seconds)
        self._roles = selection(robot, namespace, image).found({topic.name: topic.type for topic in self._bag.topics.values()})
        if not {"joint_state", "executed", "chunk", "image"} & set(self._roles.values()):
            self._bag.close()
            raise BagError(
                f"recording {path} has nothing to show: no joint states, set-points, chunks or pictures. It has "
                f"{', '.join(sorted(self._bag.topics)) or 'no topics'}. Name its topics in a robot file and give that with --robot."
            )
        self.shelf = FoundShelf(self._read)
        title = robot.name if robot is not None else path.resolve().name
        self._watch = Watch(
            scene(robot, title, live=False, source=str(path), seconds=self.piece.length_ns / 1e9),
            self.shelf,
            None if robot is None else robot.naming,
            namespace,
        )

    @property
    def problems(self) -> list[str]:
        """Of the files, and messages that could not be used; complete when all snapshots were made."""
        unusable = self._watch.unusable.items()
        return self._bag.problems + [f"{count} of the messages looked at of {topic} cannot be used." for topic, count in unusable]

    @property
    def topics(self) -> dict[str, str]:
        """The topics that are shown, and as what."""
        return dict(self._roles)

    def snapshots(self, progress: Callable[[float], None] | None = None) -> Iterator[tuple[Scene, Snapshot]]:
        """From beginning to end; ``progress`` is told the share that is done."""
        start, interval, end = self.piece.start, self.piece.interval_ns, self.piece.start + self.piece.length_ns
        intake, due = Intake(), start + interval
        for message in self._bag.messages(self._roles.keys(), start, end + 1):
            while message.received > due:
                yield self._shot(intake, due)
                if progress is not None:
                    progress(min(1.0, (due - start) / max(1, end - start)))
                due += interval
            intake.put(self._roles[message.topic], message.topic, message.received, message)
        yield self._shot(intake, min(due, end))

    def close(self) -> None:
        """Give the files up."""
        self._bag.close()
        if self._pictures is not None:
            self._pictures.close()

    def _shot(self, intake: Intake, now: int) -> tuple[Scene, Snapshot]:
        for taken in intake.drain():
            try:
                opened = self._bag.decode(taken.message)
            except BagError:
                continue  # the bag counts it among its problems
            self._watch.take(Taken(taken.role, taken.topic, taken.received, opened))
        shot = self._watch.snapshot(now, intake.counts)
        return self._watch.scene, shot

    def _read(self, topic: str, received: int) -> EncodedImage | None:
        """A picture, from the files: they are opened a second time, since pages ask while snapshots are still being made."""
        try:
            if self._pictures is None:
                self._pictures = open_bag(self._path)
            for message in self._pictures.messages([topic], received, received + 1):
                decoded: Any = self._pictures.decode(message)
                return m.IMAGES[self._pictures.topics[topic].type](decoded)
        except (ValueError, OSError):
            return None
        return None


def piece(bag: Bag, path: Path, rate_hz: float, start_s: float, seconds: float) -> Piece:
    """What is to be shown. Raises ``BagError`` when that is nothing."""
    first, last = bag.start, bag.end
    if first is None or last is None:  # no index: the files have to be read once
        for message in bag.messages():
            first, last = message.received if first is None else first, message.received
    if first is None or last is None:
        raise BagError(f"recording {path} has no messages.")
    start = first + round(start_s * 1e9)
    if start > last:
        raise BagError(f"--start {start_s:g} s lies behind the end of {path}, which lasts {(last - first) / 1e9:.1f} s.")
    length = min(last - start, round(seconds * 1e9)) if seconds > 0 else last - start
    return Piece(start, length, max(round(1e9 / rate_hz), -(-length // MOST)))
