"""How motion begins and who lets it: the gate, the soft start, hold and enable, the hold-to-run switch."""

from __future__ import annotations

import numpy as np
import pytest
from command_support import JOINTS, LIMITS, START, TICK, UNAVERAGED, Bench, chunk_to, way_to

from flow_policy_ros.safety.guard import GuardState

FAST = np.array([4.0, 4.0, 4.0])  # a goal beyond every limit's reach, so that limits act at once


def test_a_first_set_point_far_away_is_a_fault_that_names_the_joint() -> None:
    """Safety invariant 4: the gate of the first command; latched, nothing moves, and a reset leads out."""
    bench = Bench(first_command_max=0.5)
    bench.tick(3)
    bench.go(START + np.array([0.1, 0.51, -0.2]))
    result = bench.tick()
    assert result.state is GuardState.FAULT and [fault.name for fault in result.faults] == ["first_command"]
    assert "'b' is 0.5100" in result.faults[0].detail and "0.5 allowed" in result.faults[0].detail
    bench.go(START)
    assert bench.tick(20).state is GuardState.FAULT
    assert all(np.array_equal(p, START) for p in bench.positions) and bench.loop.statistics().chunks == 0
    assert bench.loop.request_reset() is None
    bench.go(START + np.array([0.1, 0.49, -0.2]))
    assert bench.tick().state is GuardState.STARTING
    assert bench.tick().state is GuardState.ACTIVE


def test_the_gate_looks_at_the_measured_position_and_at_the_first_row_to_be_played() -> None:
    bench = Bench(first_command_max=0.1)
    bench.tick()
    bench.play(START + np.linspace(0.0, 1.0, 30)[:, None] * np.array([0.4, 0.0, 0.0]))
    assert bench.tick().state is GuardState.ACTIVE  # far at its end, near at its beginning

    bench = Bench(first_command_max=0.1)
    bench.tick()
    bench.go(START)
    result = bench.tick(position=START + np.array([0.0, 0.0, 0.2]))  # pushed aside, set-point and chunk agree
    assert result.faults[0].name == "first_command" and "'c'" in result.faults[0].detail


def test_the_gate_is_open_in_motion_and_closed_again_at_rest() -> None:
    bench = Bench(first_command_max=0.15, chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.1, 0.1, 0.1], points=30))
    assert bench.tick(15).state is GuardState.ACTIVE and not bench.loop.at_rest
    bench.go(START - 0.5)
    result = bench.tick(5)
    assert result.state is GuardState.ACTIVE and bench.loop.statistics().chunks == 2
    bench.loop.drop_chunks()
    bench.tick(40)
    bench.go(bench.positions[-1] + 0.3)
    assert bench.tick().faults[0].name == "first_command"
    bench.check_limits()


def test_a_soft_start_begins_at_a_share_of_the_limits_and_rises_to_all_of_them() -> None:
    """Safety invariant 4: a soft start. Set-points are within the limits in force at each tick, and use them."""
    bench = Bench(soft_start_s=0.5, soft_start_scale=0.2, slow_down=False, splice_s=0.0, chunk_max_age_s=10.0)
    bench.tick(2)
    np.testing.assert_allclose(bench.shares(0), 1.0)
    bench.play(START + np.sin(0.4 * np.arange(200))[:, None] * 0.4)  # back and forth, faster than the limits
    assert bench.tick(90).state is GuardState.ACTIVE
    for joint in range(3):
        share = bench.shares(joint)[2:]
        np.testing.assert_allclose(share[[0, 4, 25, 50, 89]], [0.2, 0.2, 0.6, 1.0, 1.0])
        assert (np.diff(share) >= 0).all() and np.diff(share).max() < 0.1
    np.testing.assert_allclose([limits.jerk[1] / limits.acceleration[1] for limits in bench.in_force], 50.0)
    bench.check_limits()
    peak = np.abs(bench.differences(2))
    assert (peak[2:7].max(axis=0) > 0.18 * LIMITS.acceleration).all() and (peak[55:].max(axis=0) > 0.9 * LIMITS.acceleration).all()


def test_the_soft_start_can_be_switched_off() -> None:
    bench = Bench(soft_start_s=0.0)
    bench.moving()
    np.testing.assert_allclose(bench.shares(0), 1.0)


def test_a_soft_start_begins_anew_after_a_hold_and_not_in_motion() -> None:
    bench = Bench(soft_start_s=0.3, soft_start_scale=0.2, chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.5, 0.5, 0.4], points=120))
    bench.tick(50)
    bench.play(way_to([0.5, 0.5, 0.4], points=120))
    bench.tick(2)
    np.testing.assert_allclose(bench.shares(0)[-1], 1.0)  # a new chunk in motion
    bench.loop.hold()
    bench.tick(30)
    np.testing.assert_allclose(bench.shares(0)[-1], 1.0)
    assert bench.loop.at_rest
    bench.loop.enable()
    bench.tick()
    bench.go(START)
    bench.tick()
    np.testing.assert_allclose(bench.shares(0)[-1], 0.2)
    bench.tick(40)
    np.testing.assert_allclose(bench.shares(0)[-1], 1.0)
    bench.check_limits()


def test_a_soft_start_that_was_cut_short_begins_anew() -> None:
    bench = Bench(soft_start_s=0.5, soft_start_scale=0.2)
    bench.tick()
    bench.go([0.9, 0.9, 0.4])
    bench.tick(20)
    assert 0.3 < bench.shares(0)[-1] < 0.7
    bench.loop.drop_chunks()
    bench.tick(40)
    bench.go(START)
    bench.tick()
    np.testing.assert_allclose(bench.shares(0)[-1], 0.2)
    bench.check_limits()


def test_a_change_of_scale_during_a_soft_start_keeps_its_share() -> None:
    bench = Bench(limit_scale=0.5, soft_start_s=0.5, soft_start_scale=0.2, chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.1, 0.1, 0.1], points=250))
    bench.tick(3)
    bench.update(limit_scale=1.0)
    bench.tick()
    np.testing.assert_allclose(bench.shares(0)[-1], 0.2)
    bench.tick(60)
    np.testing.assert_allclose(bench.shares(0)[-1], 1.0)
    bench.check_limits()


def stopped(bench: Bench) -> np.ndarray:
    """Tick until the robot holds; where."""
    assert bench.tick().state is GuardState.STOPPING
    bench.tick(20)
    assert bench.loop.state is GuardState.HOLDING and bench.loop.at_rest and bench.loop.faults == ()
    bench.check_limits()
    return bench.positions[-1]


def test_hold_stops_and_chunks_of_before_are_not_followed_after_enable() -> None:
    """Safety invariant 3: a decelerated stop, then hold."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.moving()
    bench.loop.hold()
    assert not bench.loop.enabled
    bench.play(chunk_to(bench.now, [0.9, 0.9, 0.4], 250).positions, delay_ns=10 * TICK)  # arrives while it is held
    held = stopped(bench)
    bench.go([0.9, 0.9, 0.4], points=250)
    assert "command/enable" in (bench.loop.start_problem(bench.now) or "")
    bench.tick(3)
    bench.loop.enable()
    assert bench.loop.enabled and bench.tick(20).state is GuardState.HOLDING
    assert np.array_equal(bench.positions[-1], held)
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE


def test_a_hold_between_two_ticks_drops_the_chunks_too() -> None:
    """Held and enabled again before the loop has ticked: what was asked for is a stop, until another chunk comes."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.moving()
    bench.loop.hold()
    bench.loop.enable()
    stopped(bench)
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE


def test_without_autostart_nothing_starts_until_enabled() -> None:
    bench = Bench(autostart=False)
    bench.go(START)
    assert bench.tick(5).state is GuardState.INACTIVE and not bench.positions
    bench.loop.enable()
    assert bench.tick().state is GuardState.STARTING
    assert bench.tick().state is GuardState.HOLDING  # the chunk of before is gone
    assert bench.loop.request_reset() is None
    assert bench.tick().state is GuardState.STARTING


def test_a_hold_outlives_a_reset() -> None:
    bench = Bench()
    bench.moving()
    bench.loop.hold()
    bench.tick(60)
    assert bench.loop.request_reset() is None
    bench.go(START)
    assert bench.tick(5).state is GuardState.INACTIVE
    assert "command/enable" in (bench.loop.start_problem(bench.now) or "")
    bench.loop.enable()
    assert bench.tick().state is GuardState.STARTING


def test_a_switch_that_was_never_pressed_lets_nothing_start() -> None:
    """Safety invariant 3: the hold-to-run switch."""
    bench = Bench(deadman="bool")
    bench.go(START)
    assert bench.tick(5).state is GuardState.INACTIVE and not bench.positions
    assert "never heard: nothing has come on command/deadman." in (bench.loop.start_problem(bench.now) or "")
    bench.loop.on_deadman(False, bench.now)
    assert bench.tick().state is GuardState.INACTIVE
    assert "not pressed. Hold it." in (bench.loop.start_problem(bench.now) or "")
    bench.loop.on_deadman(False, bench.now, "joy has 2 buttons.")
    assert bench.tick().state is GuardState.INACTIVE
    assert "cannot be read: joy has 2 buttons." in (bench.loop.start_problem(bench.now) or "")
    bench.tick(30)
    assert "silent: command/deadman was last heard 0.3" in (bench.loop.start_problem(bench.now) or "")
    bench.loop.on_deadman(True, bench.now)
    assert bench.tick().state is GuardState.STARTING


@pytest.mark.parametrize("silent", [False, True], ids=["released", "silent"])
def test_a_switch_let_go_stops_the_motion_and_pressed_again_begins_softly_with_a_new_chunk(silent: bool) -> None:
    """Safety invariants 3 and 4: the switch opens: a decelerated stop, then hold; no fault. Pressed again: a soft start."""
    bench = Bench(deadman="bool", deadman_max_age_s=0.2, soft_start_s=0.3, soft_start_scale=0.2, chunk_max_age_s=10.0)
    bench.loop.on_deadman(True, bench.now)
    bench.tick()
    bench.play(way_to([0.6, 0.6, 0.4], points=100))
    for _ in range(5):
        bench.loop.on_deadman(True, bench.now)
        bench.tick(10)
    assert bench.loop.state is GuardState.ACTIVE and bench.shares(0)[-1] == pytest.approx(1.0)
    if silent:
        assert bench.tick(10).state is GuardState.ACTIVE  # heard 0.2 s ago: not too long
    else:
        bench.loop.on_deadman(False, bench.now)
    reason = bench.loop.stop_reason(bench.now + TICK) or ""
    assert ("last heard 0.210 s ago" if silent else "not pressed") in reason
    held = stopped(bench)
    bench.loop.on_deadman(True, bench.now)
    assert bench.tick(15).state is GuardState.HOLDING and np.array_equal(bench.positions[-1], held)
    bench.loop.on_deadman(True, bench.now)
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE and bench.shares(0)[-1] == pytest.approx(0.2)
    bench.check_limits()


def test_a_switch_pressed_in_the_future_counts_as_let_go() -> None:
    """After the clock went back, a press of before says nothing of now; of a tick that is made up it lies little ahead."""
    bench = Bench(deadman="joy", deadman_max_age_s=0.1)
    bench.loop.on_deadman(True, bench.now + 30 * TICK)
    assert bench.tick().state is GuardState.INACTIVE


def test_the_first_set_points_of_a_soft_start_use_its_share_and_no_more() -> None:
    bench = Bench(UNAVERAGED, soft_start_s=1.0, soft_start_scale=0.1, splice_s=0.0)
    bench.tick()
    bench.go(np.clip(FAST, LIMITS.lower, LIMITS.upper))
    bench.tick(6)
    np.testing.assert_allclose(bench.differences(2)[2] / LIMITS.acceleration, 0.1, rtol=1e-9)
    assert bench.in_force[-1].names == JOINTS
