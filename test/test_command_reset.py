"""How faults are left: the emergency stop released, a reset, a fresh joint state."""

from __future__ import annotations

import pytest
from command_support import LIMITS, START, TICK, Bench, assert_stops_and_holds, fault_names

from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.guard import GuardState


def test_an_emergency_stop_stops_latches_and_is_left_by_release_and_reset_alone() -> None:
    """Safety invariants 3 and 4: an e-stop arrives."""
    bench = Bench()
    bench.moving()
    bench.loop.on_emergency_stop(True, bench.now)
    assert_stops_and_holds(bench, "emergency_stop")
    assert "release it first" in (bench.loop.request_reset() or "")
    assert bench.tick().state is GuardState.FAULT
    bench.loop.on_emergency_stop(False, bench.now)
    bench.go(START)
    assert bench.tick(5).state is GuardState.FAULT  # released is not reset
    assert bench.loop.request_reset() is None
    assert bench.tick().state is GuardState.STARTING
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE
    assert bench.loop.statistics().faults == {"emergency_stop": 1}


def test_an_emergency_stop_outlives_a_reset_that_does_not_ask() -> None:
    bench = Bench()
    bench.tick()
    bench.loop.on_emergency_stop(True, bench.now)
    bench.loop.reset()
    bench.fresh()
    assert fault_names(bench.tick(5)) == ["emergency_stop"] and bench.positions == []
    bench.loop.on_emergency_stop(False, bench.now)
    assert bench.loop.request_reset() is None
    assert bench.tick().state is GuardState.STARTING


def test_a_reset_that_is_asked_for_in_motion_stops_first() -> None:
    """Safety invariant 4: with the motion still in progress the set-points would jump to the measured position."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.moving()
    bench.tick(5)
    bench.loop.on_emergency_stop(True, bench.now)
    bench.loop.on_emergency_stop(False, bench.now)
    assert "moves" in (bench.loop.request_reset() or "")
    bench.tick(20)
    assert bench.loop.request_reset() is None
    bench.check_limits()

    bench = Bench(chunk_max_age_s=10.0)  # and without a fault
    bench.moving()
    assert "Call again" in (bench.loop.request_reset() or "")
    bench.go([0.9, 0.9, 0.4], points=250)
    assert bench.tick().state is GuardState.STOPPING
    assert bench.tick(20).state is GuardState.HOLDING
    assert bench.loop.request_reset() is None
    assert bench.tick().state is GuardState.STARTING
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE  # what the refused call had held is enabled again


def test_leaving_a_fault_takes_a_reset_and_a_fresh_joint_state() -> None:
    """Safety invariant 4: reset, fresh joint state, and a soft start from the measured position."""
    bench = Bench(joint_state_max_age_s=0.05, soft_start_s=0.5, soft_start_scale=0.2)
    bench.tick()
    bench.go([0.9, 0.9, 0.4])
    bench.tick(12)
    bench.tick(30, feed=False)
    bench.check_limits()
    bench.go([0.9, 0.9, 0.4])
    bench.loop.reset()
    assert bench.tick(feed=False) == CommandTick(GuardState.INACTIVE, None, (), None)
    bench.fresh()
    elsewhere = [0.5, 0.5, 0.1]
    result = bench.tick(position=elsewhere)
    assert result.state is GuardState.STARTING and result.setpoint is not None
    assert result.setpoint.position.tolist() == elsewhere and not result.setpoint.velocity.any()
    assert bench.tick(position=elsewhere).state is GuardState.HOLDING  # the chunk of before the reset is gone
    bench.go(START)
    assert bench.tick(20, position=elsewhere).state is GuardState.ACTIVE
    assert bench.in_force[2].velocity == pytest.approx(0.2 * LIMITS.velocity)
    bench.check_limits()
    assert bench.loop.statistics().faults == {"stale_joint_state": 1}


def test_after_a_reset_nothing_starts_on_what_came_before() -> None:
    bench = Bench()
    bench.moving()
    bench.loop.reset()
    bench.now -= 100 * TICK  # a simulation that begins again: no fault after a reset
    assert bench.tick(feed=False) == CommandTick(GuardState.INACTIVE, None, (), None)
    bench.now += 100 * TICK  # where the old joint state would be fresh
    assert bench.tick(feed=False) == CommandTick(GuardState.INACTIVE, None, (), None)


def test_the_first_fault_keeps_its_words_and_later_ones_join_it() -> None:
    """Safety invariant 4: faults latch."""
    bench = Bench(joint_state_max_age_s=0.05)
    bench.moving()
    bench.tick(6, feed=False)
    detail = bench.loop.faults[0].detail
    bench.tick(20, feed=False)
    bench.loop.on_emergency_stop(True, bench.now)
    assert fault_names(bench.tick()) == ["stale_joint_state", "emergency_stop"]
    assert bench.loop.faults[0].detail == detail
    assert bench.loop.statistics().faults == {"stale_joint_state": 1, "emergency_stop": 1}
