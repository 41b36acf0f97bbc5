"""What has arrived, and the observation that it makes at an instant.

An input counts as known from the instant at which it was received; its age is judged on its own header stamp. Here
live: the stamped buffer, the rule about ages, the assembler of observations. Sampling lives in ``policy_loop``.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.joint_order import BadInput, JointOrder
from flow_policy_ros.runtime.types import FeatureArray, Features, FloatArray, JointState, Observation

T = TypeVar("T")
HISTORY_LENGTH = 4096
"""Joint states kept where past ones are observed: ``MOST_HISTORY_NS`` of them at 2 kHz."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """An item with its header ``stamp`` and the instant ``received`` from which it is visible, both in ns."""

    item: T
    stamp: int
    received: int


@dataclass(frozen=True)
class Stale:
    """No product this time; ``reason`` names the stream, its age, the greatest age allowed and the remedy."""

    reason: str


class StampedBuffer(Generic[T]):
    """The newest ``length`` items by stamp, put in any order; the one with the oldest stamp is dropped first."""

    def __init__(self, length: int = 64) -> None:
        self._length = length
        self._entries: list[Entry[T]] = []  # ascending (stamp, received)

    def put(self, item: T, stamp: int, received: int) -> None:
        """Store ``item``; of several with one stamp the last received is the newest."""
        last = self._entries[-1] if self._entries else None
        if last is None or (last.stamp, last.received) <= (stamp, received):
            self._entries.append(Entry(item, stamp, received))  # nearly always
        else:
            insort(self._entries, Entry(item, stamp, received), key=lambda e: (e.stamp, e.received))
        del self._entries[: -self._length]

    def latest(self, now: int) -> Entry[T] | None:
        """The entry with the newest stamp among those received by ``now``."""
        return next((e for e in reversed(self._entries) if e.received <= now), None)

    def latest_stamped(self, now: int, limit: int) -> Entry[T] | None:
        """As ``latest``, among stamps up to ``limit``; where there is none of them, the oldest stamp received by ``now``."""
        place = bisect_right(self._entries, limit, key=lambda e: e.stamp)
        found = next((self._entries[k] for k in range(place - 1, -1, -1) if self._entries[k].received <= now), None)
        return found or next((e for e in self._entries if e.received <= now), None)

    def visible(self, now: int) -> list[Entry[T]]:
        """Every entry received by ``now``, newest stamp first."""
        return [e for e in reversed(self._entries) if e.received <= now]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def age_problem(stream: str, entry: Entry[T] | None, now: int, max_age_s: float) -> str | None:
    """Why ``stream`` cannot be used at ``now``, in a sentence with the remedy; None when it can.

    A stamp further in the future than ``max_age_s`` is as bad as an old one: its age cannot be known.
    """
    if entry is None:
        return f"{stream}: nothing received yet. Check that its publisher runs and that the topic's name is right."
    age_s = (now - entry.stamp) / 1e9
    if age_s > max_age_s:
        return (
            f"{stream} is stale: age {age_s:.3f} s, at most {max_age_s:.3f} s allowed. Check its publisher and the "
            "network, or raise the parameter for its greatest age."
        )
    if age_s < -max_age_s:
        return (
            f"{stream} is stamped {-age_s:.3f} s in the future, at most {max_age_s:.3f} s allowed. Synchronise the "
            "clocks, or reset after a jump of the clock."
        )
    return None


class ObservationAssembler:
    """Joint states and features in, the newest valid observation out, in the order of the checkpoint's contract.

    ``stream_max_age_s`` are greatest ages of single streams, instead of ``features_max_age_s``; names that are no input mean
    nothing. ``rejections`` counts refused inputs by kind; what was refused is never stored. Of a standing stream what was given
    last counts, whatever its stamp: a clock that is set back must not bring an older order into force again.
    """

    def __init__(
        self,
        contract: Contract,
        joint_state_max_age_s: float,
        features_max_age_s: float,
        stream_max_age_s: Mapping[str, float] | None = None,
    ) -> None:
        self.joint_state_max_age_s = joint_state_max_age_s
        self.features_max_age_s = features_max_age_s
        self.stream_max_age_s = dict(stream_max_age_s or {})
        self.rejections: dict[str, int] = {}
        self._streams = {stream.name: stream for stream in contract.streams}
        self._order = JointOrder(contract.joints)
        self._history_ns = contract.history_ns
        self._joint_positions: StampedBuffer[FloatArray] = StampedBuffer(HISTORY_LENGTH) if self._history_ns else StampedBuffer()
        self._features: dict[str, StampedBuffer[FeatureArray]] = {n: StampedBuffer() for n in self._streams}
        self._first: dict[str, Entry[FeatureArray]] = {}
        self._standing: dict[str, Entry[FeatureArray]] = {}

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """Take a joint state, visible from ``received`` (ns) on. Raises ``BadInput``."""
        try:
            position = self._order.positions_of(joint_state)
        except BadInput as error:
            self._count(error)
            raise
        self._joint_positions.put(position, joint_state.stamp, received)

    def on_features(self, features: Features, received: int) -> None:
        """Take features, visible from ``received`` (ns) on. Raises ``BadInput``."""
        self.on_all((features,), received)

    def on_all(self, given: Iterable[Features], received: int) -> None:
        """As ``on_features``, all of ``given`` or, where one is refused, none."""
        try:
            checked = [(features, self._checked(features)) for features in given]
        except BadInput as error:
            self._count(error)
            raise
        for features, values in checked:
            name, entry = features.stream, Entry(values, features.stamp, received)
            if self._streams[name].moment == "standing":
                self._standing[name] = entry
                continue
            self._features[name].put(values, features.stamp, received)
            first = self._first.get(name)
            if first is None or features.stamp < first.stamp:
                self._first[name] = entry

    def observe(self, now: int) -> Observation | Stale:
        """The newest inputs received by ``now``, or the first reason why there is no observation.

        Of past joint states, each is the newest known by then that is stamped no later than its offset before the newest; at the
        start, where there is none, the oldest stands for it.
        """
        joints = self._joint_positions.latest(now)
        problem = age_problem("joint state", joints, now, self.joint_state_max_age_s)
        if joints is None or problem is not None:
            return Stale(problem or "")
        values: dict[str, FeatureArray] = {}
        stamps = {"joint_state": joints.stamp}
        for name, buffer in self._features.items():
            stream = self._streams[name]
            if stream.moment == "standing":
                entry = self._standing.get(name)
                problem = None if entry is not None else _nothing_said(stream)
            else:
                entry = buffer.latest(now)
                greatest = self.stream_max_age_s.get(name, self.features_max_age_s)
                problem = age_problem(f"features '{name}'", entry, now, greatest)
            if entry is None or problem is not None:
                return Stale(problem or "")
            if stream.moment == "first" and self._first[name].received <= now:
                entry = self._first[name]  # the newest has shown that the stream is alive
            values[name] = entry.item
            stamps[name] = entry.stamp
        past = [self._joint_positions.latest_stamped(now, joints.stamp + offset) for offset in self._history_ns]
        history = np.array([entry.item for entry in past if entry is not None]).reshape(len(past), len(joints.item))
        return Observation(joints.stamp, joints.item, values, stamps, history)

    def clear(self) -> None:
        """Forget the inputs, but not what is standing; the counts of rejections stay."""
        self._joint_positions.clear()
        for buffer in self._features.values():
            buffer.clear()
        self._first.clear()

    def _checked(self, features: Features) -> FeatureArray:
        stream = self._streams.get(features.stream)
        if stream is None:
            raise BadInput(
                "features_stream",
                f"features of stream '{features.stream}' are not an input of this checkpoint; expected one of "
                f"{sorted(self._streams)}. Connect the perception node that the checkpoint was trained with.",
            )
        pixels = stream.dtype == "uint8"
        if pixels and np.asarray(features.values).dtype != np.uint8:
            raise BadInput(
                "features_type",
                f"features '{stream.name}' are {np.asarray(features.values).dtype}, expected uint8: the camera's pixels, unscaled.",
            )
        values: FeatureArray = np.array(features.values, dtype=np.uint8 if pixels else np.float32)
        expected = (stream.tokens, stream.channels)
        if values.shape != expected:
            raise BadInput(
                "features_shape",
                f"features '{stream.name}' have shape {values.shape}, expected {expected} (tokens, channels). "
                "Use the extractor that the checkpoint was trained with.",
            )
        if not pixels and not np.isfinite(values).all():
            token = int(np.argmin(np.isfinite(values).all(axis=1)))
            raise BadInput(
                "features_not_finite",
                f"features '{stream.name}' hold NaN or Inf (first in token {token}); expected finite values. "
                "Check the image and the extractor's weights.",
            )
        return values

    def _count(self, error: BadInput) -> None:
        self.rejections[error.kind] = self.rejections.get(error.kind, 0) + 1


def _nothing_said(stream: StreamContract) -> str:
    return (
        f"no instruction has been given, which the checkpoint reads (stream '{stream.name}'). Set the parameter "
        "policy.instruction, or publish one on the topic 'instruction'."
    )
