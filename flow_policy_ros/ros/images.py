"""Codecs between pictures, feature matrices and ROS image messages. What is seen in them is up to ``vision``."""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from flow_policy_ros.ros.messages import MessageError, from_time, to_time
from flow_policy_ros.runtime.types import EncodedImage, Features, FloatArray

_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}


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


def image_from_message(message: Image | CompressedImage) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 from ``rgb8``, ``bgr8``, ``mono8``, or a JPEG or PNG. Raises ``MessageError``."""
    if isinstance(message, CompressedImage):
        return _decompress(message)
    if message.encoding not in _CHANNELS:
        raise MessageError(f"image has encoding '{message.encoding}', expected one of {', '.join(_CHANNELS)}.")
    channels = _CHANNELS[message.encoding]
    rows = _rows("image", message, message.width * channels)
    pixels = rows.reshape(message.height, message.width, channels)
    if message.encoding == "bgr8":
        pixels = pixels[..., ::-1]
    elif message.encoding == "mono8":
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _decompress(message: CompressedImage) -> NDArray[np.uint8]:
    import cv2  # only who subscribes to compressed images pays for it

    data = np.frombuffer(message.data, dtype=np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise MessageError(f"compressed image of format '{message.format}' and {data.size} bytes cannot be decoded.")
    return np.ascontiguousarray(pixels[..., ::-1], dtype=np.uint8)


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
    if message.encoding != "32FC1":
        raise MessageError(f"features have encoding '{message.encoding}', expected 32FC1.")
    rows = _rows("features", message, 4 * message.width)
    values = rows.view(">f4" if message.is_bigendian else "<f4").astype(np.float32)
    return Features(from_time(message.header.stamp), message.header.frame_id, values)


def _rows(what: str, message: Image, used: int) -> NDArray[np.uint8]:
    """The bytes in use of each row (H, used), without the padding that ``step`` allows; a copy."""
    size = message.height * message.step
    if not message.height or not message.width or message.step < used or len(message.data) != size:
        raise MessageError(
            f"{what} of {message.width} by {message.height} '{message.encoding}' has step {message.step} and "
            f"{len(message.data)} bytes; expected a step of at least {used} and height · step bytes."
        )
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
    return rows[:, :used].copy()
