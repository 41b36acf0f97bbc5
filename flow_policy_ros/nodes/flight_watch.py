"""When a flight recorder has to act: a command node that latches a fault, or falls silent at its work. Knows no ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SILENT = "command_node_silent"
SILENCE_S = 3.0
"""The command node speaks once a second."""
MOST_CALLS = 4
"""A recorder that was itself held up hears what was said meanwhile after it has gone on."""


@dataclass(frozen=True)
class Event:
    """What happened: a fault's name, and what was said of it."""

    name: str
    detail: str


class FaultWatch:
    """Told what the command node says of itself on ``/diagnostics``, tells what is new. ``began`` is the instant (ns, the robot's
    clock) from which on a fault is news: an older one is another recorder's."""

    def __init__(self, began: int) -> None:
        self._began = began
        self._known: set[str] | None = None  # faults that are latched; None before the first word
        self._counts: dict[str, int] = {}
        self._heard: int | None = None  # at work, and when it last said so; steady clock, ns
        self._calls = 0  # of silent since

    def hear(self, values: Mapping[str, str], message: str, now: int) -> list[Event]:
        """Values and message of a status that came at ``now`` (ns, steady clock): the faults that are new, in the order of the
        status. One that was dropped and latched again meanwhile is known by its count. Raises ``ValueError``, and has then heard
        nothing, for a status whose numbers are none: no command node says such."""
        faults = values.get("faults", "").split()
        counts = {name: _number(values, f"fault_count.{name}") for name in faults}
        since = _number(values, "state_since")
        if self._known is None:
            new = faults if since >= self._began else []
        else:
            new = [name for name in faults if name not in self._known or counts[name] > self._counts.get(name, 0)]
        self._known = set(faults)
        self._counts |= counts
        self._heard = now if values.get("lifecycle") == "active" else None
        self._calls = 0
        return [Event(name, _detail(name, message)) for name in new]

    def silent(self, now: int) -> Event | None:
        """To be called about twice a second: whether the command node, at work when it last spoke, has been silent for three
        seconds. Said once. That it has left the graph is known only after some more."""
        self._calls += 1
        if self._heard is None or now - self._heard < SILENCE_S * 1e9 or self._calls < MOST_CALLS:
            return None
        self._heard = self._known = None
        self._counts.clear()
        return Event(
            SILENT,
            f"the command node was at work and has said nothing for {SILENCE_S:g} s: its process crashed, was killed or stopped, "
            "or cannot be reached. Only the controller can stop the robot.",
        )


def _number(values: Mapping[str, str], key: str) -> int:
    text = values.get(key, "0")
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"the command node's status has {key} = '{text[:40]}', expected a whole number.") from error


def _detail(name: str, message: str) -> str:
    """Of a message ``name: what; other: what``."""
    start = message.find(f"{name}: ")
    return message[start + len(name) + 2 :] if start >= 0 else message
