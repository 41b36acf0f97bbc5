"""A small robot with a file of its own, for tests of recordings: two joints, one camera, states at 100 Hz."""

from __future__ import annotations

from pathlib import Path

import yaml

from flow_policy_ros.runtime.robot import Robot, load_robot


def write_robot_file(folder: Path, joints: tuple[str, ...] = ("wrist", "thumb"), name: str = "hand", **policy: object) -> Path:
    """The robot's file in ``folder``; ``policy`` are parameters of the policy node."""
    limits = {joint: {"position": [-9.0, 9.0], "velocity": 10.0, "acceleration": 100.0, "jerk": 1000.0} for joint in joints}
    robot = {"name": name, "joints": list(joints), "limits": limits,
             "cameras": {"front": {"topic": "camera/image_raw", "width": 8, "height": 6, "rate_hz": 10.0}}}  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": robot, "policy": policy}}}))
    return path


def robot_of(folder: Path, joints: tuple[str, ...] = ("wrist", "thumb")) -> Robot:
    """The robot of ``write_robot_file``."""
    return load_robot(write_robot_file(folder, joints))
