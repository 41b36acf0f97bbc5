"""A bag of what a flight recorder holds, written beside the messages that still come, and seen under its name once it is whole.

When to write one is not decided here. Knows no ROS.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from flow_policy_ros.data.bags.rosbag2_writer import METADATA, Rosbag2Writer
from flow_policy_ros.data.ring import Kept, Lanes
from flow_policy_ros.nodes.flight_watch import Event

UNFINISHED = ".unfinished"
"""Folder within that of the bags, for those that are not whole yet."""
CUT = "_cut"
"""Ends the name of a bag whose recorder died in the middle of it."""
SLICE_NS = 250_000_000
_NAME = re.compile(r"flight_\d{8}T\d{6}Z_[a-z0-9_]+")


@dataclass(frozen=True)
class Saved:
    """A bag that was written. ``missed`` messages left the memory before they were; ``problem`` is why it ended early, or ""."""

    path: Path
    messages: int
    seconds: float
    size: int
    missed: int
    problem: str = ""

    def __str__(self) -> str:
        """In a line for a log."""
        parts = [f"{self.path}: {self.messages} messages, {self.seconds:.1f} s, {self.size / 1e6:.1f} MB"]
        parts += [f"{self.missed} messages were dropped for want of memory"] if self.missed else []
        return "; ".join([*parts, *([self.problem] if self.problem else [])])


class FlightBag:
    """Writes, in a thread of its own, what ``lanes`` hold and what comes until ``until`` (ns, steady clock); then it is ``done``.

    ``events`` are why; more may be added while it runs.
    """

    def __init__(
        self,
        folder: Path,
        lanes: Lanes,
        event: Event,
        instant: int,
        until: int,
        longer: int,
        compression: str,
        robot: str,
        guard: Callable[[int], str | None],
    ) -> None:
        """``instant`` (ns since 1970, UTC) names it; what happens meanwhile prolongs it by ``longer`` ns at most. ``guard`` says,
        given its bytes, why it has to end, or None. Raises ``ValueError`` when it cannot be begun."""
        self.until = until
        self._latest = until + longer
        self.events = [event]
        self._folder, self._lanes, self._guard = folder, lanes, guard
        self._name = _free(folder, name_of(event, instant))
        self._bag = Rosbag2Writer(folder / UNFINISHED / self._name, compression, _custom(robot, self.events, instant))
        self._standing = lanes.begin(time.monotonic_ns())
        self._robot, self._instant = robot, instant
        self._problem = ""
        self._missed = 0
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="flight", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Where it will be."""
        return self._folder / self._name

    @property
    def done(self) -> bool:
        """Whether nothing is written any more."""
        return not self._thread.is_alive()

    def add(self, event: Event, until: int) -> bool:
        """Something else happened meanwhile: the bag goes on until ``until`` if that is later. False when it has ended already."""
        with self._lock:
            if self._ended:
                return False
            self.events.append(event)
            self.until = max(self.until, min(until, self._latest))
            return True

    def finish(self) -> Saved:
        """Wait for the end; the bag is in its place then, whole or as far as there was room."""
        self._thread.join()
        file = self._bag.file
        seconds = 0.0 if file.start is None or file.end is None else (file.end - file.start) / 1e9
        return Saved(self.path, sum(file.counts.values()), seconds, file.size, self._missed, self._problem)

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._problem = f"it could not be written to its end ({error.strerror}). Make room, or use another disk."
        except Exception as error:  # a thread that dies in silence would save nothing
            self._problem = f"{type(error).__name__}: {error}. This is a bug; report it."
        self._missed = self._lanes.end()
        missed = {"messages_missed": str(self._missed), **({"problem": self._problem} if self._problem else {})}
        self._bag.custom.update(_custom(self._robot, self.events, self._instant), **missed)
        try:
            self._bag.close()
        except OSError as error:
            self._problem = self._problem or f"it could not be ended ({error.strerror}); its messages can be read."
        try:
            os.rename(self._bag.path, self.path)
            _sync(self._folder)  # a robot that faults may lose its power next
        except OSError as error:
            self._problem = f"it stays in {self._bag.path} ({error.strerror})."

    def _write(self) -> None:
        begun = [oldest for ring in (self._lanes.small, self._lanes.large) if (oldest := ring.oldest) is not None]
        reached = min((kept.at for kept in begun), default=time.monotonic_ns())
        opening = min((kept.received for kept in begun), default=self._instant)
        # As a recorder that begins then would have been told.
        items = [replace(kept, received=opening) for kept in self._standing]
        channels: dict[str, int] = {}
        while True:
            for kept in items:
                self._put(kept, channels)
            problem = self._guard(self._bag.file.size)
            if problem is not None:
                self._problem = problem
                return  # what is added meanwhile is noted in this bag; there would be no room for another
            with self._lock:
                if reached >= self.until:
                    self._ended = True
                    return
            if reached + SLICE_NS > time.monotonic_ns():
                self._bag.file.flush()
            reached = min(reached + SLICE_NS, self.until)
            time.sleep(max(0.0, (reached - time.monotonic_ns()) / 1e9))
            items = self._lanes.read(reached)

    def _put(self, kept: Kept, channels: dict[str, int]) -> None:
        source = kept.source
        channel = channels.get(source.topic)
        if channel is None:
            channel = channels[source.topic] = self._bag.add_topic(source.topic, source.what, source.qos)
        self._bag.file.write(channel, kept.received, kept.data, kept.published, kept.sequence)


def name_of(event: Event, instant: int) -> str:
    """``flight_20260131T235959Z_tracking_error``, of an instant in ns since 1970."""
    when = datetime.fromtimestamp(instant // 1_000_000_000, timezone.utc)
    return f"flight_{when:%Y%m%dT%H%M%SZ}_{re.sub(r'[^a-z0-9]+', '_', event.name.lower()).strip('_') or 'saved'}"


def bags(folder: Path) -> list[Path]:
    """The bags of flight recorders in ``folder``, oldest first."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove the oldest bags beyond ``keep``, and of them what a flight recorder writes; the bags that were removed."""
    removed = []
    for path in bags(folder)[:-keep]:
        for file in (*path.glob("flight_*_0.mcap"), path / METADATA, path / f".{METADATA}.part"):
            file.unlink(missing_ok=True)
        try:
            path.rmdir()
        except OSError:  # somebody put something there
            continue
        removed.append(path)
    return removed


def recover(folder: Path) -> list[Path]:
    """Put in their place the bags in the middle of which a recorder died: they can be read up to their last chunk."""
    found = []
    for path in sorted((folder / UNFINISHED).iterdir()) if (folder / UNFINISHED).is_dir() else []:
        place = folder / _free(folder, f"{path.name}{CUT}")
        os.rename(path, place)
        found.append(place)
    return found


def _free(folder: Path, name: str) -> str:
    """``name``, or with a number behind it when there is one of that name already."""
    others = (f"{name}_{k}" for k in range(2, 10_000))
    return next(n for n in (name, *others) if not (folder / n).exists() and not (folder / UNFINISHED / n).exists())


def _custom(robot: str, events: list[Event], instant: int) -> dict[str, str]:
    return {
        "robot": robot,
        "success": "",
        "events": " ".join(dict.fromkeys(event.name for event in events)),
        "detail": "; ".join(f"{event.name}: {event.detail}" for event in events),
        "instant": str(instant),
    }


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
