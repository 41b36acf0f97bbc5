"""The rows of a picture as its sender laid them out in memory. What the bytes mean as colours is ``vision.decode``'s."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import EncodedImage


class ImageError(ValueError):
    """A picture that cannot be used; the text says what was given and what was expected."""


def rows(image: EncodedImage, used: int, what: str = "image") -> NDArray[np.uint8]:
    """The ``used`` bytes of each row (H, used), without the padding that ``step`` allows; a view, not to be written to.

    ``what`` opens the error. Raises ``ImageError`` when sizes, step and number of bytes do not fit together.
    """
    fits = image.height > 0 and image.width > 0 and image.step >= used
    if not fits or len(image.data) != image.height * image.step:
        raise ImageError(
            f"{what} of {image.width} by {image.height} '{image.encoding}' has step {image.step} and "
            f"{len(image.data)} bytes; expected a step of at least {used} and height · step bytes."
        )
    return np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.step)[:, :used]


def floats(image: EncodedImage, what: str = "image") -> NDArray[np.float32]:
    """The numbers of a ``32FC1`` picture (H, W), a copy, in the machine's byte order. Raises ``ImageError``."""
    if image.encoding != "32FC1":
        raise ImageError(f"{what} is encoded as '{image.encoding}', expected 32FC1.")
    values = np.ascontiguousarray(rows(image, 4 * image.width, what)).view(">f4" if image.big_endian else "<f4")
    return values.astype(np.float32)
