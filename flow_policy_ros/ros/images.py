"""Codecs between pictures, feature matrices and ROS image messages. Decoding and what is seen in them are up to ``vision``."""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from flow_policy_ros.ros.messages import MessageError, from_time, to_time
from flow_policy_ros.runtime.pixels import ImageError, floats, rows
from flow_policy_ros.runtime.types import EncodedImage, Features, FloatArray


def image_to_message(image: NDArray[np.uint8], stamp: int, frame_id: str = "") -> Image:
    """RGB image (H, W, 3) uint8 as ``rgb8``."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=3 * image.shape[1])
    message.header.stamp = to_time(stamp)
    message.header.frame_id = frame_id
    message.data = array.array("B", np.ascontiguousarray(image, dtype=np.uint8).tobytes())
    return message


def encoded_to_message(image: EncodedImage, stamp: int, frame_id: str = "") -> Image | CompressedImage:
    """A picture as it was recorded: its bytes, unchanged."""
    compressed = image.encoding == "compressed"
    message = CompressedImage(format="jpeg") if compressed else Image(
        height=image.height, width=image.width, encoding=image.encoding, step=image.step, is_bigendian=int(image.big_endian)
    )  # fmt: skip
    message.header.stamp = to_time(stamp)
    message.header.frame_id = frame_id
    message.data = array.array("B", bytes(image.data))
    return message


def image_from_message(message: Image) -> NDArray[np.uint8]:
    """Exact inverse of ``image_to_message``, for pictures of our own nodes. Raises ``MessageError`` for another encoding.

    What cameras send: ``encoded_from_message``, and ``vision.decode``.
    """
    if message.encoding != "rgb8":
        raise MessageError(f"image has encoding '{message.encoding}', expected rgb8.")
    try:
        return rows(encoded_from_message(message), 3 * message.width).reshape(message.height, message.width, 3).copy()
    except ImageError as error:
        raise MessageError(str(error)) from error


def encoded_from_message(message: Image | CompressedImage) -> EncodedImage:
    """The picture as it was sent, nothing checked; it shares the message's memory."""
    if isinstance(message, CompressedImage):
        return EncodedImage("compressed", 0, 0, 0, memoryview(message.data))
    return EncodedImage(
        message.encoding, message.height, message.width, message.step, memoryview(message.data), bool(message.is_bigendian)
    )


def camera_info_to_message(matrix: FloatArray, width: int, height: int, stamp: int, frame_id: str = "") -> CameraInfo:
    """An undistorted pinhole camera of ``matrix`` K (3, 3), in pixels."""
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.stamp = to_time(stamp)
    message.header.frame_id = frame_id
    message.k = np.asarray(matrix, dtype=np.float64).ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([matrix, np.zeros((3, 1))]).ravel()
    return message


def features_to_message(features: Features) -> Image:
    """``32FC1``: a row per token, a column per channel; stamp of the image, ``frame_id`` the stream."""
    values = np.ascontiguousarray(features.values, dtype="<f4")
    tokens, channels = values.shape
    message = Image(height=tokens, width=channels, encoding="32FC1", step=4 * channels, is_bigendian=0)
    message.header.stamp = to_time(features.stamp)
    message.header.frame_id = features.stream
    message.data = array.array("B", values.tobytes())
    return message


def features_from_message(message: Image) -> Features:
    """Bit-exact inverse of ``features_to_message``. Raises ``MessageError``."""
    try:
        values = floats(encoded_from_message(message), "features")
    except ImageError as error:
        raise MessageError(str(error)) from error
    return Features(from_time(message.header.stamp), message.header.frame_id, values)
