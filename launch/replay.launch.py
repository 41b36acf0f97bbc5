"""A recording played to the policy's nodes, in lockstep: ``ros2 launch flow_policy_ros replay.launch.py robot:=… bag:=…``.

Recorded commands move nothing: the robot of the recording does not obey. ``--show-args`` lists the arguments.
"""

from launch import LaunchDescription

from flow_policy_ros.ros.bringup import replay_bringup
from flow_policy_ros.ros.bringup_options import ReplayOptions
from flow_policy_ros.ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return launch_description(ReplayOptions, replay_bringup)
