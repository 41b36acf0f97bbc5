"""What one file of a recording gives, whatever its format. Opening the right one and joining several is ``data.bags.open``'s."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flow_policy_ros.data.bags.bag import RawMessage, Topic

SAID = 8  # sentences of one kind, before the rest is counted only


@dataclass(frozen=True)
class Definition:
    """A message type as a recording has it: ``text`` in ``encoding`` (``ros2msg``, ``ros2idl``, ``ros1msg``, ``jsonschema``)."""

    encoding: str
    text: str


class Storage(Protocol):
    """One opened file of a recording. ``definitions`` by type name; the rest as in ``Bag``, whose ``problems`` it adds to."""

    path: Path
    kind: str
    topics: dict[str, Topic]
    definitions: dict[str, Definition]
    start: int | None
    end: int | None

    def messages(self, topics: Collection[str] | None, start: int | None, stop: int | None) -> Iterator[RawMessage]:
        """As ``Bag.messages``."""
        ...

    def close(self) -> None:
        """Give the file up."""
        ...


class Complaints:
    """Adds to a list of problems: every sentence once, and of one kind only the first few and then how many more."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems
        self._seen: dict[str, set[object]] = {}
        self._more: dict[str, int] = {}

    def say(self, sentence: str) -> None:
        """Add ``sentence`` unless it is there."""
        if sentence not in self._problems:
            self._problems.append(sentence)

    def lost(self, kind: str, place: object, sentence: str) -> None:
        """``sentence`` about ``place``, which is said once; ``kind`` ("damaged chunks") is what the many are called."""
        seen = self._seen.setdefault(kind, set())
        if place in seen:
            return
        seen.add(place)
        if len(seen) <= SAID:
            self._problems.append(sentence)
            return
        text = f"… and {len(seen) - SAID} more {kind}."
        if kind in self._more:
            self._problems[self._more[kind]] = text
        else:
            self._more[kind] = len(self._problems)
            self._problems.append(text)


def count_of(number: int, noun: str) -> str:
    """``1 message``, ``3 messages``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(start: int, end: int) -> str:
    """Two instants (ns) as ``1700000400.000 to 1700000402.960 s``; very short spans in ns."""
    if end - start < 1_000_000:
        return f"{start} to {end} ns"
    return f"{start / 1e9:.3f} to {end / 1e9:.3f} s"
