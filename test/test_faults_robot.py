"""Joint states fall silent, the emergency stop is engaged, the command node itself stands still: each in the middle of a motion.

The command node is a real process; one of them for the whole file, reset after each fault.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_support import AT_ONCE, BUSY, PERIOD_S, WAIT_S, Reaction, Rig, record, rig_of

pytest.importorskip("rclpy")
from std_msgs.msg import Bool

Property = Callable[[str, object], None]


@pytest.fixture(scope="module", name="shared_rig")
def shared_rig_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig_of(Path(tmp_path_factory.mktemp("rig"))) as rig:
        yield rig


@pytest.fixture(name="rig")
def rig_fixture(shared_rig: Rig) -> Rig:
    """In motion."""
    shared_rig.fresh()
    shared_rig.moves()
    return shared_rig


def test_joint_states_silent(rig: Rig, record_property: Property) -> None:
    reports, count = len(rig.reports.messages), len(rig.executed.messages)
    rig.body.paused = True
    first, rest = rig.brakes(count)
    ticks = rig.ticks_since(rig.body.last_stamp + round(WAIT_S * 1e9), first)
    total = rig.ticks_since(rig.body.last_stamp, first)
    assert total <= WAIT_S / PERIOD_S + AT_ONCE
    rig.body.paused = False
    states, faults = rig.latched(reports, "stale_joint_state")
    counted = f"the age limit of {WAIT_S} s"
    record(
        Reaction("joint states silent", counted, ticks, AT_ONCE, total, rest - first, states, faults, rig.used()), record_property
    )


def test_emergency_stop(rig: Rig, record_property: Property) -> None:
    button = rig.ears.speak(Bool, "command/emergency_stop")
    rig.ears.connected(button)
    reports, count, pressed = len(rig.reports.messages), len(rig.executed.messages), rig.ears.now()
    with rig.ears.insisting(lambda: button.publish(Bool(data=True))):
        button.publish(Bool(data=True))
        first, rest = rig.brakes(count)
        refusal = rig.ears.trigger("command/reset")
        assert not refusal.success and "release" in refusal.message
    button.publish(Bool(data=False))
    rig.executed.wait_count(len(rig.executed.messages) + BUSY)
    assert rig.status()["state"] == "fault"  # released, it still needs the reset
    states, faults = rig.latched(reports, "emergency_stop")
    assert faults == ("emergency_stop",)
    ticks = rig.ticks_since(pressed, first)
    record(
        Reaction("emergency stop", "the message", ticks, AT_ONCE + BUSY, ticks, rest - first, states, faults, rig.used()),
        record_property,
    )


def test_command_node_stopped(rig: Rig, record_property: Property) -> None:
    """No tick, no command: what the robot does meanwhile is its controller's affair. Afterwards it must not go on as if
    nothing had been."""
    reports = len(rig.reports.messages)
    rig.node.send(signal.SIGSTOP)
    try:
        time.sleep(2.0 * WAIT_S)
        count, woken = len(rig.executed.messages), rig.ears.now()
    finally:
        rig.node.send(signal.SIGCONT)
    first, rest = rig.brakes(count)
    states, faults = rig.latched(reports, "control_loop_stalled")
    ticks = rig.ticks_since(woken, first)
    total, counted = ticks, "the first tick after the gap"
    record(
        Reaction("command node stopped", counted, ticks, AT_ONCE, total, rest - first, states, faults, rig.used()), record_property
    )
