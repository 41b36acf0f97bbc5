"""A recording in the place of the robot: what was recorded goes to the live nodes, tick by tick, in lockstep.

What the nodes then do is what ``flow_policy replay`` does in one process with the same seed and delays. The robot in the
recording does not obey: joint states and images are as they were recorded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from diagnostic_msgs.msg import DiagnosticStatus
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from flow_policy_ros.data.bag_events import BagEvents, ImageEvent
from flow_policy_ros.data.bags.bag import BagError
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.evaluation.replay.ticks import TickInputs, ticks
from flow_policy_ros.nodes.instruction_topic import INSTRUCTION_TOPIC
from flow_policy_ros.nodes.lockstep import BETWEEN, ROBOT_SHARE, Patience, TickWord
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import OK, WARN, Diagnostics, counts, status
from flow_policy_ros.ros.images import encoded_to_message, features_to_message, image_to_message
from flow_policy_ros.ros.messages import from_time, joint_state_to_message, to_time
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.parameters import (
    CommandParameters,
    LockstepParameters,
    ParameterError,
    PlayerParameters,
)
from flow_policy_ros.vision.decode import ImageError, decode

RESEND_S = 0.5
"""A tick that nobody answers is announced again, in case that a node was still being discovered."""


class PlayerNode(ClosableNode):
    """Service ``player/start`` plays the recording from its beginning; ``player/status`` says how far it is.

    Publishes joint states, images of the robot file's cameras, recorded features, what the robot was told on ``instruction``,
    ``/clock`` and ``lockstep/tick``.
    """

    def __init__(self) -> None:
        super().__init__("player_node")
        robot = robot_of(self)
        settings = NodeParameters(self, robot, ("player", "command", "lockstep"))
        player, lockstep = settings.block(PlayerParameters), settings.block(LockstepParameters)
        if not player.bag:
            raise ParameterError("the parameter player.bag is not set; give the path of a recording.")
        if not lockstep.enabled:
            raise ParameterError("the player works in lockstep only; set lockstep.enabled for it and for the other nodes.")
        self._naming = robot.naming  # the nodes expect the names of the robot's driver
        self._streams = tuple(player.features.split())
        self._bag = open_bag(player.bag)
        stamps: Literal["header", "receive"] = "receive" if player.stamps == "receive" else "header"
        self._events = BagEvents(self._bag, robot, stamps=stamps, features=self._streams)
        self._period_ns = round(1e9 / settings.block(CommandParameters).rate_hz)
        self._ticks: Iterator[TickInputs] = iter(())
        self._tick: TickInputs | None = None
        self._word = TickWord(0, 0)
        self._pictures: dict[str, Any] = {}  # of the present tick, by camera
        self._played = 0
        self._refused = 0
        self._announced = 0.0
        self._patience = Patience(ROBOT_SHARE * lockstep.timeout_s)
        self._joint_states = self.create_publisher(JointStateMsg, robot.joint_state_topic, qos.RELIABLE)
        kinds = {c.name: CompressedImage if c.topic.endswith("compressed") else Image for c in robot.cameras}
        self._images = {c.name: self.create_publisher(kinds[c.name], c.topic, qos.IMAGE) for c in robot.cameras}
        self._instruction = self.create_publisher(String, INSTRUCTION_TOPIC, qos.LATCHED)
        self._features = {s: self.create_publisher(Image, f"features/{s}", qos.RELIABLE) for s in self._streams}
        self._clock_topic = self.create_publisher(Clock, "/clock", qos.RELIABLE)
        self._words = self.create_publisher(Header, "lockstep/tick", qos.RELIABLE)
        self._status = self.create_publisher(DiagnosticStatus, "player/status", qos.LATCHED)
        self.create_subscription(Header, "lockstep/command", self._on_word, qos.RELIABLE)
        self.create_service(Trigger, "player/start", self._start)
        self._diagnostics = Diagnostics(self, robot.name)
        self.create_timer(0.05, self._wait, clock=STEADY)
        self.create_timer(1.0, self._diagnose, clock=STEADY)
        self._say("idle")

    def close(self) -> None:
        """Give the recording up."""
        self._bag.close()

    def _start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._ticks = ticks(iter(self._events), self._period_ns)
        self._word, self._played = TickWord(0, 0), 0
        self._patience.heard()
        self._next()
        response.success = self._tick is not None
        response.message = "playing" if response.success else f"{self._bag.path} holds no joint state of this robot."
        return response

    def _next(self) -> None:
        self._tick = next(self._ticks, None)
        self._pictures.clear()
        if self._tick is None:
            self._say("done")
            return
        now, before = self._tick.now, self._word
        streams = dict.fromkeys(self._streams, 0) | dict(before.streams)
        streams |= {event.features.stream: event.features.stamp for event in self._tick.features}
        images = {event.camera: event.stamp for event in self._tick.images.values() if self._prepare(event)}
        told = [event.text for event in self._tick.instructions]
        states = [event.state.stamp for event in self._tick.joint_states]
        self._word = TickWord(
            now,
            (states or [before.joint_state])[-1],
            max(images.values(), default=before.image),
            streams,
            BETWEEN.join(told) if told else before.instruction,
            dict.fromkeys(self._images, 0) | dict(before.images) | images if len(self._images) > 1 else {},
        )
        self._played += 1
        self._patience.begin()
        self._announce()
        if self._played % 50 == 1:
            self._say("playing")

    def _prepare(self, image: ImageEvent) -> bool:
        """Make the message of a picture of this tick; False for one that cannot be read, which is then as good as not taken."""
        try:
            self._pictures[image.camera] = _image(image, self._images[image.camera].msg_type)
        except ImageError as error:
            if not self._refused:
                self.get_logger().warning(f"refused: {error}")
            self._refused += 1
            return False
        return True

    def _announce(self) -> None:
        """Publish everything of the present tick, the tick itself last."""
        tick = self._tick
        assert tick is not None
        self._clock_topic.publish(Clock(clock=to_time(tick.now)))
        for state in tick.joint_states:
            spoken = replace(state.state, names=self._naming.spoken(state.state.names))
            self._joint_states.publish(joint_state_to_message(spoken))
        if tick.instructions:
            self._instruction.publish(String(data=tick.instructions[-1].text))
        for features in tick.features:
            self._features[features.features.stream].publish(features_to_message(features.features))
        for camera, picture in self._pictures.items():
            self._images[camera].publish(picture)
        self._words.publish(Header(stamp=to_time(tick.now), frame_id=str(self._word)))
        self._announced = time.monotonic()

    def _on_word(self, word: Header) -> None:
        self._patience.heard()
        if self._tick is not None and from_time(word.stamp) == self._tick.now:
            self._next()

    def _wait(self) -> None:
        if self._tick is None:
            return
        if self._patience.over():
            self._next()
        elif time.monotonic() - self._announced > RESEND_S:
            self._announce()

    def _say(self, state: str) -> None:
        self._state = state
        self._status.publish(self._report())

    def _diagnose(self) -> None:
        self._diagnostics.publish(int(self.get_clock().now().nanoseconds), self._report())

    def _report(self) -> DiagnosticStatus:
        problems = " ".join([*self._bag.problems, *self._events.problems])
        values: dict[str, object] = {"state": self._state, "ticks": self._played}
        if self._refused:
            values |= counts("rejections", {"image": self._refused})
        return status("player", WARN if problems else OK, problems or self._state, values)


def _image(event: ImageEvent, kind: type) -> Any:
    """The picture for a topic of messages of ``kind``: as recorded, or decoded where the topic carries raw images."""
    message = encoded_to_message(event.image, event.stamp, event.camera)
    if isinstance(message, kind):
        return message
    if kind is CompressedImage:
        raise BagError(
            f"camera '{event.camera}' was recorded as raw images, but its topic in the robot file is for compressed ones; give the "
            "name of the raw topic."
        )
    return image_to_message(decode(event.image), event.stamp, event.camera)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(PlayerNode, args, BagError, ImageError)


if __name__ == "__main__":
    sys.exit(main())
