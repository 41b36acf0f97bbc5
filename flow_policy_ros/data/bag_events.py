"""What a recording says to a robot's policy: joint states, images, features and commands, in the order of receipt.

The events are the contract between recordings and whoever uses them (replay, windows, conversion). Joint names are the robot
file's already; images are not decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

from flow_policy_ros.runtime.types import EncodedImage, Features, FloatArray, JointState


@dataclass(frozen=True)
class JointStateEvent:
    """A joint state that was received at ``received`` (ns); its header stamp is ``state.stamp``."""

    received: int
    state: JointState


@dataclass(frozen=True)
class CommandEvent:
    """What the robot was told: ``position`` (A,) rad or m of the joints ``names``, for the instant ``stamp`` (ns)."""

    received: int
    stamp: int
    names: tuple[str, ...]
    position: FloatArray


@dataclass(frozen=True)
class ImageEvent:
    """A picture of the robot file's camera ``camera``, taken at ``stamp`` (ns)."""

    received: int
    stamp: int
    camera: str
    image: EncodedImage


@dataclass(frozen=True)
class FeaturesEvent:
    """Features that were recorded on a topic ``features/STREAM``."""

    received: int
    features: Features


@dataclass(frozen=True)
class BadEvent:
    """A message of a topic that matters which cannot be used; ``reason`` is a sentence with the remedy."""

    received: int
    topic: str
    reason: str


BagEvent = JointStateEvent | CommandEvent | ImageEvent | FeaturesEvent | BadEvent
