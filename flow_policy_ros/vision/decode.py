"""Pictures as camera drivers send them → RGB, or depth in metres: the encodings of ``sensor_msgs/image_encodings`` in use.

What the pictures show is for the detectors; how messages carry them is for ``ros.images`` and ``data.bag_messages``.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.pixels import ImageError, floats, rows
from flow_policy_ros.runtime.types import EncodedImage

__all__ = ["ENCODINGS", "ImageError", "decode", "decode_depth"]

DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
MILLIMETRE = np.float32(1e-3)
PIXELS = 1 << 27  # of a JPEG or PNG; a header may claim any size

_COLOURS = {  # channels, and what makes RGB of them
    "rgb8": (3, None),
    "8UC3": (3, cv2.COLOR_BGR2RGB),  # by OpenCV's convention
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
_SIXTEEN = {  # the same with two bytes for each number: what makes RGB of them
    "mono16": cv2.COLOR_GRAY2RGB,
    "16UC1": cv2.COLOR_GRAY2RGB,
    "bayer_rggb16": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr16": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg16": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg16": cv2.COLOR_BayerGRBG2RGB,
}
ENCODINGS = (*_COLOURS, *_SIXTEEN, "32FC1", "compressed")


def decode(image: EncodedImage) -> NDArray[np.uint8]:
    """RGB (H, W, 3) uint8. Raises ``ImageError``.

    Of 16 bits the upper 8 are taken. ``32FC1`` is taken as depth, 0 to 10 m as black to white, NaN as black: for people to look
    at, as 16-bit pictures of distances are; for numbers there is ``decode_depth``.
    """
    if image.encoding == "compressed":
        return _decompress(image)
    if image.encoding in _COLOURS:
        channels, conversion = _COLOURS[image.encoding]
        pixels = _bytes(image, channels)
        if "yuv" in image.encoding or "yvy" in image.encoding or "yuyv" in image.encoding:
            _even(image, width=True)
        return _convert(image, pixels, conversion)
    if image.encoding in _SIXTEEN:
        return _convert(image, (_words(image)[..., None] >> 8).astype(np.uint8), _SIXTEEN[image.encoding])
    if image.encoding == "32FC1":
        metres = np.nan_to_num(floats(image), nan=0.0, posinf=10.0, neginf=0.0)
        grey = (np.clip(metres, 0.0, 10.0) * np.float32(25.5)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    raise ImageError(f"image has encoding '{image.encoding}', expected one of {', '.join(ENCODINGS)}.")


def decode_depth(image: EncodedImage) -> NDArray[np.float32]:
    """Distances (H, W) float32 in metres: of ``16UC1`` or ``mono16`` (millimetres; 0 is unknown and becomes NaN) or ``32FC1``.

    Source: REP 118. Raises ``ImageError``.
    """
    if image.encoding == "32FC1":
        return floats(image)
    if image.encoding not in DEPTH_ENCODINGS:
        raise ImageError(f"depth image has encoding '{image.encoding}', expected one of {', '.join(DEPTH_ENCODINGS)}.")
    millimetres = _words(image)
    return np.where(millimetres == 0, np.float32(np.nan), millimetres * MILLIMETRE).astype(np.float32)


def _bytes(image: EncodedImage, channels: int) -> NDArray[np.uint8]:
    """(H, W, channels) of bytes."""
    used = rows(image, image.width * channels)
    return np.ascontiguousarray(used).reshape(image.height, image.width, channels)


def _words(image: EncodedImage) -> NDArray[np.uint16]:
    """(H, W) of numbers of two bytes, in the machine's byte order."""
    used = np.ascontiguousarray(rows(image, image.width * 2))
    return used.view(">u2" if image.big_endian else "<u2").astype(np.uint16)


def _even(image: EncodedImage, *, width: bool) -> None:
    if image.width % 2 or (not width and image.height % 2):
        even = "width" if width else "width and height"
        raise ImageError(
            f"image of {image.width} by {image.height} '{image.encoding}': expected an even {even}, as neighbours share a colour."
        )


def _convert(image: EncodedImage, pixels: NDArray[np.uint8], conversion: int | None) -> NDArray[np.uint8]:
    if conversion is None:
        return pixels.copy()
    if image.encoding.startswith("bayer"):
        _even(image, width=False)
    try:
        return np.ascontiguousarray(cv2.cvtColor(pixels, conversion), dtype=np.uint8)
    except cv2.error as error:
        what = f"image of {image.width} by {image.height} '{image.encoding}'"
        raise ImageError(f"{what} cannot be converted: {error.err}.") from error


def _decompress(image: EncodedImage) -> NDArray[np.uint8]:
    """JPEG or PNG, by its own bytes and not by what the message calls it."""
    data = np.frombuffer(image.data, dtype=np.uint8)
    size = _size(bytes(data[:1 << 16]))
    if size is not None and size[0] * size[1] > PIXELS:
        raise ImageError(f"compressed image claims {size[0]} by {size[1]} pixels, expected at most {PIXELS} in all.")
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        begin = bytes(data[:4])
        raise ImageError(f"compressed image of {data.size} bytes beginning with {begin!r} cannot be decoded as JPEG or PNG.")
    return np.ascontiguousarray(pixels[..., ::-1], dtype=np.uint8)


def _size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the header of a PNG or JPEG claims; None where it is not found."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame's header
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
