"""A stand-in for the policy process, to be killed by tests: chunks on ``policy/chunk`` that move one joint to and fro.

Arguments: robot file, joint, greatest velocity in rad/s.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState as JointStateMsg
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.messages import chunk_to_message, joint_state_from_message
from flow_policy_ros.runtime.joint_order import JointOrder
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Chunk

AMPLITUDE = 0.5
DT_NS, HORIZON, PERIOD_NS = 10_000_000, 16, 80_000_000


def main(robot_file: str, joint: str, velocity: float) -> None:
    """Publish a sine about the first position seen, a chunk per 80 ms of joint states."""
    joints = load_robot(robot_file).joints
    order = JointOrder(joints)
    rclpy.init()
    node = Node("chunk_publisher")
    publisher = node.create_publisher(JointTrajectory, "policy/chunk", qos.RELIABLE)
    first: list[tuple[int, np.ndarray]] = []
    last = [0]

    def on_joint_state(message: JointStateMsg) -> None:
        state = joint_state_from_message(message)
        if not np.isfinite(state.position).all() or state.stamp - last[0] < PERIOD_NS:
            return
        if not first:
            first.append((state.stamp, order.positions_of(state)))
        last[0] = state.stamp
        seconds = (state.stamp - first[0][0] + DT_NS * np.arange(HORIZON)) / 1e9
        positions = np.tile(first[0][1], (HORIZON, 1))
        positions[:, joints.index(joint)] += AMPLITUDE * np.sin(velocity / AMPLITUDE * seconds)
        publisher.publish(chunk_to_message(Chunk(state.stamp, DT_NS, joints, positions)))

    node.create_subscription(JointStateMsg, "joint_states", on_joint_state, qos.reader(lockstep=False))
    with suppress(ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
