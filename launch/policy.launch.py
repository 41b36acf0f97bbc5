"""Perception, policy and command node for one robot: ``ros2 launch flow_policy_ros policy.launch.py robot:=…``.

The robot itself (a driver, or ``sim.launch.py``) is started elsewhere. Files are checked before any node starts. What is started,
in which order, is in ``flow_policy_ros.ros.bringup``; ``--show-args`` lists the arguments.
"""

from launch import LaunchDescription

from flow_policy_ros.ros.bringup import policy_bringup
from flow_policy_ros.ros.bringup_options import PolicyOptions
from flow_policy_ros.ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return launch_description(PolicyOptions, policy_bringup)
