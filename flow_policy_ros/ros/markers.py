"""Ways of links through space as markers for RViz and Foxglove. Which ways there are is not known here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from flow_policy_ros.ros.messages import to_duration, to_time
from flow_policy_ros.runtime.types import FloatArray

Colour = tuple[float, float, float]
BLUE: Colour = (0.0, 0.45, 0.70)
ORANGE: Colour = (0.90, 0.62, 0.0)
GREEN: Colour = (0.0, 0.62, 0.45)
"""Told apart by the colour-blind too (Okabe and Ito 2008)."""
FADED = 0.2
"""Opacity at the end of a way: the farther ahead, the less is certain."""
BALL = 4.0
"""Diameter of a ball, in widths of a line."""


@dataclass(frozen=True)
class Look:
    """Of markers that belong together: ``stamp`` in ns, ``frame``, ``width_m`` of lines, ``lifetime_s`` (0 for ever)."""

    stamp: int
    frame: str
    width_m: float
    lifetime_s: float


def way(name: str, points: FloatArray, colour: Colour, look: Look) -> Marker:
    """A line through ``points`` (N ≥ 2, 3) in m that fades to its end. ``name`` is its namespace: a later one replaces it."""
    marker = _marker(name, Marker.LINE_STRIP, look)
    marker.scale.x = look.width_m
    marker.points = _points(points)
    red, green, blue = colour
    marker.colors = [ColorRGBA(r=red, g=green, b=blue, a=float(a)) for a in np.linspace(1.0, FADED, len(points))]
    return marker


def balls(name: str, points: FloatArray, colour: Colour, look: Look) -> Marker:
    """A ball at each of ``points`` (N, 3) in m."""
    marker = _marker(name, Marker.SPHERE_LIST, look)
    marker.scale.x = marker.scale.y = marker.scale.z = BALL * look.width_m
    marker.points = _points(points)
    red, green, blue = colour
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    return marker


def _marker(name: str, kind: int, look: Look) -> Marker:
    marker = Marker(ns=name, id=0, type=kind, action=Marker.ADD)
    marker.header.stamp = to_time(look.stamp)
    marker.header.frame_id = look.frame
    marker.pose.orientation.w = 1.0
    marker.lifetime = to_duration(round(look.lifetime_s * 1e9)) if look.lifetime_s else Duration()
    return marker


def _points(points: FloatArray) -> list[Point]:
    return [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in points]
