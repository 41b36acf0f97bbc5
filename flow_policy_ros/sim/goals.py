"""Which of several goals was reached first. No physics here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HOLD_STEPS = 10
"""Control steps (10 ms) without a break that something must be at a goal to have reached it: passing by does not count."""


class GoalWatch:
    """Counts how long something has been at each goal. ``reached`` is the first that it stayed at, None before."""

    def __init__(self, goals: Iterable[str], hold_steps: int = HOLD_STEPS) -> None:
        self._steps = dict.fromkeys(goals, 0)
        self._hold_steps = hold_steps
        self.reached: str | None = None

    def update(self, at: Mapping[str, bool]) -> None:
        """One control step has passed; ``at`` says of each goal whether it is there."""
        for goal in self._steps:
            self._steps[goal] = self._steps[goal] + 1 if at[goal] else 0
            if self.reached is None and self._steps[goal] >= self._hold_steps:
                self.reached = goal
