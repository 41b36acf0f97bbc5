"""What was seen of a running robot's graph in a few seconds: nodes, topics, messages' instants. Data alone, nothing of ROS.

``ros.live_look`` gathers it, ``flow_policy doctor --live`` judges it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscriber: the full name of its ``node``, and what the middleware calls it (empty where it does not tell)."""

    node: str
    gid: bytes = b""


@dataclass(frozen=True)
class Mismatch:
    """A publisher and a subscriber, by their nodes, that will never hear of each other, and why."""

    publisher: str
    subscriber: str
    reason: str


@dataclass(frozen=True)
class Heard:
    """Instants of one message, ns: ``received`` on the robot's clock (a simulated one, if there is one), ``arrived`` on this
    machine's, ``sent`` on its publisher's (None where the middleware does not tell), ``stamp`` of its header (None without one)."""

    received: int
    arrived: int
    stamp: int | None
    sent: int | None
    publisher: bytes = b""


@dataclass(frozen=True)
class TopicFacts:
    """A topic; ``heard`` is empty when it was not listened to, ``until`` when that ended (ns, as ``received``; 0: not known);
    ``largest_bytes`` of its messages."""

    name: str
    types: tuple[str, ...]
    publishers: tuple[Endpoint, ...] = ()
    subscribers: tuple[Endpoint, ...] = ()
    mismatches: tuple[Mismatch, ...] = ()
    heard: tuple[Heard, ...] = ()
    until: int = 0
    largest_bytes: int = 0

    @property
    def rate_hz(self) -> float | None:
        """Messages a second; None for fewer than two."""
        received = [h.received for h in self.heard]
        if len(received) < 2 or received[-1] <= received[0]:
            return None
        return (len(received) - 1) * 1e9 / (received[-1] - received[0])

    @property
    def largest_gap_s(self) -> float:
        """Between two messages, or after the last; 0 without any."""
        received = [h.received for h in self.heard]
        ends = [max(self.until, received[-1])] if received else []
        return max((b - a for a, b in pairwise([*received, *ends])), default=0) / 1e9

    def ages_ms(self) -> NDArray[np.float64]:
        """Receipt minus stamp of those (K,) that have a stamp."""
        return np.array([h.received - h.stamp for h in self.heard if h.stamp], dtype=np.float64) / 1e6


@dataclass(frozen=True)
class Said:
    """What a status on ``/diagnostics`` said first and last; ``level`` is 0 for all right, 1 for a warning, 2 and 3 for worse."""

    name: str
    level: int
    message: str
    first: dict[str, str]
    last: dict[str, str]


@dataclass(frozen=True)
class LiveFacts:
    """All of it. ``nodes`` are full names, one for each node: a name that stands twice is two nodes. ``unknown`` are topics that
    could not be listened to for want of their type; ``unread`` counts, by topic, messages that were none of their type."""

    seconds: float
    nodes: tuple[str, ...]
    topics: dict[str, TopicFacts]
    said: tuple[Said, ...] = ()
    simulated: bool = False
    middleware: str = ""
    unknown: dict[str, str] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
