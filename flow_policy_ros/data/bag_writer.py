"""Writing a rosbag2 (MCAP) without ROS: joint states, commands, JPEG images, features, chunks, instructions.

Reading bags lives in ``bags``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.runtime.types import Chunk, Features, FloatArray, JointState

JPEG_QUALITY = 92


class BagWriter:
    """A bag of one run; use as a context manager. Every message is written at its own stamp (ns).

    Topics: ``/joint_states`` and ``/command/executed`` (sensor_msgs/JointState), ``/camera/image_raw/compressed``
    (sensor_msgs/CompressedImage), ``/features/STREAM`` (sensor_msgs/Image), ``/policy/chunk`` (trajectory_msgs/JointTrajectory),
    ``/instruction`` (std_msgs/String).
    """

    def __init__(self, path: str | Path, custom: Mapping[str, str] | None = None) -> None:
        """``path`` is the bag's folder, ``custom`` goes to its metadata. Raises ``ValueError`` when it exists."""
        self._bag = Rosbag2Writer(path, custom=custom)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bag.close()

    def joint_state(self, state: JointState) -> None:
        """Measured positions, velocities and efforts."""
        data = messages.joint_state(state.stamp, state.names, state.position, state.velocity, state.effort)
        self._bag.put("/joint_states", messages.JOINT_STATE, state.stamp, data)

    def command(self, stamp: int, names: tuple[str, ...], position: FloatArray, velocity: FloatArray) -> None:
        """A set-point that was sent."""
        self._bag.put("/command/executed", messages.JOINT_STATE, stamp, messages.joint_state(stamp, names, position, velocity))

    def image(self, stamp: int, image: NDArray[np.uint8]) -> None:
        """An RGB image (H, W, 3), stored as JPEG."""
        data = messages.compressed_image(stamp, "front", jpeg(image, JPEG_QUALITY))
        self._bag.put("/camera/image_raw/compressed", messages.COMPRESSED_IMAGE, stamp, data)

    def features(self, seen: Features, received: int | None = None) -> None:
        """Features of one image, received at ``received`` (ns; at their stamp when None)."""
        topic = f"/features/{seen.stream}"
        self._bag.put(topic, messages.IMAGE, seen.stamp if received is None else received, messages.features(seen))

    def chunk(self, chunk: Chunk) -> None:
        """A chunk as the policy published it."""
        self._bag.put("/policy/chunk", messages.TRAJECTORY, chunk.stamp, messages.chunk(chunk))

    def instruction(self, stamp: int, text: str) -> None:
        """What the robot is to do from ``stamp`` (ns) on."""
        self._bag.put("/instruction", messages.STRING, stamp, messages.text(text))


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The RGB image (H, W, 3) as JPEG (N,)."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"image of shape {image.shape} cannot be encoded as JPEG.")
    return np.asarray(data.ravel(), dtype=np.uint8)
