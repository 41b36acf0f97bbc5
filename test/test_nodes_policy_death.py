"""The policy process is killed in mid-motion: the command stream decelerates within the limits and holds; nothing else dies.

A simulated Adroit hand in real time, the command node, and a stand-in for the policy, each a process of its own.
"""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from ros_support import UNHURRIED, Ears, Launcher, ears_fixture, launcher_fixture, motion, values  # noqa: F401

pytest.importorskip("rclpy")
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from sensor_msgs.msg import JointState as JointStateMsg

from flow_policy_ros.runtime.robot import load_robot

JOINT, SPEED = "ARRx", 0.8


def test_death_of_the_policy_process(launcher: Launcher, ears: Ears, root: Path) -> None:
    robot_file = root / "config/robots/adroit_door.yaml"
    limits = load_robot(robot_file).limits
    column = limits.names.index(JOINT)
    executed = ears.listen(JointStateMsg, "command/executed", QoSProfile(depth=1000))
    measured = ears.listen(JointStateMsg, "joint_states")
    images, camera_info = ears.listen(Image, "camera/image_raw"), ears.listen(CameraInfo, "camera/camera_info")
    diagnostics = ears.diagnostics()
    sim = launcher.node("sim_node", robot_file, sim__task="door", sim__realtime=True)
    command = launcher.node("command_node", robot_file, **UNHURRIED)
    policy = launcher.chunks(robot_file, JOINT, velocity=SPEED)

    executed.wait_for(lambda m: m.velocity[column] > 0.75 * SPEED, what="the stand-in did not move the joint")
    policy.send(signal.SIGKILL)
    policy.wait()

    holding = diagnostics.wait_for(lambda s: values(s).get("state") == "holding", after=len(diagnostics.messages))
    assert values(holding)["faults"] == ""
    executed.wait_count(len(executed.messages) + 50)
    positions = motion(executed.messages)
    velocity = np.diff(positions, axis=0) / 0.01
    assert np.isfinite(positions).all()
    assert (positions >= limits.lower).all() and (positions <= limits.upper).all()
    assert (np.abs(velocity) <= limits.velocity * (1 + 1e-6)).all()
    assert (np.abs(np.diff(velocity, axis=0)) / 0.01 <= limits.acceleration * (1 + 1e-6)).all()
    assert np.ptp(positions[-30:], axis=0).max() == 0.0  # holds, not at zero but where it came to rest
    assert abs(positions[-1, column] - positions[0, column]) > 0.05

    assert sim.alive() and command.alive()
    before = len(measured.messages)
    measured.wait_count(before + 20)  # the robot still says where it is
    picture = images.wait_for()
    assert (picture.width, picture.height, picture.encoding) == (256, 256, "rgb8")
    assert camera_info.wait_for().k[0] > 0
    assert set(measured.messages[-1].name) == set(limits.names)
    for node in (sim, command):
        node.send(signal.SIGTERM)
        assert node.wait() == 0
        assert "Traceback" not in node.output
