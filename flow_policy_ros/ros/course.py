"""What follows from the start and the end of each process of a bring-up: who is next, who is started again, when all is over.

Rules alone, told of events with their instants: ``supervisor`` and ``launching`` start processes and know no rule of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from flow_policy_ros.ros.bringup import Bringup, NodeDescription

REFUSED = 2
"""Exit code of a process whose input is bad: it would be refused again."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""How long after its death a process is started again, the first time and each further time in a row; then no more."""
RECOVERED_S = 60.0
"""One that ran for so long died for the first time again."""


@dataclass(frozen=True)
class Respawn:
    """The process is started again after a pause, s."""

    node: NodeDescription
    pause_s: float


@dataclass(frozen=True)
class End:
    """Everything is ended, for ``reason``; ``code`` is the bring-up's exit code."""

    reason: str
    code: int


@dataclass(frozen=True)
class Lost:
    """An onlooker is not started again, for ``reason``; the others go on without it."""

    reason: str


class Course:
    """How far a bring-up is. Instants are seconds of any steady clock."""

    def __init__(self, bringup: Bringup) -> None:
        self._nodes = {node.path: node for node in bringup.nodes}
        self._since: dict[str, float] = {}
        self._fulfilled: set[str] = set()
        self._in_a_row: Counter[str] = Counter()
        self.respawns: Counter[str] = Counter()
        """How often each was started again, by path."""

    def due(self) -> list[NodeDescription]:
        """Those that may be started now and never were."""
        return [n for n in self._nodes.values() if n.path not in self._since and self._fulfilled.issuperset(n.after)]

    def started(self, path: str, now_s: float) -> None:
        """A process was started, for the first time or again."""
        self._since[path] = now_s
        if not self._nodes[path].task:
            self._fulfilled.add(path)

    def ended(self, path: str, code: int, now_s: float) -> Respawn | End | Lost | None:
        """What follows from the end of a process that nobody here ended; ``code`` below 0 is a signal's number."""
        node = self._nodes[path]
        how = f"{path} was ended by signal {-code}" if code < 0 else f"{path} ended with exit code {code}"
        if node.task:
            if code == 0:
                self._fulfilled.add(path)
                return None
            return End(f"{how}: {' '.join(node.arguments)} was not done.", code if code > 0 else 1)
        if code == REFUSED and node.onlooker and self.respawns[path]:
            return Lost(f"{how}: it refused what it was given. The others go on without it.")
        if code == REFUSED:
            return End(f"{how}: it refused what it was given.", REFUSED)
        if not node.respawn:
            if len(self._nodes) == 1:
                return End(f"{how}.", code if code >= 0 else 1)
            return End(f"{how}. It is not started again by itself: look why, then start anew.", code if code > 0 else 1)
        if now_s - self._since[path] >= RECOVERED_S:
            self._in_a_row[path] = 0
        if self._in_a_row[path] == len(PAUSES_S):
            text = f"{how}, after it had been started again {len(PAUSES_S)} times in a row."
            return Lost(f"{text} The others go on without it.") if node.onlooker else End(text, 1)
        self._in_a_row[path] += 1
        self.respawns[path] += 1
        return Respawn(node, PAUSES_S[self._in_a_row[path] - 1])
