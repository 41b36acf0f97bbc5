"""What an inspection found in a recording, as plain data. ``data.inspection`` fills it in."""

from __future__ import annotations

from dataclasses import dataclass, field

STILL = 0.002
"""A joint that moves through less, rad or m, holds still: about the step of a 12-bit encoder."""


@dataclass(frozen=True)
class TopicFound:
    """One topic; figures are None where there is nothing to compute them from. ``typical_hz`` leaves pauses aside. ``qos`` has
    one entry per publisher; ``refused`` counts messages that could not be decoded, ``why`` the first reason."""

    name: str
    type: str
    encoding: str
    listed: int | None
    count: int
    size_bytes: int
    first_s: float | None
    rate_hz: float | None
    typical_hz: float | None
    max_gap_s: float | None
    max_gap_at_s: float | None
    qos: tuple[str, ...]
    refused: int
    why: str


@dataclass(frozen=True)
class StampsFound:
    """Header stamps of one topic; delays are instant of receipt minus stamp, ms."""

    topic: str
    count: int
    zero: int
    early: int
    back: int
    repeated: int
    delay_p50_ms: float | None
    delay_p99_ms: float | None
    delay_min_ms: float | None
    delay_max_ms: float | None


@dataclass(frozen=True)
class JointFound:
    """One joint (``name`` as in the messages, "" where there is none) of one layout: range moved through, rad or m, and greatest
    velocities, computed and as reported."""

    name: str
    low: float
    high: float
    velocity: float
    reported_velocity: float | None

    @property
    def still(self) -> bool:
        """Whether it hardly moved."""
        return self.high - self.low < STILL


@dataclass(frozen=True)
class LayoutFound:
    """Messages of one topic that name the same joints in the same order. ``part`` as in ``message_looks.Row``."""

    topic: str
    part: str
    named: bool
    count: int
    not_finite: int
    joints: tuple[JointFound, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the messages."""
        return tuple(joint.name for joint in self.joints) if self.named else ()


@dataclass(frozen=True)
class JointsFound:
    """Messages of a topic that carry joint values, by layout; ``uneven`` have not one value per name, ``empty`` none at all,
    ``crowded`` one layout too many. ``velocities``: they report velocities."""

    topic: str
    part: str
    layouts: tuple[LayoutFound, ...]
    uneven: int
    empty: int
    crowded: int
    velocities: bool


@dataclass(frozen=True)
class ImagesFound:
    """Images of one topic: ``sizes`` (width, height) and ``encodings`` with how often they came; ``repeated`` are the same as the
    one before. Of ``looked`` that were decoded, ``plain`` have one colour and ``unreadable`` failed, first for the reason ``why``.
    """

    topic: str
    count: int
    encodings: dict[str, int]
    sizes: dict[tuple[int, int], int]
    repeated: int
    looked: int
    plain: int
    unreadable: int
    why: str


@dataclass(frozen=True)
class Inspection:
    """A recording as found. ``problems`` are the reader's sentences (damage, loss); instants in s after ``start`` (ns), sizes on
    the disk and of the messages. ``silence_s`` is the longest time without any message."""

    path: str
    kind: str
    compression: str
    size_bytes: int
    content_bytes: int
    start: int | None
    end: int | None
    silence_s: float
    messages: int
    topics: tuple[TopicFound, ...]
    stamps: tuple[StampsFound, ...] = ()
    joints: tuple[JointsFound, ...] = ()
    images: tuple[ImagesFound, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def duration_s(self) -> float:
        """From the first receipt to the last."""
        return 0.0 if self.start is None or self.end is None else (self.end - self.start) / 1e9

    def topic(self, name: str) -> TopicFound | None:
        """A topic by its name; a leading / does not count."""
        return next((topic for topic in self.topics if same(topic.name, name)), None)


def same(one: str, other: str) -> bool:
    """Whether two topic names are alike but for a leading / (or ~/ in the robot file's)."""
    return one.strip("/") == other.removeprefix("~").strip("/")
