"""Two of what there may be but one: publishers of chunks that contradict each other, and of commands to the robot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_support import AT_ONCE, BUSY, CRUISE, PERIOD_S, Reaction, Rig, record, rig_of, stay
from ros_support import values

pytest.importorskip("rclpy")
from trajectory_msgs.msg import JointTrajectory

SAY_TICKS = 100
"""Between two regular reports of the command node."""
FIGHT_S = 0.03
APART = 0.4  # rad, to either side
WARN = b"\x01"
Property = Callable[[str, object], None]


@pytest.fixture(scope="module", name="shared_rig")
def shared_rig_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig_of(Path(tmp_path_factory.mktemp("rig"))) as rig:
        yield rig


def warned(rig: Rig, topic: str, since: int) -> int:
    """Set-points from number ``since`` on until a report warns of two publishers of ``topic``."""

    status = rig.reports.wait_for(
        lambda s: s.name == "command" and f"2 nodes publish /{topic}" in s.message, what=f"no warning of two publishers of {topic}"
    )
    ticks = len(rig.executed.messages) - since
    assert status.level >= WARN and values(status)[f"publishers./{topic}"] == "2"
    return ticks


@pytest.fixture(name="second")
def second_fixture(shared_rig: Rig) -> Iterator[Callable[[str], Any]]:
    """Makes a second publisher of a topic, for the time of a test."""
    made: list[Any] = []

    def make(topic: str) -> Any:
        made.append(shared_rig.ears.speak(JointTrajectory, topic))
        return made[-1]

    yield make
    for publisher in made:
        shared_rig.ears.node.destroy_publisher(publisher)
    shared_rig.reports.wait_for(
        lambda s: s.name == "command" and "nodes publish" not in s.message, len(shared_rig.reports.messages), "warns for ever"
    )


def test_two_publishers_of_chunks(shared_rig: Rig, second: Callable[[str], Any], record_property: Property) -> None:
    rig = shared_rig
    rig.fresh()
    other = second("policy/chunk")
    rig.ears.connected(other)
    reports, count = len(rig.reports.messages), len(rig.executed.messages)
    centre, turn = rig.positions[-1], itertools.cycle([(rig.chunks, APART)] * 4 + [(other, -APART)] * 6)

    def contradict() -> None:
        publisher, side = next(turn)
        publisher.publish(stay(rig.ears.now(), centre + side))

    timer = rig.ears.node.create_timer(FIGHT_S, contradict)
    ticks = warned(rig, "policy/chunk", count)
    rig.executed.wait_count(count + 150)
    rig.ears.node.destroy_timer(timer)
    rig.stands(30)
    fought = np.diff(rig.positions[count:, 0]) / PERIOD_S
    assert fought.max() > 0.05 and fought.min() < -0.05  # it was pulled either way
    states = tuple(dict.fromkeys(("active", *rig.states(reports))))
    assert rig.status()["faults"] == ""
    used = rig.used()

    # Late ones, on the other hand, change nothing at all.
    count = rig.moves()
    before = int(values(rig.reports.messages[-1]).get("rejections.chunk_order", 0))
    old = itertools.count(rig.ears.now() - 1_500_000_000)
    with rig.ears.insisting(lambda: other.publish(stay(next(old), centre - APART))):
        rejected = rig.reports.wait_for(
            lambda s: s.name == "command" and int(values(s).get("rejections.chunk_order", 0)) >= before + 5,
            len(rig.reports.messages),
        )
    assert values(rejected)["faults"] == ""
    velocity = np.diff(rig.positions[count - 1 :], axis=0) / PERIOD_S
    assert np.abs(np.abs(velocity) - np.abs(CRUISE)).max() < 1e-6
    rig.used()
    record(
        Reaction("two publishers of chunks", "the second one", ticks, SAY_TICKS + AT_ONCE + 2 * BUSY, ticks, 0, states, (), used),
        record_property,
    )


def test_second_publisher_of_commands(shared_rig: Rig, second: Callable[[str], Any], record_property: Property) -> None:
    """It can only be reported: the command node goes on within its limits."""
    rig = shared_rig
    rig.fresh()
    count, reports = rig.moves(), len(rig.reports.messages)
    intruder = second("joint_command")
    ticks = warned(rig, "joint_command", count)
    intruder.publish(stay(rig.ears.now(), np.zeros(2)))
    rig.executed.wait_count(count + SAY_TICKS)
    velocity = np.diff(rig.positions[count - 1 :], axis=0) / PERIOD_S
    assert np.abs(np.abs(velocity) - np.abs(CRUISE)).max() < 1e-6
    states = rig.states(reports) or ("active",)
    assert rig.status()["faults"] == ""
    bound = SAY_TICKS + AT_ONCE + 2 * BUSY
    record(
        Reaction("second publisher of commands", "its creation", ticks, bound, ticks, 0, states, (), rig.used()), record_property
    )
