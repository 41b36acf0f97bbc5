"""What the policy node hears: messages in, joint states, features, images, set-points and plans out; what is refused, and why.

What becomes of them is for the loop, live behind ``policy_worker``, in lockstep behind ``policy_lockstep``. Instructions are
``instruction_topic``'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.policy_sight import View
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.image_reader import ImageReader
from flow_policy_ros.ros.images import encoded_from_message, features_from_message
from flow_policy_ros.ros.messages import (
    MessageError,
    from_time,
    joint_state_from_message,
    plan_from_message,
    setpoint_from_executed,
)
from flow_policy_ros.runtime.contract import FRAMES, SAID, Contract
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import EncodedImage, Features, JointState, Plan, Setpoint


class Receiver(Protocol):
    """Where inputs go (``PolicyWorker``, ``PolicyLockstep``); each may raise ``BadInput``, which it has counted."""

    def on_joint_state(self, joint_state: JointState) -> None: ...

    def on_features(self, features: Features) -> None: ...

    def on_setpoint(self, setpoint: Setpoint) -> None: ...

    def on_plan(self, plan: Plan) -> None: ...


class Refusals:
    """Inputs that were refused: counted by kind, and each kind said once."""

    def __init__(self, logger: Any) -> None:
        self.counts: dict[str, int] = {}
        self._logger = logger
        self._said: set[str] = set()

    def refuse(self, kind: str, error: Exception) -> None:
        """Count it, and say it if it is the first of its kind."""
        self.say(kind, error)
        self.count(kind)

    def count(self, kind: str) -> None:
        """Count one that needs no words."""
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def say(self, kind: str, error: Exception) -> None:
        """Say one that somebody else has counted."""
        if kind not in self._said:
            self._said.add(kind)
            self._logger.warning(f"refused: {error}")


class PolicyInputs:
    """Subscribes to what ``contract`` observes and to what the command node does; gives it to ``receiver``.

    Images of ``views`` go to ``look(stream, image, stamp)``. ``told`` is what feature streams say of themselves; ``foreign`` says
    of those that are not the training's why, and they are refused.
    """

    def __init__(
        self,
        node: Node,
        robot: Robot,
        contract: Contract,
        receiver: Receiver,
        views: Mapping[str, View],
        look: Callable[[str, EncodedImage, int], None],
        refusals: Refusals,
        lockstep: bool,
    ) -> None:
        self.foreign: dict[str, str] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self._logger = node.get_logger()
        self._naming = robot.naming
        self._receiver = receiver
        self._look = look
        self._refusals = refusals
        reader = qos.reader(lockstep)
        node.create_subscription(JointStateMsg, robot.joint_state_topic, self._on_joint_state, reader)
        for stream in contract.streams:
            if stream.kind in (*SAID, FRAMES):
                continue
            node.create_subscription(Image, f"features/{stream.name}", partial(self._on_features, stream.name), reader)
            on_info = partial(self._on_feature_info, stream.name, stream.extractor)
            node.create_subscription(String, f"features/{stream.name}/info", on_info, qos.LATCHED)
        self._cameras = [
            ImageReader(node, view.camera.topic, partial(self._on_image, name), lockstep) for name, view in views.items()
        ]
        node.create_subscription(JointStateMsg, "command/executed", self._on_executed, qos.RECORD)
        node.create_subscription(JointTrajectory, "command/plan", self._on_plan, qos.RELIABLE)

    def attend(self) -> None:
        """Listen to cameras as suits their publishers; once a second, from the thread that spins the node."""
        for camera in self._cameras:
            camera.attend()

    def _on_joint_state(self, message: JointStateMsg) -> None:
        try:
            state = self._naming.named(joint_state_from_message(message))
        except (MessageError, BadInput) as error:
            self._refusals.refuse("joint_state_malformed" if isinstance(error, MessageError) else error.kind, error)
            return
        self._give(partial(self._receiver.on_joint_state, state))

    def _on_features(self, stream: str, message: Image) -> None:
        if stream in self.foreign:
            self._refusals.count("features_foreign")
            return
        try:
            features = features_from_message(message)
            if features.stream != stream:
                raise MessageError(f"features on topic features/{stream} have frame_id '{features.stream}'.")
        except MessageError as error:
            self._refusals.refuse("features_malformed", error)
            return
        self._give(partial(self._receiver.on_features, features))

    def _on_image(self, stream: str, message: Image | CompressedImage) -> None:
        self._give(partial(self._look, stream, encoded_from_message(message), from_time(message.header.stamp)))

    def _on_executed(self, message: JointStateMsg) -> None:
        try:
            setpoint = setpoint_from_executed(message)
        except MessageError as error:
            self._refusals.refuse("executed_malformed", error)
            return
        self._give(partial(self._receiver.on_setpoint, setpoint))

    def _on_plan(self, message: JointTrajectory) -> None:
        try:
            plan = plan_from_message(message)
        except MessageError as error:
            self._refusals.refuse("plan_malformed", error)
            return
        self._give(partial(self._receiver.on_plan, plan))

    def _give(self, put: Callable[[], None]) -> None:
        try:
            put()
        except BadInput as error:
            self._refusals.say(error.kind, error)  # counted by the loop

    def _on_feature_info(self, stream: str, trained_with: dict[str, Any], message: String) -> None:
        """Features of another extractor than the training's are worse than none."""
        self.foreign.pop(stream, None)
        try:
            given = json.loads(message.data)
            different = [key for key in trained_with if trained_with[key] != given.get(key)]
        except (ValueError, AttributeError) as error:
            self._refusals.refuse("features_info_malformed", error)
            return
        self.told[stream] = given
        if different:
            self.foreign[stream] = (
                f"features '{stream}' come from another extractor than the checkpoint was trained with; "
                f"different: {', '.join(different)}. Start the perception node with the extractor of this checkpoint."
            )
            self._logger.error(self.foreign[stream])
