"""Robots, parameters, joint states and chunks made to break the safety stage; all drawn from a generator that is given.

When which of them arrives is ``fuzz_scenarios``'.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from flow_policy_ros.runtime.joint_limits import JointLimits
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, FloatArray

RATES_HZ = (20.0, 50.0, 100.0, 125.0, 200.0, 250.0, 500.0, 1000.0)


@dataclass(frozen=True)
class Hazards:
    """Probability per tick of each thing that may go wrong or be changed; zero in a calm scenario."""

    bad_joint_state: float = 0.0
    odd_joint_state: float = 0.0
    silence: float = 0.0
    far_off: float = 0.0
    strong: float = 0.0
    emergency: float = 0.0
    switch: float = 0.0
    hold: float = 0.0
    reset: float = 0.0
    hard_reset: float = 0.0
    drop: float = 0.0
    update: float = 0.0
    jump: float = 0.0
    missed: float = 0.0
    odd_chunk: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Hazards:
        """Each absent in two of three scenarios, else every 30 to 1000 ticks; odd chunks are more frequent."""
        chances = {f.name: float(10.0 ** rng.uniform(-3.0, -1.5)) if rng.random() < 0.33 else 0.0 for f in fields(cls)}
        chances["odd_chunk"] = float(rng.choice([0.0, 0.1, 0.6, 1.0]))
        return cls(**chances)


def drawn_robot(rng: np.random.Generator, period: float, calm: bool) -> Robot:
    """1 to 30 joints with limits over decades; jerk limits that spread over 1 to 480 ticks, or none; two groups."""
    joints = int(rng.choice([1, 2, 3, 7, 12, 30], p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]))
    names = tuple(f"joint_{k}" for k in range(joints))
    width = 10.0 ** (rng.uniform(0.0, 1.0, joints) if calm else rng.uniform(-6.0, 1.5, joints))
    lower = rng.uniform(-3.0, 3.0, joints) - width * rng.random(joints)
    velocity, acceleration = 10.0 ** rng.uniform(-2.0, 1.5, joints), 10.0 ** rng.uniform(-1.0, 3.5, joints)
    most = float(rng.choice([1.0, 4.0, 20.0, 480.0], p=[0.2, 0.4, 0.3, 0.1]))
    ticks = most ** rng.random(joints)
    jerk = np.where(rng.random(joints) < 0.2, np.inf, 2.0 * acceleration / (ticks * period))
    continuous = rng.random(joints) < (0.3 if rng.random() < 0.3 and not calm else 0.0)
    limits = JointLimits(
        names,
        np.where(continuous, -np.inf, lower),
        np.where(continuous, np.inf, lower + width),
        velocity,
        acceleration,
        np.where(rng.random(joints) < 0.5, np.inf, 10.0 ** rng.uniform(-1, 2, joints)),
        jerk,
        np.where((rng.random(joints) < 0.7) | calm, np.inf, 10.0 ** rng.uniform(-2, 1, joints)),
        continuous,
    )
    cut = int(rng.integers(0, joints + 1))
    groups = {"arm": names[:cut], "thumb": names[cut:]}
    return Robot("fuzzed", "fuzzed.yaml", names, groups, limits, (), "joint_states", "joint_command", "joint_trajectory", "", {})


def drawn_parameters(rng: np.random.Generator, rate_hz: float) -> CommandParameters:
    """Within the bounds of each parameter, more often near the defaults."""
    start = CommandParameters(
        rate_hz=rate_hz,
        autostart=bool(rng.random() < 0.8),
        deadman="bool" if rng.random() < 0.3 else "",
        start_tolerance=float(rng.choice([0.0, 0.1, 10.0])),
    )
    return changed(rng, start)


def changed(rng: np.random.Generator, parameters: CommandParameters) -> CommandParameters:
    """Other live parameters."""
    groups = ("", "", "arm=0.5", "thumb=0.01", "arm=0.9 thumb=0.3", "arm=0.02, thumb=1")
    return replace(
        parameters,
        limit_scale=float(rng.choice([1.0, 1.0, 10.0 ** rng.uniform(-2, 0), 0.01, 0.3])),
        group_scale=str(rng.choice(groups)),
        smoothing=float(rng.choice([0.0, 0.0, 0.01, 0.1, 1.0])),
        splice_s=float(rng.choice([0.0, 0.02, 0.06, 0.3, 2.0])),
        slow_down=bool(rng.random() < 0.7),
        joint_state_max_age_s=float(rng.choice([0.001, 0.2, 0.2, 10.0])),
        chunk_max_age_s=float(rng.choice([0.01, 0.3, 1.0, 1.0, 60.0])),
        first_command_max=float(rng.choice([0.001, 0.5, 100.0, 100.0, 100.0])),
        soft_start_s=float(rng.choice([0.0, 0.1, 1.0, 60.0])),
        soft_start_scale=float(rng.choice([0.01, 0.2, 1.0])),
        tracking_time_s=float(rng.choice([0.0, 0.1, 10.0])),
        effort_time_s=float(rng.choice([0.0, 0.05, 1.0])),
        stall_s=float(rng.choice([0.001, 0.1, 0.1, 10.0])),
        deadman_max_age_s=float(rng.choice([0.01, 0.25, 10.0])),
    )


def wave(rng: np.random.Generator, limits: JointLimits, lead_s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Middle, amplitude and angular frequency (J,) of sines that use at most a third of every limit.

    ``lead_s`` (J,) is for how long the limiter averages: a sine is slow against it, so that the average hardly damps it.
    """
    lower, upper = np.maximum(limits.lower, -3.0), np.minimum(limits.upper, 3.0)
    lower, upper = np.minimum(lower, limits.upper - 1e-9), np.maximum(upper, limits.lower + 1e-9)
    omega = np.minimum(rng.uniform(1.0, 5.0, lower.shape), 0.3 / lead_s)
    amplitude = np.minimum(0.3 * (upper - lower), np.minimum(limits.velocity / omega, limits.acceleration / omega**2) / 3.0)
    return (lower + upper) / 2.0, amplitude, omega


def odd_positions(rng: np.random.Generator, smooth: FloatArray, limits: JointLimits) -> FloatArray:
    """Points (H, J) in place of ``smooth`` that are finite, and otherwise as a policy should not make them."""
    count, joints = smooth.shape
    lower, upper = np.maximum(limits.lower, -3.0), np.minimum(limits.upper, 3.0)
    width = np.abs(upper - lower)
    kind = int(rng.integers(8))
    if kind == 0:
        return smooth + width * rng.normal(size=smooth.shape) * 10.0 ** rng.uniform(-3, 0.5)
    if kind == 1:  # bang-bang, across the range and beyond
        beyond = width * float(rng.choice([0.0, 0.2, 3.0]))
        return np.where(rng.random((count, joints)) < 0.5, lower - beyond, upper + beyond)
    if kind == 2:
        return rng.choice([-1e300, 1e300, 0.0, 1e-300, 1e18, -1e9], (1, joints)).repeat(count, axis=0)
    if kind == 3:  # huge, and not all alike
        return smooth * rng.choice([-1e150, 1e9, 1e30, 1.0], (count, 1))
    if kind == 4:
        return np.tile(rng.uniform(lower - width, upper + width), (count, 1))
    if kind == 5:  # ever the same way
        return smooth[:1] + np.cumsum(np.abs(rng.normal(size=smooth.shape)), axis=0) * width * rng.choice([-0.3, 0.3])
    if kind == 6:
        return np.zeros_like(smooth)
    return smooth + 2.0 * np.pi * rng.integers(-3, 4, (1, joints))


def malformed(rng: np.random.Generator, chunk: Chunk) -> Chunk:
    """``chunk``, made wrong in one way: it has to be refused."""
    kind = int(rng.integers(10))
    positions = chunk.positions.copy()
    if kind < 2:
        positions[int(rng.integers(len(positions))), int(rng.integers(positions.shape[1]))] = (np.nan, np.inf)[kind]
        return replace(chunk, positions=positions)
    if kind == 2:
        return replace(chunk, positions=positions[:, :-1])
    if kind == 3:
        return replace(chunk, positions=positions[0])
    if kind == 4:
        return replace(chunk, names=(*chunk.names[:-1], "stranger"))
    if kind == 5:
        return replace(chunk, names=(*chunk.names, chunk.names[0]), positions=np.concatenate([positions, positions[:, :1]], axis=1))
    if kind == 6:
        return replace(chunk, dt_ns=int(rng.choice([0, -1, -(10**9)])))
    if kind == 7:
        return replace(chunk, positions=positions[:0])
    if kind == 8:
        return replace(chunk, positions=np.repeat(positions[:1], 257, axis=0))
    return replace(chunk, names=(*chunk.names, "stranger"), positions=np.concatenate([positions, positions[:, :1]], axis=1))
