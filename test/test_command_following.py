"""How a chunk is followed: exactly where it may, slowed along its path or clamped where it must, through turns, and to its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from command_support import JOINTS, PERIOD, START, TICK, UNAVERAGED, Bench, way_to

from flow_policy_ros.runtime.types import Chunk
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.limiter import KINDS

TURN = 2.0 * np.pi


@pytest.mark.parametrize("splice_s", [0.0, 0.06])
def test_a_chunk_within_the_limits_is_played_exactly(splice_s: float) -> None:
    """Joined or not: there is nothing to join where a chunk begins at rest, with no acceleration, at the set-point."""
    bench = Bench(UNAVERAGED, chunk_max_age_s=10.0, splice_s=splice_s)
    bench.tick()
    way = way_to([0.7, -0.6, 0.4], points=100)
    bench.loop.on_chunk(Chunk(bench.now, TICK, ("c", "a", "b"), way[:, [2, 0, 1]]), bench.now)
    for row in way:
        result = bench.tick()
        assert result.state is GuardState.ACTIVE and result.setpoint is not None
        # The spline meets the points to its regularisation; the splice fades the spline's own small first acceleration.
        np.testing.assert_allclose(result.setpoint.position, row, atol=1e-7 if splice_s == 0.0 else 1e-5)
    counts = bench.loop.statistics()
    assert counts.ticks == 101 and counts.ticks_active == 100 and counts.ticks_limited == counts.joint_ticks_limited == 0
    assert counts.interventions == {kind: dict.fromkeys(JOINTS, 0) for kind in KINDS}


def test_without_splice_a_chunk_that_begins_with_a_jolt_is_played_exactly_too() -> None:
    bench = Bench(UNAVERAGED, chunk_max_age_s=10.0, splice_s=0.0)
    bench.tick()
    way = START + np.array([0.35, -0.3, 0.2]) * (1 - np.cos(2 * PERIOD * np.arange(200)))[:, None]
    bench.play(way)
    for row in way[:-1]:
        result = bench.tick()
        assert result.setpoint is not None
        np.testing.assert_allclose(result.setpoint.position, row, atol=1e-6)


def test_an_average_changes_a_chunk_within_the_limits_by_little_and_not_its_timing() -> None:
    """Averages of 2 and 4 set-points are read ahead by their delay, so that only a fraction of a period remains."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    way = way_to([0.7, -0.6, 0.4], points=100)
    bench.play(way)
    bench.tick(100)
    late = np.array(bench.positions[1:]) - way
    assert np.abs(late[:, 2]).max() < 1e-5
    speed = np.abs(np.gradient(way, PERIOD, axis=0)).max(axis=0)
    assert (np.abs(late).max(axis=0) < 0.55 * PERIOD * speed).all()
    assert np.abs(late[-1]).max() < 1e-3
    bench.check_limits()


def test_a_jump_becomes_a_motion_within_the_limits_and_is_counted() -> None:
    """Safety invariants 1 and 2: within velocity, acceleration and jerk; interventions per joint and kind."""
    bench = Bench(splice_s=0.0)
    bench.moving()
    result = bench.tick(25)
    bench.check_limits()
    assert result.interventions is not None
    counts = bench.loop.statistics()
    assert all(counts.interventions["acceleration"][joint] > 0 for joint in JOINTS)
    assert counts.interventions["velocity"]["b"] > 0 and counts.interventions["position"] == dict.fromkeys(JOINTS, 0)
    assert counts.interventions["jerk"]["b"] > 0 and counts.interventions["jerk"]["c"] == 0  # c's jerk is not limited
    assert 0 < counts.ticks_limited <= counts.ticks_active and counts.joint_ticks_limited >= counts.ticks_limited


@pytest.mark.parametrize("slow_down", [True, False])
def test_a_chunk_that_is_too_fast_is_slowed_along_its_path_when_that_suffices(slow_down: bool) -> None:
    """Safety invariant 2: slowed, it stays on its path; otherwise it is clamped. Both are counted per joint and kind."""
    bench = Bench(slow_down=slow_down, chunk_max_age_s=10.0)
    bench.tick()
    x = way_to([1.0, 0.0, 0.0], points=30)[:, 0] - START[0]
    bench.play(START + np.stack([0.78 * x, 0.1 * x * x, 0.04 * np.sin(3 * x)], axis=1))
    bench.tick(100)
    bench.check_limits()
    along = (np.array(bench.positions) - START)[:, 0] / 0.78
    off = np.array(bench.positions)[:, 1:] - START[1:] - np.stack([0.1 * along**2, 0.04 * np.sin(3 * along)], axis=1)
    counts = bench.loop.statistics()
    if slow_down:
        assert np.abs(off).max() < 0.003
        assert counts.chunks == counts.chunks_slowed == 1
        assert counts.slowed["velocity"]["a"] == 1 and "b" not in counts.slowed["velocity"]
        assert counts.interventions["velocity"]["a"] == 0
    else:
        assert np.abs(off).max() > 0.05
        assert counts.chunks == 1 and counts.chunks_slowed == 0 and not any(counts.slowed.values())
        assert counts.interventions["velocity"]["a"] > 5


def test_chunks_followed_slowed_and_clipped_are_counted() -> None:
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    for goal in ([0.1, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 0.0]):
        bench.play(way_to(goal, points=250))
        bench.tick(5)
    counts = bench.loop.statistics()
    assert counts.chunks == 3 and counts.clipped == {"b": 1}
    bench.play(way_to([0.0, 0.0, 0.4], points=6))
    bench.tick()
    before, counts = counts, bench.loop.statistics()
    assert counts.chunks == 4 and counts.chunks_slowed == before.chunks_slowed + 1
    assert not before.slowed["velocity"] and counts.slowed["velocity"] == {"c": 1}


def test_a_chunk_beyond_the_range_ends_at_the_range() -> None:
    """Safety invariant 1: no set-point outside the command range."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    bench.go([5.0, -5.0, 0.0], points=200)
    result = bench.tick(180)
    bench.check_limits()
    assert result.setpoint is not None and result.state is GuardState.ACTIVE
    np.testing.assert_allclose(result.setpoint.position, [1.0, -1.0, 0.0], atol=1e-9)
    assert bench.loop.statistics().clipped == {"a": 1, "b": 1}


def test_a_chunk_that_ends_in_motion_at_the_ranges_edge_is_braked_before_it() -> None:
    """Safety invariants 1 and 3: when the plan ends there is a stop, then a hold, and nothing beyond the range."""
    bench = Bench()
    bench.tick()
    bench.play(START + np.linspace(0.0, 1.0, 30)[:, None] * np.array([0.7999, 0.0, 0.0]))
    states = [bench.tick().state for _ in range(90)]
    bench.check_limits()
    assert states[0] is GuardState.ACTIVE and states[-1] is GuardState.HOLDING and not np.diff(bench.positions[-20:], axis=0).any()
    assert 0.9 < bench.positions[-1][0] <= 1.0


ENDLESS = replace(
    UNAVERAGED,
    limits=replace(
        UNAVERAGED.limits,
        lower=np.array([-np.inf, -1.0, -0.5]),
        upper=np.array([np.inf, 1.0, 0.5]),
        tracking=np.full(3, 0.3),
        continuous=np.array([True, False, False]),
    ),
)


def test_a_continuous_joint_is_followed_through_turns_the_short_way_round() -> None:
    """Chunk and measurement say where it is within a turn; set-points go on past pi without a jump."""
    bench = Bench(ENDLESS, chunk_max_age_s=10.0, first_command_max=0.5)
    bench.tick(position=[3.0, -0.3, 0.0])
    wide = way_to([1.0, 0.0, 0.0], points=120, start=[3.0, -0.3, 0.0])
    wrapped = wide.copy()
    wrapped[:, 0] = (wide[:, 0] + np.pi) % TURN - np.pi
    assert np.abs(np.diff(wrapped[:, 0])).max() > 6.0
    bench.play(wrapped)
    for _ in range(120):
        here = bench.positions[-1].copy()
        here[0] = (here[0] + np.pi) % TURN - np.pi  # as an encoder of one turn measures it
        assert bench.tick(position=here).state is GuardState.ACTIVE
    np.testing.assert_allclose(bench.positions[1:], wide, atol=1e-5)
    assert bench.loop.faults == ()
    # Chunks that count turns otherwise say the same.
    bench.play(np.tile([4.0 - 3 * TURN, -0.3, 0.0], (20, 1)))
    bench.tick(20, position=here)
    np.testing.assert_allclose(bench.positions[-1], [4.0, -0.3, 0.0], atol=1e-5)


def test_a_continuous_joint_that_is_really_away_is_noticed() -> None:
    bench = Bench(ENDLESS)
    bench.tick(position=[3.0, -0.3, 0.0])
    assert bench.tick(20, position=[-3.0, -0.3, 0.0]).faults == ()  # 0.28 away, the short way round
    result = bench.tick(20, position=[-2.9, -0.3, 0.0])
    assert [fault.name for fault in result.faults] == ["tracking_error"] and "'a' is at 0.38" in result.faults[0].detail


def test_the_gate_for_first_commands_goes_the_short_way_round() -> None:
    bench = Bench(ENDLESS, first_command_max=0.5)
    bench.tick(position=[3.0, -0.3, 0.0])
    bench.go([-3.0, -0.3, 0.0])
    assert bench.tick(position=[3.0, -0.3, 0.0]).state is GuardState.ACTIVE
    bench = Bench(ENDLESS, first_command_max=0.5)
    bench.tick(position=[3.0, -0.3, 0.0])
    bench.go([-2.7, -0.3, 0.0])
    result = bench.tick(position=[3.0, -0.3, 0.0])
    assert result.faults[0].name == "first_command" and "0.58" in result.faults[0].detail
