"""Recording expert episodes through the very limits that the robot enforces, so that a policy learns feasible commands.

The expert's action becomes joint positions, the set-point limiter shapes them, the robot executes the result. With
exploration noise the executed command is disturbed, and the label is what the limiter would have made of the undisturbed
action from the same state (Laskey et al. 2017, DART: noise injection for robust imitation).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.episodes import Episode
from flow_policy_ros.evaluation.closed_loop import Perception, Stack, run_episode
from flow_policy_ros.runtime.types import Features, FloatArray
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.sim.expert import Expert
from flow_policy_ros.sim.robot import CONTROL_STEP_NS, STILL_STEPS, AdroitRobot


@dataclass(frozen=True)
class Recording:
    """One demonstrated episode, T control steps of A joints; ``label`` is the undisturbed command, ``command`` the executed one."""

    seed: int
    success: bool
    stamps: np.ndarray
    position: FloatArray
    command: FloatArray
    label: FloatArray
    objects: NDArray[np.float32]
    sim_state: dict[str, FloatArray]
    detections: tuple[Features, ...] = ()
    instruction: str = ""

    def episode(self, task: str, robot: str, joints: tuple[str, ...]) -> Episode:
        """The recording as training data."""
        streams = {"objects": (self.stamps, self.objects)}
        if self.detections:
            found = np.array([features.values for features in self.detections])
            streams[self.detections[0].stream] = (np.array([features.stamp for features in self.detections], dtype=np.int64), found)
        return Episode(
            task=task,
            robot=robot,
            seed=self.seed,
            success=self.success,
            dt_ns=CONTROL_STEP_NS,
            stamps=self.stamps,
            joints=joints,
            position=self.position,
            commands=self.command,
            label=self.label,
            streams=streams,
            sim_state=self.sim_state,
            instruction=self.instruction,
        )


def smooth_noise(generator: np.random.Generator, steps: int, scale: FloatArray, correlation_steps: float = 15.0) -> FloatArray:
    """Ornstein-Uhlenbeck noise (steps, A) with standard deviation ``scale`` (A,)."""
    keep = np.exp(-1.0 / correlation_steps)
    noise = np.empty((steps, len(scale)))
    value = generator.standard_normal(len(scale)) * scale
    for k in range(steps):
        noise[k] = value
        value = keep * value + np.sqrt(1 - keep**2) * scale * generator.standard_normal(len(scale))
    return noise


def demonstrate(robot: AdroitRobot, expert: Expert, seed: int, steps: int, noise: float) -> Recording:
    """Run one expert episode. ``noise`` is the disturbance's standard deviation as a fraction of each joint's command range."""
    robot.reset(seed, episode=seed)
    for _ in range(STILL_STEPS):
        robot.step(None)
    limits = robot.robot.limits
    limiter = SetpointLimiter(limits, CONTROL_STEP_NS * 1e-9)
    limiter.start(np.clip(robot.joint_state().position, limits.lower, limits.upper))
    generator = np.random.default_rng([seed, 7])
    return follow(robot, expert, limiter, smooth_noise(generator, steps, noise * (limits.upper - limits.lower)), seed)


def take_over(robot: AdroitRobot, stack: Stack, expert: Expert, seed: int, after: int, steps: int) -> Recording:
    """Let the policy of ``stack`` drive for ``after`` control steps, then record the expert for ``steps`` from there.

    What is recorded are states that the policy itself reaches, labelled by the expert (Ross et al. 2011, DAgger). The
    detections that the policy saw before the expert took over are part of the recording, as they are what it sees then.
    """
    limits = robot.robot.limits
    seen: list[Features] = []
    perception = stack.perception and Remembering(stack.perception, seen)
    run_episode(robot, replace(stack, perception=perception), seed, seed, after)
    assert isinstance(stack.command, CommandLoop), "the expert goes on from the safety stage's own motion"
    limiter = copy.deepcopy(stack.command.limiter)
    if not limiter.started:
        limiter.start(np.clip(robot.joint_state().position, limits.lower, limits.upper))
    robot.success, robot.success_steps = False, 0
    recording = follow(robot, expert, limiter, np.zeros((steps, len(limits.names))), seed, perception)
    return replace(recording, detections=tuple(seen))


@dataclass(frozen=True)
class Remembering:
    """A perception that keeps what it saw in ``seen``."""

    perception: Perception
    seen: list[Features]

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As the perception's own."""
        self.seen.append(self.perception.extract(image, stamp))
        return self.seen[-1]

    def identity(self) -> dict[str, Any]:
        """The perception's own."""
        return self.perception.identity()


def follow(
    robot: AdroitRobot,
    expert: Expert,
    limiter: SetpointLimiter,
    disturbance: FloatArray,
    seed: int,
    perception: Perception | None = None,
    picture_every: int = 4,
) -> Recording:
    """Let the expert drive from where the robot is, one step per row of ``disturbance`` (T, A)."""
    rows: dict[str, list[FloatArray]] = {"position": [], "command": [], "label": []}
    stamps: list[int] = []
    objects: list[NDArray[np.float32]] = []
    scene: dict[str, list[FloatArray]] = {}
    for k, offset in enumerate(disturbance):
        stamps.append(robot.stamp)
        rows["position"].append(robot.joint_state().position)
        objects.append(robot.object_features().values)
        for name, value in robot.get_sim_state().items():
            scene.setdefault(name, []).append(value)
        if perception is not None and k % picture_every == 0:
            perception.extract(robot.render(), robot.stamp)
        target = robot.action_to_position(expert.action(robot.expert_observation))
        rows["label"].append(copy.deepcopy(limiter).step(target).position)
        rows["command"].append(limiter.step(target + offset).position)
        robot.step(rows["command"][-1])
    return Recording(
        seed=seed,
        success=robot.success,
        stamps=np.array(stamps, dtype=np.int64),
        objects=np.array(objects),
        sim_state={name: np.array(values) for name, values in scene.items()},
        position=np.array(rows["position"]),
        command=np.array(rows["command"]),
        label=np.array(rows["label"]),
        instruction=robot.instruction,
    )
