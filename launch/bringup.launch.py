"""Two robots in name spaces: ``ros2 launch flow_policy_ros bringup.launch.py left_robot:=… right_robot:=…``.

Each has perception, policy and command node of its own; when a command node dies, both robots are stopped.
``--show-args`` lists the arguments.
"""

from launch import LaunchDescription

from flow_policy_ros.ros.bringup import two_robots
from flow_policy_ros.ros.bringup_options import TwoOptions
from flow_policy_ros.ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return launch_description(TwoOptions, two_robots)
