"""What tests of the command stage share: a small robot, chunks for it, a bench that ticks, records and checks set-points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import JointLimits, Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState
from flow_policy_ros.safety.clearance import Clearance
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick
from flow_policy_ros.safety.guard import GuardState

TICK = 10_000_000
PERIOD = TICK / 1e9
JOINTS = ("a", "b", "c")
START = np.array([0.2, -0.3, 0.0])
LIMITS = JointLimits(
    JOINTS,
    lower=np.array([-1.0, -1.0, -0.5]),
    upper=np.array([1.0, 1.0, 0.5]),
    velocity=np.array([2.0, 2.0, 1.0]),
    acceleration=np.array([40.0, 40.0, 20.0]),
    effort=np.full(3, np.inf),
    jerk=np.array([4000.0, 2000.0, np.inf]),  # averages of 2, 4 and 1 set-points
)
GROUPS = {"arm": ("a",), "hand": ("b", "c")}
ROBOT = Robot("toy", "toy.yaml", JOINTS, GROUPS, LIMITS, (), "joint_states", "joint_command", "joint_trajectory", "", {})
UNAVERAGED = replace(ROBOT, limits=replace(LIMITS, jerk=np.full(3, np.inf)))
"""Without jerk limits set-points are not averaged, so that a chunk is played as it is, to rounding."""


def state(stamp: int, position: ArrayLike = START, names: tuple[str, ...] = JOINTS, effort: ArrayLike | None = None) -> JointState:
    efforts = None if effort is None else np.array(effort, dtype=np.float64)
    return JointState(stamp, tuple(names), np.array(position, dtype=np.float64), None, efforts)


def chunk_to(stamp: int, goal: ArrayLike, points: int = 40) -> Chunk:
    """Every point at ``goal``: a jump that must become a motion."""
    return Chunk(stamp, TICK, JOINTS, np.tile(np.asarray(goal, dtype=np.float64), (points, 1)))


def way_to(way: ArrayLike, points: int = 60, start: ArrayLike = START) -> FloatArray:
    """(points, 3) from ``start`` ``way`` (3,) further, from rest to rest: a quintic, whose acceleration begins and ends at 0."""
    x = np.linspace(0.0, 1.0, points)
    rows: FloatArray = np.asarray(start) + (x**3 * (10 - 15 * x + 6 * x * x))[:, None] * np.asarray(way, dtype=np.float64)
    return rows


class Bench:
    """A command loop with a clock. Joint states arrive at each tick unless ``feed`` says otherwise, at ``START`` unless
    ``position`` does, and on the set-point once ``faithful`` is set. There is no soft start and hardly a gate unless asked for.
    """

    def __init__(self, robot: Robot = ROBOT, clearance: Clearance | None = None, **parameters: object) -> None:
        self.settings = CommandParameters(**{"first_command_max": 10.0, "soft_start_s": 0.0, **parameters})  # type: ignore[arg-type]
        self.loop = CommandLoop(robot, self.settings, clearance)
        self.now = 0
        self.faithful = False
        self.positions: list[FloatArray] = []
        self.in_force: list[JointLimits] = []  # limits, at each of them

    def tick(
        self, ticks: int = 1, feed: bool = True, position: ArrayLike | None = None, effort: ArrayLike | None = None
    ) -> CommandTick:
        for _ in range(ticks):
            self.now += TICK
            if feed:
                here = self.positions[-1] if self.faithful and self.positions else START
                self.loop.on_joint_state(state(self.now, here if position is None else position, effort=effort), self.now)
            result = self.loop.tick(self.now)
            if result.setpoint is not None:
                assert result.setpoint.stamp == self.now and result.setpoint.names == JOINTS
                self.positions.append(result.setpoint.position)
                self.in_force.append(self.loop.limiter.limits)
        return result

    def play(self, positions: FloatArray, dt_ns: int = TICK, delay_ns: int = 0) -> None:
        """Send a chunk observed now, which is accepted; it arrives ``delay_ns`` later."""
        refused = dict(self.loop.rejections)
        self.loop.on_chunk(Chunk(self.now, dt_ns, JOINTS, positions), self.now + delay_ns)
        assert self.loop.rejections == refused, self.loop.last_rejection

    def go(self, goal: ArrayLike, points: int = 40) -> None:
        """Send a chunk observed now, every point of which is ``goal``."""
        self.play(chunk_to(self.now, goal, points).positions)

    def moving(self) -> CommandTick:
        """Started, and in full motion after a chunk."""
        self.tick()
        self.go([0.9, 0.9, 0.4])
        result = self.tick(12)
        assert result.state is GuardState.ACTIVE and not self.loop.at_rest
        return result

    def update(self, **parameters: object) -> None:
        """Change live parameters."""
        self.loop.update(replace(self.settings, **parameters))  # type: ignore[arg-type]
        self.settings = replace(self.settings, **parameters)  # type: ignore[arg-type]

    def fresh(self) -> None:
        """Forget what was recorded, after a reset."""
        self.positions.clear()
        self.in_force.clear()

    def shares(self, joint: int) -> FloatArray:
        """What share (K,) of the robot file's velocity limit was in force at each set-point."""
        share: FloatArray = np.array([limits.velocity[joint] for limits in self.in_force]) / LIMITS.velocity[joint]
        return share

    def differences(self, order: int) -> FloatArray:
        """Velocities, accelerations or jerks (K, 3) of every set-point so far, at rest before the first."""
        rows = np.array([self.positions[0]] * order + self.positions)
        result: FloatArray = np.diff(rows, n=order, axis=0) / PERIOD**order
        return result

    def check_limits(self) -> None:
        """Every set-point so far is within the limits in force at its tick, recomputed from positions alone."""
        positions = np.array(self.positions)
        assert np.isfinite(positions).all()
        assert (positions >= self.in_force[0].lower).all() and (positions <= self.in_force[0].upper).all()
        ulp = np.spacing(np.abs(positions).max(axis=0))
        for order, name in enumerate(("velocity", "acceleration", "jerk"), start=1):
            allowed = np.array([getattr(limits, name) for limits in self.in_force]) * (1 + 1e-9) + (4 * order * ulp / PERIOD**order)
            assert (np.abs(self.differences(order)) <= allowed).all(), name


def fault_names(tick: CommandTick) -> list[str]:
    return [fault.name for fault in tick.faults]


def assert_stops_and_holds(bench: Bench, fault: str, feed: bool = True, **inputs: ArrayLike) -> None:
    """The next tick has the fault and begins a stop within the limits, which ends in a hold whatever arrives."""
    result = bench.tick(feed=feed, **inputs)  # type: ignore[arg-type]
    assert result.state is GuardState.FAULT and fault in fault_names(result)
    assert result.interventions is None and result.setpoint is not None
    bench.tick(18, feed=feed)
    assert bench.loop.at_rest
    held = bench.positions[-1]
    assert np.abs(held - START).min() > 0.01  # it did not go back, nor to zero
    bench.go(START)
    published = len(bench.positions)
    assert bench.tick(40).state is GuardState.FAULT  # fresh joint states and chunks do not end it
    assert len(bench.positions) == published + 40 and np.array_equal(bench.positions[-1], held)
    bench.check_limits()
