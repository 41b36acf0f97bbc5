"""Writing a rosbag2 (MCAP) without ROS: joint states, commands, JPEG images, chunks. Reading bags lives elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from flow_policy_ros.runtime.types import Chunk, FloatArray, JointState

JPEG_QUALITY = 92


class BagWriter:
    """A bag of one run; use as a context manager. Every message is written at its own stamp (ns).

    Topics: ``/joint_states`` and ``/command/executed`` (sensor_msgs/JointState), ``/camera/image_raw/compressed``
    (sensor_msgs/CompressedImage), ``/policy/chunk`` (trajectory_msgs/JointTrajectory).
    """

    def __init__(self, path: str | Path) -> None:
        """``path`` is the bag's folder. Raises ``ValueError`` when it exists."""
        if Path(path).exists():
            raise ValueError(f"bag folder {path} exists already; give another name or remove it.")
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def joint_state(self, state: JointState) -> None:
        """Measured positions and velocities."""
        self._write("/joint_states", state.stamp, self._joint_message(state.stamp, state.names, state.position, state.velocity))

    def command(self, stamp: int, names: tuple[str, ...], position: FloatArray, velocity: FloatArray) -> None:
        """A set-point that was sent."""
        self._write("/command/executed", stamp, self._joint_message(stamp, names, position, velocity))

    def image(self, stamp: int, image: NDArray[np.uint8]) -> None:
        """An RGB image (H, W, 3), stored as JPEG."""
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise ValueError(f"image of shape {image.shape} cannot be encoded as JPEG.")
        kind = self._store.types["sensor_msgs/msg/CompressedImage"]
        message = kind(header=self._header(stamp, "front"), format="jpeg", data=data.ravel())
        self._write("/camera/image_raw/compressed", stamp, message)

    def chunk(self, chunk: Chunk) -> None:
        """A chunk as the policy published it."""
        point = self._store.types["trajectory_msgs/msg/JointTrajectoryPoint"]
        duration = self._store.types["builtin_interfaces/msg/Duration"]
        empty = np.zeros(0)
        points = []
        for k, row in enumerate(chunk.positions):
            seconds, nanoseconds = divmod(k * chunk.dt_ns, 1_000_000_000)
            points.append(point(positions=row, velocities=empty, accelerations=empty, effort=empty,
                                time_from_start=duration(sec=seconds, nanosec=nanoseconds)))
        kind = self._store.types["trajectory_msgs/msg/JointTrajectory"]
        message = kind(header=self._header(chunk.stamp), joint_names=list(chunk.names), points=points)
        self._write("/policy/chunk", chunk.stamp, message)

    def _header(self, stamp: int, frame: str = "") -> Any:
        time = self._store.types["builtin_interfaces/msg/Time"]
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        return self._store.types["std_msgs/msg/Header"](stamp=time(sec=seconds, nanosec=nanoseconds), frame_id=frame)

    def _joint_message(
        self, stamp: int, names: tuple[str, ...], position: FloatArray, velocity: FloatArray | None
    ) -> Any:
        kind = self._store.types["sensor_msgs/msg/JointState"]
        return kind(header=self._header(stamp), name=list(names), position=position,
                    velocity=np.zeros(0) if velocity is None else velocity, effort=np.zeros(0))

    def _write(self, topic: str, stamp: int, message: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, message.__msgtype__, typestore=self._store)
        self._writer.write(self._connections[topic], stamp, self._store.serialize_cdr(message, message.__msgtype__))
