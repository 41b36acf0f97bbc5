"""What a replay tells whoever watches it: metrics, traces, the bag of results. The order of calls is the order of instants.

A sink never changes what is replayed. Everything that a sink keeps is bounded: recordings may be hours long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.bag_events import BadEvent, CommandEvent
from flow_policy_ros.runtime.types import Chunk, Features, JointState
from flow_policy_ros.safety.command_loop import CommandTick


@dataclass(frozen=True)
class ReplayFeatures:
    """Features of one image (``image`` RGB (H, W, 3), None for recorded features), visible to the policy from ``ready`` (ns) on,
    never when ``lost``. ``boxes`` (N, 4) pixels x0 y0 x1 y1 with ``labels`` where a detector made them; ``duration_ms`` of the
    computation on this machine."""

    features: Features
    received: int
    ready: int
    lost: bool
    duration_ms: float
    image: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReplayChunk:
    """A chunk that was sampled at ``now`` (ns) and reaches the command stage at ``ready`` (never when ``lost``)."""

    now: int
    chunk: Chunk
    ready: int
    lost: bool
    duration_ms: float


@dataclass(frozen=True)
class ReplayTick:
    """One control tick at ``now`` (ns); ``duration_ms`` is what the safety stage took. ``stale`` is why no chunk was sampled at
    this tick although one was due, else empty. ``reset``: before this tick the command stage was reset, as an operator would have
    done after a fault."""

    now: int
    tick: CommandTick
    duration_ms: float
    stale: str = ""
    reset: bool = False


@dataclass(frozen=True)
class ReplayMeta:
    """What is replayed: known before the first call. ``period_ns`` of the control tick; ``joints`` the robot's order of every (J,)
    array of ticks; ``settings`` flat parameters and paths, for the record."""

    bag: str
    robot: str
    checkpoint: str
    joints: tuple[str, ...]
    period_ns: int
    settings: Mapping[str, object] = field(default_factory=dict)


class ReplaySink(Protocol):
    """Anything that watches a replay. ``begin`` first, ``end`` last; the rest in the order of instants."""

    def begin(self, meta: ReplayMeta) -> None: ...

    def on_joint_state(self, state: JointState, received: int) -> None: ...

    def on_recorded(self, command: CommandEvent) -> None:
        """What the robot was told when the bag was recorded."""

    def on_bad(self, event: BadEvent) -> None: ...

    def on_features(self, seen: ReplayFeatures) -> None: ...

    def on_chunk(self, sampled: ReplayChunk) -> None: ...

    def on_tick(self, tick: ReplayTick) -> None: ...

    def end(self) -> None: ...
