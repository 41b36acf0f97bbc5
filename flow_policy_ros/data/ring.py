"""The last seconds of a robot's messages in bounded memory, and one reader that may take them while more arrive. Knows no ROS.

Messages stay as they came, serialised. What is written of them, and when, is the reader's affair; nothing in here reads a clock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any

OVERHEAD = 320
"""Bytes of a message's own objects in Python beside its data, no fewer than there are; a test measures them."""
SMALL_SHARE, STANDING_SHARE = 0.25, 0.05
"""Of the budget: for what is not pictures, since a minute of joint states must not be short because pictures are large; and for
what is said once and for all."""
MOST_STANDING = 256


@dataclass(frozen=True, slots=True)
class Kept:
    """A serialised message of ``source`` (whatever the reader needs to know of its topic). ``at`` is a steady clock's instant, by
    which it grows old; ``received`` and ``published`` are those of the robot's clocks, ns; ``sequence`` the publisher's number."""

    at: int
    source: Any
    received: int
    data: bytes
    published: int | None = None
    sequence: int = 0

    @property
    def cost(self) -> int:
        """Bytes of memory."""
        return len(self.data) + OVERHEAD


class Ring:
    """Messages of the last ``window`` ns in at most ``budget`` bytes; both may be changed. ``put`` is for one thread, reading for
    another.

    While there is a reader, what it has not read does not grow old; it is dropped for want of room all the same, and counted.
    """

    def __init__(self, window: int, budget: int) -> None:
        self.window, self.budget = window, budget
        self._items: deque[Kept] = deque()
        self._size = 0
        self._dropped = 0  # items that have left at the front: the number of the first that is here
        self._reader: int | None = None  # number of the next item to be read
        self._lent = (0, 0)  # numbers, from and to, of what was read last
        self._lent_size = 0  # bytes of what has left the ring while it is lent
        self._missed = 0
        self._short = False
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes in memory, also of what the reader holds."""
        return self._size + self._lent_size

    @property
    def count(self) -> int:
        """Messages."""
        return len(self._items)

    @property
    def span(self) -> int:
        """From the oldest message to the newest, ns."""
        with self._lock:
            return self._items[-1].at - self._items[0].at if self._items else 0

    @property
    def short(self) -> bool:
        """Whether it is the budget, and not the window, that ends what is kept."""
        return self._short

    @property
    def oldest(self) -> Kept | None:
        """The first message, if any."""
        with self._lock:
            return self._items[0] if self._items else None

    def put(self, kept: Kept) -> None:
        """A message, no older than those before."""
        with self._lock:
            self._items.append(kept)
            self._size += kept.cost
            self._age(kept.at)
            while self._items and self.size > self.budget:
                self._missed += self._awaited()
                self._drop()
                self._short = True

    def age(self, now: int) -> None:
        """Drop what has left the window at the instant ``now``, when no message came to do so."""
        with self._lock:
            self._age(now)

    def begin(self, now: int) -> None:
        """Read from the first message on that is within the window at the instant ``now``."""
        with self._lock:
            self._age(now)
            self._reader, self._missed = self._dropped, 0
            self._lend(self._dropped, self._dropped)

    def read(self, before: int) -> list[Kept]:
        """What has not been read and came before the instant ``before``. What was given out before counts as given back."""
        with self._lock:
            assert self._reader is not None, "begin comes first"
            first = max(self._reader, self._dropped)
            items = []
            for kept in islice(self._items, first - self._dropped, None):
                if kept.at >= before:
                    break
                items.append(kept)
            self._reader = first + len(items)
            self._lend(first, self._reader)
            return items

    def end(self) -> int:
        """Nothing more is read; how many messages had to be dropped before they were."""
        with self._lock:
            self._reader = None
            self._lend(0, 0)
            return self._missed

    def _age(self, now: int) -> None:
        while self._items and self._items[0].at < now - self.window and not self._awaited():
            self._drop()
            self._short = False

    def _awaited(self) -> bool:
        """Whether the first message has yet to be read."""
        return self._reader is not None and self._dropped >= self._reader

    def _lend(self, first: int, end: int) -> None:
        self._lent, self._lent_size = (first, end), 0

    def _drop(self) -> None:
        cost = self._items.popleft().cost
        self._size -= cost
        if self._lent[0] <= self._dropped < self._lent[1]:
            self._lent_size += cost
        self._dropped += 1


class Lanes:
    """Two rings of one window, for pictures and for all else, and the last of what publishers say once and for all (latched).
    ``budget`` (bytes) is for all of it."""

    def __init__(self, window: int, budget: int) -> None:
        self.small, self.large = Ring(window, 0), Ring(window, 0)
        self._standing: OrderedDict[Hashable, tuple[Kept, Ring]] = OrderedDict()
        self._room = 0
        self.resize(window, budget)

    def resize(self, window: int, budget: int) -> None:
        """Another window (ns) and budget, in force from the next message of each kind on."""
        self.small.window = self.large.window = window
        self.small.budget, self._room = round(SMALL_SHARE * budget), round(STANDING_SHARE * budget)
        self.large.budget = budget - self.small.budget - self._room

    @property
    def size(self) -> int:
        """Bytes in memory; of what stands and is within the window, twice."""
        return self.small.size + self.large.size + sum(kept.cost for kept, _ in self._standing.values())

    @property
    def count(self) -> int:
        """Messages of the window."""
        return self.small.count + self.large.count

    def put(self, kept: Kept, large: bool, standing: Hashable = None) -> None:
        """A message. ``standing`` says whose it is when it is to outlive the window until there is another; what is too large for
        that is kept as any other."""
        ring, other = (self.large, self.small) if large else (self.small, self.large)
        ring.put(kept)
        other.age(kept.at)
        if standing is None:
            return
        self._standing.pop(standing, None)
        if kept.cost > self._room:
            return
        self._standing[standing] = (kept, ring)
        while len(self._standing) > MOST_STANDING or sum(k.cost for k, _ in self._standing.values()) > self._room:
            self._standing.popitem(last=False)

    def begin(self, now: int) -> list[Kept]:
        """Begin to read, at the instant ``now`` and in the thread that puts; returns what still stands and has left the window."""
        self.small.begin(now)
        self.large.begin(now)
        return [k for k, ring in self._standing.values() if (oldest := ring.oldest) is None or k.at < oldest.at]

    def read(self, before: int) -> list[Kept]:
        """What came before the instant ``before`` and was not read yet, in the order in which it came."""
        return sorted([*self.small.read(before), *self.large.read(before)], key=lambda kept: kept.at)

    def end(self) -> int:
        """Nothing more is read; how many messages had to be dropped before they were."""
        return self.small.end() + self.large.end()
