"""The simulated robot and the policy's nodes: ``ros2 launch flow_policy_ros sim.launch.py robot:=adroit_door start:=true``.

Without ``start:=true`` an episode begins with ``ros2 service call /sim/reset std_srvs/srv/Trigger``. With ``policy:=false``
only the robot is started. ``--show-args`` lists the arguments.
"""

from launch import LaunchDescription

from flow_policy_ros.ros.bringup import sim_bringup
from flow_policy_ros.ros.bringup_options import SimOptions
from flow_policy_ros.ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return launch_description(SimOptions, sim_bringup)
