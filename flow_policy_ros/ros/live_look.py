"""Listening to a running robot for a few seconds: who is there, who cannot hear whom, when messages come. It judges nothing.

Messages are taken as they are; of all but diagnostics and clock only the stamp is read.
"""

from __future__ import annotations

import importlib
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier
from rosgraph_msgs.msg import Clock

from flow_policy_ros.ros.live_facts import Endpoint, Heard, LiveFacts, Mismatch, Said, TopicFacts
from flow_policy_ros.ros.messages import MessageError, from_time
from flow_policy_ros.ros.raw import opened, subscribe

NAME = "flow_policy_doctor_live"
MEETING_S = 1.5
"""For discovery: who is there is not known at once."""
LOOK_S = 0.25
CLOCK = "/clock"


def look(seconds: float, wants: Callable[[str, str], bool], diagnostics: tuple[str, ...] = ("/diagnostics",)) -> LiveFacts:
    """Listen for ``seconds`` after the first ones for discovery, to the topics (absolute name, type) that ``wants``, and to what
    nodes say of themselves on ``diagnostics``."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        looker = _Looker(context, wants, diagnostics)
        try:
            return looker.run(seconds)
        finally:
            looker.node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


class _Looker:
    def __init__(self, context: Any, wants: Callable[[str, str], bool], diagnostics: tuple[str, ...]) -> None:
        self.node = Node(NAME, context=context, start_parameter_services=False, enable_rosout=False)
        self._wants, self._diagnostics = wants, diagnostics
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._heard: dict[str, list[Heard]] = {}
        self._listened: dict[str, tuple[Any, QoSProfile]] = {}
        self._first: dict[str, dict[str, str]] = {}
        self._last: dict[str, Any] = {}
        self._clock: int | None = None  # the simulated one
        self._counting = False
        self._unknown: dict[str, str] = {}
        self._unread: Counter[str] = Counter()
        self._largest: dict[str, int] = {}

    def run(self, seconds: float) -> LiveFacts:
        self._spin(MEETING_S)
        self._counting = True
        self._spin(seconds)
        ended = time.time_ns() if self._clock is None else self._clock
        topics = {name: self._topic(name, kinds, ended) for name, kinds in self.node.get_topic_names_and_types()}
        nodes = sorted(f"{space.rstrip('/')}/{name}" for name, space in self.node.get_node_names_and_namespaces())
        said = tuple(
            Said(name, int.from_bytes(last.level, "little") if isinstance(last.level, bytes) else int(last.level), last.message,
                 self._first[name], _values(last))
            for name, last in self._last.items()
        )  # fmt: skip
        mine = f"/{NAME}"
        return LiveFacts(
            seconds=seconds,
            nodes=tuple(node for node in nodes if node != mine),
            topics={name: topic for name, topic in topics.items() if topic.publishers or topic.subscribers},
            said=said,
            simulated=self._clock is not None,
            middleware=get_rmw_implementation_identifier(),
            unknown=self._unknown,
            unread=dict(self._unread),
        )

    def _spin(self, seconds: float) -> None:
        end, next_look = time.monotonic() + seconds, 0.0
        while (now := time.monotonic()) < end:
            if now >= next_look:
                self._meet()
                next_look = now + LOOK_S
            self._executor.spin_once(timeout_sec=min(0.05, end - now))

    def _meet(self) -> None:
        """Listen to what has come."""
        for topic, kinds in self.node.get_topic_names_and_types():
            wanted = topic in (*self._diagnostics, CLOCK) or self._wants(topic, kinds[0])
            offered = [i.qos_profile for i in self.node.get_publishers_info_by_topic(topic)] if wanted else []
            if not offered:
                continue
            reader = _reader(offered)
            known = self._listened.get(topic)
            if known is not None and known[1].reliability == reader.reliability:
                continue
            kind = _message_class(kinds[0])
            if kind is None:
                self._unknown[topic] = kinds[0]
                continue
            if known is not None:
                self.node.destroy_subscription(known[0])
            self._listened[topic] = (self._subscribe(topic, kind, reader), reader)

    def _subscribe(self, topic: str, kind: Any, reader: QoSProfile) -> Any:
        stamped = next(iter(kind.get_fields_and_field_types().items()), ("", "")) == ("header", "std_msgs/Header")
        stamped = stamped or kind.__name__ == "Header"

        return subscribe(self.node, kind, topic, reader, lambda data, info: self._note(topic, data, info, stamped))

    def _note(self, topic: str, data: bytes, info: Any, stamped: bool) -> None:
        try:
            self._read(topic, data)
        except MessageError:
            self._unread[topic] += 1
        if not self._counting:
            return
        self._largest[topic] = max(len(data), self._largest.get(topic, 0))
        info = info or {}
        arrived = int(info.get("received_timestamp") or time.time_ns())
        received = arrived if self._clock is None else self._clock
        gid = info.get("publisher_gid")
        self._heard.setdefault(topic, []).append(
            Heard(received, arrived, _stamp(data) if stamped else None, info.get("source_timestamp") or None,
                  bytes(gid["data"]) if gid else b"")
        )  # fmt: skip

    def _read(self, topic: str, data: bytes) -> None:
        if topic == CLOCK:
            self._clock = from_time(opened(data, Clock).clock)
        if topic in self._diagnostics:
            for said in opened(data, DiagnosticArray).status:
                self._first.setdefault(said.name, _values(said))
                self._last[said.name] = said

    def _topic(self, name: str, kinds: list[str], ended: int) -> TopicFacts:
        publishers = self.node.get_publishers_info_by_topic(name)
        subscribers = [i for i in self.node.get_subscriptions_info_by_topic(name) if i.node_name != NAME]
        found = []
        for one in publishers:
            for other in subscribers:
                fit, reason = qos_check_compatible(one.qos_profile, other.qos_profile)
                if fit == QoSCompatibility.ERROR:
                    found.append(Mismatch(_node(one), _node(other), reason.removeprefix("ERROR: ").strip("; ")))
        return TopicFacts(
            name, tuple(kinds), _ends(publishers), _ends(subscribers), tuple(dict.fromkeys(found)),
            tuple(self._heard.get(name, ())), ended, self._largest.get(name, 0),
        )  # fmt: skip


def _reader(offered: list[QoSProfile]) -> QoSProfile:
    """A profile that matches every publisher, and loses as little as can be: the rates are to be theirs."""
    reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in offered)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=100, durability=DurabilityPolicy.VOLATILE,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )  # fmt: skip


def _message_class(kind: str) -> Any:
    package, *middle, name = kind.split("/")
    try:
        return getattr(importlib.import_module(".".join([package, *middle])), name)
    except (ImportError, AttributeError):
        return None


def _stamp(data: bytes) -> int | None:
    """Of a message that begins with its header (CDR), ns."""
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _values(said: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in said.values}


def _node(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _ends(infos: list[Any]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(_node(info), bytes(info.endpoint_gid)) for info in infos)
