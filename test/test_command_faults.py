"""What must not be, and what follows: faults stop the motion, latch, and are left by a reset alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from command_support import LIMITS, ROBOT, START, TICK, Bench, assert_stops_and_holds, chunk_to, fault_names, state, way_to

from flow_policy_ros.runtime.types import FloatArray, JointState
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.shaper import ChunkShaper


def test_a_stale_joint_state_in_motion_stops_and_holds() -> None:
    """Safety invariant 3: joint states go stale."""
    bench = Bench(joint_state_max_age_s=0.05)
    bench.moving()
    assert bench.tick(5, feed=False).state is GuardState.ACTIVE
    assert_stops_and_holds(bench, "stale_joint_state", feed=False)
    assert "0.060 s" in bench.loop.faults[0].detail and "0.050 s" in bench.loop.faults[0].detail


def test_a_joint_state_from_the_future_is_as_bad_as_an_old_one() -> None:
    bench = Bench(joint_state_max_age_s=0.05)
    bench.moving()
    bench.loop.on_joint_state(state(bench.now + 10 * TICK), bench.now)
    assert_stops_and_holds(bench, "stale_joint_state")
    assert "future" in bench.loop.faults[0].detail


def test_an_effort_that_is_not_measured_is_no_fault() -> None:
    """Drivers write NaN where they measure nothing; the efforts beside it count."""
    bench = Bench()
    bench.tick()
    bench.loop.on_joint_state(state(bench.now + TICK, effort=[np.nan, 0.0, 0.0]), bench.now + TICK)
    assert bench.tick(feed=False).faults == ()


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (state(0, [0.0, np.nan, 0.0]), "joint_state_not_finite"),
        (state(0, [np.inf, 0.0, 0.0]), "joint_state_not_finite"),
        (state(0, [0.0, 0.0], ("a", "b")), "joint_state_names"),
        (state(0, [0.0, 0.0, 0.0], ("a", "b", "b")), "joint_state_names"),
        (state(0, [0.0, 0.0]), "joint_state_shape"),
        (state(0, effort=[0.0, np.inf, 0.0]), "joint_state_effort_not_finite"),
        (state(0, effort=[0.0, 0.0]), "joint_state_effort_shape"),
    ],
)
def test_a_bad_joint_state_stops_and_before_the_start_prevents_it(bad: JointState, kind: str) -> None:
    """Safety invariants 1 and 3: rejected, counted; a motion is stopped and held."""
    bench = Bench()
    bench.moving()
    bench.loop.on_joint_state(replace(bad, stamp=bench.now), bench.now)
    assert_stops_and_holds(bench, "bad_joint_state")
    assert bench.loop.rejections == {kind: 1} and bench.loop.last_rejection

    bench = Bench()
    bench.loop.on_joint_state(bad, 0)
    assert bench.tick(10).state is GuardState.FAULT
    assert bench.positions == []


def test_a_clock_that_goes_back_stops_and_holds() -> None:
    bench = Bench()
    bench.moving()
    bench.now -= 5 * TICK
    assert_stops_and_holds(bench, "clock_jump_back")
    assert "0.040 s" in bench.loop.faults[0].detail


def test_a_loop_that_stalled_in_motion_stops_and_holds() -> None:
    """A gap is forgiven up to command.stall_s; the set-points go on as if there had been none."""
    bench = Bench(stall_s=0.1)
    bench.moving()
    bench.now += 9 * TICK
    assert bench.tick().state is GuardState.ACTIVE  # 0.1 s
    bench.now += 10 * TICK
    assert_stops_and_holds(bench, "control_loop_stalled")
    assert "0.110 s" in bench.loop.faults[0].detail and "0.1 s allowed" in bench.loop.faults[0].detail


def test_three_periods_are_no_stall_and_before_the_start_there_is_none() -> None:
    bench = Bench(stall_s=0.001)
    bench.moving()
    bench.now += 2 * TICK
    assert bench.tick().state is GuardState.ACTIVE
    bench.now += 3 * TICK
    assert fault_names(bench.tick()) == ["control_loop_stalled"]
    bench = Bench()
    bench.tick(3, feed=False)
    bench.now += 10**10
    assert bench.tick().state is GuardState.STARTING


TRACKED = replace(ROBOT, limits=replace(LIMITS, tracking=np.array([0.2, np.inf, 0.3])))
STRONG = replace(ROBOT, limits=replace(LIMITS, effort=np.array([np.inf, 2.0, 3.0])))


def test_a_joint_away_from_its_set_point_for_too_long_is_a_fault_that_names_it() -> None:
    bench = Bench(TRACKED, tracking_time_s=0.05)
    bench.faithful = True
    bench.moving()
    away = bench.positions[-1] + np.array([0.0, 9.0, -0.35])  # b is not limited
    for _ in range(6):  # from the first of them on 0.05 s pass
        result = bench.tick(position=away)
        assert result.state is GuardState.ACTIVE, fault_names(result)
    assert_stops_and_holds(bench, "tracking_error", position=away)
    assert "'c'" in bench.loop.faults[0].detail and "above 0.3000 for 0.060 s" in bench.loop.faults[0].detail


def test_joints_that_are_away_for_a_moment_again_and_again_are_no_fault() -> None:
    bench = Bench(TRACKED, tracking_time_s=0.05)
    bench.tick()
    for k in range(60):  # never the same joint for longer than allowed
        away = np.array([0.25, 0.0, 0.0]) if k % 12 < 6 else np.array([0.0, 0.0, 0.35])
        assert bench.tick(position=START + away).faults == (), k
    assert fault_names(bench.tick(8, position=START + np.array([0.25, 0.0, 0.0]))) == ["tracking_error"]


def test_with_no_time_allowed_one_tick_away_is_a_fault() -> None:
    bench = Bench(TRACKED, tracking_time_s=0.0)
    bench.tick()
    assert bench.tick(position=START + np.array([0.199, 5.0, 0.0])).faults == ()
    assert fault_names(bench.tick(position=START + np.array([0.201, 0.0, 0.0]))) == ["tracking_error"]


def test_an_effort_above_its_limit_for_too_long_is_a_fault_that_names_the_joint() -> None:
    bench = Bench(STRONG, effort_time_s=0.03)
    bench.moving()
    for _ in range(4):
        assert bench.tick(effort=[99.0, -2.5, 2.9]).faults == ()  # a has no limit, c is below its own
    assert_stops_and_holds(bench, "effort", effort=[99.0, -2.5, 2.9])
    assert "'b' is at 2.5000 of effort, above 2.0000 for 0.040 s" in bench.loop.faults[0].detail


def test_efforts_for_a_moment_none_at_all_or_without_limits_are_no_fault() -> None:
    bench = Bench(STRONG, effort_time_s=0.03)
    bench.moving()
    for k in range(20):
        assert bench.tick(effort=[0.0, 2.5 * (k % 4 < 3), 0.0]).faults == ()
    assert bench.tick(3).faults == ()  # a robot that does not report it
    bench = Bench(effort_time_s=0.0)  # infinite limits
    bench.moving()
    assert bench.tick(5, effort=[1e9, -1e9, 1e9]).faults == ()


class Obstacle:
    """Something that comes too close: lets motion have ``share`` of its way, and at 0 says so once ``speaks``."""

    def __init__(self) -> None:
        self.share, self.speaks = 1.0, True
        self.asked: list[tuple[FloatArray, FloatArray, FloatArray]] = []
        self.brakes: list[FloatArray] = []

    def advance(self, position: FloatArray, target: FloatArray, moving: FloatArray) -> float:
        self.asked.append((position.copy(), target.copy(), moving.copy()))
        return self.share

    def change(self, acceleration: FloatArray) -> None:
        self.brakes.append(acceleration.copy())

    @property
    def problem(self) -> str | None:
        return "thumb is 2 mm from palm. Move one of them away by hand; then reset." if self.share <= 0.0 and self.speaks else None


def test_what_comes_near_slows_the_plan_down_and_far_away_changes_nothing() -> None:
    way = way_to([0.5, 0.3, 0.2], points=100)
    obstacle = Obstacle()
    free, watched = Bench(chunk_max_age_s=10.0), Bench(clearance=obstacle, chunk_max_age_s=10.0)
    for bench in (free, watched):
        bench.tick()
        bench.play(way)
        bench.tick(40)
    assert np.array_equal(free.positions, watched.positions)
    assert len(obstacle.asked) == 40
    position, target, moving = obstacle.asked[20]
    assert np.abs(position - free.positions[20]).max() < 0.03 and (target > position).all() and (moving > 0).all()
    obstacle.share = 0.5
    free.tick(10)
    watched.tick(20)
    np.testing.assert_allclose(watched.positions[-1], free.positions[-1], atol=0.02)
    assert (np.abs(watched.differences(1)[-5:]) < 0.6 * np.abs(free.differences(1)[-5:])).all()
    obstacle.share = 1.0
    watched.tick(80)
    np.testing.assert_allclose(watched.positions[-1], way[-1], atol=1e-3)
    watched.check_limits()


def test_the_clearance_check_knows_with_which_limits_the_robot_brakes() -> None:
    obstacle = Obstacle()
    bench = Bench(clearance=obstacle, soft_start_s=0.2, soft_start_scale=0.5, chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.1, 0.1, 0.1], points=100))
    bench.tick(30)
    np.testing.assert_allclose(obstacle.brakes[0], 0.5 * LIMITS.acceleration)
    np.testing.assert_allclose(obstacle.brakes[-1], LIMITS.acceleration)
    bench.update(limit_scale=0.5)
    bench.tick()
    np.testing.assert_allclose(obstacle.brakes[-1], 0.5 * LIMITS.acceleration)


def test_what_comes_too_close_stops_and_latches() -> None:
    obstacle = Obstacle()
    bench = Bench(clearance=obstacle)
    bench.moving()
    obstacle.share = 0.0
    assert_stops_and_holds(bench, "collision")
    assert bench.loop.faults[0].detail.startswith("thumb is 2 mm from palm")
    obstacle.share = 1.0
    assert bench.loop.request_reset() is None
    assert bench.tick().state is GuardState.STARTING


def test_no_way_left_without_a_problem_waits_within_the_limits() -> None:
    obstacle = Obstacle()
    bench = Bench(clearance=obstacle, chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.5, 0.3, 0.2], points=100))
    bench.tick(40)
    obstacle.share, obstacle.speaks = 0.0, False
    assert bench.tick(40).state is GuardState.ACTIVE
    assert bench.loop.faults == () and np.abs(bench.differences(1)[-1]).max() < 1e-6
    obstacle.share = 1.0
    bench.tick(100)
    np.testing.assert_allclose(bench.positions[-1], START + np.array([0.5, 0.3, 0.2]), atol=1e-3)
    bench.check_limits()


def test_an_error_while_following_becomes_a_stop_and_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Safety invariant 3: whatever breaks in the stage itself, too, becomes a decelerated stop, then hold."""
    bench = Bench()
    bench.moving()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(ChunkShaper, "shape", broken)
    assert bench.tick().faults == ()  # the chunk in progress needs no shaping
    bench.loop.on_chunk(chunk_to(bench.now, START), bench.now)
    assert_stops_and_holds(bench, "internal_error")
    assert "of all things" in bench.loop.faults[0].detail


def test_an_error_of_the_clearance_check_becomes_a_stop_and_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacle = Obstacle()
    bench = Bench(clearance=obstacle)
    bench.moving()

    def broken(*_: object) -> float:
        raise ValueError("no such link")

    monkeypatch.setattr(obstacle, "advance", broken)
    assert_stops_and_holds(bench, "internal_error")
