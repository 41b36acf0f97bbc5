"""Every encoding of pictures against what the camera saw, with padded rows and both byte orders; and what is refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.vision.decode import ENCODINGS, ImageError, decode, decode_depth

H, W = 24, 32


@pytest.fixture
def smooth() -> np.ndarray:
    """An RGB picture whose neighbours are alike, so that subsampled colours come back; its channels differ."""
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([60 + 2 * x, 60 + 3 * y, 200 - 2 * x], axis=-1).astype(np.uint8)


def packed(rows: np.ndarray, encoding: str, padding: int = 0, big: bool = False, width: int = W) -> EncodedImage:
    """The picture's rows (H, bytes), each followed by ``padding`` bytes."""
    full = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], axis=1)
    return EncodedImage(encoding, len(rows), width, full.shape[1], full.tobytes(), big)


def bayer(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor with filters ``rggb`` (row by row) measures of ``rgb``."""
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for k, letter in enumerate(pattern):
        mosaic[k // 2 :: 2, k % 2 :: 2] = rgb[k // 2 :: 2, k % 2 :: 2, "rgb".index(letter)]
    return mosaic


def yuv(rgb: np.ndarray, order: str) -> np.ndarray:
    """BT.601 in video range, colours of pairs shared; ``order`` as ``uyvy``."""
    r, g, b = (rgb[..., c].astype(float) for c in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    pairs = {"y": y, "u": (u[:, ::2] + u[:, 1::2]) / 2, "v": (v[:, ::2] + v[:, 1::2]) / 2}
    bytes_ = np.empty((H, W, 2))
    brightness, colour = (1, 0) if order == "uyvy" else (0, 1)
    bytes_[..., brightness] = pairs["y"]
    bytes_[:, ::2, colour], bytes_[:, 1::2, colour] = pairs["u"], pairs["v"]
    return np.round(bytes_).astype(np.uint8).reshape(H, -1)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "order"), [("rgb8", "rgb"), ("bgr8", "bgr"), ("8UC3", "bgr"), ("rgba8", "rgba"), ("bgra8", "bgra")]
)
def test_colours(smooth: np.ndarray, encoding: str, order: str, padding: int) -> None:
    planes = dict(zip("rgba", [*np.moveaxis(smooth, -1, 0), np.full((H, W), 7, np.uint8)], strict=True))
    rows = np.stack([planes[letter] for letter in order], axis=-1).reshape(H, -1)
    picture = decode(packed(rows, encoding, padding))
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.flags.writeable
    assert np.array_equal(picture, smooth)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(smooth: np.ndarray, encoding: str) -> None:
    picture = decode(packed(smooth[..., 0], encoding, 3))
    assert all(np.array_equal(picture[..., c], smooth[..., 0]) for c in range(3))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits(encoding: str, big: bool) -> None:
    values = np.arange(H * W, dtype=np.uint16).reshape(H, W) * 80
    rows = values.astype(">u2" if big else "<u2").view(np.uint8).reshape(H, -1)
    assert np.array_equal(decode(packed(rows, encoding, 2, big))[..., 1], values >> 8)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer(smooth: np.ndarray, pattern: str, bits: int) -> None:
    mosaic = bayer(smooth, pattern)
    rows = mosaic if bits == 8 else (mosaic.astype("<u2") << 8).view(np.uint8).reshape(H, -1)
    picture = decode(packed(rows, f"bayer_{pattern}{bits}", 4))
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(picture[inner].astype(int) - smooth[inner]).max() <= 4
    wrong = decode(packed(mosaic, f"bayer_{'bggr' if pattern == 'rggb' else 'rggb'}8"))
    assert np.abs(wrong[inner].astype(int) - smooth[inner]).max() > 30  # the test tells patterns apart


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv(smooth: np.ndarray, encoding: str, order: str) -> None:
    assert np.abs(decode(packed(yuv(smooth, order), encoding, 6)).astype(int) - smooth).max() <= 6
    other = "yuyv" if order == "uyvy" else "uyvy"
    assert np.abs(decode(packed(yuv(smooth, other), encoding)).astype(int) - smooth).max() > 30


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed(smooth: np.ndarray, suffix: str) -> None:
    data = cv2.imencode(suffix, smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    picture = decode(EncodedImage("compressed", 0, 0, 0, data))
    assert picture.shape == (H, W, 3) and np.abs(picture.astype(int) - smooth).max() <= (0 if suffix == ".png" else 8)


@pytest.mark.parametrize("big", [False, True])
def test_depth(big: bool) -> None:
    millimetres = np.arange(H * W, dtype=np.uint16).reshape(H, W)
    rows = millimetres.astype(">u2" if big else "<u2").view(np.uint8).reshape(H, -1)
    metres = decode_depth(packed(rows, "16UC1", 2, big))
    assert metres.dtype == np.float32 and np.isnan(metres[0, 0])  # zero: not known
    assert np.allclose(metres.ravel()[1:], millimetres.ravel()[1:] / 1000)
    values = millimetres.astype(np.float32) / 7
    values[0, 1] = np.nan
    rows = values.astype(">f4" if big else "<f4").view(np.uint8).reshape(H, -1)
    image = packed(rows, "32FC1", 8, big)
    assert np.array_equal(decode_depth(image), values, equal_nan=True)
    assert decode(image)[0, 1].tolist() == [0, 0, 0] and decode(image)[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("encoding", ["", "rgb16", "jpeg", "nv12", "16SC1", "64FC1"])
def test_unknown_encodings(encoding: str) -> None:
    with pytest.raises(ImageError, match=f"encoding '{encoding}', expected one of rgb8"):
        decode(EncodedImage(encoding, 2, 2, 6, bytes(12)))
    with pytest.raises(ImageError, match="expected one of 16UC1"):
        decode_depth(EncodedImage(encoding, 2, 2, 6, bytes(12)))


@pytest.mark.parametrize("encoding", [encoding for encoding in ENCODINGS if encoding != "compressed"])
def test_sizes_that_do_not_fit(encoding: str) -> None:
    huge = 1 << 31
    for height, width, step, size in ((4, 4, 3, 12), (4, 4, 64, 100), (0, 4, 64, 0), (4, 0, 64, 256), (huge, huge, huge, 10)):
        with pytest.raises(ImageError, match=f"'{encoding}' has step"):
            decode(EncodedImage(encoding, height, width, step, bytes(size)))


def test_odd_sizes_where_neighbours_share_colours() -> None:
    with pytest.raises(ImageError, match="even width"):
        decode(EncodedImage("yuv422", 2, 3, 6, bytes(12)))
    with pytest.raises(ImageError, match="even width and height"):
        decode(EncodedImage("bayer_rggb8", 3, 4, 4, bytes(12)))


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_broken_compressed_pictures(data: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(EncodedImage("compressed", 0, 0, 0, data))


def test_compressed_pictures_of_a_size_that_is_claimed(smooth: np.ndarray) -> None:
    png = bytearray(cv2.imencode(".png", smooth)[1].tobytes())
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    jpeg = bytearray(cv2.imencode(".jpg", smooth)[1].tobytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = (60_000).to_bytes(2, "big") * 2
    for data in (png, jpeg):
        with pytest.raises(ImageError, match="claims 60000 by 60000 pixels"):
            decode(EncodedImage("compressed", 0, 0, 0, bytes(data)))
