"""What travels between recordings and datasets: frames at a fixed rate, and what is known of the episode they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import EncodedImage

JOINT_STATE = "joint_state"
"""The key of ``Frame.ages`` that no camera and no stream may have."""

NOTE = "note: "
"""What a sentence on a recording begins with that tells of no loss."""


class DatasetError(ValueError):
    """A dataset, or a recording for one, that cannot be used; the message names the file, what was expected, and the remedy."""


@dataclass(frozen=True)
class Frame:
    """What a robot knew and was told at ``stamp`` (ns), in the episode number ``episode`` of its source.

    ``state`` (J,) and ``action`` (J,), rad or m; ``images[camera]``, ``features[stream]`` (tokens, channels). ``ages``: seconds
    from the header stamp of each input (``joint_state``, cameras, streams) to ``stamp``. An input that has not changed since
    the frame before is the same object.
    """

    episode: int
    stamp: int
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    images: dict[str, EncodedImage] = field(default_factory=dict)
    features: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    ages: dict[str, float] = field(default_factory=dict)

    def taken(self, name: str) -> int:
        """Header stamp (ns) of the input ``name``."""
        return self.stamp - round(self.ages.get(name, 0.0) * 1e9)


@dataclass(frozen=True)
class Notes:
    """What is known of an episode besides its frames. ``success`` and ``seed`` are None where nobody noted them."""

    source: str
    task: str
    success: bool | None = None
    seed: int | None = None


def instant(start: int, number: int, fps: int) -> int:
    """When frame ``number`` is, ns: no rounding adds up, however long the episode."""
    return start + (number * 1_000_000_000 + fps // 2) // fps
