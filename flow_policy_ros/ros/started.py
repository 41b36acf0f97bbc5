"""Whether ROS starts at all, for ``flow_policy doctor``, which tries it in a process of its own."""

from __future__ import annotations

import rclpy
from rclpy.utilities import get_rmw_implementation_identifier


def started() -> str:
    """Make a node and end it; the middleware's name and, after a blank, the file of rclpy. Raises whatever goes wrong."""
    rclpy.init(args=[])
    rclpy.create_node("flow_policy_doctor").destroy_node()
    rclpy.shutdown()
    return f"{get_rmw_implementation_identifier()} {rclpy.__file__}"
