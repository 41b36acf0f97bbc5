"""From an image to what a policy observes: ``Features`` of fixed shape. The detector itself is ``vision.detector``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.detector import Detections, Detector, check_image
from flow_policy_ros.vision.preprocessing import check_proportions

CHANNELS = ("centre_x", "centre_y", "width", "height", "score")


class FeatureExtractor(Protocol):
    """Turns one image into ``Features`` of stream ``stream`` with values (tokens, channels) float32."""

    stream: str
    tokens: int
    channels: int

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """Features of an RGB image (H, W, 3) uint8, carrying the image's ``stamp`` (ns)."""
        ...

    def identity(self) -> dict[str, Any]:
        """What made the features, in plain JSON types; equal identities mean interchangeable features."""
        ...


class DetectionFeatures:
    """The best detection of each class: token i is class i, channels are ``CHANNELS``.

    Centre and size are divided by the image's width and height, so all values lie in [0, 1]; a class that was not found
    is all zeros. ``last`` holds the detections of the newest image, for drawing. Images have to have the proportions of
    ``size`` (height, width) where it is given: boxes in others would mean other things.
    """

    stream = "detections"
    channels = len(CHANNELS)

    def __init__(self, detector: Detector, size: tuple[int, int] | None = None) -> None:
        self.detector = detector
        self.size = size
        self.tokens = len(detector.classes)
        self.last: Detections | None = None

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``DetectorError`` for an image of another type or shape, ``ExtractorError`` for one of
        other proportions."""
        check_image(image)
        check_proportions(image, self.size)
        self.last = self.detector.detect(image)
        return Features(stamp, self.stream, best_per_class(self.last, self.tokens, image.shape[1], image.shape[0]))

    def identity(self) -> dict[str, Any]:
        """The detector's identity and the meaning of the channels."""
        return {"extractor": "detections", "channels": list(CHANNELS), **self.detector.identity()}


def best_per_class(found: Detections, tokens: int, width: int, height: int) -> NDArray[np.float32]:
    """Values (tokens, 5) as ``DetectionFeatures`` describes, from detections in an image of this size in pixels."""
    values = np.zeros((tokens, len(CHANNELS)), dtype=np.float32)
    size = np.array([width, height], dtype=np.float32)
    for i in range(len(found.scores) - 1, -1, -1):  # best first in ``found``, so the best is written last
        box = found.boxes[i]
        values[found.classes[i]] = [*((box[:2] + box[2:]) / 2 / size), *((box[2:] - box[:2]) / size), found.scores[i]]
    return values
