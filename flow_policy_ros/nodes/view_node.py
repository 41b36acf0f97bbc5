"""The view node: what a robot's topics say, shown on a page of this machine or in Rerun. It publishes nothing and changes nothing.

Messages come with best effort and stay unopened until the end of an interval, when a few of each topic are looked at
(``viewing.intake``). Pictures are subscribed to only while somebody looks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.ros.parameters import NodeParameters
from flow_policy_ros.runtime.parameters import ViewParameters
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.viewing.feed import Feed, Sink
from flow_policy_ros.viewing.intake import Intake, Role, Taken
from flow_policy_ros.viewing.pictures import LiveShelf
from flow_policy_ros.viewing.rerun_log import RerunLog
from flow_policy_ros.viewing.server import PageServer
from flow_policy_ros.viewing.topics import FEATURES, FIXED, scene, selection
from flow_policy_ros.viewing.watch import Watch

NAME = "view_node"
CLASSES: dict[str, type] = {
    "sensor_msgs/msg/JointState": JointStateMsg,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "std_msgs/msg/Float64MultiArray": Float64MultiArray,
    "std_msgs/msg/String": String,
    "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
    "diagnostic_msgs/msg/DiagnosticArray": DiagnosticArray,
    "diagnostic_msgs/msg/DiagnosticStatus": DiagnosticStatus,
}
PICTURES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ROBOT_FILE = NODES[NAME].parameters["robot_file"][2]
LOOK_S = 1.0
MANY = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
"""As ``qos.reader``, with more room: this process may wait long for the processor, and a rate is what was counted."""
NICENESS = 5
"""What people look at waits for what moves the robot."""
LIVE_ENTRIES = 1000


class ViewNode(ClosableNode):
    """Subscribes to what there is, as it comes up; shows a snapshot every interval."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.declare_parameter("robot_file", "", ParameterDescriptor(description=ROBOT_FILE, read_only=True))
        path = self.get_parameter("robot_file").value
        robot = load_robot(path) if path else None
        settings = NodeParameters(self, robot, ("view",)).block(ViewParameters)
        space = self.get_namespace()
        self._selection = selection(robot, space, settings.image)
        title = (robot.name if robot is not None else "robot") + (f", {space.strip('/')}" if space.strip("/") else "")
        self._shelf = LiveShelf()
        self._watch = Watch(scene(robot, title, live=True), self._shelf, None if robot is None else robot.naming, space)
        self._intake = Intake()
        self._heard: dict[str, tuple[str, Any]] = {}  # topic → (type, subscription)
        self._feed: Feed | None = None
        self._server: PageServer | None = None
        self._rerun: RerunLog | None = None
        if settings.rerun or settings.rerun_out:
            self._rerun = RerunLog(self._shelf, Path(settings.rerun_out) if settings.rerun_out else None)
        else:
            self._feed = Feed(LIVE_ENTRIES)
            self._server = PageServer(self._feed, self._shelf, settings.port)
            self._server.__enter__()
            print(f"{self._server.url}  (Ctrl-C ends)", flush=True)
        self._sink: Sink = self._rerun or self._feed  # type: ignore[assignment]  # one of them there is
        if settings.report:
            Path(settings.report).write_text(json.dumps({"url": self._server.url if self._server else ""}) + "\n")
        for name, (role, kind) in {**FIXED, self._selection.joint_states: ("joint_state", "sensor_msgs/msg/JointState")}.items():
            topic = self._selection.absolute(name)
            self._heard[topic] = (kind, self._listen(topic, kind, role))
        self._look()
        self.create_timer(LOOK_S, self._look, clock=STEADY)
        self.create_timer(1.0 / settings.rate_hz, self._show, clock=STEADY)

    def close(self) -> None:
        """The page ends, the file is complete."""
        if self._server is not None and self._feed is not None:
            self._feed.end()
            self._server.__exit__(None, None, None)
        if self._rerun is not None:
            self._rerun.__exit__(None, None, None)

    def _look(self) -> None:
        """Meet publishers that have come, and leave pictures at which nobody looks."""
        published = {name: kinds[0] for name, kinds in self.get_topic_names_and_types() if self.count_publishers(name)}
        found = self._selection.found(published)
        looked_at = self._rerun is not None or (self._feed is not None and self._feed.viewers > 0)
        wanted = {t: (published[t], role) for t, role in found.items() if role != "image" or looked_at}
        for topic, (kind, subscription) in list(self._heard.items()):
            idle = kind in PICTURES and topic not in wanted and not topic.startswith(self._selection.absolute(FEATURES))
            if idle or (topic in wanted and wanted[topic][0] != kind):
                self.destroy_subscription(subscription)
                del self._heard[topic]
        for topic, (kind, role) in wanted.items():
            if topic not in self._heard:
                self._heard[topic] = (kind, self._listen(topic, kind, role))

    def _listen(self, topic: str, kind: str, role: Role) -> Any:
        latched = role in ("info", "instruction")
        profile = qos.LATCHED if latched else qos.image_reader(False) if role == "image" else MANY

        def put(data: bytes) -> None:
            self._intake.put(role, topic, self._now(), (CLASSES[kind], data))

        return self.create_subscription(CLASSES[kind], topic, put, profile, raw=True)

    def _show(self) -> None:
        for taken in self._intake.drain():
            kind, data = taken.message
            try:
                opened = deserialize_message(data, kind)
            except Exception:  # rmw's error classes are not public; who it was meant for complains
                continue
            self._watch.take(Taken(taken.role, taken.topic, taken.received, opened))
        shot = self._watch.snapshot(self._now(), self._intake.counts)
        self._sink.show(self._watch.scene, shot)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    os.nice(NICENESS)
    return run(ViewNode, args)


if __name__ == "__main__":
    sys.exit(main())
