"""One episode in lockstep, in one process: the simulated robot and the very objects that the nodes run.

The order within a tick is docs/architecture.md's: joint state, image → features, policy, chunk, command, robot; what the
command stage sent and plans is known to the policy from the next tick on. Delay is injected in simulated time. Nothing here
reads a clock except to time the stages for the record.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.inject import NO_INJECTION, Disturbed, Injection
from flow_policy_ros.runtime.latency import Delays, LatencyProfile
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, FloatArray, JointState
from flow_policy_ros.safety.command_loop import CommandTick
from flow_policy_ros.safety.statistics import CommandStatistics
from flow_policy_ros.sim.robot import AdroitRobot


class Perception(Protocol):
    """Image (H, W, 3) RGB and its stamp → features (``vision.features``)."""

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features: ...

    def identity(self) -> dict[str, Any]: ...


@runtime_checkable
class InstructedPerception(Protocol):
    """Perception that may read an instruction beside the image (``vision.extractors.Instructed``)."""

    @property
    def speaks(self) -> bool: ...

    def instruct(self, instruction: str) -> None: ...


class Commander(Protocol):
    """From chunks to set-points: ``CommandLoop``, or in a benchmark what it is compared with."""

    def reset(self) -> None: ...

    def on_joint_state(self, joint_state: JointState, received: int) -> None: ...

    def on_chunk(self, chunk: Chunk, received: int) -> None: ...

    def tick(self, now: int) -> CommandTick: ...

    def statistics(self) -> CommandStatistics: ...


@dataclass(frozen=True)
class Stack:
    """What drives the robot: ``perception`` is None when the policy needs no camera.

    ``privileged``: the policy sees the simulator's object state (stream ``objects``). ``injection`` disturbs on top of the
    ``latency``.
    """

    policy: PolicyLoop
    command: Commander
    perception: Perception | None
    latency: LatencyProfile
    latency_seed: int = 0
    privileged: bool = False
    injection: Injection = NO_INJECTION

    @property
    def delays(self) -> Delays:
        """How long perception and inference take, and what gets lost."""
        return Disturbed(self.latency, self.injection)


@dataclass
class EpisodeResult:
    """What one episode gave. ``commands`` (T, A) the set-points sent, NaN where none was; ``durations_ms`` per stage.

    ``states`` the guard's state at each tick, ``chunks`` and ``stale`` counts, ``statistics`` the command loop's counts.
    ``goal_reached`` is the first of several goals that was reached, asked for or not; "" for none.
    """

    seed: int
    success: bool
    success_steps: int
    commands: FloatArray
    positions: FloatArray
    states: list[str]
    chunks: int
    stale: list[str]
    statistics: CommandStatistics
    durations_ms: dict[str, list[float]] = field(default_factory=dict)
    goal_reached: str = ""

    def sha256(self) -> str:
        """Hash of every set-point and measured position, for comparing runs."""
        return hashlib.sha256(self.commands.tobytes() + self.positions.tobytes()).hexdigest()


Observer = Callable[[AdroitRobot, NDArray[np.uint8] | None, Chunk | None, CommandTick], None]


def run_episode(
    robot: AdroitRobot, stack: Stack, seed: int, episode: int, steps: int, observer: Observer | None = None
) -> EpisodeResult:
    """Reset the robot to ``seed`` and run ``steps`` control steps; before the first, the policy is told ``robot.instruction``.

    ``episode`` sets the stamps (and with them everything keyed by stamps). ``observer`` sees every tick, for pictures.
    """
    robot.reset(seed, episode)
    stack.policy.reset()
    stack.command.reset()
    if robot.instruction:
        stack.policy.instruct(robot.instruction, robot.stamp)
        if isinstance(stack.perception, InstructedPerception) and stack.perception.speaks:
            stack.perception.instruct(robot.instruction)
    durations: dict[str, list[float]] = {"camera": [], "perception": [], "inference": [], "safety": []}
    commands = np.full((steps, len(robot.robot.joints)), np.nan)
    positions = np.empty_like(commands)
    states: list[str] = []
    stale: list[str] = []
    chunks = 0

    def timed(stage: str, since: float) -> float:
        now = time.perf_counter()
        durations[stage].append((now - since) * 1e3)
        return now

    for k in range(steps):
        now = robot.stamp
        joint_state = robot.joint_state()
        positions[k] = joint_state.position
        stack.command.on_joint_state(joint_state, now)
        stack.policy.on_joint_state(joint_state, now)
        image = None
        if stack.perception is not None and robot.camera_due():
            start = time.perf_counter()
            image = robot.render()
            start = timed("camera", start)
            features = stack.perception.extract(image, now)
            timed("perception", start)
            if not stack.delays.dropped("perception", now, stack.latency_seed):
                stack.policy.on_features(features, now + stack.delays.delay("perception", now, stack.latency_seed))
        if stack.privileged:
            stack.policy.on_features(robot.object_features(), now)
        chunk: Chunk | None = None
        if stack.policy.due(now):
            start = time.perf_counter()
            product = stack.policy.step(now)
            timed("inference", start)
            if isinstance(product, Chunk):
                chunk = product
                chunks += 1
                done = now + stack.delays.delay("inference", chunk.stamp, stack.latency_seed)
                if not stack.delays.dropped("inference", chunk.stamp, stack.latency_seed):
                    stack.command.on_chunk(chunk, done)
                stack.policy.occupy(done)
            else:
                stale.append(product.reason)
        start = time.perf_counter()
        tick = stack.command.tick(now)
        timed("safety", start)
        states.append(tick.state.name)
        if tick.setpoint is not None:
            commands[k] = tick.setpoint.position
            stack.policy.on_setpoint(tick.setpoint, now)
        if tick.plan is not None:
            stack.policy.on_plan(tick.plan, now)
        if observer is not None:
            observer(robot, image, chunk, tick)
        robot.step(None if tick.setpoint is None else tick.setpoint.position)
    return EpisodeResult(
        seed=seed,
        success=robot.success,
        success_steps=robot.success_steps,
        commands=commands,
        positions=positions,
        states=states,
        chunks=chunks,
        stale=stale,
        statistics=stack.command.statistics(),
        durations_ms=durations,
        goal_reached=robot.goal_reached or "",
    )
