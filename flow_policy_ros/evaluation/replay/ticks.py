"""The control ticks of a recording: what was received up to each, in the order in which it is to be used.

The replay engine and the player of recordings (``nodes``) cut a recording into the same ticks, so that a replay in one process
and nodes over DDS are given the same things at the same instants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flow_policy_ros.data.bag_events import (
    BadEvent,
    BagEvent,
    CommandEvent,
    FeaturesEvent,
    ImageEvent,
    InstructionEvent,
    JointStateEvent,
)

LONGEST_GAP_NS = 20_000_000_000
"""Of a gap in which nothing is received only so much is ticked: by then the robot stands, and nothing can happen any more. Stamps
that are wrong by years would otherwise be ticked through."""


@dataclass
class TickInputs:
    """What was received after the tick before and no later than ``now`` (ns): all of it is visible from ``now`` on.

    ``images`` holds the newest of each camera alone, since live nodes look at no other.
    """

    now: int
    joint_states: list[JointStateEvent] = field(default_factory=list)
    images: dict[str, ImageEvent] = field(default_factory=dict)
    features: list[FeaturesEvent] = field(default_factory=list)
    recorded: list[CommandEvent] = field(default_factory=list)
    bad: list[BadEvent] = field(default_factory=list)
    instructions: list[InstructionEvent] = field(default_factory=list)

    def add(self, event: BagEvent) -> None:
        """One event, in the order of receipt."""
        if isinstance(event, JointStateEvent):
            self.joint_states.append(event)
        elif isinstance(event, ImageEvent):
            self.images[event.camera] = event
        elif isinstance(event, FeaturesEvent):
            self.features.append(event)
        elif isinstance(event, CommandEvent):
            self.recorded.append(event)
        elif isinstance(event, InstructionEvent):
            self.instructions.append(event)
        else:
            self.bad.append(event)


def ticks(events: Iterable[BagEvent], period_ns: int) -> Iterator[TickInputs]:
    """The ticks of ``events`` (ascending in ``received``), ``period_ns`` apart, from the receipt of the first joint state on.

    What was received before that belongs to the first tick. Without a joint state there is no tick at all; the last tick is
    the first one at or after the last event. Ticks in a gap of the recording are empty; of one longer than ``LONGEST_GAP_NS`` the
    rest is left out, and the ticks go on with those of the same grid.
    """
    if period_ns <= 0:
        raise ValueError(f"the control period is {period_ns} ns, expected above zero.")
    early: list[BagEvent] = []
    tick: TickInputs | None = None
    for event in events:
        if tick is None:
            early.append(event)
            if not isinstance(event, JointStateEvent):
                continue
            tick = TickInputs(event.received)
            for one in early:
                tick.add(one)
            early.clear()
            continue
        until = tick.now + LONGEST_GAP_NS
        while event.received > tick.now:
            yield tick
            step = 1 if tick.now < until else -((tick.now - event.received) // period_ns)
            tick = TickInputs(tick.now + step * period_ns)
        tick.add(event)
    if tick is not None:
        yield tick
