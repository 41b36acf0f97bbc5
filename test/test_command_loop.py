"""The command stage as a whole: what is published, and when, whatever arrives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import JointLimits, Robot
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick
from flow_policy_ros.safety.guard import GuardState
from flow_policy_ros.safety.limiter import KINDS

TICK = 10_000_000
JOINTS = ("a", "b", "c")
START = np.array([0.2, -0.3, 0.0])
LIMITS = JointLimits(
    JOINTS,
    lower=np.array([-1.0, -1.0, -0.5]),
    upper=np.array([1.0, 1.0, 0.5]),
    velocity=np.array([2.0, 2.0, 1.0]),
    acceleration=np.array([40.0, 40.0, 20.0]),
    effort=np.full(3, np.inf),
)
ROBOT = Robot("toy", "toy.yaml", JOINTS, {}, LIMITS, (), "joint_states", "joint_command", "joint_trajectory", "", {})


def state(stamp: int, position=START, names=JOINTS) -> JointState:
    return JointState(stamp, tuple(names), np.array(position, dtype=np.float64))


def chunk_to(stamp: int, goal, points: int = 40) -> Chunk:
    """Every point at ``goal``: a jump that the limits must turn into a motion."""
    return Chunk(stamp, TICK, JOINTS, np.tile(np.asarray(goal, dtype=np.float64), (points, 1)))


class Bench:
    """A command loop with a clock; joint states arrive at each tick unless ``feed`` says otherwise."""

    def __init__(self, **parameters) -> None:
        self.loop = CommandLoop(ROBOT, CommandParameters(**parameters))
        self.now = 0
        self.positions: list[np.ndarray] = []

    def tick(self, ticks: int = 1, feed: bool = True, position=START) -> CommandTick:
        for _ in range(ticks):
            self.now += TICK
            if feed:
                self.loop.on_joint_state(state(self.now, position), self.now)
            result = self.loop.tick(self.now)
            if result.setpoint is not None:
                assert result.setpoint.stamp == self.now and result.setpoint.names == JOINTS
                self.positions.append(result.setpoint.position)
        return result

    def moving(self) -> CommandTick:
        """Started, and in full motion after a chunk."""
        self.tick()
        self.loop.on_chunk(chunk_to(self.now, [0.9, 0.9, 0.4]), self.now)
        result = self.tick(12)
        assert result.state is GuardState.ACTIVE and not self.loop.at_rest
        return result

    def check_limits(self, scale: float = 1.0) -> None:
        """Every set-point so far, by differences, from the rest at the start on."""
        positions = np.array([self.positions[0], self.positions[0], *self.positions])
        velocity = np.diff(positions, axis=0) / 0.01
        acceleration = np.diff(velocity, axis=0) / 0.01
        assert (positions >= LIMITS.lower).all() and (positions <= LIMITS.upper).all()
        assert (np.abs(velocity) <= scale * LIMITS.velocity + 1e-9).all()
        assert (np.abs(acceleration) <= scale * LIMITS.acceleration + 1e-9).all()


def test_nothing_is_published_before_a_fresh_joint_state() -> None:
    bench = Bench()
    bench.loop.on_chunk(chunk_to(0, [0.5, 0.5, 0.5]), 0)
    assert bench.tick(5, feed=False) == CommandTick(GuardState.INACTIVE, None, (), None)
    bench.loop.on_joint_state(state(0), bench.now)  # arrived now, but too old by its stamp
    bench.now = 300_000_000
    assert bench.tick(feed=False).state is GuardState.INACTIVE
    bench.loop.on_joint_state(state(bench.now), bench.now + 2 * TICK)  # fresh, but not received yet
    assert bench.tick(feed=False).setpoint is None
    assert bench.tick(feed=False).state is GuardState.STARTING


def test_the_first_set_point_is_the_measured_position_at_rest() -> None:
    bench = Bench()
    bench.loop.on_chunk(chunk_to(0, [0.9, 0.9, 0.4]), 0)
    bench.now += TICK
    bench.loop.on_joint_state(state(bench.now, [0.0, 0.2, -0.3], ("c", "a", "b")), bench.now)
    result = bench.loop.tick(bench.now)
    assert result.state is GuardState.STARTING and result.setpoint is not None
    assert np.array_equal(result.setpoint.position, START)
    assert not result.setpoint.velocity.any() and not result.setpoint.acceleration.any()
    assert bench.tick().state is GuardState.ACTIVE


def test_a_start_a_little_outside_is_clipped_and_far_outside_is_a_fault() -> None:
    bench = Bench(start_tolerance=0.1)
    result = bench.tick(position=[1.09, 0.0, -0.59])
    assert result.setpoint is not None and result.setpoint.position.tolist() == [1.0, 0.0, -0.5]
    bench = Bench(start_tolerance=0.1)
    result = bench.tick(position=[0.0, -1.11, 0.0])
    assert result.state is GuardState.FAULT and result.setpoint is None
    assert result.faults[0].name == "start_outside_range" and "'b'" in result.faults[0].detail
    assert bench.tick(20).setpoint is None  # back inside, but latched and never started


def test_the_start_position_is_held_until_the_first_chunk() -> None:
    bench = Bench()
    result = bench.tick(30)
    assert result.state is GuardState.HOLDING and result.interventions is None
    assert all(np.array_equal(p, START) for p in bench.positions) and len(bench.positions) == 30


def test_a_chunk_within_the_limits_is_played_exactly() -> None:
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    time = np.arange(200) * 0.01
    way = START + np.array([0.35, -0.3, 0.2]) * (1 - np.cos(2 * time))[:, None]
    bench.loop.on_chunk(Chunk(bench.now, TICK, ("c", "a", "b"), way[:, [2, 0, 1]]), bench.now)
    for k in range(1, 200):
        result = bench.tick()
        assert result.state is GuardState.ACTIVE and result.setpoint is not None
        np.testing.assert_allclose(result.setpoint.position, way[k], atol=1e-12)
    counts = bench.loop.statistics()
    assert counts.ticks == 200 and counts.ticks_active == 199
    assert counts.interventions == {kind: dict.fromkeys(JOINTS, 0) for kind in KINDS}


def test_a_jump_becomes_a_motion_within_the_limits_and_is_counted() -> None:
    bench = Bench()
    bench.moving()
    result = bench.tick(25)
    bench.check_limits()
    assert result.interventions is not None
    counts = bench.loop.statistics().interventions
    assert all(counts["acceleration"][joint] > 0 for joint in JOINTS)
    assert counts["velocity"]["b"] > 0 and counts["position"] == dict.fromkeys(JOINTS, 0)


def test_a_chunk_beyond_the_range_ends_at_the_range() -> None:
    bench = Bench(chunk_max_age_s=10.0)
    bench.tick()
    bench.loop.on_chunk(chunk_to(bench.now, [5.0, -5.0, 0.0], points=200), bench.now)
    result = bench.tick(180)
    bench.check_limits()
    assert result.setpoint is not None and result.interventions is not None
    np.testing.assert_allclose(result.setpoint.position, [1.0, -1.0, 0.0], atol=1e-12)
    assert result.interventions["position"].tolist() == [True, True, False]


def test_without_its_chunks_a_motion_is_stopped_until_the_next_one() -> None:
    bench = Bench()
    bench.moving()
    bench.loop.drop_chunks()
    assert bench.tick().state is GuardState.STOPPING  # 27 ticks of the chunk were left
    bench.tick(10)
    assert bench.tick().state is GuardState.HOLDING
    bench.check_limits()
    bench.loop.on_chunk(chunk_to(bench.now, START), bench.now)
    assert bench.tick().state is GuardState.ACTIVE


def test_limit_scale_applies() -> None:
    bench = Bench(limit_scale=0.5)
    bench.moving()
    bench.tick(20)
    bench.check_limits(scale=0.5)
    assert max(np.abs(np.diff([p[1] for p in bench.positions]))) == pytest.approx(0.01, rel=1e-6)


def test_when_chunks_run_out_the_robot_decelerates_and_holds() -> None:
    bench = Bench()
    bench.tick()
    bench.loop.on_chunk(chunk_to(bench.now, [0.9, 0.9, 0.4], points=13), bench.now)
    bench.tick(12)
    assert bench.tick().state is GuardState.STOPPING
    states = [bench.tick().state for _ in range(10)]
    assert states[-1] is GuardState.HOLDING and set(states) == {GuardState.STOPPING, GuardState.HOLDING}
    bench.check_limits()
    held = bench.positions[-1]
    assert (held > START).all() and (held < [0.9, 0.9, 0.4]).all()
    bench.tick(50)
    assert np.array_equal(bench.positions[-1], held)
    bench.loop.on_chunk(chunk_to(bench.now, START), bench.now)
    assert bench.tick().state is GuardState.ACTIVE
    bench.check_limits()


def assert_stops_and_holds(bench: Bench, fault: str, feed: bool = True) -> None:
    result = bench.tick(feed=feed)
    assert result.state is GuardState.FAULT and fault in [f.name for f in result.faults]
    assert result.interventions is None
    bench.tick(15, feed=feed)
    assert bench.loop.at_rest
    held = bench.positions[-1]
    bench.loop.on_chunk(chunk_to(bench.now, START), bench.now)
    published = len(bench.positions)
    assert bench.tick(40).state is GuardState.FAULT  # fresh joint states and chunks do not end it
    assert len(bench.positions) == published + 40 and np.array_equal(bench.positions[-1], held)
    bench.check_limits()


def test_a_stale_joint_state_in_motion_stops_and_holds() -> None:
    bench = Bench(joint_state_max_age_s=0.05)
    bench.moving()
    assert bench.tick(5, feed=False).state is GuardState.ACTIVE
    assert_stops_and_holds(bench, "stale_joint_state", feed=False)
    assert "0.060 s" in bench.loop.faults[0].detail and "0.050 s" in bench.loop.faults[0].detail


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (state(0, [0.0, np.nan, 0.0]), "joint_state_not_finite"),
        (state(0, [np.inf, 0.0, 0.0]), "joint_state_not_finite"),
        (state(0, [0.0, 0.0], ("a", "b")), "joint_state_names"),
        (state(0, [0.0, 0.0, 0.0], ("a", "b", "b")), "joint_state_names"),
        (state(0, [0.0, 0.0]), "joint_state_shape"),
    ],
)
def test_a_bad_joint_state_stops_and_before_the_start_prevents_it(bad: JointState, kind: str) -> None:
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


def test_leaving_a_fault_takes_a_reset_and_a_fresh_joint_state() -> None:
    bench = Bench(joint_state_max_age_s=0.05)
    bench.moving()
    bench.tick(30, feed=False)
    bench.loop.on_chunk(chunk_to(bench.now, [0.9, 0.9, 0.4]), bench.now)
    bench.loop.reset()
    assert bench.tick(feed=False) == CommandTick(GuardState.INACTIVE, None, (), None)
    bench.positions.clear()
    elsewhere = [0.5, 0.5, 0.1]
    result = bench.tick(position=elsewhere)
    assert result.state is GuardState.STARTING and result.setpoint is not None
    assert result.setpoint.position.tolist() == elsewhere and not result.setpoint.velocity.any()
    assert bench.tick(position=elsewhere).state is GuardState.HOLDING  # the chunk of before the reset is gone
    bench.loop.on_chunk(chunk_to(bench.now, START), bench.now)
    assert bench.tick(20, position=elsewhere).state is GuardState.ACTIVE
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


def test_bad_chunks_are_counted_and_change_nothing() -> None:
    bench, untouched = Bench(), Bench()
    bench.moving()
    untouched.moving()
    good = chunk_to(bench.now, START)
    for bad in (
        replace(good, positions=np.full((40, 3), np.nan)),
        replace(good, names=("a", "b", "d")),
        replace(good, positions=good.positions[:, :2]),
        replace(good, dt_ns=0),
        replace(good, stamp=0),
    ):
        bench.loop.on_chunk(bad, bench.now)
    assert bench.tick(10).state is GuardState.ACTIVE
    untouched.tick(10)
    assert np.array_equal(bench.positions, untouched.positions)
    assert bench.loop.statistics().rejections == {
        "chunk_not_finite": 1, "chunk_names": 1, "chunk_shape": 1, "chunk_dt": 1, "chunk_order": 1,
    }
    assert "older" in bench.loop.last_rejection


def test_a_late_tick_advances_one_nominal_period() -> None:
    bench = Bench()
    bench.moving()
    before = bench.positions[-1]
    bench.now += 9 * TICK
    bench.tick()
    assert (np.abs(bench.positions[-1] - before) <= LIMITS.velocity * 0.01 + 1e-12).all()
    bench.check_limits()


def test_an_age_limit_changes_while_running() -> None:
    bench = Bench(joint_state_max_age_s=1.0)
    bench.moving()
    assert bench.tick(20, feed=False).state is GuardState.ACTIVE
    bench.loop.update(CommandParameters(joint_state_max_age_s=0.1))
    assert bench.tick(feed=False).state is GuardState.FAULT


EVENTS = ("chunk", "chunk", "wild", "nan", "silence", "bad", "back", "reset", "run")


@settings(deadline=None, derandomize=True, max_examples=80)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=40), seed=st.integers(0, 2**32 - 1))
def test_whatever_arrives_the_set_points_keep_the_limits(events: list[str], seed: int) -> None:
    """Between two resets, every set-point follows the one before within the limits, and none is ever left out."""
    rng = np.random.default_rng(seed)
    bench = Bench(joint_state_max_age_s=0.05)
    bench.tick()
    for event in events:
        expected = len(bench.positions)
        ticks = int(rng.integers(1, 15))
        if event == "chunk":
            bench.loop.on_chunk(chunk_to(bench.now, rng.uniform(-1.5, 1.5, 3), points=10), bench.now)
        elif event == "wild":
            positions = rng.normal(size=(16, 3)) * 10.0 ** rng.integers(-2, 300)
            bench.loop.on_chunk(Chunk(bench.now, int(rng.integers(1, 2 * TICK)), JOINTS, positions), bench.now)
        elif event == "nan":
            bench.loop.on_chunk(chunk_to(bench.now, [0.0, np.nan, 0.0]), bench.now)
        elif event == "bad":
            bench.loop.on_joint_state(state(bench.now, [np.nan, 0.0, 0.0]), bench.now)
        elif event == "back":
            bench.now -= int(rng.integers(1, 3)) * TICK
        elif event == "reset":
            bench.check_limits()
            bench.loop.reset()
            bench.positions.clear()
            expected = 0
        bench.tick(ticks, feed=event != "silence", position=rng.uniform(-0.5, 0.5, 3))
        if event != "silence" or expected:
            assert len(bench.positions) == expected + ticks
        if not bench.positions:
            bench.tick()
    bench.check_limits()


def test_the_same_inputs_give_the_same_set_points() -> None:
    def run() -> bytes:
        bench = Bench()
        rng = np.random.default_rng(7)
        for _ in range(30):
            bench.tick(5)
            bench.loop.on_chunk(chunk_to(bench.now, rng.uniform(-1, 1, 3), points=12), bench.now + 2 * TICK)
        return np.array(bench.positions).tobytes()

    assert run() == run()


def test_the_command_path_needs_neither_torch_nor_opencv_nor_ros() -> None:
    code = (
        "import sys, flow_policy_ros.safety.command_loop, flow_policy_ros.runtime.policy_loop\n"
        "bad = [m for m in ('torch', 'cv2', 'rclpy', 'mujoco') if m in sys.modules]\n"
        "assert not bad, bad"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_chunk_is_not_followed_beyond_its_greatest_age():
    """Hours long, from a policy that has died: after chunk_max_age_s the robot is stopped and held."""
    period = 10_000_000
    loop = CommandLoop(ROBOT, CommandParameters(chunk_max_age_s=0.3))
    names = ROBOT.joints
    at = 0.5 * (ROBOT.limits.lower + ROBOT.limits.upper)
    states = {}
    for k in range(80):
        now = k * period
        loop.on_joint_state(JointState(now, names, at), now)
        if k == 1:
            loop.on_chunk(Chunk(now, 3_600_000_000_000, names, np.stack([at, at + 1e-3])), now)
        states[k] = loop.tick(now).state
    assert states[20] is GuardState.ACTIVE and states[31] is GuardState.ACTIVE
    assert states[40] is GuardState.HOLDING and states[79] is GuardState.HOLDING


def test_an_error_while_following_becomes_a_stop_and_a_fault(monkeypatch):
    bench = Bench()
    bench.moving()

    def broken(now: int) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(bench.loop._timeline, "sample", broken)
    tick = bench.tick()
    assert tick.state is GuardState.FAULT and tick.setpoint is not None
    assert [fault.name for fault in tick.faults] == ["internal_error"] and "of all things" in tick.faults[0].detail
    bench.tick(100)
    bench.check_limits()
    assert bench.loop.at_rest
