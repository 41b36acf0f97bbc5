"""The command stage as a whole: what is published, and when, whatever chunks and joint states arrive."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
from command_support import JOINTS, ROBOT, START, TICK, Bench, chunk_to, state
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_policy_ros.runtime.joint_limits import Mimic
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.guard import GuardState


def test_nothing_is_published_before_a_fresh_joint_state() -> None:
    """Safety invariant 4: a start needs a fresh joint state."""
    bench = Bench()
    bench.go([0.5, 0.5, 0.5])
    assert bench.tick(5, feed=False) == CommandTick(GuardState.INACTIVE, None, (), None)
    bench.loop.on_joint_state(state(0), bench.now)  # arrived now, but too old by its stamp
    bench.now = 300_000_000
    assert bench.tick(feed=False).state is GuardState.INACTIVE
    assert "stale" in (bench.loop.start_problem(bench.now) or "")
    bench.loop.on_joint_state(state(bench.now), bench.now + 2 * TICK)  # fresh, but not received yet
    assert bench.tick(feed=False).setpoint is None
    assert bench.tick(feed=False).state is GuardState.STARTING
    assert bench.loop.start_problem(bench.now) is None


def test_the_first_set_point_is_the_measured_position_at_rest() -> None:
    """Safety invariant 4: the first command is the measured position."""
    bench = Bench()
    bench.go([0.9, 0.9, 0.4])
    bench.now += TICK
    bench.loop.on_joint_state(state(bench.now, [0.0, 0.2, -0.3], ("c", "a", "b")), bench.now)
    result = bench.loop.tick(bench.now)
    assert result.state is GuardState.STARTING and result.setpoint is not None
    assert np.array_equal(result.setpoint.position, START)
    assert not result.setpoint.velocity.any() and not result.setpoint.acceleration.any()
    assert bench.tick().state is GuardState.ACTIVE


def test_a_start_a_little_outside_is_clipped_and_far_outside_is_a_fault() -> None:
    """Safety invariant 4: measured position clipped to the limits; an excess above the tolerance is itself a fault."""
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
    assert result.state is GuardState.HOLDING and result.interventions is None and result.plan is None
    assert all(np.array_equal(p, START) for p in bench.positions) and len(bench.positions) == 30


def test_when_chunks_run_out_the_robot_decelerates_and_holds() -> None:
    """Safety invariant 3: a decelerated stop, then hold, where it came to rest; the next chunk goes on from there."""
    bench = Bench()
    bench.tick()
    bench.play(START + np.linspace(0.0, 1.0, 14)[:, None] * np.array([0.2, 0.2, 0.1]))
    results = [bench.tick() for _ in range(40)]
    first = [result.state for result in results].index(GuardState.STOPPING)
    assert {result.state for result in results[:first]} == {GuardState.ACTIVE}
    assert results[first].setpoint is not None and results[first].setpoint.velocity.any() and results[first].interventions is None
    last = [result.state for result in results].index(GuardState.HOLDING)
    assert {result.state for result in results[last:]} == {GuardState.HOLDING} and last > first + 1
    held = bench.positions[-1]
    assert (held - START >= [0.2, 0.2, 0.1]).all()  # it was in motion at the last point
    bench.tick(50)
    assert np.array_equal(bench.positions[-1], held)
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE
    bench.tick(20)
    assert (bench.positions[-1] < held).all()
    bench.check_limits()


def test_without_its_chunks_a_motion_is_stopped_until_the_next_one() -> None:
    bench = Bench()
    bench.moving()
    bench.loop.drop_chunks()
    assert bench.tick().state is GuardState.STOPPING  # 27 ticks of the chunk were left
    bench.tick(14)
    assert bench.tick().state is GuardState.HOLDING
    bench.check_limits()
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE


def test_a_chunk_is_not_followed_beyond_its_greatest_age() -> None:
    """Safety invariant 3: hours long, from a policy that has died: after chunk_max_age_s the robot is stopped and held."""
    bench = Bench(chunk_max_age_s=0.3)
    bench.tick()
    bench.play(np.stack([START, START + 1e-3]), dt_ns=3_600_000_000_000)
    states = [bench.tick().state for _ in range(60)]
    assert set(states[:30]) == {GuardState.ACTIVE} and GuardState.ACTIVE not in states[30:] and states[-1] is GuardState.HOLDING
    bench.check_limits()


def test_bad_chunks_are_counted_and_change_nothing() -> None:
    """Safety invariant 1: NaN, Inf, wrong length, wrong names are rejected, counted, never published."""
    bench, untouched = Bench(), Bench()
    bench.moving()
    untouched.moving()
    good = chunk_to(bench.now, START)
    for bad in (
        replace(good, positions=np.full((40, 3), np.nan)),
        replace(good, positions=np.full((40, 3), -np.inf)),
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
        "chunk_not_finite": 2, "chunk_names": 1, "chunk_shape": 1, "chunk_dt": 1, "chunk_order": 1,
    }  # fmt: skip
    assert "older" in bench.loop.last_rejection


def test_a_late_tick_advances_one_nominal_period() -> None:
    """Safety invariant 1: a set-point is one nominal period further, however late its tick is."""
    late, punctual = Bench(chunk_max_age_s=10.0), Bench(chunk_max_age_s=10.0)
    late.moving()
    punctual.moving()
    late.now += 9 * TICK
    assert late.tick(10).state is punctual.tick(10).state is GuardState.ACTIVE
    assert np.array_equal(late.positions, punctual.positions)
    late.check_limits()


def test_an_age_limit_changes_while_running() -> None:
    bench = Bench(joint_state_max_age_s=1.0)
    bench.moving()
    assert bench.tick(20, feed=False).state is GuardState.ACTIVE
    bench.update(joint_state_max_age_s=0.1)
    assert bench.tick(feed=False).state is GuardState.FAULT


def test_joints_that_mimic_others_are_neither_needed_nor_commanded_nor_published() -> None:
    robot = replace(ROBOT, mimics=(Mimic("b_tip", "b", 0.5, 0.0),), command_joints=("b_tip", "a", "b", "c"))
    with_tip = ("a", "b_tip", "b", "c")
    bench = Bench(robot)
    bench.loop.on_joint_state(JointState(TICK, with_tip, np.array([0.2, 9.9, -0.3, 0.0])), TICK)
    result = bench.tick(feed=False)
    assert result.setpoint is not None and result.setpoint.names == JOINTS and np.array_equal(result.setpoint.position, START)
    bench.loop.on_chunk(Chunk(bench.now, TICK, with_tip, np.zeros((10, 4))), bench.now)
    assert bench.loop.rejections == {"chunk_names": 1} and "b_tip" in bench.loop.last_rejection
    np.testing.assert_allclose(robot.command_positions(result.setpoint.position), [-0.15, 0.2, -0.3, 0.0])


EVENTS = ("chunk", "chunk", "far", "wild", "nan", "silence", "bad", "back", "reset", "run", "hold", "enable", "scale", "drop")


@settings(deadline=None, derandomize=True, max_examples=150)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=30), seed=st.integers(0, 2**32 - 1))
def test_whatever_arrives_the_set_points_keep_the_limits(events: list[str], seed: int) -> None:
    """Safety invariant 1: between two resets, every set-point follows the one before within the limits in force, and none is
    ever left out. The limits in force are read from the loop; other tests hold them to what was asked for."""
    rng = np.random.default_rng(seed)
    bench = Bench(joint_state_max_age_s=0.05, soft_start_s=float(rng.choice([0.0, 0.1])), smoothing=float(rng.choice([0.0, 0.02])))
    bench.tick()
    for event in events:
        expected = len(bench.positions)
        ticks = int(rng.integers(1, 15))
        if event == "chunk":
            bench.play(np.cumsum(rng.normal(size=(12, 3)) * 0.02, axis=0) + rng.uniform(-0.5, 0.5, 3), delay_ns=TICK)
        elif event == "far":
            bench.go(rng.uniform(-1.5, 1.5, 3), points=10)
        elif event == "wild":
            positions = rng.normal(size=(16, 3)) * 10.0 ** rng.integers(-2, 300)
            bench.loop.on_chunk(Chunk(bench.now, int(rng.integers(1, 2 * TICK)), JOINTS, positions), bench.now)
        elif event == "nan":
            bench.loop.on_chunk(chunk_to(bench.now, [0.0, np.nan, 0.0]), bench.now)
        elif event == "bad":
            bench.loop.on_joint_state(state(bench.now, [np.nan, 0.0, 0.0]), bench.now)
        elif event == "back":
            bench.now -= int(rng.integers(1, 3)) * TICK
        elif event == "hold":
            bench.loop.hold()
        elif event == "enable":
            bench.loop.enable()
        elif event == "scale":
            bench.update(limit_scale=float(rng.uniform(0.1, 1.0)), group_scale=str(rng.choice(["", "arm=0.5", "hand=0.2"])))
        elif event == "drop":
            bench.loop.drop_chunks()
        elif event == "reset":
            bench.check_limits()
            bench.loop.reset()
            bench.loop.enable()  # a hold outlives the reset
            bench.fresh()
            expected = 0
        bench.tick(ticks, feed=event != "silence", position=rng.uniform(-0.5, 0.5, 3))
        if event != "silence" or expected:
            assert len(bench.positions) == expected + ticks
        if not bench.positions:
            bench.tick()
    bench.check_limits()


def test_the_same_inputs_give_the_same_set_points() -> None:
    def run() -> bytes:
        bench = Bench(soft_start_s=0.5)
        rng = np.random.default_rng(7)
        for _ in range(30):
            bench.tick(5)
            bench.loop.on_chunk(chunk_to(bench.now, rng.uniform(-1, 1, 3), points=12), bench.now + 2 * TICK)
        bench.check_limits()
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
