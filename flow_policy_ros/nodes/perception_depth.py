"""Depth beside a camera's colour images: its topics, the wait for the depth that belongs to an image, and points of it.

A shell around ``vision.positions``; what depth means is decided there and in ``vision.geometry``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.image_reader import ImageReader
from flow_policy_ros.ros.images import encoded_from_message
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.robot import Camera, DepthCamera
from flow_policy_ros.runtime.types import EncodedImage, Features
from flow_policy_ros.vision.decode import ImageError, decode_depth
from flow_policy_ros.vision.geometry import Box, DepthError, Intrinsics, intrinsics
from flow_policy_ros.vision.positions import PositionFeatures

_PATIENCE_S = 0.2
"""The depth of an image is waited for no longer than this, and than the camera's period."""


class DepthTopics:
    """The points of one camera's images, as the stream ``stream``: ``points`` from the worker's thread, the rest from ROS's.

    ``grid`` and ``covered`` are those of the patches. ``ready(points)`` is called when camera_info made the camera known, and
    again when that changes; ``refused(error)`` for a depth image or a camera_info that cannot be used.
    """

    def __init__(
        self,
        node: Node,
        camera: Camera,
        stream: str,
        grid: tuple[int, int] | None,
        covered: Box | None,
        lockstep: bool,
        ready: Callable[[PositionFeatures], None],
        refused: Callable[[ValueError], None],
    ) -> None:
        """Raises ``DepthError`` for a camera without depth, and for patches that form no grid."""
        if camera.depth is None:
            raise DepthError(
                f"the parameter perception.points is set, but camera '{camera.name}' of the robot file has no depth. Give the "
                f"topic of its depth images: robot.cameras.{camera.name}.depth, or leave the parameter empty."
            )
        self.depth: DepthCamera = camera.depth
        self.stream = stream
        self._camera, self._grid, self._covered = camera, grid, covered
        self._patience_s = min(_PATIENCE_S, 1.0 / camera.rate_hz)
        self._ready, self._refused = ready, refused
        self._known: Intrinsics | None = None
        self._frame = ""
        self._points: PositionFeatures | None = None
        self._stamps: deque[int] = deque(maxlen=16)
        self._asked = -(1 << 63)  # stamp of the image that depth was last wanted for
        self._changed = threading.Condition()
        self._make(Intrinsics(camera.width, camera.height, np.eye(3)), "")  # refuses what cannot be, before anything runs
        node.create_subscription(CameraInfo, self.depth.camera_info, self._on_info, qos.reader(lockstep))
        self._reader = ImageReader(node, self.depth.topic, self._on_depth, lockstep)

    def attend(self) -> None:
        """Listen as suits the publishers; once a second, from ROS's thread."""
        self._reader.attend()

    def points(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """Points for the image of this stamp, after a short wait for its depth. Raises ``DepthError`` where that is missing."""
        with self._changed:
            if stamp < self._asked:  # the clock was set back: what was before says nothing of what is still to come
                latest = stamp + round(self.depth.tolerance_s * 1e9)
                self._stamps = deque((there for there in self._stamps if there <= latest), self._stamps.maxlen)
            self._asked = stamp
            self._changed.wait_for(lambda: self._settled(stamp), timeout=self._patience_s)
            if self._points is None:
                raise DepthError(
                    f"no camera_info has come on topic {self.depth.camera_info}, which says where the depth lies in space. Check "
                    f"the driver, or name the topic in the robot file (robot.cameras.{self._camera.name}.depth.camera_info)."
                )
            return self._points.extract(image, stamp)

    def _settled(self, stamp: int) -> bool:
        """Whether the depth of this instant is there, or will not come any more."""
        tolerance = round(self.depth.tolerance_s * 1e9)
        there = any(abs(other - stamp) <= tolerance for other in self._stamps)
        return there or (bool(self._stamps) and self._stamps[-1] > stamp + tolerance)  # they come in order

    def _make(self, camera: Intrinsics, frame: str) -> PositionFeatures:
        depth = self.depth
        transform = None if not depth.pose else pose_matrix(depth.pose)
        covered = self._covered
        if covered is not None:  # in pixels of the image; camera_info may speak of another resolution
            x, y = camera.width / self._camera.width, camera.height / self._camera.height
            covered = (covered[0] * x, covered[1] * y, covered[2] * x, covered[3] * y)
        return PositionFeatures(
            camera, self._grid, covered, frame=frame, transform=transform, target=depth.frame,
            tolerance_ns=round(depth.tolerance_s * 1e9), stream=self.stream,
        )  # fmt: skip

    def _on_info(self, message: CameraInfo) -> None:
        try:
            roi = message.roi
            camera = intrinsics(
                message.width, message.height, list(message.k), list(message.d), message.distortion_model,
                (message.binning_x, message.binning_y), (roi.x_offset, roi.y_offset, roi.width, roi.height),
            )  # fmt: skip
            self._take(camera, message.header.frame_id)
        except DepthError as error:
            self._refused(error)

    def _take(self, camera: Intrinsics, frame: str) -> None:
        with self._changed:
            if self._known is not None and frame == self._frame and _equal(camera, self._known):
                return
            points = self._make(camera, frame)
            self._known, self._frame, self._points = camera, frame, points
        self._ready(points)

    def _on_depth(self, message: Image) -> None:
        try:
            metres = in_metres(encoded_from_message(message), self.depth.scale)
            stamp = from_time(message.header.stamp)
            with self._changed:
                if self._points is None:
                    return  # nobody can use it yet, and ``points`` says so
                self._points.add_depth(metres, stamp, message.header.frame_id)
                self._stamps.append(stamp)
                self._changed.notify_all()
        except (DepthError, ImageError) as error:
            self._refused(error)


def in_metres(image: EncodedImage, scale: float | None) -> NDArray[np.float32]:
    """Depth (H, W) in m, NaN unknown; ``scale`` is metres per unit of the image, None for what REP 118 says of the encoding."""
    depth = decode_depth(image)
    if scale is None:
        return depth
    unit = 1.0 if image.encoding == "32FC1" else 1e-3  # in which it was read
    return (depth * np.float32(scale / unit)).astype(np.float32)


def pose_matrix(pose: tuple[float, ...]) -> NDArray[np.float64]:
    """(4, 4) of x, y, z (m) and the quaternion x, y, z, w."""
    x, y, z, w = np.array(pose[3:]) / np.linalg.norm(pose[3:])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pose[:3]
    return matrix


def _equal(one: Intrinsics, other: Intrinsics) -> bool:
    plain = all(getattr(one, name) == getattr(other, name) for name in ("width", "height", "model", "distortion"))
    return plain and np.array_equal(one.camera_matrix, other.camera_matrix)
