"""How many solver steps fit a time budget, from measured cost. Who measures, and with which clock, is not decided here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepCost:
    """A sample takes ``fixed_s`` + NFE * ``per_evaluation_s`` seconds. Raises ``ValueError`` unless both are finite and at
    least 0."""

    fixed_s: float
    per_evaluation_s: float

    def __post_init__(self) -> None:
        for name in ("fixed_s", "per_evaluation_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value} s, expected a finite number of at least 0; measure it again.")

    def seconds(self, nfe: int) -> float:
        """Expected time of a sample with ``nfe`` evaluations, in seconds."""
        return self.fixed_s + nfe * self.per_evaluation_s


@dataclass(frozen=True)
class StepChoice:
    """``steps`` to take, the seconds they are expected to last, and whether that is within the budget."""

    steps: int
    expected_s: float
    fits: bool


def steps_within(budget_s: float, cost: StepCost, evaluations_per_step: int, most: int) -> StepChoice:
    """The largest number of steps, from 1 to ``most``, that ``cost`` expects to end within ``budget_s`` seconds.

    One step is the least there is: when even that takes longer, it is chosen and ``fits`` is false. Raises ``ValueError``
    for a budget that is not a positive number, and for fewer than one evaluation per step or step.
    """
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ValueError(f"budget_s is {budget_s} s, expected a positive number.")
    for name, value in (("evaluations_per_step", evaluations_per_step), ("most", most)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1.")
    # Bisection on the prediction itself: a quotient of the same numbers rounds to one step more or less.
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if cost.seconds(middle * evaluations_per_step) <= budget_s:
            low = middle
        else:
            high = middle - 1
    expected = cost.seconds(low * evaluations_per_step)
    return StepChoice(low, expected, expected <= budget_s)


def fit_cost(measurements: Sequence[tuple[int, float]]) -> StepCost:
    """The ``StepCost`` nearest to measured (NFE, seconds), by least squares with both terms at least 0.

    Raises ``ValueError`` for fewer than two different NFE, an NFE below 1, and times that are not finite and positive.
    """
    for nfe, seconds in measurements:
        if nfe < 1 or not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"measurement is ({nfe}, {seconds} s), expected an NFE of at least 1 and a positive time.")
    if len({nfe for nfe, _ in measurements}) < 2:
        raise ValueError(
            f"measurements cover {len({nfe for nfe, _ in measurements})} different NFE, expected at least 2: a fixed cost cannot "
            "be told from a cost per evaluation otherwise. Measure with 1 and 10 steps."
        )
    count = len(measurements)
    n = sum(nfe for nfe, _ in measurements) / count
    s = sum(seconds for _, seconds in measurements) / count
    slope = sum((nfe - n) * (seconds - s) for nfe, seconds in measurements) / sum((nfe - n) ** 2 for nfe, _ in measurements)
    # The problem is convex in two unknowns: when the free optimum leaves the quadrant, the best lies on the violated edge
    # (never on both, since all times are positive).
    if slope < 0:
        return StepCost(s, 0.0)
    if s < slope * n:
        return StepCost(0.0, sum(nfe * seconds for nfe, seconds in measurements) / sum(nfe**2 for nfe, _ in measurements))
    return StepCost(s - slope * n, slope)
