"""Replays made up from functions of time, without loops or networks: what a sink is told is then known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from flow_policy_ros.data.bag_events import CommandEvent
from flow_policy_ros.evaluation.replay.metrics import Metrics
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayMeta, ReplaySink, ReplayTick
from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState, Plan, Setpoint
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.guard import Fault, GuardState

JOINTS = ("slow", "fast", "other")
SPAN = 4.0
TICK_NS = 10_000_000
DT_NS = 20_000_000
HORIZON = 16
START = 5_000_000_000
Motion = Callable[[FloatArray], FloatArray]
"""s since the start (T,) → positions (T, J)."""


def swing(seconds: FloatArray) -> FloatArray:
    """Three joints that move at unlike paces."""
    t = np.asarray(seconds, dtype=np.float64)[..., None]
    return np.sin(2 * np.pi * np.array([0.4, 0.7, 0.55]) * t + np.array([0.3, 1.1, 2.0]))


def robot() -> Robot:
    """The door robot's file with three joints in place of its own."""
    shipped = load_robot("config/robots/adroit_door.yaml")
    ones = np.ones(len(JOINTS))
    limits = JointLimits(JOINTS, -2 * ones, 2 * ones, 20 * ones, 1000 * ones, np.inf * ones)
    return replace(shipped, joints=JOINTS, command_joints=JOINTS, groups={}, limits=limits)


@dataclass(frozen=True)
class MadeUp:
    """What happens: ``recorded`` every ``recorded_every`` ticks, ``predicted`` in a chunk every 4 ticks, ``commanded`` at each tick
    (None: the recorded motion)."""

    seconds: float = 6.0
    recorded: Motion = swing
    predicted: Motion | None = None
    commanded: Motion | None = None
    recorded_every: int = 1
    recorded_until: float = np.inf
    recorded_names: tuple[str, ...] = JOINTS
    jitter: float = 0.0
    state: GuardState = GuardState.ACTIVE
    limited: Sequence[int] = ()
    limited_ticks: float = np.inf
    stale: str = ""
    faults: tuple[Fault, ...] = field(default_factory=tuple)


def play(what: MadeUp, *sinks: ReplaySink) -> None:
    """Tell ``sinks``."""
    predicted, commanded = what.predicted or what.recorded, what.commanded or what.recorded
    generator = np.random.default_rng(0)
    columns = [JOINTS.index(name) for name in what.recorded_names]
    for sink in sinks:
        sink.begin(ReplayMeta("made up", "hand", "none", JOINTS, TICK_NS))
    for k in range(round(what.seconds * 1e9 / TICK_NS)):
        t, now = k * TICK_NS / 1e9, START + k * TICK_NS
        state = JointState(now, JOINTS, what.recorded(np.array(t)))
        for sink in sinks:
            sink.on_joint_state(state, now)
        if k % what.recorded_every == 0 and t <= what.recorded_until:
            command = CommandEvent(now, now, what.recorded_names, what.recorded(np.array(t))[columns])
            for sink in sinks:
                sink.on_recorded(command)
        plan, chunk = None, None
        if k % 4 == 0 and not what.stale:
            points = predicted(t + np.arange(HORIZON) * DT_NS / 1e9)
            points = points + what.jitter * generator.standard_normal(points.shape)
            chunk = Chunk(now, DT_NS, JOINTS, points, observation_stamps={"joint_state": now - 5_000_000})
            plan = Plan(now, TICK_NS, JOINTS, points, now)
            for sink in sinks:
                sink.on_chunk(ReplayChunk(now, chunk, now, False, 7.0))
        touched = np.zeros(len(JOINTS), dtype=np.bool_)
        touched[list(what.limited)] = k < what.limited_ticks
        interventions = {"velocity": touched} if what.state is GuardState.ACTIVE else None
        position = commanded(np.array(t))
        setpoint = Setpoint(now, JOINTS, position, 0 * position, 0 * position)
        tick = CommandTick(what.state, setpoint, what.faults, interventions, plan)
        for sink in sinks:
            sink.on_tick(ReplayTick(now, tick, 0.1, what.stale if k % 4 == 0 else ""))
    for sink in sinks:
        sink.end()


def figures(what: MadeUp) -> dict:
    """Of the metrics."""
    metrics = Metrics(robot())
    play(what, metrics)
    return metrics.result()
