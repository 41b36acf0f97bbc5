"""A small robot with a camera, and bags of it, for the tests of datasets and conversion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.runtime.types import Features

T0 = 1_700_000_000_000_000_000
MS = 1_000_000
JOINTS = ("a", "b", "c")
SIZE = (64, 96)
ROBOT = """/**:
  ros__parameters:
    robot:
      name: tiny
      joints: [a, b, c]
      {keys}
      cameras: {{front: {{topic: camera/image_raw, width: 96, height: 64, rate_hz: 20.0}}}}
      limits:
        a: {{position: [-2.0, 2.0], velocity: 10.0, acceleration: 100.0, jerk: 1000.0}}
        b: {{position: [-2.0, 2.0], velocity: 10.0, acceleration: 100.0, jerk: 1000.0}}
        c: {{position: [-2.0, 2.0], velocity: 10.0, acceleration: 100.0, jerk: 1000.0}}
"""


def robot_file(folder: Path, keys: str = "joint_state_topic: joint_states") -> Path:
    """The robot's file; ``keys`` is a line more in its block."""
    path = folder / "tiny.yaml"
    path.write_text(ROBOT.format(keys=keys))
    return path


def picture(k: int) -> NDArray[np.uint8]:
    """RGB (64, 96, 3), smooth, with something that moves."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[..., 0], image[..., 1] = np.linspace(0, 255, SIZE[1])[None], np.linspace(0, 200, SIZE[0])[:, None]
    image[20:40, 10 + k % 50 : 30 + k % 50] = (255, k % 256, 0)
    return np.asarray(cv2.GaussianBlur(image, (7, 7), 0))


def png_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imencode(".png", image[..., ::-1])[1]).ravel()


def make_bag(
    path: Path,
    seconds: float = 2.0,
    seed: int = 0,
    gap: tuple[float, float] = (0.0, 0.0),
    commands: bool = True,
    camera: bool = True,
    noted: dict[str, str] | None = None,
) -> Path:
    """Joint states (100 Hz) and images (20 Hz) late by chance, commands 4 ms after their stamp; nothing in ``gap`` (s).

    Names of joint states come in another order than the robot's.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(int(seconds * 100)):
        rows.append((T0 + k * 10 * MS + int(rng.integers(0, 3 * MS)), "state", k))
        if commands:
            rows.append((T0 + k * 10 * MS + 4 * MS, "command", k))
    if camera:
        rows += [(T0 + k * 50 * MS + int(rng.integers(20 * MS, 30 * MS)), "image", k) for k in range(int(seconds * 20))]
        rows += [(T0 + k * 50 * MS + int(rng.integers(40 * MS, 45 * MS)), "features", k) for k in range(int(seconds * 20))]
    with Rosbag2Writer(path, custom={"task": "push it", "success": "true"} if noted is None else noted) as bag:
        for received, what, k in sorted(rows):
            if gap[0] < (received - T0) / 1e9 < gap[1]:
                continue
            position = np.sin(k / 20 + np.arange(3))
            if what == "state":
                data = messages.joint_state(T0 + k * 10 * MS, JOINTS[::-1], position[::-1])
                bag.put("/joint_states", messages.JOINT_STATE, received, data)
            elif what == "command":
                data = messages.joint_state(T0 + k * 10 * MS, JOINTS, np.cos(k / 20 + np.arange(3)))
                bag.put("/command/executed", messages.JOINT_STATE, received, data)
            elif what == "image":
                data = messages.compressed_image(T0 + k * 50 * MS, "front", png_of(picture(k)), "png")
                bag.put("/camera/image_raw/compressed", messages.COMPRESSED_IMAGE, received, data)
            else:
                seen = Features(T0 + k * 50 * MS, "det", np.full((2, 4), k / 3, dtype=np.float32))
                bag.put("/features/det", messages.IMAGE, received, messages.features(seen))
    return path
