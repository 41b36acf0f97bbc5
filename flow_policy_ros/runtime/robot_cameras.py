"""The cameras of a robot file: colour, and the depth beside it. What is seen in their images is for ``vision``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flow_policy_ros.runtime.robot_yaml import RobotFileError, finite, known, need, topic_name

KEYS = ("topic", "width", "height", "rate_hz", "max_age_s", "depth")
DEPTH_KEYS = ("topic", "camera_info", "tolerance_s", "scale", "frame", "pose")


@dataclass(frozen=True)
class DepthCamera:
    """Depth images on ``topic``, aligned with the colour image, whose ``camera_info`` is on the topic of that name.

    Their stamps may lie ``tolerance_s`` from the colour image's. ``scale`` is metres per unit, None for what the encoding says
    (REP 118). ``pose`` is x, y, z in m and the quaternion x, y, z, w of the camera's optical frame in the frame ``frame``;
    empty where positions are to be the camera's.
    """

    topic: str
    camera_info: str
    tolerance_s: float = 0.02
    scale: float | None = None
    frame: str = ""
    pose: tuple[float, ...] = ()


@dataclass(frozen=True)
class Camera:
    """One camera: topic, image size in pixels, rate in Hz.

    ``max_age_s``: features of older images count for nothing; None for the policy's own limit (``policy.features_max_age_s``).
    ``depth`` is None where it measures none.
    """

    name: str
    topic: str
    width: int
    height: int
    rate_hz: float
    max_age_s: float | None = None
    depth: DepthCamera | None = None


def read_camera(name: str, entry: Any, where: str) -> Camera:
    """The entry of one camera. Raises ``RobotFileError`` naming the key and the remedy."""
    here = f"{where}: robot.cameras.{name}"
    if not isinstance(entry, dict):
        raise RobotFileError(f"{here} is {entry!r}, expected topic, width, height and rate_hz.")
    known(entry, KEYS, here)
    topic = topic_name(entry, "topic", here)
    size = {key: need(entry, key, (int, float), here) for key in ("width", "height", "rate_hz")}
    whole = all(isinstance(size[key], int) for key in ("width", "height"))
    if not whole or not all(finite(value) and value > 0 for value in size.values()):
        raise RobotFileError(f"{here} has {size}, expected width and height in whole pixels and rate_hz above zero.")
    age = _seconds(entry, "max_age_s", here) if "max_age_s" in entry else None
    depth = _depth(entry["depth"], topic, f"{here}.depth") if "depth" in entry else None
    return Camera(name, topic, int(size["width"]), int(size["height"]), float(size["rate_hz"]), age, depth)


def _depth(entry: Any, colour: str, here: str) -> DepthCamera:
    if not isinstance(entry, dict):
        raise RobotFileError(f"{here} is {entry!r}, expected the topic of its images and what docs/robot_file.md names besides.")
    known(entry, DEPTH_KEYS, here)
    beside = f"{colour.removesuffix('/compressed').rpartition('/')[0]}/camera_info".lstrip("/" if colour[0] != "/" else "")
    info = topic_name({"camera_info": beside, **entry}, "camera_info", here)
    tolerance = _seconds(entry, "tolerance_s", here) if "tolerance_s" in entry else 0.02
    scale = entry.get("scale")
    if scale is not None and not (finite(scale) and scale > 0):
        raise RobotFileError(f"{here}.scale is {scale!r}, expected metres per unit above zero (0.001 for millimetres).")
    pose = _pose(entry["pose"], here) if "pose" in entry else ()
    frame = str(need(entry, "frame", str, here)) if "frame" in entry else ""
    if bool(pose) != bool(frame):
        raise RobotFileError(f"{here} has one of 'pose' and 'frame'; give both, or neither for positions in the camera's frame.")
    return DepthCamera(topic_name(entry, "topic", here), info, tolerance, None if scale is None else float(scale), frame, pose)


def _pose(given: Any, here: str) -> tuple[float, ...]:
    if not isinstance(given, list) or len(given) != 7 or not all(finite(value) for value in given):
        raise RobotFileError(f"{here}.pose is {given!r}, expected [x, y, z, qx, qy, qz, qw], m and a quaternion of length 1.")
    if abs(math.hypot(*given[3:]) - 1.0) > 1e-3:
        raise RobotFileError(f"{here}.pose has a quaternion of length {math.hypot(*given[3:]):.4g}, expected 1; correct it.")
    return tuple(float(value) for value in given)


def _seconds(entry: dict[str, Any], key: str, here: str) -> float:
    value = need(entry, key, (int, float), here)
    if not finite(value) or not 0.0 < value <= 60.0:
        raise RobotFileError(f"{here}.{key} is {value}, expected seconds above zero and at most 60.")
    return float(value)
