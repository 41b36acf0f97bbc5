"""Recording expert episodes through the very limits that the robot enforces, so that a policy learns feasible commands.

The expert's action becomes joint positions, the set-point limiter shapes them, the robot executes the result. With
exploration noise the executed command is disturbed, and the label is what the limiter would have made of the undisturbed
action from the same state (Laskey et al. 2017, DART: noise injection for robust imitation).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.safety.limiter import SetpointLimiter
from flow_policy_ros.sim.expert import Expert
from flow_policy_ros.sim.robot import CONTROL_STEP_NS, AdroitRobot


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
    limits = robot.robot.limits
    executed = SetpointLimiter(limits, CONTROL_STEP_NS * 1e-9)
    executed.start(np.clip(robot.joint_state().position, limits.lower, limits.upper))
    generator = np.random.default_rng([seed, 7])
    disturbance = smooth_noise(generator, steps, noise * (limits.upper - limits.lower))
    rows: dict[str, list[FloatArray]] = {"position": [], "command": [], "label": []}
    stamps: list[int] = []
    objects: list[NDArray[np.float32]] = []
    scene: dict[str, list[FloatArray]] = {}
    for k in range(steps):
        stamps.append(robot.stamp)
        rows["position"].append(robot.joint_state().position)
        objects.append(robot.object_features().values)
        for name, value in robot.get_sim_state().items():
            scene.setdefault(name, []).append(value)
        target = robot.action_to_position(expert.action(robot.environment_observation))
        rows["label"].append(copy.deepcopy(executed).step(target).position)
        rows["command"].append(executed.step(target + disturbance[k]).position)
        robot.step(rows["command"][-1])
    return Recording(
        seed=seed,
        success=robot.success,
        stamps=np.array(stamps, dtype=np.int64),
        objects=np.array(objects),
        sim_state={name: np.array(values) for name, values in scene.items()},
        **{name: np.array(values) for name, values in rows.items()},
    )
