"""Messages as they come, a few of each interval kept for looking at: what is looked at costs no more when a robot says more.

Messages are not opened here: of a message that nobody looks at, only that it came is known.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["joint_state", "executed", "chunk", "chunk_info", "plan", "features", "info", "image", "diagnostics", "status",
               "instruction"]  # fmt: skip

LOOKED_AT: dict[Role, int] = {
    "joint_state": 4, "executed": 4, "chunk": 1, "chunk_info": 2, "plan": 1, "features": 1, "info": 8, "image": 2,
    "diagnostics": 16, "status": 1, "instruction": 1,
}  # fmt: skip
"""Of each interval and topic, so many messages are looked at, spread evenly; the newest is always one of them."""
WAITING = 64
"""Of each topic, so many messages wait at most for the end of an interval."""


@dataclass(frozen=True)
class Taken:
    """A message to look at: its ``topic`` and ``role``, when it was received (ns), and the message, opened or not."""

    role: Role
    topic: str
    received: int
    message: Any


class Intake:
    """Fed from one thread, drained at the end of every interval in the same."""

    def __init__(self) -> None:
        self.counts: dict[Role, int] = {}
        """All messages that came, by role."""
        self._waiting: dict[tuple[Role, str], deque[Taken]] = {}

    def put(self, role: Role, topic: str, received: int, message: Any) -> None:
        """A message came."""
        self.counts[role] = self.counts.get(role, 0) + 1
        queue = self._waiting.get((role, topic))
        if queue is None:
            length = 2 if role == "image" else WAITING
            queue = self._waiting[role, topic] = deque(maxlen=length)
        queue.append(Taken(role, topic, received, message))

    def drain(self) -> list[Taken]:
        """What is to be looked at of what came since the last call, in the order of receipt."""
        taken: list[Taken] = []
        for (role, _), queue in self._waiting.items():
            taken += spread(list(queue), LOOKED_AT[role])
            queue.clear()
        return sorted(taken, key=lambda one: one.received)


def spread(items: list[Taken], most: int) -> list[Taken]:
    """At most ``most`` of ``items``, evenly spread, the last one among them."""
    if len(items) <= most:
        return items
    step = len(items) / most
    return [items[int((k + 1) * step) - 1] for k in range(most - 1)] + [items[-1]]
