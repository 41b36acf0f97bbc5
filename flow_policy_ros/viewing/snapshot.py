"""What is shown of one instant: frozen data alone. Live and recorded robots give the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flow_policy_ros.runtime.types import FloatArray

Kind = Literal["state", "fault", "cleared", "refused", "warning", "error", "well", "instruction", "episode", "reset"]
"""Of events: the guard's state, its faults, inputs that it refused, how nodes fare, what the robot is told, the simulation."""


@dataclass(frozen=True)
class Scene:
    """What does not change from snapshot to snapshot. ``joints`` are the columns of its rows; more may come behind them.

    ``limits`` are the least and largest position by joint, rad or m, of joints that have them. ``source`` is a recording's path, or
    "" for a live robot; ``seconds`` its length, 0 when unknown.
    """

    title: str
    live: bool
    joints: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    source: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """Positions (J,) of the scene's joints at ``stamp`` (ns), rad or m; NaN of joints that the message did not name."""

    stamp: int
    position: FloatArray


@dataclass(frozen=True)
class Prediction:
    """A chunk: ``positions`` (H, J) at ``times_ns`` (H,) after ``stamp``, NaN of joints that it does not command. Of long chunks
    some points are left out, never the first and the last."""

    stamp: int
    times_ns: tuple[int, ...]
    positions: FloatArray


@dataclass(frozen=True)
class Detection:
    """A box in a picture: centre and size divided by the picture's width and height."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """``number`` finds its JPEG (see ``viewing.pictures``); ``stamp`` (ns) is when it was taken. ``detections`` were found in it,
    or in one shortly before."""

    number: int
    stamp: int
    detections: tuple[Detection, ...] = ()


@dataclass(frozen=True)
class Delays:
    """In ms at the snapshot's instant; None for what is not known.

    Ages count from stamps: of the newest ``joint_state``, ``features`` (of several streams the oldest) and ``chunk``, which is how
    old the observation is that the robot acts upon. Of the newest chunk: ``observation``, the greatest age of its inputs at its
    begin; ``inference``, how long sampling took; ``until_followed``, from its observation until the command stage followed it.
    """

    joint_state: float | None = None
    features: float | None = None
    chunk: float | None = None
    observation: float | None = None
    inference: float | None = None
    until_followed: float | None = None


@dataclass(frozen=True)
class Guard:
    """The command stage as it last reported. ``state`` is "" before the first report, ``since`` (ns) the tick that changed it.
    ``level`` 0 is well, 1 a warning, 2 an error, 3 silent."""

    state: str = ""
    since: int = 0
    faults: tuple[str, ...] = ()
    level: int = 0
    message: str = ""


@dataclass(frozen=True)
class NodeHealth:
    """What a node last said of itself on ``/diagnostics``; ``stamp`` (ns) when."""

    name: str
    level: int
    message: str
    stamp: int


@dataclass(frozen=True)
class Event:
    """Something that happened at ``stamp`` (ns)."""

    stamp: int
    kind: Kind
    text: str


@dataclass(frozen=True)
class Snapshot:
    """Everything that is shown at ``stamp`` (ns), and what came since the snapshot before: rows, a chunk, events.

    ``rates`` are messages a second, by topic role; ``figures`` further numbers that nodes report, by name.
    """

    stamp: int
    measured: tuple[Row, ...] = ()
    executed: tuple[Row, ...] = ()
    prediction: Prediction | None = None
    picture: Picture | None = None
    delays: Delays = field(default_factory=Delays)
    guard: Guard = field(default_factory=Guard)
    nodes: tuple[NodeHealth, ...] = ()
    events: tuple[Event, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    instruction: str = ""
