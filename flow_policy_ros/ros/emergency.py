"""The emergency stop of command nodes, said by a program until they have taken it. Orders that may wait are ``command_client``'s.

What is needed to say it is all that is imported before it is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from std_msgs.msg import Bool

from flow_policy_ros.ros import qos
from flow_policy_ros.ros.caller import Caller, visitor

if TYPE_CHECKING:
    from flow_policy_ros.ros.said import CommandSaid

NAME = "operator"
"""As a node; the SROS 2 profile of who gives orders is called so, too."""
TOPIC = "command/emergency_stop"
NODE = "command_node"
AGAIN_S = 0.05
"""It is heard with best effort: said again and again, until its node says that it has taken it."""
APPEAR_S, MOST = 0.5, 3
"""Of a participant's first words on a busy machine some are lost, and then it is discovered 3 s later: while nobody listens to the
first, further ones appear, so long apart."""


@dataclass(frozen=True)
class Stop:
    """What became of it at one robot: its command node's full name, whether that ``confirmed``, its words, ``seconds`` after which
    it did, and how many ``listened``, recorders too."""

    node: str
    confirmed: bool
    message: str
    seconds: float
    listened: int


Tell = Callable[[Stop], None]


def engage(namespace: str | None, patience_s: float, tell: Tell) -> list[Stop]:
    """Stop the robot of ``namespace`` ("/" for none); with None that of every name space in which one is found.

    It is said until it is confirmed, ``patience_s`` at most, and without a name space all that time, for robots that are discovered
    late. ``tell`` is given each robot as it confirms. Returns all; none where no command node was found.
    """
    return _say(True, namespace, patience_s, tell)


def release(namespace: str, patience_s: float, tell: Tell) -> list[Stop]:
    """Take it back; the fault stays until a reset."""
    return _say(False, namespace, patience_s, tell)


def _say(engaged: bool, namespace: str | None, patience_s: float, tell: Tell) -> list[Stop]:
    word = _Word(engaged)
    told: set[str] = set()
    with ExitStack() as visits:
        while (passed := word.age_s()) < patience_s:
            wanted = namespace is None or not word.heard()
            if wanted and passed >= APPEAR_S * len(word.voices) and len(word.voices) < MOST:
                word.voices.append(_Voice(visits.enter_context(visitor(NAME, namespace or "/")), namespace or "/", word))
            for voice in word.voices:
                voice.say(everywhere=namespace is None)
            for stop in word.result():
                if stop.confirmed and stop.node not in told:
                    told.add(stop.node)
                    tell(stop)
            if namespace is not None and told:
                break
        return word.result()


class _Word:
    """What is said, by which voices, and who has ``confirmed`` it: by node its message, and after how many seconds."""

    def __init__(self, engaged: bool) -> None:
        self.engaged = engaged
        self.voices: list[_Voice] = []
        self._begun = time.monotonic()
        self._confirmed: dict[str, tuple[str, float]] = {}

    def age_s(self) -> float:
        return time.monotonic() - self._begun

    def take(self, said: CommandSaid) -> None:
        if said.emergency is self.engaged:
            self._confirmed.setdefault(absolute(said.namespace, NODE), (said.message, self.age_s()))

    def heard(self) -> bool:
        return any(listened for voice in self.voices for listened in voice.listened().values())

    def result(self) -> list[Stop]:
        """Of each command node that is there."""
        found = []
        for node in sorted(self._nodes()):
            message, seconds = self._confirmed.get(node, ("", self.age_s()))
            space = node.removesuffix(f"/{NODE}") or "/"
            listened = max(voice.listened().get(space, 0) for voice in self.voices)
            found.append(Stop(node, node in self._confirmed, message, seconds, listened))
        return found

    def _nodes(self) -> set[str]:
        """Command nodes of the name spaces that are reached, alive or not."""
        reached = {absolute(space, NODE) for voice in self.voices for space in voice.listened()}
        return reached & set(self._confirmed).union(*(voice.alive() for voice in self.voices))


class _Voice:
    """One participant in the domain, that says the word in each name space that it ``reached``, and hears the answers."""

    def __init__(self, caller: Caller, namespace: str, word: _Word) -> None:
        self._caller = caller
        self._word = word
        self._publishers: dict[str, Any] = {}  # by name space
        self._reports: dict[str, Any] = {}
        self._reach(namespace)
        self._publish()
        for space in dict.fromkeys(("/", namespace)):  # a bring-up of two robots keeps their reports apart
            self._hear(space)

    def say(self, everywhere: bool) -> None:
        """Once; ``everywhere`` wherever its topic has come up, too."""
        if everywhere:
            topics = [name for name, _ in self._caller.node.get_topic_names_and_types() if name.endswith(f"/{TOPIC}")]
            for space in [name[: -len(TOPIC) - 1] or "/" for name in topics]:
                self._reach(space)
                self._hear(space)
        self._publish()
        self._caller.pause(AGAIN_S)

    def listened(self) -> dict[str, int]:
        """How many listen, by name space."""
        return {space: int(publisher.get_subscription_count()) for space, publisher in self._publishers.items()}

    def alive(self) -> set[str]:
        """Full names of all nodes."""
        return {absolute(space, name) for name, space in self._caller.node.get_node_names_and_namespaces()}

    def _publish(self) -> None:
        for publisher in self._publishers.values():
            publisher.publish(Bool(data=self._word.engaged))

    def _reach(self, space: str) -> None:
        if space not in self._publishers:
            self._publishers[space] = self._caller.node.create_publisher(Bool, absolute(space, TOPIC), qos.RELIABLE)

    def _hear(self, space: str) -> None:
        from flow_policy_ros.ros.said import listen

        if space not in self._reports:
            self._reports[space] = listen(self._caller.node, space, self._word.take)


def absolute(space: str, name: str) -> str:
    """``name`` in a name space ("/" for none)."""
    return f"{space.rstrip('/')}/{name}"
