"""Which state the command stage is in, which faults are latched, and which changes of state exist. No motion here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class GuardState(str, Enum):
    """What the command stage is doing."""

    INACTIVE = "inactive"  # nothing published: no fresh joint state yet
    STARTING = "starting"  # first set-point: the measured position
    ACTIVE = "active"  # following a chunk
    STOPPING = "stopping"  # no chunk: decelerating
    HOLDING = "holding"  # at rest, set-points repeated
    FAULT = "fault"  # latched: decelerating, then held, until reset


FAULTS = ("stale_joint_state", "bad_joint_state", "start_outside_range", "clock_jump_back", "internal_error")

# Reset leads from every state to INACTIVE and is not listed; it is the only way out of FAULT.
TRANSITIONS: dict[GuardState, frozenset[GuardState]] = {
    GuardState.INACTIVE: frozenset({GuardState.STARTING, GuardState.FAULT}),
    GuardState.STARTING: frozenset({GuardState.ACTIVE, GuardState.HOLDING, GuardState.FAULT}),
    GuardState.ACTIVE: frozenset({GuardState.STOPPING, GuardState.HOLDING, GuardState.FAULT}),
    GuardState.STOPPING: frozenset({GuardState.ACTIVE, GuardState.HOLDING, GuardState.FAULT}),
    GuardState.HOLDING: frozenset({GuardState.ACTIVE, GuardState.FAULT}),
    GuardState.FAULT: frozenset(),
}


@dataclass(frozen=True)
class Fault:
    """A latched fault: ``name`` (one of ``FAULTS``), ``detail`` with the remedy, ``stamp`` (ns) of what raised it."""

    name: str
    detail: str
    stamp: int


class Guard:
    """The state and the latched faults. ``counts`` holds how often each fault was latched since construction."""

    def __init__(self) -> None:
        self.state = GuardState.INACTIVE
        self.counts: dict[str, int] = {}
        self._faults: dict[str, Fault] = {}

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Latched faults, in the order in which they came."""
        return tuple(self._faults.values())

    def move(self, state: GuardState) -> None:
        """Go to ``state`` or stay in it. Raises ``RuntimeError`` for a change that ``TRANSITIONS`` does not have."""
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"the guard cannot go from {self.state.value} to {state.value}.")
        self.state = state

    def latch(self, name: str, detail: str, stamp: int) -> None:
        """Latch a fault; the first of a name is kept until reset. Raises ``ValueError`` for an unknown name."""
        if name not in FAULTS:
            raise ValueError(f"unknown fault '{name}', expected one of {FAULTS}.")
        if name not in self._faults:
            self._faults[name] = Fault(name, detail, stamp)
            self.counts[name] = self.counts.get(name, 0) + 1
        self.move(GuardState.FAULT)

    def reset(self) -> None:
        """Drop the faults and become inactive."""
        self._faults.clear()
        self.state = GuardState.INACTIVE
