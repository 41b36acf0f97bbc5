"""Quality of service of every topic, in one place.

Live, readers of sensor data ask for best effort, which matches any publisher, and a late sample is worth nothing; who needs a
camera's pictures asks for more where it is offered (``image_reader``). In lockstep nothing may be lost, so readers ask for reliable
delivery and room for more than a tick's worth.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


RELIABLE = _profile(10, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Publishers of joint states, features, chunks, commands; their readers, where nothing may be lost."""

RECORD = _profile(100, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Publishers of what nobody may miss any of, such as the set-points really sent: a reader may be a second behind."""

IMAGE = _profile(2, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Publishers of images: large, so few are kept."""

LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
"""What a late reader must still learn: information on a feature stream, the state of the simulation."""

IMAGE_ALL = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
"""Readers of images whose publishers are all reliable: what is lost on the way is sent again, what is older than the newest is not
wanted."""

_NEWEST = _profile(1, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
_SENSOR = _profile(10, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
_ALL = _profile(100, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)


def reader(lockstep: bool) -> QoSProfile:
    """For readers of joint states and features."""
    return _ALL if lockstep else _SENSOR


def image_reader(lockstep: bool) -> QoSProfile:
    """For readers of images that know nothing of the publishers."""
    return _ALL if lockstep else _NEWEST
