"""Which part of a chunk is played when, the plan that the command stage announces, and where it would come to rest."""

from __future__ import annotations

import numpy as np
import pytest
from command_support import JOINTS, ROBOT, START, TICK, UNAVERAGED, Bench, way_to

from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.safety.shaper import ChunkShaper, ShapedPlan


def test_a_chunk_observed_at_rest_is_played_from_its_first_row() -> None:
    """The robot waited for it: nothing of it has become past."""
    bench = Bench(UNAVERAGED)
    bench.tick(5)
    way = way_to([0.5, 0.3, 0.2])
    bench.play(way, delay_ns=7 * TICK)
    bench.tick(27)
    np.testing.assert_allclose(bench.positions[-22:], [START, *way[:21]], atol=1e-5)
    assert bench.loop.statistics().interventions["acceleration"] == dict.fromkeys(JOINTS, 0)


def test_a_chunk_observed_in_motion_is_played_in_time_with_its_stamp() -> None:
    bench = Bench(UNAVERAGED, splice_s=0.0)
    bench.tick()
    way = way_to([0.5, 0.3, 0.2])
    bench.play(way)
    bench.tick(20)
    # The robot follows row 19 now; the new chunk says the same from there on, and arrives 6 ticks later.
    assert not bench.loop.at_rest
    bench.play(way[19:], delay_ns=6 * TICK)
    ticks = [bench.tick() for _ in range(12)]
    assert [tick.plan is not None for tick in ticks] == [False] * 5 + [True] + [False] * 6
    np.testing.assert_allclose(bench.positions[-12:], way[20:32], atol=1e-6)


def test_a_chunk_observed_before_the_robot_stood_still_is_played_in_time_with_its_stamp() -> None:
    """At rest when it arrives is not enough: what it saw was a motion, and its first rows are past."""
    bench = Bench(UNAVERAGED)
    bench.moving()
    stamp = bench.now
    bench.loop.drop_chunks()
    bench.tick(20)
    assert bench.loop.at_rest
    here = bench.positions[-1]
    ramp = here - 0.01 * np.arange(60)[:, None] * np.array([1.0, 1.0, 0.5])
    bench.loop.on_chunk(Chunk(stamp, TICK, JOINTS, ramp), bench.now)
    plan = bench.tick().plan
    assert plan is not None
    assert (plan.positions[10] < ramp[25]).all()  # row 10 from the first would be far behind that


def test_a_chunk_whose_last_point_is_past_is_not_followed() -> None:
    bench = Bench()
    bench.moving()
    bench.loop.on_chunk(Chunk(bench.now + 2 * TICK, TICK, JOINTS, np.tile(START, (3, 1))), bench.now)
    bench.now += 9 * TICK
    assert bench.tick().plan is None
    assert bench.loop.statistics().chunks == 1


@pytest.mark.parametrize("robot", [UNAVERAGED, ROBOT], ids=["unaveraged", "averaged"])
@pytest.mark.parametrize("dt_ns", [TICK, 4 * TICK, 25_000_000])
def test_the_plan_is_what_is_then_published(robot: Robot, dt_ns: int) -> None:
    """In motion, spliced: stamped with its first tick, spaced as the chunk, and kept to where no limit acts."""
    bench = Bench(robot, chunk_max_age_s=10.0)
    bench.tick()
    way = way_to([0.5, 0.3, 0.2], points=80)
    bench.play(way)
    bench.tick(30)
    observed = bench.now
    places = np.arange(29.0, 80.0, dt_ns / TICK)  # the rest of the way, a little beside it
    other = np.stack([np.interp(places, np.arange(80), column) for column in way.T], axis=1) + np.array([0.004, 0.0, -0.004])
    bench.play(other, dt_ns, delay_ns=3 * TICK)
    ticks = [bench.tick() for _ in range(50)]
    assert [tick.plan is not None for tick in ticks] == [False] * 2 + [True] + [False] * 47
    plan = ticks[2].plan
    assert plan is not None and plan.names == JOINTS and plan.dt_ns == dt_ns
    assert plan.stamp == observed + 3 * TICK and plan.chunk_stamp == observed
    assert len(plan.positions) == ((len(other) - 1) * dt_ns - 3 * TICK) // dt_ns + 1
    assert bench.loop.statistics().ticks_limited == 0
    at = np.arange(len(plan.positions)) * dt_ns / TICK
    published = np.stack([np.interp(at, np.arange(48), column) for column in np.array(bench.positions[-48:]).T], axis=1)
    np.testing.assert_allclose(published, plan.positions, atol=1e-12)


def test_a_plan_says_when_the_chunk_is_slowed_down() -> None:
    """Safety invariant 2: slowed along its path; the plan is longer, ends where the chunk ends, and is kept to."""
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    bench.play(way_to([0.78, 0.0, 0.0], points=30))  # 5 rad/s at its fastest, where 2 are allowed
    plan = bench.tick().plan
    assert plan is not None and len(plan.positions) > 55
    np.testing.assert_allclose(plan.positions[-1], START + [0.78, 0.0, 0.0], atol=1e-3)  # noqa: RUF005
    bench.tick(len(plan.positions) - 1)
    np.testing.assert_allclose(bench.positions[1:], plan.positions, atol=1e-3)
    bench.check_limits()


def follow_to_rest(bench: Bench) -> list[CommandTick]:
    """Ticks until the robot stands still, without chunks."""
    ticks = [bench.tick()]
    while not bench.loop.at_rest:
        ticks.append(bench.tick())
        assert len(ticks) < 1000
    return ticks


@pytest.mark.parametrize("points", [14, 30])
@pytest.mark.parametrize("robot", [UNAVERAGED, ROBOT], ids=["unaveraged", "averaged"])
def test_the_rollout_is_what_is_published_when_chunks_stop_coming(robot: Robot, points: int) -> None:
    bench = Bench(robot)
    bench.tick()
    bench.play(START + np.linspace(0.0, 1.0, points)[:, None] * np.array([0.2, 0.3, 0.25]))
    bench.tick(11)
    ahead = bench.loop.rollout()
    assert ahead.shape[1:] == (3, 3) and len(ahead) > points - 11
    assert np.array_equal(ahead, bench.loop.rollout())  # asking changes nothing
    ticks = follow_to_rest(bench)
    told = [np.stack([s.position, s.velocity, s.acceleration]) for s in (tick.setpoint for tick in ticks) if s is not None]
    assert np.array_equal(ahead, told)
    assert not ahead[-1, 1].any()  # at rest
    assert np.array_equal(bench.tick().setpoint.position, ahead[-1, 0])  # type: ignore[union-attr]


def test_asking_for_the_rollout_at_every_tick_changes_nothing() -> None:
    asked, silent = Bench(soft_start_s=0.2), Bench(soft_start_s=0.2)
    for bench in (asked, silent):
        bench.tick()
        bench.play(way_to([0.5, 0.3, 0.2]))
    for _ in range(50):
        asked.loop.rollout()
        asked.tick()
        silent.tick()
    assert np.array_equal(asked.positions, silent.positions)
    assert asked.loop.statistics() == silent.loop.statistics()


def test_the_rollout_of_a_robot_at_rest_is_empty() -> None:
    bench = Bench()
    assert bench.loop.rollout().shape == (0, 3, 3)
    bench.tick(3)
    assert bench.loop.rollout().shape == (0, 3, 3)


def test_a_rollout_ends_where_its_chunk_becomes_too_old() -> None:
    bench = Bench(chunk_max_age_s=0.3)
    bench.tick()
    bench.play(START + np.linspace(0.0, 1.0, 100)[:, None] * np.array([0.5, 0.3, 0.2]), delay_ns=10 * TICK)
    bench.tick(15)
    ahead = bench.loop.rollout()
    ticks = follow_to_rest(bench)
    assert [tick.state for tick in ticks].count(GuardState.ACTIVE) == 15  # 0.3 s from the stamp on
    assert np.array_equal(ahead[:, 0], bench.positions[-len(ticks) :]) and len(ahead) == len(ticks)


@pytest.fixture
def shaped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per chunk that was really shaped."""
    calls: list[int] = []
    shape = ChunkShaper.shape

    def counted(self: ChunkShaper, points: FloatArray, dt: float, since: float, limiter: SetpointLimiter) -> ShapedPlan:
        calls.append(len(points))
        return shape(self, points, dt, since, limiter)

    monkeypatch.setattr(ChunkShaper, "shape", counted)
    return calls


def in_motion(delayed: int = 0) -> Bench:
    bench = Bench(chunk_max_age_s=10.0, soft_start_s=0.3)
    bench.tick()
    bench.play(way_to([0.5, 0.3, 0.2], points=100))
    bench.tick(20)
    bench.play(way_to([0.4, 0.3, 0.2], points=100), delay_ns=delayed * TICK)
    return bench


def test_a_chunk_shaped_between_two_ticks_gives_what_the_tick_itself_would(shaped: list[int]) -> None:
    prepared, unprepared = in_motion(), in_motion()
    shaped.clear()
    prepared.loop.prepare(prepared.now + TICK)
    assert len(shaped) == 1
    plan, expected = prepared.tick().plan, unprepared.tick().plan
    assert len(shaped) == 2  # one each: the prepared one was used
    assert plan is not None and expected is not None
    assert np.array_equal(plan.positions, expected.positions) and plan.stamp == expected.stamp
    prepared.tick(30)
    unprepared.tick(30)
    assert np.array_equal(prepared.positions, unprepared.positions)
    assert prepared.loop.statistics() == unprepared.loop.statistics()


@pytest.mark.parametrize("what", ["limits", "smoothing", "newer", "stop", "late"])
def test_a_chunk_shaped_for_what_is_no_longer_so_is_shaped_again(what: str, shaped: list[int]) -> None:
    prepared, unprepared = in_motion(), in_motion()
    for bench in (prepared, unprepared):
        if bench is prepared:
            bench.loop.prepare(bench.now + TICK)
        if what == "limits":
            bench.update(limit_scale=0.99)
        elif what == "smoothing":
            bench.update(smoothing=0.05)
        elif what == "newer":
            bench.play(way_to([0.3, 0.3, 0.2], points=100))
        elif what == "stop":
            bench.loop.hold()
            bench.tick(2)
            bench.loop.enable()
            bench.play(way_to([0.4, 0.3, 0.2], points=100))
        elif what == "late":
            bench.now += 2 * TICK
        shaped.clear()
        bench.tick()
        assert len(shaped) == 1
        bench.tick(30)
    assert np.array_equal(prepared.positions, unprepared.positions)
    prepared.check_limits()


def test_a_chunk_shaped_for_a_later_tick_is_shaped_again_after_the_motion_went_on(shaped: list[int]) -> None:
    prepared, unprepared = in_motion(delayed=2), in_motion(delayed=2)
    prepared.loop.prepare(prepared.now + 2 * TICK)
    shaped.clear()
    prepared.tick(2)
    assert len(shaped) == 1
    prepared.tick(30)
    unprepared.tick(32)
    assert np.array_equal(prepared.positions, unprepared.positions)


def test_a_chunk_shaped_at_rest_is_shaped_again_for_the_limits_of_the_soft_start() -> None:
    prepared, unprepared = (Bench(soft_start_s=0.3, soft_start_scale=0.2) for _ in range(2))
    for bench in (prepared, unprepared):
        bench.tick(3)
        bench.play(way_to([0.5, 0.3, 0.2], points=40))
    prepared.loop.prepare(prepared.now + TICK)
    plan, expected = prepared.tick().plan, unprepared.tick().plan
    assert plan is not None and expected is not None and np.array_equal(plan.positions, expected.positions)
    prepared.tick(30)
    unprepared.tick(30)
    assert np.array_equal(prepared.positions, unprepared.positions)


def test_to_prepare_changes_no_motion_and_needs_neither_a_start_nor_a_chunk() -> None:
    asked, silent = in_motion(delayed=3), in_motion(delayed=3)
    for _ in range(10):
        asked.loop.prepare(asked.now + TICK)
        asked.loop.prepare(asked.now + TICK)
        asked.tick()
        silent.tick()
    assert np.array_equal(asked.positions, silent.positions)
    bench = Bench()
    bench.loop.prepare(TICK)
    bench.go([0.9, 0.9, 0.4])
    bench.loop.prepare(TICK)
    assert bench.loop.statistics().chunks == 0 and bench.tick().state is GuardState.STARTING


def test_an_error_in_preparation_is_left_for_the_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = in_motion()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(ChunkShaper, "shape", broken)
    bench.loop.prepare(bench.now + TICK)
    assert bench.loop.faults == ()
    assert [fault.name for fault in bench.tick().faults] == ["internal_error"]


def test_a_clock_that_begins_at_zero_is_an_instant_like_any_other() -> None:
    """A chunk observed at instant 0 by a robot at rest is played from its first row."""
    bench = Bench(UNAVERAGED, splice_s=0.0)
    bench.now = -TICK
    bench.tick()
    way = way_to([0.5, 0.3, 0.2])
    bench.play(way, delay_ns=5 * TICK)
    bench.tick(10)
    np.testing.assert_allclose(bench.positions[5:], way[:6], atol=1e-6)
