"""The recorder, beside whatever is running: ``ros2 launch flow_policy_ros record.launch.py robot:=… out:=recordings``.

An episode begins with ``ros2 service call /record/start std_srvs/srv/Trigger``. ``--show-args`` lists the arguments.
"""

from launch import LaunchDescription

from flow_policy_ros.ros.bringup import record_bringup
from flow_policy_ros.ros.bringup_options import RecordOptions
from flow_policy_ros.ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return launch_description(RecordOptions, record_bringup)
