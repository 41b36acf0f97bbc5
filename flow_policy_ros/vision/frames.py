"""A camera's image as a feature stream: bytes of a fixed size, for policies that run a vision-language model themselves."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.preprocessing import check_rgb
from flow_policy_ros.vision.pretrained import ExtractorError

MOST_PIXELS = 1 << 22


class FrameFeatures:
    """Values (height, 3 * width) uint8: the RGB image (H, W, 3) of ``camera``, resized to ``size`` (height, width).

    ``numpy.reshape(values, (height, width, 3))`` is the picture again. ``seen`` is the size (height, width) of the camera's images
    as the robot file gives it: others, which would be stretched or show another part of the scene, are refused. Raises
    ``ExtractorError`` for a size that is none.
    """

    def __init__(
        self, size: tuple[int, int], camera: str, stream: str = "frames", seen: tuple[int, int] | None = None
    ) -> None:
        if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
            raise ExtractorError(f"size of frames is {size}, expected height and width of 1 to {MOST_PIXELS} pixels in all.")
        self.stream = stream
        self.size = (int(size[0]), int(size[1]))
        self.tokens, self.channels = self.size[0], 3 * self.size[1]
        self._camera, self._seen = camera, seen

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``ExtractorError`` for what is no RGB image of bytes, or has not the camera's size."""
        check_rgb(image)
        if self._seen is not None and image.shape[:2] != self._seen:
            raise ExtractorError(
                f"image of {image.shape[1]} by {image.shape[0]} pixels, expected {self._seen[1]} by {self._seen[0]} of camera "
                f"'{self._camera}'; correct its entry in the robot file, or the camera's driver."
            )
        height, width = self.size
        small = image if image.shape[:2] == self.size else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        values: Any = np.ascontiguousarray(small, dtype=np.uint8).reshape(height, 3 * width).copy()
        return Features(stamp, self.stream, values)

    def identity(self) -> dict[str, Any]:
        """The camera and the size."""
        return {"extractor": "frames", "camera": self._camera, "size": list(self.size)}
