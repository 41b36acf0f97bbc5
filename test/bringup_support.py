"""What tests of bring-ups share: what was printed, and waits for it."""

from __future__ import annotations

import threading

PATIENCE_S = 150.0
"""A machine with other work on it; nothing is asserted about how long something took."""


class Heard:
    """Lines, and a wait for them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._more:
            self.lines.append(line)
            self._more.notify_all()

    def wait_for(self, words: str, times: int = 1) -> None:
        with self._more:
            assert self._more.wait_for(lambda: sum(words in line for line in self.lines) >= times, PATIENCE_S), (words, self.lines)
