"""Snapshots on their way to any number of pages, in bounded memory: a page that is slow misses some, and nobody waits for it."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from flow_policy_ros.viewing.snapshot import Scene, Snapshot
from flow_policy_ros.viewing.wire import scene_json, snapshot_json

ENTRIES = 5000
BYTES = 64 << 20


class Sink(Protocol):
    """Who is told of every snapshot, with the scene that it belongs to."""

    def show(self, scene: Scene, shot: Snapshot) -> None:
        """Take one. Returns soon."""
        ...


@dataclass(frozen=True)
class Entry:
    """One thing to send: its ``number``, the ``event``'s name, its JSON."""

    number: int
    event: str
    text: str


class Feed:
    """``show`` is called from one thread, all else from any. ``run`` tells this run from others. The page's time begins at
    ``origin`` (ns; None: at the first snapshot)."""

    def __init__(self, entries: int = ENTRIES, origin: int | None = None) -> None:
        self.run = secrets.token_hex(4)
        self._most = entries
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._number = 0
        self._ended = False
        self._viewers = 0
        self._scene: Scene | None = None
        self._scene_text = ""
        self._origin = origin
        self._changed = threading.Condition()

    @property
    def viewers(self) -> int:
        """How many pages are open."""
        return self._viewers

    @property
    def shown(self) -> int:
        """How many snapshots there were."""
        return self._number

    def show(self, scene: Scene, shot: Snapshot) -> None:
        """As in ``Sink``."""
        if self._origin is None:
            self._origin = shot.stamp
        text = snapshot_json(shot, self._origin)  # outside the lock: it takes most of the time
        with self._changed:
            if scene != self._scene:
                self._scene, self._scene_text = scene, scene_json(scene, self.run, self._origin)
                self._add("scene", self._scene_text)
            self._add("snapshot", text)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def after(self, number: int, timeout_s: float) -> tuple[list[Entry], bool]:
        """Entries behind ``number``, waited for if there are none; and whether those are the last that there will be. Who asks for
        the first time (0) gets the scene first."""
        with self._changed:
            if self._number <= number and not self._ended:
                self._changed.wait(timeout_s)
            first = self._entries[0].number if self._entries else 0
            entries = [entry for entry in self._entries if entry.number > number]
            if entries and number + 1 < first and self._scene_text:  # the scene itself may have been dropped by now
                entries.insert(0, Entry(first - 1, "scene", self._scene_text))
            return entries, self._ended

    @contextmanager
    def viewing(self) -> Iterator[None]:
        """As long as a page is open."""
        with self._changed:
            self._viewers += 1
        try:
            yield
        finally:
            with self._changed:
                self._viewers -= 1

    def _add(self, event: str, text: str) -> None:
        self._number += 1
        self._entries.append(Entry(self._number, event, text))
        self._size += len(text)
        while len(self._entries) > self._most or self._size > BYTES:
            self._size -= len(self._entries.popleft().text)
