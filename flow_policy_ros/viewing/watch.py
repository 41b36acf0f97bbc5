"""From a robot's messages to snapshots, one after the other. Time is the caller's; memory does not grow.

Messages are objects with the fields of their ROS 2 types, whoever made them: the middleware or a recording's reader. What cannot be
used is left out and counted: saying why is the business of the node that it was meant for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flow_policy_ros.data import bag_messages as m
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.viewing.detections import BOXES, Sightings
from flow_policy_ros.viewing.health import Health
from flow_policy_ros.viewing.intake import Role, Taken
from flow_policy_ros.viewing.pictures import Shelf
from flow_policy_ros.viewing.snapshot import Delays, Event, Prediction, Row, Scene, Snapshot

JOINTS = 64
"""So many joints are shown at most."""
POINTS = 32
"""Of a chunk."""
RATE_NS = 2_000_000_000
"""Rates are means over about this long."""
STANDING_NS = 1_000_000_000
"""An input that stays the same from chunk to chunk for so long is meant to: an instruction, or a first picture. A policy takes no
other one that old."""
DRAWN = ("perception/overlay", "policy/attention")
"""Pictures with boxes or strengths on them, of further cameras with ``_CAMERA`` behind."""
BACK_NS = 500_000_000
"""A clock that goes back by more begins anew."""


class Watch:
    """Given every message that is looked at, asked for a snapshot at the end of each interval.

    ``naming`` says what names in joint states mean; ``shelf`` keeps pictures. Without joints in ``scene`` they are those that
    messages name. ``scene`` is then the present one, ``unusable`` the messages that could not be used, by topic. The robot's nodes
    are in ``namespace``.
    """

    def __init__(self, scene: Scene, shelf: Shelf, naming: JointNaming | None = None, namespace: str = "") -> None:
        self.scene = scene
        self.unusable: dict[str, int] = {}
        self._shelf = shelf
        self._naming = naming or JointNaming()
        self._namespace = namespace
        self._open = not scene.joints
        self._column = {joint: k for k, joint in enumerate(scene.joints)}
        self._begin()

    def _begin(self) -> None:
        self._now = 0
        self._measured: list[Row] = []
        self._executed: list[Row] = []
        self._prediction: Prediction | None = None
        self._events: list[Event] = []
        self._stamps: dict[str, int] = {}  # of the newest joint state, chunk, and features by stream
        self._delays = Delays()
        self._inputs: dict[str, tuple[int, int]] = {}  # of chunks, by stream: stamp, and of the first chunk that had it
        self._instruction = ""
        self._health = Health(self._namespace)
        self._sightings = Sightings()
        self._counted: deque[tuple[int, dict[Role, int]]] = deque()

    def take(self, taken: Taken) -> None:
        """A message, opened."""
        try:
            getattr(self, f"_take_{taken.role}")(taken)
        except (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError):
            self.unusable[taken.topic] = self.unusable.get(taken.topic, 0) + 1

    def snapshot(self, now: int, counts: Mapping[Role, int]) -> Snapshot:
        """At ``now`` (ns); ``counts`` are all messages so far, by role."""
        events: list[Event] = []
        if now < self._now - BACK_NS:
            self._begin()
            events.append(Event(now, "reset", "the clock went back; what was seen before is dropped"))
        self._now = now
        events += self._events + self._health.drain()
        shot = Snapshot(
            stamp=now,
            measured=tuple(self._measured),
            executed=tuple(self._executed),
            prediction=self._prediction,
            picture=self._sightings.picture(),
            delays=self._ages(now),
            guard=self._health.guard(now),
            nodes=self._health.nodes(now),
            events=tuple(events),
            rates=self._rates(now, counts),
            figures=dict(self._health.figures),
            instruction=self._instruction,
        )
        self._measured, self._executed, self._prediction, self._events = [], [], None, []
        return shot

    def _ages(self, now: int) -> Delays:
        def age(stamp: int | None) -> float | None:
            return None if stamp is None else (now - stamp) / 1e6

        features = [stamp for name, stamp in self._stamps.items() if name.startswith("features ")]
        return replace(
            self._delays,
            joint_state=age(self._stamps.get("joint_state")),
            chunk=age(self._stamps.get("chunk")),
            features=age(min(features, default=None)),
        )

    def _rates(self, now: int, counts: Mapping[Role, int]) -> dict[str, float]:
        while len(self._counted) > 1 and self._counted[1][0] <= now - RATE_NS:
            self._counted.popleft()
        since, before = self._counted[0] if self._counted else (now, dict(counts))
        self._counted.append((now, dict(counts)))
        seconds = (now - since) / 1e9
        if seconds <= 0.0:
            return {}
        return {role: round((count - before.get(role, 0)) / seconds, 1) for role, count in counts.items()}

    def _take_joint_state(self, taken: Taken) -> None:
        message = taken.message
        state = m.joint_state(message) if hasattr(message, "name") else m.array_state(message)
        state = self._naming.named(state)
        stamp = state.stamp or taken.received  # some drivers stamp nothing
        self._stamps["joint_state"] = max(stamp, self._stamps.get("joint_state", stamp))
        self._measured.append(Row(stamp, self._columns(state.names, state.position)))

    def _take_executed(self, taken: Taken) -> None:
        stamp, names, position = m.joint_state_command(taken.message)
        self._executed.append(Row(stamp or taken.received, self._columns(names, position)))

    def _take_chunk(self, taken: Taken) -> None:
        message = taken.message
        stamp, points = m.stamp_of(message), message.points
        kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), POINTS)).astype(int)).tolist() if len(points) else []
        times = tuple(int(points[k].time_from_start.sec) * m.SECOND_NS + int(points[k].time_from_start.nanosec) for k in kept)
        rows = [self._columns(message.joint_names, np.array(points[k].positions, dtype=np.float64)) for k in kept]
        width = max((len(row) for row in rows), default=0)  # columns may have been added on the way
        if not rows:
            raise ValueError("a chunk without points")
        positions = np.stack([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows])
        self._prediction = Prediction(stamp, times, positions)
        self._stamps["chunk"] = max(stamp, self._stamps.get("chunk", stamp))

    def _take_chunk_info(self, taken: Taken) -> None:
        values = {pair.key: pair.value for pair in taken.message.values}
        stamp, head = int(values["stamp"]), "observation."
        inputs = {key: int(value) for key, value in values.items() if key.startswith(head)}
        self._inputs = {
            key: self._inputs[key] if self._inputs.get(key, (None, 0))[0] == taken_at else (taken_at, stamp)
            for key, taken_at in inputs.items()
        }
        ages = [stamp - taken_at for taken_at, first in self._inputs.values() if stamp - first < STANDING_NS]
        oldest = max(ages, default=None)
        self._delays = replace(
            self._delays, inference=float(values["duration_ms"]), observation=None if oldest is None else oldest / 1e6
        )

    def _take_plan(self, taken: Taken) -> None:
        header = taken.message.header
        self._delays = replace(self._delays, until_followed=(m.stamp_of(taken.message) - int(header.frame_id)) / 1e6)

    def _take_features(self, taken: Taken) -> None:
        stream = taken.topic.rpartition("features/")[2]
        self._stamps[f"features {stream}"] = m.stamp_of(taken.message)
        if stream.startswith(BOXES):
            self._sightings.found(m.features(taken.message, stream))

    def _take_info(self, taken: Taken) -> None:
        self._sightings.named(taken.topic.rpartition("features/")[2].removesuffix("/info"), str(taken.message.data))

    def _take_image(self, taken: Taken) -> None:
        stamp = m.stamp_of(taken.message)
        compressed = not hasattr(taken.message, "encoding")
        image = m.compressed_image(taken.message) if compressed else m.image(taken.message)
        drawn = any(f"/{name}/" in f"{taken.topic}/" or f"/{name}_" in taken.topic for name in DRAWN)
        self._sightings.seen(stamp, self._shelf.put(taken.topic, taken.received, image), drawn)

    def _take_diagnostics(self, taken: Taken) -> None:
        stamp = m.stamp_of(taken.message) or taken.received
        for status in taken.message.status:
            self._health.report(status, stamp)

    def _take_status(self, taken: Taken) -> None:
        self._health.episode(taken.message, taken.received)

    def _take_instruction(self, taken: Taken) -> None:
        text = str(taken.message.data)
        if text != self._instruction:
            self._events.append(Event(taken.received, "instruction", text))
        self._instruction = text

    def _columns(self, names: Any, position: FloatArray) -> FloatArray:
        """``position`` in the scene's columns; joints that are not known become new columns where none were given."""
        names = tuple(names)
        if len(names) != len(position):
            raise ValueError(f"{len(names)} names for {len(position)} positions")
        new = tuple(name for name in dict.fromkeys(names) if name not in self._column) if self._open else ()
        new = new[: max(0, JOINTS - len(self._column))]
        if new:
            self.scene = replace(self.scene, joints=self.scene.joints + new)
            self._column = {joint: k for k, joint in enumerate(self.scene.joints)}
        row = np.full(len(self._column), np.nan)
        for name, value in zip(names, position, strict=True):
            if name in self._column:
                row[self._column[name]] = value
        return row
