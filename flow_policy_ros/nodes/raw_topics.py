"""Raw subscriptions to whatever of a selection is published: met when a publisher appears, and anew when one offers less.

What becomes of the messages is up to who made this. Which topics there are to be is ``recorder_topics``'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from flow_policy_ros.data.bags.definitions import message_type
from flow_policy_ros.nodes.recorder_episode import Source
from flow_policy_ros.nodes.recorder_topics import LARGE, Losses, Selection, message_class, offered_text, reader_for
from flow_policy_ros.ros.raw import subscribe


@dataclass(frozen=True)
class Arrived:
    """A message as it came. ``publisher`` is what the middleware calls who sent it, empty where it does not tell; ``latched`` are
    messages that are told once for all."""

    source: Source
    data: bytes
    published: int | None
    sequence: int
    large: bool
    latched: bool
    publisher: bytes


@dataclass(frozen=True)
class _Heard:
    source: Source
    reader: QoSProfile
    subscription: Any
    losses: Losses


class RawTopics:
    """Subscribes ``node`` to what ``selection`` picks and gives each message to ``take``. ``problems[topic]`` says why not, or what
    is not as it should be; each is said once."""

    def __init__(
        self, node: Node, selection: Selection, take: Callable[[Arrived], None], pictures: bool = True, simulated: bool = False
    ) -> None:
        """Without ``pictures`` no camera is listened to. With ``simulated`` time the publishers' clocks tell nothing."""
        self.problems: dict[str, str] = {}
        self.silent: list[str] = []
        """Joint states and cameras that nobody publishes."""
        self._node, self._selection, self._take = node, selection, take
        self._pictures, self._simulated = pictures, simulated
        self._heard: dict[str, _Heard] = {}

    def __len__(self) -> int:
        """How many topics are listened to."""
        return len(self._heard)

    @property
    def lost(self) -> dict[str, int | None]:
        """Messages that were sent and did not come, by topic; None where the middleware does not tell."""
        return {topic: heard.losses.heard for topic, heard in self._heard.items()}

    def look(self) -> None:
        """Meet publishers that have come since the last time, and those that changed."""
        node = self._node
        published = {name: kinds for name, kinds in node.get_topic_names_and_types() if node.count_publishers(name)}
        silent = self._selection.silent(published)
        self.silent = [t for t in silent if self._pictures or t not in self._selection.cameras]
        for topic in self._selection.wanted(published):
            kind, known = published[topic][0], self._heard.get(topic)
            offered = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
            if not offered or (known is None and topic in self.problems) or (not self._pictures and _picture(topic, kind)):
                continue
            reader = reader_for(offered, kind)
            if known is None or (known.reader.reliability, known.reader.durability) != (reader.reliability, reader.durability):
                self._listen(topic, Source(topic, message_type(kind), offered_text(offered)), reader)
            if len(published[topic]) > 1:
                self._problem(topic, f"it has several types ({', '.join(published[topic])}); only {kind} is recorded.")

    def restart(self) -> None:
        """Count what is lost anew, and be told again what is told once for all."""
        for topic, heard in list(self._heard.items()):
            heard.losses.restart()
            if heard.reader.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                self._listen(topic, heard.source, heard.reader)

    def _problem(self, topic: str, why: str) -> None:
        if topic not in self.problems:
            self._node.get_logger().warning(f"topic {topic}: {why}")
        self.problems[topic] = why

    def _listen(self, topic: str, source: Source, reader: QoSProfile) -> None:
        try:
            kind = message_class(source.what.name)
        except ValueError as error:
            self._problem(topic, str(error))
            return
        known = self._heard.get(topic)
        losses = Losses() if known is None else known.losses
        large, latched = source.what.name in LARGE, reader.durability == DurabilityPolicy.TRANSIENT_LOCAL

        def give(data: bytes, info: Any) -> None:
            sequence = losses.note(info)
            published = None if info is None or self._simulated else info.get("source_timestamp")
            gid = (info or {}).get("publisher_gid")
            self._take(Arrived(source, data, published, sequence, large, latched, bytes(gid["data"]) if gid else b""))

        subscription = subscribe(self._node, kind, topic, reader, give)
        if known is not None:
            self._node.destroy_subscription(known.subscription)
        self._heard[topic] = _Heard(source, reader, subscription, losses)


def _picture(topic: str, kind: str) -> bool:
    """Features are images by their type only."""
    return kind in LARGE and "features" not in topic.split("/")
