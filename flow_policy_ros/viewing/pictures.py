"""Pictures to show, by number, as JPEG: made when somebody asks, in bounded memory. What is seen in them is ``detections``'."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import EncodedImage
from flow_policy_ros.vision.decode import ImageError, decode

SIDE = 720
"""Longest side of a picture that is shown, pixels."""
QUALITY = 80
RAW_BYTES = 48 << 20
"""Pictures as they came, which somebody may ask for yet."""
RAW = 12
JPEG_BYTES = 24 << 20
"""Pictures that somebody asked for, to be looked at again."""


class Shelf(Protocol):
    """Keeps pictures; ``get`` may be called from any thread."""

    def put(self, topic: str, received: int, image: EncodedImage) -> int:
        """Take a picture of ``topic`` that was received at ``received`` (ns); the number under which it is found."""
        ...

    def get(self, number: int) -> bytes | None:
        """Its JPEG; None for a picture that is no longer kept or cannot be read."""
        ...


class Kept:
    """JPEGs in bounded memory, the one that was asked for longest ago goes first; for any thread."""

    def __init__(self, limit: int = JPEG_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._jpegs: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> bytes | None:
        with self._lock:
            if number in self._jpegs:
                self._jpegs.move_to_end(number)
            return self._jpegs.get(number)

    def put(self, number: int, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._jpegs.pop(number, b""))
            self._jpegs[number] = data
            while self._size > self._limit:
                self._size -= len(self._jpegs.popitem(last=False)[1])


class LiveShelf:
    """Of a robot that is at work: the last few pictures as they came, and those that were looked at."""

    def __init__(self) -> None:
        self._number = 0
        self._size = 0
        self._raw: OrderedDict[int, EncodedImage] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = Kept()

    def put(self, topic: str, received: int, image: EncodedImage) -> int:
        """As in ``Shelf``; the message's memory is kept with it."""
        with self._lock:
            self._number += 1
            self._raw[self._number] = image
            self._size += len(image.data)
            while len(self._raw) > RAW or (self._size > RAW_BYTES and len(self._raw) > 1):
                self._size -= len(self._raw.popitem(last=False)[1].data)
            return self._number

    def get(self, number: int) -> bytes | None:
        """As in ``Shelf``."""
        found = self._kept.get(number)
        if found is None:
            with self._lock:
                image = self._raw.get(number)
            found = None if image is None else jpeg_of(image)
            if found is not None:
                self._kept.put(number, found)
        return found


class FoundShelf:
    """Of a recording: only where each picture lies is kept; ``read`` (topic, received) reads one, from one thread at a time."""

    def __init__(self, read: Callable[[str, int], EncodedImage | None]) -> None:
        self._read = read
        self._places: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._kept = Kept()

    def put(self, topic: str, received: int, image: EncodedImage) -> int:
        """As in ``Shelf``."""
        self._places.append((topic, received))
        return len(self._places) - 1

    def get(self, number: int) -> bytes | None:
        """As in ``Shelf``."""
        found = self._kept.get(number)
        if found is None and 0 <= number < len(self._places):
            with self._lock:
                image = self._read(*self._places[number])
            found = None if image is None else jpeg_of(image)
            if found is not None:
                self._kept.put(number, found)
        return found


def jpeg_of(image: EncodedImage) -> bytes | None:
    """A picture that a browser shows, made anew whatever it was: a camera's bytes go to no browser as they are. None for one that
    cannot be read."""
    try:
        pixels = decode(image)
    except ImageError:
        return None
    return encode(pixels)


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG of an RGB picture (H, W, 3), made smaller if it is large."""
    high, wide = pixels.shape[:2]
    scale = SIDE / max(high, wide)
    if scale < 1.0:
        size = (max(1, round(wide * scale)), max(1, round(high * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ImageError("the picture cannot be encoded as JPEG.")
    return bytes(data.tobytes())
