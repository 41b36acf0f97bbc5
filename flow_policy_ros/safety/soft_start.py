"""Limits that rise after a start from rest. Which limits those are factors of is not known here."""

from __future__ import annotations

LEVELS = 10
"""Steps in which limits rise."""


class SoftStart:
    """The factor on velocity, acceleration and jerk limits: a low one at a start, 1 ``duration_s`` later."""

    def __init__(self) -> None:
        self._begun: int | None = None  # instant, ns
        self._level = LEVELS

    @property
    def rising(self) -> bool:
        """Whether the factor is not 1 yet."""
        return self._begun is not None

    def begin(self, now: int) -> None:
        """A start at ``now`` (ns)."""
        self._begun, self._level = now, 0

    def rise(self, now: int, duration_s: float) -> bool:
        """Follow the time; whether the factor has changed."""
        if self._begun is None:
            return False
        share = (now - self._begun) / 1e9 / duration_s if duration_s > 0.0 else 1.0
        reached = max(self._level, min(LEVELS, int(share * LEVELS)))
        changed, self._level = reached != self._level, reached
        if reached == LEVELS:
            self._begun = None
        return changed

    def factor(self, lowest: float) -> float:
        """Between ``lowest`` at the start and 1."""
        return lowest + (1.0 - lowest) * self._level / LEVELS

    def forget(self) -> None:
        """No start is under way."""
        self._begun, self._level = None, LEVELS
