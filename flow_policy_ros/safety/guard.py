"""Which state the command stage is in, which faults are latched, and which changes of state exist. No motion here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class GuardState(str, Enum):
    """What the command stage is doing."""

    INACTIVE = "inactive"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    HOLDING = "holding"
    FAULT = "fault"


STATES: dict[GuardState, str] = {
    GuardState.INACTIVE: "Nothing is published: not enabled, or no fresh joint state yet.",
    GuardState.STARTING: "The first set-point: the measured position.",
    GuardState.ACTIVE: "Following a chunk.",
    GuardState.STOPPING: "No chunk, or not allowed to follow one: decelerating.",
    GuardState.HOLDING: "At rest, set-points repeated.",
    GuardState.FAULT: "Latched: decelerating, then held, until reset.",
}
"""Every state, and what it means."""

FAULTS: dict[str, str] = {
    "stale_joint_state": "Joint states stay away, are too old, or come from the future.",
    "bad_joint_state": "A joint state with wrong names, wrong length, NaN or Inf arrived.",
    "start_outside_range": "At start a joint lies outside its command range by more than command.start_tolerance.",
    "first_command": "The first set-point of a motion lies farther than command.first_command_max from the measured position.",
    "tracking_error": "A joint stays farther from its set-point than its 'tracking' for longer than command.tracking_time_s.",
    "effort": "A joint stays above its 'effort' for longer than command.effort_time_s.",
    "emergency_stop": "The emergency stop was engaged; release it before the reset.",
    "clock_jump_back": "The clock went back.",
    "control_loop_stalled": "Between two ticks more than command.stall_s passed: the robot was not under control.",
    "collision": "Links, or a link and the workspace's bound, came within half of command.collision_margin.",
    "internal_error": "An error of the command stage itself.",
}
"""Every fault, and when it is latched."""

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
            raise ValueError(f"unknown fault '{name}', expected one of {tuple(FAULTS)}.")
        if name not in self._faults:
            self._faults[name] = Fault(name, detail, stamp)
            self.counts[name] = self.counts.get(name, 0) + 1
        self.move(GuardState.FAULT)

    def amend(self, name: str, detail: str) -> None:
        """Another ``detail`` for a fault that is latched: what there is to do has changed. Nothing for one that is not."""
        if name in self._faults:
            self._faults[name] = replace(self._faults[name], detail=detail)

    def reset(self) -> None:
        """Drop the faults and become inactive."""
        self._faults.clear()
        self.state = GuardState.INACTIVE
