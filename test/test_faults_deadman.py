"""The hold-to-run switch, as a Bool and as a button of a Joy: let go, silent, pressed again. No fault, but a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_support import AT_ONCE, BUSY, WAIT_S, Reaction, Rig, record, rig_of

pytest.importorskip("rclpy")
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool

SAY_S = 0.05
BUTTON = 2
Property = Callable[[str, object], None]
KINDS: dict[str, tuple[type, str, Callable[[bool], Any]]] = {
    "bool": (Bool, "command/deadman", lambda pressed: Bool(data=pressed)),
    "joy": (Joy, "joy", lambda pressed: Joy(buttons=[1, 1, int(pressed), 1])),  # the others must not count
}


class Switch:
    """A thumb on a switch; ``said`` is when it was last heard of."""

    def __init__(self, rig: Rig, kind: str) -> None:
        message, topic, self._make = KINDS[kind]
        self.pressed: bool | None = True  # None: the switch is silent
        self.said = 0
        self._ears = rig.ears
        self._publisher = rig.ears.speak(message, topic)
        rig.ears.connected(self._publisher)
        rig.ears.node.create_timer(SAY_S, self.say)

    def say(self) -> None:
        if self.pressed is not None:
            self.said = self._ears.now()
            self._publisher.publish(self._make(self.pressed))


def follows_only_what_comes_now(rig: Rig, switch: Switch) -> None:
    """Pressed again the robot stays, until there is a chunk of now."""
    count = len(rig.executed.messages)
    rig.send_cruise()  # not pressed: not followed, nor later
    rig.executed.wait_count(count + 20)
    switch.pressed = True
    rig.executed.wait_count(count + 50)
    assert np.ptp(rig.positions[count:], axis=0).max() == 0.0, "moves without a chunk of now"
    rig.moves()


@pytest.mark.parametrize("kind", ["bool", "joy"])
def test_hold_to_run(tmp_path: Path, kind: str, record_property: Property) -> None:
    with rig_of(tmp_path, started=False, command__deadman=kind, command__deadman_button=BUTTON) as rig:
        switch = Switch(rig, kind)
        rig.begin()
        rig.moves()

        reports, count, released = len(rig.reports.messages), len(rig.executed.messages), rig.ears.now()
        switch.pressed = False
        switch.say()
        first, rest = rig.brakes(count)
        states = rig.states(reports)
        assert states[:2] == ("stopping", "holding") and rig.status()["faults"] == ""
        ticks = rig.ticks_since(released, first)
        name = f"hold-to-run let go ({kind})"
        record(Reaction(name, "the message", ticks, AT_ONCE + BUSY, ticks, rest - first, states, (), rig.used()), record_property)
        follows_only_what_comes_now(rig, switch)
        if kind == "joy":  # how old a word may be does not depend on how it came
            return

        reports, count = len(rig.reports.messages), len(rig.executed.messages)
        switch.pressed = None
        first, rest = rig.brakes(count)
        states = rig.states(reports)
        assert states[:2] == ("stopping", "holding") and rig.status()["faults"] == ""
        ticks = rig.ticks_since(switch.said + round(WAIT_S * 1e9), first)
        total = rig.ticks_since(switch.said, first)
        # A message of the switch that came late counts from when it came.
        bound, counted = AT_ONCE + BUSY, f"the age limit of {WAIT_S} s"
        record(Reaction("hold-to-run silent", counted, ticks, bound, total, rest - first, states, (), rig.used()), record_property)
        follows_only_what_comes_now(rig, switch)
        rig.used()
