"""Bags as recordings: one pass over the events, small tables in memory, pictures only as long as their features take.

What messages mean is ``bag_events``'; the tables and their use are ``recording``'s.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from flow_policy_ros.data.arrivals import Indices
from flow_policy_ros.data.bag_events import (
    BagEvent,
    BagEvents,
    CommandEvent,
    FeaturesEvent,
    ImageEvent,
    InstructionEvent,
    JointStateEvent,
)
from flow_policy_ros.data.bag_messages import IMAGE
from flow_policy_ros.data.bags.bag import Bag
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.bags.rosbag2_folder import METADATA, is_recording
from flow_policy_ros.data.episodes import EpisodeError
from flow_policy_ros.data.recording import Instruction, Recording, Stream
from flow_policy_ros.runtime.instruction_text import require_words
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Features, FloatArray
from flow_policy_ros.runtime.yaml_bounded import load_yaml

PAUSE_S = 1.0
"""Joint states come at the control rate. After so long a silence, or so far a jump back of their stamps (a simulator that was
reset), a new recording begins, as a robot would have been reset."""
_FEATURES = re.compile(r"/?features/([A-Za-z0-9_]+)")
MOST_REASONS = 32
"""Different complaints that are kept of one bag."""

Extract = Callable[[ImageEvent], "Features | None"]
"""Features of a picture, None for a camera that is not looked at. Raises ``ValueError`` for a picture that cannot be used."""


def read_recording(
    path: str | Path,
    robot: Robot,
    extract: Extract | None = None,
    *,
    stamps: Literal["header", "receive"] = "header",
    features: Sequence[str] = (),
    pause_s: float = PAUSE_S,
) -> list[Recording]:
    """The recordings in a bag, split at pauses; ``features`` are the recorded streams wanted beside what ``extract`` makes.

    Damaged bags give what is readable; ``problems`` of the recordings say what was lost. Raises ``BagError`` for what is no bag,
    ``EpisodeError`` for a bag without any joint state or command of ``robot``.
    """
    bag = open_bag(path)
    looked_at = robot if extract is not None else replace(robot, cameras=())  # pictures nobody looks at need not be read
    try:
        events = BagEvents(bag, looked_at, stamps=stamps, features=features)
        tables = Tables(robot)
        tables.take_all(events, extract)
        problems = [*bag.problems, *events.problems]
    finally:
        bag.close()
    return tables.recordings(str(path), pause_s, noted_success(Path(path)), problems)


class Tables:
    """The events of a bag as growing tables, in the order of receipt; 8 bytes a number."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._order, self._command_order = JointOrder(robot.joints), JointOrder(robot.joints)
        self._states, self._commands = _Table((len(robot.joints),)), _Table((len(robot.joints),))
        self._streams: dict[str, _Table] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the first features of each stream
        self._instructions: list[Instruction] = []
        self._bad: dict[str, int] = {}

    def take_all(self, events: Iterable[BagEvent], extract: Extract | None = None) -> None:
        """Take every event; what cannot be used is left out and counted (``BagEvents`` counts those that it could not read)."""
        for event in events:
            try:
                self._take(event, extract)
            except ValueError as error:
                self._count(str(error))

    def recordings(self, source: str, pause_s: float, success: bool | None, problems: Iterable[str] = ()) -> list[Recording]:
        """What was taken, split where joint states paused for longer than ``pause_s`` or their stamps went back as far.

        A command belongs to the part before the pause that it comes in, features to the part after it: it has just seen them. An
        instruction holds over pauses, until there is another that can be read; who can read which is not known here, so that all
        before the part belong to it, each text where it came last.
        Raises ``EpisodeError`` when there is no joint state or no command.
        """
        said = (*problems, *(f"{reason} ({count} times)" for reason, count in self._bad.items()))
        for what, table in (("joint states", self._states), ("commands", self._commands)):
            if not len(table):
                raise EpisodeError(
                    f"{source} holds no {what} that can be used: {' '.join(said) or 'the topic is not in it, or is empty.'} "
                    f"`flow_policy inspect {source} --robot {self._robot.path}` says more."
                )
        stamps, received, position = self._states.arrays()
        commands, streams = self._commands.arrays(), {name: table.arrays() for name, table in self._streams.items()}
        starts = _starts(stamps, received, round(pause_s * 1e9))
        found = []
        for first, end in zip(starts, [*starts[1:], len(stamps)], strict=True):
            told = _between(commands, received[first] if first else None, received[end] if end < len(stamps) else None)
            after, until = received[first - 1] + 1 if first else None, received[end - 1] + 1 if end < len(stamps) else None
            found.append(
                Recording(
                    self._robot.joints, stamps[first:end], received[first:end], position[first:end], *_ascending(*told),
                    streams={name: Stream(*_between(table, after, until)) for name, table in streams.items()},
                    robot=self._robot.name, success=success, source=source, problems=said,
                    instructions=self._told(int(received[first]), int(received[end - 1]) if end < len(stamps) else None),
                )
            )  # fmt: skip
        return found

    def _take(self, event: BagEvent, extract: Extract | None) -> None:
        if isinstance(event, JointStateEvent):
            self._states.add(event.state.stamp, event.received, self._order.positions_of(event.state))
        elif isinstance(event, CommandEvent):
            position = self._command_order.select("command", event.names, event.position)
            self._commands.add(event.stamp, event.received, position)
        elif isinstance(event, FeaturesEvent):
            self._see(event.features, event.received)
        elif isinstance(event, ImageEvent):
            seen = None if extract is None else extract(event)
            if seen is not None:
                self._see(seen, event.received)
        elif isinstance(event, InstructionEvent):
            require_words(event.text)
            self._instructions.append(Instruction(event.received, event.text))

    def _told(self, first: int, last: int | None) -> tuple[Instruction, ...]:
        """The instructions up to ``first``, of which the last that can be read is in force then, and those after it up to
        ``last``."""
        latest = {told.text: told for told in self._instructions if told.received <= first}
        before = sorted(latest.values(), key=lambda told: told.received)
        after = [told for told in self._instructions if told.received > first]
        return (*before, *(told for told in after if last is None or told.received <= last))

    def _see(self, features: Features, received: int) -> None:
        shape = self._shapes.setdefault(features.stream, np.shape(features.values))
        if np.shape(features.values) != shape or not np.isfinite(features.values).all():
            raise BadInput(
                "features", f"features '{features.stream}' are not {shape} finite values (tokens, channels) as the first are."
            )
        table = self._streams.setdefault(features.stream, _Table(shape, "B" if features.values.dtype == np.uint8 else "f"))
        table.add(features.stamp, received, features.values)

    def _count(self, reason: str) -> None:
        if reason in self._bad or len(self._bad) < MOST_REASONS:
            self._bad[reason] = self._bad.get(reason, 0) + 1


class _Table:
    """Rows of ``shape`` with a stamp and an instant of receipt, growing; ``code`` is the type of their numbers."""

    def __init__(self, shape: tuple[int, ...], code: str = "d") -> None:
        self._shape, self._values = shape, array(code)
        self._stamps, self._received = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp: int, received: int, values: NDArray[Any]) -> None:
        self._values.frombytes(np.ascontiguousarray(values, dtype=self._values.typecode).tobytes())
        self._stamps.append(stamp)
        self._received.append(received)

    def arrays(self) -> tuple[Indices, Indices, NDArray[Any]]:
        """Stamps (N,), instants of receipt (N,) and values (N, ...), in the order of receipt."""
        received = np.array(self._received, dtype=np.int64)
        order = np.argsort(received, kind="stable")
        values = np.frombuffer(self._values, dtype=self._values.typecode).reshape(len(received), *self._shape)
        return np.array(self._stamps, dtype=np.int64)[order], received[order], values[order]


def bags_in(path: Path) -> list[Path]:
    """The bag that ``path`` is, or the bags in the folder, by name; [] when there is none.

    Files of bags without anything that says how they belong together are one bag: that is what is left of a split one.
    """
    entries = sorted(path.iterdir()) if path.is_dir() and not (path / METADATA).is_file() else []
    if any(entry.is_dir() and _is_bag(entry) for entry in entries):
        return [entry for entry in entries if _is_bag(entry)]
    return [path] if _is_bag(path) else []


def recorded_streams(bag: Bag) -> list[str]:
    """The feature streams that a bag holds, by name."""
    images = (topic.name for topic in bag.topics.values() if topic.type == IMAGE and topic.count != 0)
    return sorted(found[1] for name in images if (found := _FEATURES.fullmatch(name)))


def noted_success(bag: Path) -> bool | None:
    """What whoever recorded the bag noted of its success in the metadata; None where nothing was noted."""
    try:
        metadata = load_yaml((bag / METADATA).read_text())
        noted = str(metadata["rosbag2_bagfile_information"]["custom_data"]["success"]).lower()
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError):
        return None
    return {"true": True, "1": True, "false": False, "0": False}.get(noted)


def _is_bag(path: Path) -> bool:
    if path.is_dir():
        return (path / METADATA).is_file() or any(entry.is_file() and is_recording(entry) for entry in path.iterdir())
    return path.is_file() and is_recording(path)


def _starts(stamps: Indices, received: Indices, pause_ns: int) -> list[int]:
    """First joint states after a pause, or after a jump of the stamps to before all that was seen since the last start."""
    paused = np.flatnonzero(np.diff(received) > pause_ns) + 1
    went_back = np.flatnonzero(np.diff(stamps) < -pause_ns) + 1
    return sorted({0, *paused.tolist(), *went_back.tolist()})


def _between(
    table: tuple[Indices, Indices, NDArray[Any]], first: int | None, end: int | None
) -> tuple[Indices, Indices, NDArray[Any]]:
    """The rows with first <= received < end."""
    received = table[1]
    low = 0 if first is None else int(np.searchsorted(received, first))
    high = len(received) if end is None else int(np.searchsorted(received, end))
    stamps, _, values = table
    return stamps[low:high], received[low:high], values[low:high]


def _ascending(stamps: Indices, received: Indices, values: FloatArray) -> tuple[Indices, FloatArray]:
    """Commands by stamp; of several for one instant the last received, which is the one that was obeyed."""
    order = np.argsort(stamps, kind="stable")
    order = order[np.append(np.diff(stamps[order]) > 0, True)] if len(order) else order
    return stamps[order], values[order]
