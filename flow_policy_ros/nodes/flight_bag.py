"""A bag of what a flight recorder holds, written beside the messages that still come, and seen under its name once it is whole.

When to write one is not decided here. Knows no ROS.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
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
CLAIM = ".lock"
"""Ends the name of the file by which a recorder that lives holds its unfinished bag."""
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
        given its bytes, why it has to end, or None. Raises ``ValueError`` or ``OSError`` when it cannot be begun."""
        self.until = until
        self._latest = until + longer
        self.events = [event]
        self._folder, self._lanes, self._guard = folder, lanes, guard
        self._claim, self._name = _claim_free(folder, name_of(event, instant))
        try:
            self._bag = Rosbag2Writer(folder / UNFINISHED / self._name, compression, _custom(robot, self.events, instant))
        except BaseException:
            self._claim.release()
            raise
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
        self._claim.release()

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
    """Put in their place the bags in the middle of which a recorder died: they can be read up to their last chunk. Those that
    another recorder is writing are left alone."""
    found = []
    unfinished = folder / UNFINISHED
    names = {path.name.removesuffix(CLAIM) for path in unfinished.iterdir()} if unfinished.is_dir() else set()
    for name in sorted(names):
        claim = _Claim.take(folder, name)
        if claim is None:
            continue
        try:
            if (unfinished / name).exists():  # else its recorder has finished it meanwhile, or died before it began
                place = folder / _free(folder, f"{name}{CUT}")
                os.rename(unfinished / name, place)
                found.append(place)
        finally:
            claim.release()
    return found


@dataclass(frozen=True)
class _Claim:
    """The right to an unfinished bag's name, held by a lock on a file beside it, which the kernel drops when its process dies."""

    file: Path
    number: int

    @staticmethod
    def take(folder: Path, name: str) -> _Claim | None:
        """None when another has it. Raises ``OSError`` when the file cannot be made."""
        file = folder / UNFINISHED / f"{name}{CLAIM}"
        file.parent.mkdir(exist_ok=True)
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            return None
        except OSError:  # a disk that knows no locks: a fault is to be saved all the same
            pass
        return _Claim(file, number)

    def release(self) -> None:
        """The file goes while it is still locked, so that nobody's newer one is taken away."""
        self.file.unlink(missing_ok=True)
        os.close(self.number)


def _claim_free(folder: Path, name: str) -> tuple[_Claim, str]:
    """The first of ``name``, ``name_2``, … that is no bag's and that no other recorder has taken, and the claim to it."""
    for found in _names(name):
        claim = _Claim.take(folder, found) if _is_free(folder, found) else None
        if claim is not None and _is_free(folder, found):
            return claim, found
        if claim is not None:  # it was finished between the two looks
            claim.release()
    raise ValueError(f"bags of the name {name} fill {folder}; remove some.")


def _free(folder: Path, name: str) -> str:
    """``name``, or with a number behind it when there is one of that name already."""
    return next(n for n in _names(name) if _is_free(folder, n))


def _names(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{k}" for k in range(2, 10_000))


def _is_free(folder: Path, name: str) -> bool:
    return not (folder / name).exists() and not (folder / UNFINISHED / name).exists()


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
