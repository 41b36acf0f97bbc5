"""Whole trajectories: what a controller that samples them finely would command, also where one replaces another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")
from controller_support import Controller
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes import command_outputs
from flow_policy_ros.nodes.command_outputs import TrajectoryOutput, for_controller
from flow_policy_ros.nodes.command_trajectory import Knots, knots
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import JointLimits, Mimic, Robot
from flow_policy_ros.runtime.types import Chunk, JointState, Setpoint
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.guard import GuardState

MS = 1_000_000
PERIOD = 10 * MS
BEGIN = 1_000_000 * MS
JOINTS = ("a", "b", "c")
LIMITS = JointLimits(
    JOINTS,
    lower=np.array([-1.0, -1.0, -0.3]),
    upper=np.array([1.0, 1.0, 0.3]),
    velocity=np.array([2.0, 1.0, 3.0]),
    acceleration=np.array([20.0, 30.0, 60.0]),
    effort=np.full(3, np.inf),
    jerk=np.array([800.0, np.inf, 3000.0]),
)
INTERFACE = "joint_trajectory_chunk"
ROBOT = Robot("toy", "toy.yaml", JOINTS, {}, LIMITS, (), "joint_states", "joint_command", INTERFACE, "", {})
PARAMETERS = CommandParameters(soft_start_s=0.2, first_command_max=10.0)


def wild_chunk(stamp: int, rng: np.random.Generator) -> Chunk:
    """0.5 s of motion as fast as the limits and faster, partly out of range."""
    k = np.arange(26)[:, None]
    phase, speed = rng.uniform(0.0, 6.0, 3), rng.uniform(0.1, 0.4, 3)
    return Chunk(stamp, 20 * MS, JOINTS, np.sin(phase + speed * k) * [0.9, 0.9, 0.4])


class Bench:
    """Loop, output and controller on one clock; a message takes ``transport_ns`` to the controller."""

    def __init__(self, controller_hz: int, transport_ns: int = 8 * MS) -> None:
        self.loop = CommandLoop(ROBOT, PARAMETERS)
        self.sent: list[JointTrajectory] = []
        self.output = TrajectoryOutput(ROBOT, self.loop, lambda: PARAMETERS, self._send, "joint_command")
        self.controller = Controller(1_000_000_000 // controller_hz)
        self.setpoints: list[np.ndarray] = []
        self._transport_ns = transport_ns
        self._underway: list[tuple[int, JointTrajectory]] = []
        self._next_sample = self._now = BEGIN

    def _send(self, message: JointTrajectory) -> None:
        self.sent.append(message)
        self._underway.append((self._now + self._transport_ns, message))

    def fire(self, now: int) -> None:
        """The node's timer at ``now``, after all that the controller did until then."""
        while self._next_sample < now:
            if self._underway and self._underway[0][0] <= self._next_sample:
                self.controller.take(self._underway.pop(0)[1], self._next_sample)
            self.controller.sample(self._next_sample)
            self._next_sample += self.controller.period_ns
        self._now = now
        self.loop.on_joint_state(JointState(now, JOINTS, self.setpoints[-1] if self.setpoints else np.zeros(3)), now)
        for stamp in self.output.instants(now):
            tick = self.loop.tick(stamp)
            self.output.take(stamp, tick)
            if tick.setpoint is not None:
                self.setpoints.append(tick.setpoint.position)
        self.output.flush()

    def excess(self) -> dict[str, float]:
        """Greatest share of each limit that the controller's set-points reach; of the range how far they leave it."""
        p, h = np.array(self.controller.positions), self.controller.period_ns / 1e9
        assert len(p) > 500 and np.ptp(p[:, 0]) > 0.3
        shares = {"position": float(np.maximum(p - LIMITS.upper, LIMITS.lower - p).max())}
        for kind, order in (("velocity", 1), ("acceleration", 2), ("jerk", 3)):
            shares[kind] = float((np.abs(np.diff(p, order, axis=0)) / h**order / getattr(LIMITS, kind)).max())
        return shares


def run(
    bench: Bench, seconds: float = 3.0, timing: Callable[[int], int] = lambda k: 0, act: Callable[[int], None] | None = None
) -> None:
    """Chunks every 80 ms. ``timing(k)`` ns late fires the timer of period k; ``act(k)`` happens before it."""
    rng = np.random.default_rng(7)
    for k in range(round(seconds * 100)):
        now = BEGIN + k * PERIOD + timing(k)
        if k % 8 == 2:
            bench.loop.on_chunk(wild_chunk(now - 4 * MS, rng), now)
        if act is not None:
            act(k)
        bench.fire(now)


def jitter(k: int) -> int:
    """Up to 2 ms late, and now and then 15 or 40 ms, after which the next is early."""
    return {40: 15 * MS, 41: 5 * MS, 120: 40 * MS, 121: 30 * MS, 122: 20 * MS, 123: 10 * MS}.get(k, k * 7919 % (2 * MS))


@pytest.mark.parametrize("controller_hz", [200, 500])
@pytest.mark.parametrize("timing", [lambda k: 0, jitter], ids=["punctual", "late"])
def test_a_finer_controller_keeps_the_limits_through_every_seam(controller_hz: int, timing: Callable[[int], int]) -> None:
    bench = Bench(controller_hz)

    def act(k: int) -> None:
        if k == 150:
            bench.loop.hold()
        if k == 190:
            bench.loop.enable()
        if k == 260:
            bench.loop.on_emergency_stop(True, BEGIN)

        if k == 185:
            assert bench.loop.at_rest and bench.output.at_rest  # a new grid begins, not in phase with the old one

    run(bench, timing=timing, act=act)
    assert bench.loop.state is GuardState.FAULT and len(bench.sent) > 20
    shares = bench.excess()
    assert shares.pop("position") <= 0.0
    assert max(shares.values()) <= 1.0 + 1e-6, shares
    assert min(shares["velocity"], shares["acceleration"]) > 0.8  # the limits were needed


def test_the_controller_ends_at_rest_where_the_loop_does_when_nothing_more_is_sent() -> None:
    bench = Bench(500)
    run(bench, 1.5)
    sent = len(bench.sent)
    for k in range(150, 260):  # no more chunks
        bench.fire(BEGIN + k * PERIOD)
    assert len(bench.sent) <= sent + 1  # the plan and its stop had been announced
    assert bench.loop.state is GuardState.HOLDING and bench.loop.at_rest
    np.testing.assert_allclose(bench.controller.positions[-5:], np.tile(bench.setpoints[-1], (5, 1)), atol=1e-12)
    assert max(value for kind, value in bench.excess().items() if kind != "position") <= 1.0 + 1e-6


def test_a_robot_that_stands_is_sent_nothing_again() -> None:
    bench = Bench(200)
    for k in range(100):
        bench.fire(BEGIN + k * PERIOD)
    assert len(bench.sent) == 1 and not np.any(bench.sent[0].points[0].velocities)


def test_after_a_stall_the_controller_is_left_to_end_by_itself() -> None:
    bench = Bench(500)
    run(bench, 1.0)
    sent = len(bench.sent)
    for k in range(150, 300):
        bench.fire(BEGIN + k * PERIOD)
    assert "control_loop_stalled" in [fault.name for fault in bench.loop.faults]
    assert len(bench.sent) == sent
    assert max(value for kind, value in bench.excess().items() if kind != "position") <= 1.0 + 1e-6
    assert np.ptp(bench.controller.positions[-20:], axis=0).max() == 0.0


def differences(points: np.ndarray, period_s: float) -> Knots:
    """What suggests itself: the set-points themselves, with the velocities and accelerations that they imply."""
    inner = points[1:-1]
    velocity = (inner - points[:-2]) / period_s
    return Knots(inner, velocity, np.diff(velocity, axis=0, prepend=velocity[:1]) / period_s)


def test_set_points_with_their_differences_would_break_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_outputs, "knots", differences)
    bench = Bench(500)
    run(bench)
    assert bench.excess()["acceleration"] > 1.5


def test_messages_that_take_too_long_make_seams() -> None:
    bench = Bench(500, transport_ns=40 * MS)
    run(bench)
    assert bench.excess()["acceleration"] > 1.5


def test_knots_are_the_spline_of_their_control_points() -> None:
    """Of a cubic's samples a cubic comes out, and at a straight stretch the points themselves."""
    t = 0.1 * np.arange(8)[:, None]
    straight = knots(1.0 + 2.0 * t, 0.1)
    np.testing.assert_allclose(straight.position, 1.0 + 2.0 * t[1:-1])
    np.testing.assert_allclose(straight.velocity, 2.0)
    np.testing.assert_allclose(straight.acceleration, 0.0, atol=1e-9)
    curved = knots(t**3, 0.1)
    np.testing.assert_allclose(curved.acceleration, 6.0 * t[1:-1], atol=1e-9)
    np.testing.assert_allclose(curved.velocity, 3.0 * t[1:-1] ** 2 + 0.1**2, atol=1e-9)


def test_set_points_in_the_order_of_the_controller_with_its_mimics() -> None:
    robot = replace(ROBOT, command_joints=("c", "tip", "a", "b"), mimics=(Mimic("tip", "a", 0.5, 0.1),))
    position, velocity, acceleration = (np.array(row) for row in ([0.2, 0.4, 0.6], [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]))
    given = for_controller(robot, Setpoint(5, JOINTS, position, velocity, acceleration))
    assert given.names == ("c", "tip", "a", "b") and given.stamp == 5
    np.testing.assert_allclose(given.position, [0.6, 0.2, 0.2, 0.4])
    np.testing.assert_allclose(given.velocity, [3.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(given.acceleration, [30.0, 5.0, 10.0, 20.0])
