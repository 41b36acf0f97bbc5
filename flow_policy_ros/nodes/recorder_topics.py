"""Which topics are recorded, with what quality of service, and what is lost on the way here. Nothing is written in here."""

from __future__ import annotations

import importlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from flow_policy_ros.nodes.instruction_topic import INSTRUCTION_TOPIC
from flow_policy_ros.runtime.robot import Robot

EXECUTED = "command/executed"
OURS = (
    EXECUTED, "command/plan", "command/emergency_stop", "command/deadman", "policy/chunk", "policy/chunk_info",
    "features/*", INSTRUCTION_TOPIC, "sim/status", "/diagnostics", "/clock", "/tf", "/tf_static",
)  # fmt: skip
"""What is recorded of every robot, beside what its robot file names."""
COMPRESSED = "/compressed"
LARGE = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2")
LARGE_DEPTH, DEPTH = 10, 1000
"""How many messages of large types, and of others, may wait in the middleware."""


@dataclass(frozen=True)
class Selection:
    """What is wanted, in absolute names with ``*``. ``pictures`` are wanted as ``<topic>/compressed`` while nobody publishes them.
    A recording is of little use without ``states``, every one of ``cameras`` and one of ``commands``."""

    patterns: tuple[str, ...]
    states: str
    cameras: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    everything: bool = False

    def wanted(self, published: Iterable[str]) -> list[str]:
        """Those of ``published`` that are recorded, sorted."""
        published = set(published)
        instead = {f"{topic}{COMPRESSED}" for topic in self.pictures if topic not in published}
        return sorted(topic for topic in published if topic in instead or self._wants(topic))

    def silent(self, published: Iterable[str]) -> list[str]:
        """Joint states and cameras that are not in ``published``, in neither form."""
        published = set(published)
        return [t for t in (self.states, *self.cameras) if not published & self._forms(t)]

    def missing(self, heard: Container[str]) -> list[str]:
        """What a recording lacks whose messages are on the topics ``heard``, in sentences; the worst first."""
        said = []
        if self.states not in heard:
            said.append(f"no joint states yet on {self.states}: nothing can be learnt from the bag, and nothing replayed")
        if not any(topic in heard for topic in self.commands):
            said.append(f"no commands yet on {' or '.join(self.commands)}: the bag cannot be trained on")
        cameras = [topic for topic in self.cameras if not any(form in heard for form in self._forms(topic))]
        return [*said, *(f"no pictures yet on {topic}" for topic in cameras)]

    def _forms(self, topic: str) -> set[str]:
        return {topic, f"{topic}{COMPRESSED}"} if topic in self.pictures else {topic}

    def _wants(self, topic: str) -> bool:
        if self.everything and not any(part.startswith("_") for part in topic.split("/")):
            return True
        return any(fnmatchcase(topic, pattern) for pattern in self.patterns)


def selection(node: Node, robot: Robot, extra: Sequence[str], everything: bool) -> Selection:
    """Of the robot file's topics and ``extra``, with the node's name space and remapping."""

    def absolute(name: str) -> str:
        head, star, tail = name.partition("*")
        if not star:
            return str(node.resolve_topic_name(name))
        resolved = str(node.resolve_topic_name(head.rstrip("/"))) if head.rstrip("/") else ""
        return resolved + "/" * (head.endswith("/") or not head) + star + tail

    cameras = [camera.topic for camera in robot.cameras]
    infos = [f"{topic.removesuffix(COMPRESSED).rpartition('/')[0]}/camera_info" for topic in cameras]
    depths = [topic for c in robot.cameras if c.depth is not None for topic in (c.depth.topic, c.depth.camera_info)]
    names = [robot.joint_state_topic, robot.command_topic, *cameras, *infos, *depths, *OURS, *extra]
    if robot.recorded is not None:
        names.append(robot.recorded.topic)
    if robot.command_interface == "follow_joint_trajectory":
        names += [f"{robot.command_topic}/_action/{part}" for part in ("feedback", "status")]
    pictures = tuple(absolute(topic) for topic in cameras if not topic.endswith(COMPRESSED))
    commands = (EXECUTED, robot.command_topic) if robot.recorded is None else (robot.recorded.topic,)
    return Selection(
        patterns=tuple(dict.fromkeys(absolute(name) for name in names if name)),
        states=absolute(robot.joint_state_topic),
        cameras=tuple(absolute(topic) for topic in cameras),
        commands=tuple(absolute(topic) for topic in commands),
        pictures=pictures,
        everything=everything,
    )


def reader_for(offered: Sequence[QoSProfile], kind: str) -> QoSProfile:
    """A profile that matches every one of the publishers: reliable if all are, and told what was said before if all tell it."""
    reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in offered)
    latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in offered)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max([LARGE_DEPTH if kind in LARGE else DEPTH, *(p.depth for p in offered)]),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def offered_text(offered: Sequence[QoSProfile]) -> str:
    """As rosbag2 writes it into a bag: YAML, a block for each publisher."""
    blocks = [
        {
            "history": int(p.history),
            "depth": p.depth,
            "reliability": int(p.reliability),
            "durability": int(p.durability),
            "deadline": _duration(p.deadline),
            "lifespan": _duration(p.lifespan),
            "liveliness": int(p.liveliness),
            "liveliness_lease_duration": _duration(p.liveliness_lease_duration),
            "avoid_ros_namespace_conventions": bool(p.avoid_ros_namespace_conventions),
        }
        for p in offered
    ]
    return str(yaml.safe_dump(blocks, sort_keys=False)).strip() if blocks else ""


def message_class(kind: str) -> type:
    """Of ``pkg/msg/Name``. Raises ``ValueError`` when its package is not installed."""
    package, *middle, name = kind.split("/")
    try:
        result: type = getattr(importlib.import_module(".".join([package, *middle])), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"its type {kind} is not known here: install the package {package} (ros-<distribution>-{package.replace('_', '-')}), "
            "and source it."
        ) from error
    return result


class Losses:
    """Messages of one topic that a publisher sent and that did not come, by gaps in the publishers' own counting."""

    def __init__(self) -> None:
        self.count = 0
        self.known = True
        """Whether the middleware tells the counting."""
        self._newest: dict[bytes, int] = {}

    @property
    def heard(self) -> int | None:
        """``count``, or None where it is not known."""
        return self.count if self.known else None

    def restart(self) -> None:
        """Count anew, from the next message of each publisher on."""
        self.count = 0
        self._newest.clear()

    def note(self, info: Any) -> int:
        """A message came; its number in its publisher's counting, 0 if that is not told."""
        number = None if info is None else info.get("publication_sequence_number")
        gid = None if info is None else info.get("publisher_gid")
        if number is None or gid is None:
            self.known = False
            return 0
        publisher = bytes(gid["data"])
        newest = self._newest.get(publisher)
        if newest is not None and number > newest + 1:
            self.count += number - newest - 1
        self._newest[publisher] = number if newest is None else max(number, newest)
        return int(number)


def _duration(value: Any) -> dict[str, int]:
    seconds, nanoseconds = divmod(value.nanoseconds, 1_000_000_000)
    return {"sec": seconds, "nsec": nanoseconds}
