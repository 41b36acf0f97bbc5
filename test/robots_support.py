"""The robots of ``config/robots`` that are real, as their drivers declare them, and motions to ask of them.

What a controller's declaration says of order is typed here a second time, from the drivers' own files: a robot file that agrees
with itself alone proves nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import Chunk

ROOT = Path(__file__).parents[1]
UR = tuple(f"{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"))
FINGERS = ("index", "middle", "ring", "pinky")
DECLARED: dict[str, tuple[str, ...]] = {
    "allegro_right": tuple(f"ah_joint{finger}{k}" for finger in range(4) for k in range(4)),
    "leap_right": tuple(str(k) for k in range(16)),
    "inspire_right": ("thumb_proximal_yaw_joint", "thumb_proximal_pitch_joint", *(f"{f}_proximal_joint" for f in FINGERS)),
    # Shadow's controller takes names; their order here is the alphabet's, unlike the file's.
    "shadow_right": tuple(
        f"rh_{finger}J{k}"
        for finger, last in (("FF", 4), ("LF", 5), ("MF", 4), ("RF", 4), ("TH", 5), ("WR", 2))
        for k in range(1, last + 1)
    ),
    "ur5e": UR,
    "panda": tuple(f"panda_joint{k}" for k in range(1, 8)),
    "so101": ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"),
    "ur5e_leap": (*UR, *(f"leap_{k}" for k in range(16))),
}
"""Joints of each robot's controller, in its order."""
OTHERS = {
    "inspire_right": (*(f"{f}_intermediate_joint" for f in (*FINGERS, "thumb")), "thumb_distal_joint"),
    "panda": ("panda_finger_joint1", "panda_finger_joint2"),
}
"""Joints that are in the joint states too."""


def robot_of(name: str) -> Robot:
    return load_robot(ROOT / "config/robots" / f"{name}.yaml")


def beyond(robot: Robot, start: np.ndarray, stamp: int) -> Chunk:
    """3 s of random motion from ``start``, faster than the limits and out of the range."""
    generator = np.random.default_rng(7)
    dt = 0.05
    reach = np.minimum(3.0 * robot.limits.velocity * dt, 0.3)
    steps = generator.uniform(-1.0, 1.0, (60, len(start))) * reach + np.sign(generator.uniform(-1.0, 1.0, len(start))) * 0.5 * reach
    steps[0] = 0.0
    span = robot.limits.upper - robot.limits.lower
    way = np.clip(start + np.cumsum(steps, axis=0), robot.limits.lower - 0.2 * span, robot.limits.upper + 0.2 * span)
    return Chunk(stamp, round(dt * 1e9), robot.joints, way)
