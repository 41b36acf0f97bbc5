"""Trajectories as goals of ``control_msgs/action/FollowJointTrajectory``. Only ROS installations have ``control_msgs``."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.action import ActionClient
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.runtime.parameters import ParameterError


def goal_sender(node: Node, name: str) -> tuple[Callable[[JointTrajectory], None], str]:
    """What sends a trajectory as a goal to the action ``name``, and that action's name. A goal preempts the one before it.

    Tolerances are left to the controller. Raises ``ParameterError`` without ``control_msgs``.
    """
    try:
        from control_msgs.action import FollowJointTrajectory
    except ImportError as error:
        raise ParameterError(
            "command_interface follow_joint_trajectory needs the ROS package control_msgs, which is not installed. Install "
            "ros-<distribution>-control-msgs, or use joint_trajectory_chunk: the same trajectories to the same controller, as "
            "messages on a topic."
        ) from error
    client = ActionClient(node, FollowJointTrajectory, name)

    def send(trajectory: JointTrajectory) -> None:
        def answered(future: object) -> None:
            if not future.result().accepted:  # type: ignore[attr-defined]
                node.get_logger().error(f"the controller refused a goal on {name}; see its log.")

        client.send_goal_async(FollowJointTrajectory.Goal(trajectory=trajectory)).add_done_callback(answered)

    return send, name
