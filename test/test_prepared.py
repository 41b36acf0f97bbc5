"""A chunk shaped between two ticks gives the very set-points of one shaped in the tick, and is not used when something changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import Chunk, JointState
from flow_policy_ros.safety.command_loop import CommandLoop, CommandTick
from flow_policy_ros.safety.shaper import ChunkShaper

RATE_HZ = 500.0
PERIOD = round(1e9 / RATE_HZ)
PARAMETERS = CommandParameters(rate_hz=RATE_HZ, first_command_max=10.0, soft_start_s=0.0)
Between = Callable[[CommandLoop, int, int], None]
"""Called with the loop, the number of the tick before, and the instant of the next."""


@pytest.fixture(name="robot")
def robot_fixture(root) -> Robot:
    """30 joints."""
    return load_robot(root / "config" / "robots" / "adroit_relocate.yaml")


def play(robot: Robot, between: Between, jitter: int = 0) -> list[CommandTick]:
    """A chunk of noisy motion every 20 ticks."""
    loop, random = CommandLoop(robot, PARAMETERS), np.random.default_rng(0)
    centre = (robot.limits.lower + robot.limits.upper) / 2.0
    ticks = []
    for k in range(200):
        now = 10**9 + k * PERIOD
        loop.on_joint_state(JointState(now, robot.joints, centre), now)
        if k % 20 == 1:
            seconds = 1e-9 * now + 0.01 * np.arange(48)[:, None]
            motion = centre + 0.1 * np.sin(4.0 * seconds) + 0.003 * random.standard_normal((48, len(centre)))
            loop.on_chunk(Chunk(now - 5 * PERIOD, 10_000_000, robot.joints, motion), now - 1)
        between(loop, k, now)
        ticks.append(loop.tick(now + (jitter if k else 0)))
    return ticks


def positions(ticks: list[CommandTick]) -> np.ndarray:
    return np.array([tick.setpoint.position for tick in ticks if tick.setpoint is not None])


class Shapings:
    """How often a chunk was shaped, and whether within a tick, counted at the shaper itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        shape = ChunkShaper.shape

        def counted(*arguments):
            self.count += 1
            return shape(*arguments)

        monkeypatch.setattr(ChunkShaper, "shape", counted)


def test_prepared_or_not_the_motion_is_the_same_bit_for_bit(robot, monkeypatch) -> None:
    plain = play(robot, lambda loop, k, now: None)
    shapings = Shapings(monkeypatch)
    before_ticks: list[int] = []

    def prepare(loop: CommandLoop, k: int, now: int) -> None:
        before_ticks.append(shapings.count)
        loop.prepare(now)
        before_ticks[-1] = shapings.count - before_ticks[-1]

    prepared = play(robot, prepare)
    assert np.array_equal(positions(plain), positions(prepared)) and len(positions(plain)) == 200
    assert sum(before_ticks) == shapings.count == 10  # none within a tick
    for one, other in zip(plain, prepared, strict=True):
        assert (one.plan is None) == (other.plan is None) and one.state is other.state
        if one.plan is not None:
            assert np.array_equal(one.plan.positions, other.plan.positions) and one.plan.stamp == other.plan.stamp


def test_a_tick_a_little_late_uses_what_was_prepared_and_one_far_off_does_not(robot, monkeypatch) -> None:
    shapings = Shapings(monkeypatch)
    play(robot, lambda loop, k, now: loop.prepare(now), jitter=PERIOD // 4)
    assert shapings.count == 10
    play(robot, lambda loop, k, now: loop.prepare(now), jitter=3 * PERIOD // 4)
    assert shapings.count == 30  # each twice


def test_limits_or_parameters_that_change_in_between_make_the_tick_shape_anew(robot) -> None:
    def change(loop: CommandLoop, k: int) -> None:
        if k == 41:
            loop.update(replace(PARAMETERS, limit_scale=0.5))
        elif k == 81:
            loop.update(replace(PARAMETERS, limit_scale=0.5, splice_s=0.0))

    def prepare(loop: CommandLoop, k: int, now: int) -> None:
        loop.prepare(now)
        change(loop, k)

    plain = positions(play(robot, lambda loop, k, now: change(loop, k)))
    assert np.array_equal(plain, positions(play(robot, prepare)))


def test_what_is_prepared_changes_nothing_by_itself(robot) -> None:
    loop = CommandLoop(robot, PARAMETERS)
    loop.prepare(10**9)  # nothing there
    centre = (robot.limits.lower + robot.limits.upper) / 2.0
    loop.on_joint_state(JointState(10**9, robot.joints, centre), 10**9)
    loop.tick(10**9)
    loop.on_chunk(Chunk(10**9, 10_000_000, robot.joints, np.tile(centre, (48, 1))), 10**9)
    before = loop.statistics()
    loop.prepare(10**9 + PERIOD)
    assert loop.statistics() == before and loop.at_rest
    loop.reset()
    assert loop.tick(10**9 + PERIOD).setpoint is None
