"""What a recording says to a robot's policy: joint states, images, features and commands, in the order of receipt.

The events are the contract between recordings and whoever uses them (replay, windows, conversion). Joint names are the robot
file's already; images are not decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from flow_policy_ros.data import bag_messages as m
from flow_policy_ros.data.bags.bag import Bag, BagError, RawMessage
from flow_policy_ros.data.bags.storage import count_of
from flow_policy_ros.runtime.joint_naming import JointNaming
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.pixels import ImageError
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import EncodedImage, Features, FloatArray, JointState

FAR_NS = 1_000_000_000  # between stamp and receipt; no sensor takes as long, two clocks that nobody set are further apart
SHOWN = 12  # names in a sentence
INSTRUCTION = "instruction"  # the topic, std_msgs/String
KINDS = 64  # different lists of joints that are told apart in one topic


@dataclass(frozen=True)
class JointStateEvent:
    """A joint state that was received at ``received`` (ns); its header stamp is ``state.stamp``."""

    received: int
    state: JointState


@dataclass(frozen=True)
class CommandEvent:
    """What the robot was told: ``position`` (A,) rad or m of the joints ``names``, for the instant ``stamp`` (ns)."""

    received: int
    stamp: int
    names: tuple[str, ...]
    position: FloatArray


@dataclass(frozen=True)
class ImageEvent:
    """A picture of the robot file's camera ``camera``, taken at ``stamp`` (ns)."""

    received: int
    stamp: int
    camera: str
    image: EncodedImage


@dataclass(frozen=True)
class FeaturesEvent:
    """Features that were recorded on a topic ``features/STREAM``."""

    received: int
    features: Features


@dataclass(frozen=True)
class InstructionEvent:
    """What the robot was told to do from ``received`` (ns) on; the message has no other stamp."""

    received: int
    text: str


@dataclass(frozen=True)
class BadEvent:
    """A message of a topic that matters which cannot be used; ``reason`` is a sentence with the remedy."""

    received: int
    topic: str
    reason: str


BagEvent = JointStateEvent | CommandEvent | ImageEvent | FeaturesEvent | InstructionEvent | BadEvent


@dataclass
class _Stamps:
    """How the header stamps of a topic lie to the instants of receipt (ns)."""

    messages: int = 0
    zero: int = 0
    far: int = 0
    least: int = 0
    most: int = 0

    def see(self, stamp: int, received: int) -> None:
        self.messages += 1
        if stamp == 0 and received > FAR_NS:
            self.zero += 1
        elif abs(received - stamp) > FAR_NS:
            late = received - stamp
            self.least, self.most = (min(self.least, late), max(self.most, late)) if self.far else (late, late)
            self.far += 1

    def problems(self, topic: str) -> Iterator[str]:
        if self.zero:
            yield (
                f"{self.zero} of {self.messages} messages of {topic} have the header stamp zero. Take the instants of receipt "
                "instead: --stamps receive."
            )
        if self.far:
            yield (
                f"{self.far} of {self.messages} messages of {topic} were received {self.least / 1e9:.3f} to {self.most / 1e9:.3f} "
                "s after their header stamp: two clocks, or stamps that are no instants. Take the instants of receipt instead: "
                "--stamps receive."
            )


class BagEvents:
    """The events of ``bag`` for the robot of a robot file, ascending in ``received``; may be iterated again.

    Topics are found by the robot file's names, with a leading "/" or without; images under ``TOPIC/compressed`` too. Commands are
    ``robot.recorded``'s, else those of ``command/executed``, else of ``robot.command_topic``. ``features`` are the streams wanted.
    ``stamps`` says what the instants of the inputs are: those in the ``header``, or those of their ``receive``.

    ``joint_states``, ``commands``, ``cameras``, ``streams`` and ``instruction`` are the topics found (None or absent when the bag
    has none; a robot need not be told anything).
    """

    def __init__(
        self, bag: Bag, robot: Robot, *, stamps: Literal["header", "receive"] = "header", features: Sequence[str] = ()
    ) -> None:
        """Raises ``ValueError`` for an unknown ``stamps``."""
        if stamps not in ("header", "receive"):
            raise ValueError(f"stamps is '{stamps}', expected 'header' or 'receive'.")
        self._bag, self._robot, self._receive = bag, robot, stamps == "receive"
        self._missing: list[str] = []
        self._reset()
        self.joint_states = self._find("robot.joint_state_topic", (robot.joint_state_topic,), m.STATES)
        recorded = robot.recorded
        if recorded is not None:
            self.commands = self._find("robot.recorded.command_topic", (recorded.topic,), m.COMMANDS)
        else:
            self.commands = self._find("robot.command_topic", ("command/executed", robot.command_topic), m.COMMANDS)
        self._naming = JointNaming(what="command", key="robot.recorded.command_order") if recorded is None else recorded.naming
        if not self._naming.order and robot.command_interface == "float64_array":
            self._naming = replace(self._naming, order=robot.command_joints)  # the robot file had to give them for these messages
        self.cameras: dict[str, str] = {}
        for camera in robot.cameras:
            plain = camera.topic.removesuffix("/compressed")
            topic = self._find(f"robot.cameras.{camera.name}.topic", (camera.topic, f"{plain}/compressed", plain), m.IMAGES)
            if topic is not None:
                self.cameras[camera.name] = topic
        self.streams: dict[str, str] = {}
        for stream in features:
            topic = self._find(f"the feature stream '{stream}'", (f"features/{stream}",), {m.IMAGE: m.image})
            if topic is not None:
                self.streams[stream] = topic
        told = next((topic for topic in bag.topics.values() if topic.name.strip("/") == INSTRUCTION), None)
        self.instruction = told.name if told is not None and told.type in m.TEXTS else None

    @property
    def problems(self) -> list[str]:
        """What the robot file asks for and the recording lacks, in its words; counts are of what was read so far.

        What is wrong with the files is the bag's ``problems``.
        """
        found = [*self._missing]
        found += self._joints()
        if not self._receive:
            found += [sentence for topic, stamps in self._stamps.items() for sentence in stamps.problems(topic)]
        for (topic, _), (count, reason) in self._bad.items():
            found.append(f"{count_of(count, 'message')} of {topic} cannot be used. {reason}")
        return found

    def _joints(self) -> Iterator[str]:
        total, named = sum(self._names.values()), {name for names in self._names for name in names}
        absent = [joint for joint in self._robot.joints if joint not in named] if total else []
        for joint in absent:
            yield f"joint {joint} of the robot file is not in {self.joint_states}."
        strangers = sorted(named - set(self._robot.joints))
        if absent and strangers:
            listed = ", ".join(strangers[:SHOWN]) + (" …" if len(strangers) > SHOWN else "")
            yield (
                f"{self.joint_states} has joints that the robot file has not: {listed}. If they are those that are missing, say so "
                "with robot.joint_state_names."
            )
        for joint in self._robot.joints:
            count = sum(number for names, number in self._names.items() if joint in names)
            if 0 < count < total:
                yield f"joint {joint} of the robot file is in {count} of {total} messages of {self.joint_states}."
        strangers = sorted(self._commanded - set(self._robot.joints))
        if strangers and not self._commanded.issuperset(self._robot.joints):
            yield (
                f"{self.commands} has commands for joints that the robot file has not: {', '.join(strangers[:SHOWN])}. If they are "
                "joints of the robot, say so with robot.recorded.command_names."
            )

    @property
    def bad(self) -> dict[str, int]:
        """How many messages of each topic could not be used so far."""
        counts: dict[str, int] = {}
        for (topic, _), (count, _) in self._bad.items():
            counts[topic] = counts.get(topic, 0) + count
        return counts

    def __iter__(self) -> Iterator[BagEvent]:
        return self.events()

    def events(self, start: int | None = None, stop: int | None = None) -> Iterator[BagEvent]:
        """The events with start <= received < stop (ns; None: from the first, to the last)."""
        self._reset()
        readers: dict[str, list[Callable[[Any, int], BagEvent]]] = {}
        if self.joint_states is not None:
            readers.setdefault(self.joint_states, []).append(self._joint_state)
        if self.commands is not None:
            readers.setdefault(self.commands, []).append(self._command)
        for camera, topic in self.cameras.items():
            readers.setdefault(topic, []).append(partial(self._image, camera, topic))
        for stream, topic in self.streams.items():
            readers.setdefault(topic, []).append(partial(self._features, stream, topic))
        if self.instruction is not None:
            readers.setdefault(self.instruction, []).append(self._instruction)
        for message in self._bag.messages(readers.keys(), start, stop):
            try:
                decoded = self._bag.decode(message)
            except BagError as error:
                yield self._unusable(message, "decode", str(error))
                continue
            for reader in readers[message.topic]:
                try:
                    yield reader(decoded, message.received)
                except BadInput as error:
                    yield self._unusable(message, error.kind, str(error))
                except ImageError as error:
                    yield self._unusable(message, "image", f"{str(error)[0].upper()}{str(error)[1:]}")

    def _joint_state(self, message: Any, received: int) -> JointStateEvent:
        assert self.joint_states is not None
        kind = self._bag.topics[self.joint_states].type
        state = self._robot.naming.named(m.STATES[kind](message))
        if kind == m.ARRAY:
            state = replace(state, stamp=received)  # it has no other
        self._stamps[self.joint_states].see(state.stamp, received)
        if state.names in self._names or len(self._names) < KINDS:
            self._names[state.names] = self._names.get(state.names, 0) + 1
        return JointStateEvent(received, replace(state, stamp=received) if self._receive else state)

    def _command(self, message: Any, received: int) -> CommandEvent:
        assert self.commands is not None
        stamp, names, position = m.COMMANDS[self._bag.topics[self.commands].type](message)
        if stamp is not None:
            self._stamps[self.commands].see(stamp, received)
        names = self._naming.rename(names, len(position))
        if len(names) != len(position):
            raise BadInput("command_shape", f"Command has {len(position)} positions for {len(names)} names, expected one for each.")
        if not self._commanded.issuperset(names):
            self._commanded.update(names[: max(0, KINDS - len(self._commanded))])
        return CommandEvent(received, received if stamp is None or self._receive else stamp, names, position)

    def _image(self, camera: str, topic: str, message: Any, received: int) -> ImageEvent:
        stamp = m.stamp_of(message)
        self._stamps[topic].see(stamp, received)
        image = m.IMAGES[self._bag.topics[topic].type](message)
        return ImageEvent(received, received if self._receive else stamp, camera, image)

    def _features(self, stream: str, topic: str, message: Any, received: int) -> FeaturesEvent:
        features = m.features(message, stream)
        self._stamps[topic].see(features.stamp, received)
        return FeaturesEvent(received, replace(features, stamp=received) if self._receive else features)

    def _instruction(self, message: Any, received: int) -> InstructionEvent:
        assert self.instruction is not None
        return InstructionEvent(received, m.TEXTS[self._bag.topics[self.instruction].type](message))

    def _unusable(self, message: RawMessage, kind: str, reason: str) -> BadEvent:
        count, first = self._bad.get((message.topic, kind), (0, reason))
        self._bad[message.topic, kind] = (count + 1, first)
        return BadEvent(message.received, message.topic, reason)

    def _reset(self) -> None:
        self._stamps: defaultdict[str, _Stamps] = defaultdict(_Stamps)
        self._names: dict[tuple[str, ...], int] = {}
        self._commanded: set[str] = set()  # joints
        self._bad: dict[tuple[str, str], tuple[int, str]] = {}

    def _find(self, key: str, names: Sequence[str], types: Mapping[str, object]) -> str | None:
        """The bag's topic of the first of ``names`` that it has with one of ``types``; else None, and a sentence says why."""
        by_name = {topic.strip("/"): topic for topic in self._bag.topics}
        wrong = ""
        for name in names:
            topic = by_name.get(name.removeprefix("~").strip("/"))
            if topic is not None and self._bag.topics[topic].type in types:
                return topic
            if topic is not None:
                wrong = wrong or f"topic {topic} is {self._bag.topics[topic].type}, expected {' or '.join(types)}."
        alike = [topic.name for topic in self._bag.topics.values() if topic.type in types and topic.count]
        if types is m.IMAGES:  # features travel as images, but no camera takes them
            alike = [name for name in alike if not name.strip("/").startswith("features/")]
        hint = f"; topics of that type: {', '.join(alike)}" if alike else ""
        self._missing.append(f"{key}: {wrong or f'topic {names[-1]} is not in the recording{hint}.'}")
        return None
