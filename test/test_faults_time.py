"""The clock jumps, forward and back, in the middle of a motion: the command node lives on the time of a simulation.

Its ticks come from a steady clock, its stamps and ages from ``/clock``, which the test publishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_support import AT_ONCE, Reaction, Rig, record, rig_of
from ros_support import Ears

pytest.importorskip("rclpy")
from rosgraph_msgs.msg import Clock

from flow_policy_ros.ros.messages import to_time

BEGIN_NS = 1_000_000_000_000
STEP_S = 0.005  # of the clock; shorter than a tick


class Timekeeper(Ears):
    """The test's node, which is also the clock: real time from ``BEGIN_NS`` on, until it is made to jump."""

    def __init__(self) -> None:
        super().__init__()
        self._offset = BEGIN_NS - time.monotonic_ns()
        self._said = BEGIN_NS
        self._clock = self.speak(Clock, "/clock")
        self.node.create_timer(STEP_S, self._say)

    def now(self) -> int:
        """What was published last: no joint state is ahead of the clock."""
        return self._said

    def jump(self, seconds: float) -> None:
        """From the next message on the clock is ``seconds`` on."""
        self._offset += round(seconds * 1e9)

    def _say(self) -> None:
        self._said = time.monotonic_ns() + self._offset
        self._clock.publish(Clock(clock=to_time(self._said)))


@pytest.fixture(scope="module", name="shared_rig")
def shared_rig_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig_of(Path(tmp_path_factory.mktemp("rig")), Timekeeper, use_sim_time=True) as rig:
        yield rig


@pytest.mark.parametrize(
    ("seconds", "fault", "name"),
    [(-5.0, "clock_jump_back", "time jump back"), (5.0, "control_loop_stalled", "time jump forward")],
)
def test_time_jump(shared_rig: Rig, seconds: float, fault: str, name: str, record_property: Callable[[str, object], None]) -> None:
    rig = shared_rig
    rig.fresh()
    rig.moves()
    reports, count = len(rig.reports.messages), len(rig.executed.messages)
    assert isinstance(rig.ears, Timekeeper)
    rig.ears.jump(seconds)
    first, rest = rig.brakes(count)
    jumped = count - 1 + int(np.argmax(np.abs(np.diff(rig.stamps[count - 1 :])) > 1e9)) + 1  # first set-point of the new time
    states, faults = rig.latched(reports, fault)
    ticks = first - jumped + 1
    assert ticks > 0, "a stop before the jump"
    total, counted = ticks, f"the first tick of a clock {abs(seconds):g} s {'on' if seconds > 0 else 'back'}"
    record(Reaction(name, counted, ticks, AT_ONCE, total, rest - first, states, faults, rig.used()), record_property)
