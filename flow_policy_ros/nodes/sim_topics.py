"""What the simulated robot puts on its topics: the publishers and the messages of one instant. No simulation here."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header, String

from flow_policy_ros.nodes.instruction_topic import INSTRUCTION_TOPIC
from flow_policy_ros.nodes.lockstep import TickWord
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import camera_info_to_message, features_to_message, image_to_message
from flow_policy_ros.ros.messages import joint_state_to_message, to_time
from flow_policy_ros.runtime.types import Features, FloatArray, JointState
from flow_policy_ros.sim.robot import AdroitRobot


class SimTopics:
    """Publishers of joint states, object state, camera, instruction, and in lockstep clock and tick."""

    def __init__(self, node: Node, sim: AdroitRobot) -> None:
        self._joint_states = node.create_publisher(JointStateMsg, sim.robot.joint_state_topic, qos.RELIABLE)
        self._objects = node.create_publisher(Image, "features/objects", qos.RELIABLE)
        self._objects_info = node.create_publisher(String, "features/objects/info", qos.LATCHED)
        self._objects_info.publish(String(data=json.dumps({"extractor": "objects", "task": sim.task.name})))
        self._clock = node.create_publisher(Clock, "/clock", qos.RELIABLE)
        self._tick = node.create_publisher(Header, "lockstep/tick", qos.RELIABLE)
        self._instruction = node.create_publisher(String, INSTRUCTION_TOPIC, qos.LATCHED)
        self._camera = sim.camera
        if sim.camera is not None:
            self._matrix: FloatArray = sim.camera_matrix()
            info_topic = "/".join([*sim.camera.topic.split("/")[:-1], "camera_info"])
            self._images = node.create_publisher(Image, sim.camera.topic, qos.IMAGE)
            self._camera_info = node.create_publisher(CameraInfo, info_topic, qos.IMAGE)

    def image_wanted(self) -> bool:
        """Whether anyone looks; rendering is what costs most."""
        return self._camera is not None and bool(self._images.get_subscription_count())

    def state(self, joint_state: JointState, objects: Features) -> None:
        """Publish joint state and object state."""
        self._joint_states.publish(joint_state_to_message(joint_state))
        self._objects.publish(features_to_message(objects))

    def image(self, image: NDArray[np.uint8], stamp: int) -> None:
        """Publish an RGB image (H, W, 3) and the camera's matrix."""
        assert self._camera is not None
        height, width = image.shape[:2]
        self._camera_info.publish(camera_info_to_message(self._matrix, width, height, stamp, self._camera.name))
        self._images.publish(image_to_message(image, stamp, self._camera.name))

    def clock(self, stamp: int) -> None:
        """Publish simulated time."""
        self._clock.publish(Clock(clock=to_time(stamp)))

    def instruction(self, instruction: str) -> None:
        """Publish what this episode asks for."""
        self._instruction.publish(String(data=instruction))

    def tick(self, stamp: int, image_stamp: int, instruction: str) -> None:
        """Lockstep: announce that the simulation waits at ``stamp``; ``image_stamp`` 0 when there was no image yet, ``instruction``
        empty for a task that takes none."""
        word = TickWord(stamp, stamp, image_stamp, {"objects": stamp}, instruction)
        self._tick.publish(Header(stamp=to_time(stamp), frame_id=str(word)))
