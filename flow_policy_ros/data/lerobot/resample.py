"""From what a recording says, in the order of receipt, to frames at a fixed rate. Streaming: little more than a gap is held.

A frame has of each input what has the newest stamp among all received by its instant, as the robot had; and the newest command
for that instant or before, which may itself be received a little later. Values are copied, never interpolated.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import BagEvent, CommandEvent, FeaturesEvent, ImageEvent, JointStateEvent
from flow_policy_ros.data.chunk_rows import MAX_GAP_S
from flow_policy_ros.data.lerobot.frames import JOINT_STATE, Frame, instant
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder

LATE_COMMAND_NS = 500_000_000
"""A command for a frame's instant is waited for as long as this, by the instants of receipt."""
COMMAND_GAP = "commands pause for longer than {gap:g} s, or end before the joint states (--command-gap)"


@dataclass(frozen=True)
class Wanted:
    """What a frame consists of. ``streams`` and ``cameras`` that a recording lacks leave it without frames."""

    joints: tuple[str, ...]
    cameras: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()


@dataclass
class _Newest:
    value: Any
    stamp: int
    received: int


@dataclass
class Tally:
    """What could not be used, by topic: how many messages, and why the first of them."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, topic: str, reason: str) -> None:
        """Count one message."""
        count, first = self.found.get(topic, (0, reason))
        self.found[topic] = (count + 1, first)

    def sentences(self) -> list[str]:
        """One for each topic."""
        return [f"{topic}: {count} messages not used; the first: {reason}" for topic, (count, reason) in self.found.items()]


def resample(
    events: Iterable[BagEvent], wanted: Wanted, fps: int, max_gap_s: float, problems: list[str], command_gap_s: float = MAX_GAP_S
) -> Iterator[Frame]:
    """Frames of ``events`` at ``fps``, episodes numbered from 0.

    An episode begins when everything wanted has been received, and ends where an input other than commands is last received before
    more than ``max_gap_s`` without, or where the recording ends. It also ends where commands are more than ``command_gap_s`` apart:
    no frame lies between two such commands, after the last one or before the first, as no chunk begins there (``chunk_rows``).
    What could not be used goes to ``problems`` at the end.
    """
    sampler = _Sampler(wanted, fps, round(max_gap_s * 1e9), round(command_gap_s * 1e9))
    for event in events:
        yield from sampler.take(event)
    yield from sampler.finish()
    problems += sampler.tally.sentences()
    if sampler.made < 0:
        problems.append(sampler.why_nothing())
    elif sampler.uncommanded > fps * command_gap_s:  # fewer are the ordinary end of a recording
        problems.append(f"{sampler.uncommanded} frames are left out: {COMMAND_GAP.format(gap=command_gap_s)}.")


class _Sampler:
    def __init__(self, wanted: Wanted, fps: int, max_gap_ns: int, command_gap_ns: int) -> None:
        self.tally = Tally()
        self.made = -1  # number of the last episode that a frame was given of
        self.uncommanded = 0  # frames left out
        self._episode = -1  # between gaps of inputs other than commands
        self._given = -1  # the one that the last frame given was in; -1 after a frame that was left out
        self._wanted, self._fps, self._gap, self._command_gap = wanted, fps, max_gap_ns, command_gap_ns
        # After so many frames the grid of instants is in whole ns again: from there on an episode has a grid of its own.
        self._whole = fps // gcd(fps, 1_000_000_000)
        self._inputs = (JOINT_STATE, *wanted.cameras, *wanted.streams)
        self._states, self._commands_order = JointOrder(wanted.joints), JointOrder(wanted.joints)
        self._newest: dict[str, _Newest] = {}
        self._commands: list[tuple[int, int, NDArray[np.float32]]] = []  # ascending (stamp, number)
        self._told = 0
        self._stream_shapes: dict[str, tuple[int, ...]] = {}
        self._waiting: deque[tuple[int, Frame]] = deque()  # with their numbers, for their action
        self._start, self._next, self._now = 0, -1, 0  # of the present episode; next is -1 between episodes

    def take(self, event: BagEvent) -> Iterator[Frame]:
        """The frames that ``event`` completes: those before it, whose action is known."""
        yield from self._advance(event.received - 1)
        self._now = event.received
        self._apply(event)
        if self._next < 0 and self._complete():
            self._episode += 1
            self._start, self._next = event.received, 0
        yield from self._ready(event.received)

    def finish(self) -> Iterator[Frame]:
        """The last frames."""
        yield from self._advance(self._now)
        yield from self._ready(None)

    def why_nothing(self) -> str:
        """What a recording without frames lacks."""
        missing = [name.replace("_", " ") for name in self._inputs if name not in self._newest]
        if not self._told:
            missing.append("command")
        if missing:
            return f"no frames: nothing usable was received of {', '.join(missing)}."
        if self.uncommanded:
            return f"no frames: {COMMAND_GAP.format(gap=self._command_gap / 1e9)}."
        return (
            "no frames: joint states, images, features and commands are never there at the same time; raise --max-gap, or look at "
            "their stamps with flow_policy inspect."
        )

    def _advance(self, until: int) -> Iterator[Frame]:
        """Make the frames up to ``until``; inputs do not change on the way."""
        while self._next >= 0 and (now := instant(self._start, self._next, self._fps)) <= until:
            silent = [name for name in self._inputs if now - self._newest[name].received > self._gap]
            if silent:
                last = min(self._newest[name].received for name in silent)
                while self._waiting and self._waiting[-1][1].stamp > last:
                    self._waiting.pop()  # the robot stood by, and nobody knows what it saw
                for name in silent:
                    del self._newest[name]  # the next episode begins when it is heard of again
                self._next = -1
                return
            self._waiting.append((self._next, self._frame(now)))
            self._next += 1
            if len(self._waiting) > self._fps:
                yield from self._ready(now)

    def _frame(self, now: int) -> Frame:
        new = self._newest
        return Frame(
            episode=self._episode,
            stamp=now,
            state=new[JOINT_STATE].value,
            action=new[JOINT_STATE].value,  # until it is known
            images={name: new[name].value for name in self._wanted.cameras},
            features={name: new[name].value for name in self._wanted.streams},
            ages={name: (now - new[name].stamp) / 1e9 for name in self._inputs},
        )

    def _ready(self, now: int | None) -> Iterator[Frame]:
        """The frames whose action no later message can change, and that are in no gap; ``now`` None: there will be none."""
        while self._waiting:
            number, frame = self._waiting[0]
            place = bisect_right(self._commands, frame.stamp, key=lambda command: command[0])
            settled = place < len(self._commands) or (now is not None and frame.stamp + LATE_COMMAND_NS + self._command_gap < now)
            heard = min((input.received for input in self._newest.values()), default=frame.stamp)
            if now is not None and not (settled and frame.stamp <= heard):
                return
            self._waiting.popleft()
            del self._commands[: max(place - 1, 0)]
            if not (place and self._in_force(frame.stamp, self._given == frame.episode)):
                self.uncommanded += 1
                self._given = -1
            elif self._given == frame.episode or number % self._whole == 0:
                self.made += self._given != frame.episode
                self._given = frame.episode
                yield Frame(self.made, frame.stamp, frame.state, self._commands[0][2], frame.images, frame.features, frame.ages)

    def _in_force(self, stamp: int, going_on: bool) -> bool:
        """Whether the first command was obeyed at ``stamp``: the next one came soon enough, or it is the last of an episode's."""
        first = self._commands[0][0]
        return (going_on and first == stamp) or (len(self._commands) > 1 and self._commands[1][0] - first <= self._command_gap)

    def _complete(self) -> bool:
        return bool(self._commands) and self._commands[0][0] <= self._now and all(name in self._newest for name in self._inputs)

    def _apply(self, event: BagEvent) -> None:
        try:
            if isinstance(event, JointStateEvent):
                self._put(JOINT_STATE, _single(self._states.positions_of(event.state)), event.state.stamp, event.received)
            elif isinstance(event, CommandEvent):
                action = _single(self._commands_order.select("command", event.names, event.position))
                self._told += 1
                insort(self._commands, (event.stamp, self._told, action), key=lambda command: command[:2])
                if len(self._commands) > 100_000:  # between episodes: of what lies behind, the newest is enough
                    del self._commands[:-1000]
            elif isinstance(event, ImageEvent):
                if event.camera in self._wanted.cameras:
                    self._put(event.camera, event.image, event.stamp, event.received)
            elif isinstance(event, FeaturesEvent) and event.features.stream in self._wanted.streams:
                self._features(event)
        except BadInput as error:
            self.tally.add("commands" if isinstance(event, CommandEvent) else "joint states", str(error))

    def _features(self, event: FeaturesEvent) -> None:
        name, values = event.features.stream, np.asarray(event.features.values, dtype=np.float32)
        expected = self._stream_shapes.setdefault(name, values.shape)
        if values.shape != expected:
            self.tally.add(f"features/{name}", f"shape {values.shape}, expected {expected} as before.")
        elif not np.isfinite(values).all():
            self.tally.add(f"features/{name}", "NaN or Inf; check the image and the extractor's weights.")
        else:
            self._put(name, values, event.features.stamp, event.received)

    def _put(self, name: str, value: Any, stamp: int, received: int) -> None:
        held = self._newest.get(name)
        if held is None or stamp >= held.stamp:
            self._newest[name] = _Newest(value, stamp, received)


def _single(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
