"""Recordings that consist of pieces (the chunks of MCAP and ROS 1 files): their messages in order of receipt, few pieces at a time.

Where the pieces lie and how one is taken apart is up to the formats.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from flow_policy_ros.data.bags.bag import RawMessage

CACHE = 1 << 28  # bytes of pieces that lie open at the same time; beyond, one is read again when it is needed


@dataclass(frozen=True)
class Piece:
    """A part of a file with messages of ``start`` to ``end`` (ns, both included): ``counts`` by number of channel.

    ``offset`` and ``length`` are the bytes that hold it; ``plain`` says that these are messages themselves, not a chunk of them;
    ``cut`` that the file ends inside.
    """

    offset: int
    length: int
    start: int
    end: int
    counts: dict[int, int]
    plain: bool = False
    cut: bool = False


@dataclass
class Entries:
    """Where a piece's messages lie in its ``raw`` bytes; ``fault`` is why there are no more of them ("" when these are all)."""

    raw: bytes
    times: array[int] = field(default_factory=lambda: array("Q"))
    channels: array[int] = field(default_factory=lambda: array("L"))
    begins: array[int] = field(default_factory=lambda: array("Q"))
    ends: array[int] = field(default_factory=lambda: array("Q"))
    fault: str = ""

    def add(self, time: int, channel: int, begin: int, end: int) -> None:
        """A message of ``channel`` received at ``time``, in ``raw[begin:end]``."""
        self.times.append(time)
        self.channels.append(channel)
        self.begins.append(begin)
        self.ends.append(end)

    def counts(self) -> dict[int, int]:
        """Messages by channel."""
        numbers, counts = np.unique(np.frombuffer(self.channels, dtype=f"u{self.channels.itemsize}"), return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def order(self) -> Iterable[int]:
        """Indices ascending in time; of equal times in the order of the file."""
        times = np.frombuffer(self.times, dtype=np.uint64)
        if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
            return range(len(times))
        ordered: list[int] = np.argsort(times, kind="stable").tolist()
        return ordered


class RawCache:
    """The bytes of the pieces that are being read, no more than ``CACHE`` of them (but one at least)."""

    def __init__(self, read: Callable[[Piece], bytes]) -> None:
        self._read = read
        self._raw: OrderedDict[int, bytes] = OrderedDict()
        self._held = 0

    def put(self, piece: Piece, raw: bytes) -> None:
        """Hold ``raw``; the longest unused go."""
        self._raw[piece.offset] = raw
        self._held += len(raw)
        while self._held > CACHE and len(self._raw) > 1:
            self._held -= len(self._raw.popitem(last=False)[1])

    def get(self, piece: Piece) -> bytes:
        """The piece's bytes, read again if they had to go."""
        raw = self._raw.get(piece.offset)
        if raw is None:
            raw = self._read(piece)
            self.put(piece, raw)
        elif len(self._raw) > 1:
            self._raw.move_to_end(piece.offset)
        return raw

    def drop(self, piece: Piece) -> None:
        """It has been read to its end."""
        self._held -= len(self._raw.pop(piece.offset, b""))


Source = tuple[int, Callable[[], Iterator[RawMessage]]]  # an instant before which nothing of it was received, and it


def in_order(sources: Sequence[Source]) -> Iterator[RawMessage]:
    """The messages of all ``sources``, each of which ascends, ascending in ``received``; each is opened when its turn comes."""
    waiting = sorted(range(len(sources)), key=lambda k: sources[k][0], reverse=True)
    heap: list[tuple[int, int, RawMessage, Iterator[RawMessage]]] = []
    while heap or waiting:
        while waiting and (not heap or sources[waiting[-1]][0] <= heap[0][0]):
            k = waiting.pop()
            iterator = sources[k][1]()
            for message in iterator:
                heapq.heappush(heap, (message.received, k, message, iterator))
                break
        if not heap:
            continue
        _, k, message, iterator = heap[0]
        yield message
        if len(heap) == 1:  # as long as nothing else can come in between
            bound = sources[waiting[-1]][0] if waiting else math.inf
            for message in iterator:
                if message.received >= bound:
                    heap[0] = (message.received, k, message, iterator)
                    break
                yield message
            else:
                heap.clear()
            continue
        for message in iterator:
            heapq.heapreplace(heap, (message.received, k, message, iterator))
            break
        else:
            heapq.heappop(heap)
