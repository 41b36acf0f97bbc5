"""A recording in memory: irregular tables of what a robot measured, saw and was told. One ``.npz`` file each, never pickled.

Everything that can be trained on comes to this form: episodes on a regular grid (``episodes``), bags (``bag_recording``),
LeRobot folders (``lerobot``). Cutting it into samples lives in ``windows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.arrivals import Indices
from flow_policy_ros.data.episodes import Episode, EpisodeError, no_episodes, read_npz
from flow_policy_ros.runtime.types import FloatArray

_FORMAT = 1
_KEY = "recording_format"
_TABLES = ("joints", "stamps", "received", "position", "command_stamps", "commands")
UNKNOWN = -1
"""How a success that nobody noted is written."""


class Stream(NamedTuple):
    """Features of one stream: ``stamps`` (K,) ns of the images, ``received`` (K,) ns, ascending, ``values`` (K, tokens,
    channels) float32, or uint8 where they are pictures."""

    stamps: Indices
    received: Indices
    values: NDArray[Any]


class Instruction(NamedTuple):
    """What the robot was told to do, from the instant ``received`` (ns) on."""

    received: int
    text: str


@dataclass(frozen=True)
class Recording:
    """What happened between two resets, in the order of receipt, of the joints ``joints`` (J of them).

    Joint states: header ``stamps`` (N,) and ``received`` (N,), int64 ns, ascending in the latter; ``position`` (N, J) rad or m.
    Commands: for the instants ``command_stamps`` (M,), strictly ascending, ``commands`` (M, J) rad or m. ``streams`` by name.
    ``instructions`` are in the order of receipt; the first may be from before the recording's beginning, in force when it began.
    ``success`` None: nobody noted it. ``source`` names it in errors; recordings of one source are never split between
    training and validation. ``tick_ns`` > 0: a regular grid with a command for every joint state, received when stamped.
    ``problems`` are sentences on what could not be read. Raises ``EpisodeError`` for arrays that do not fit together.
    """

    joints: tuple[str, ...]
    stamps: Indices
    received: Indices
    position: FloatArray
    command_stamps: Indices
    commands: FloatArray
    streams: Mapping[str, Stream] = field(default_factory=dict)
    robot: str = ""
    task: str = ""
    success: bool | None = None
    source: str = "recording"
    tick_ns: int = 0
    problems: tuple[str, ...] = ()
    instructions: tuple[Instruction, ...] = ()

    def __post_init__(self) -> None:
        states, told, joints = len(self.stamps), len(self.command_stamps), len(self.joints)
        if states == 0:
            raise EpisodeError(f"{self.source} holds no joint states.")
        _require_shape(self.source, "received", self.received, (states,))
        _require_shape(self.source, "position", self.position, (states, joints))
        _require_shape(self.source, "commands", self.commands, (told, joints))
        for name, table in (("position", self.position), ("commands", self.commands)):
            if not np.isfinite(table).all():
                raise EpisodeError(f"{self.source}: {name} holds NaN or Inf; leave this recording out.")
        if np.any(np.diff(self.received) < 0) or np.any(np.diff(self.command_stamps) <= 0):
            raise EpisodeError(f"{self.source}: joint states must ascend in the instant of receipt, commands in their stamp.")
        for name, stream in self.streams.items():
            if stream.values.ndim != 3 or not np.shape(stream.stamps) == np.shape(stream.received) == stream.values.shape[:1]:
                raise EpisodeError(
                    f"{self.source}: stream '{name}' has {np.shape(stream.stamps)} stamps, {np.shape(stream.received)} instants of "
                    f"receipt and values of shape {stream.values.shape}, expected (K,), (K,) and (K, tokens, channels)."
                )
            if np.any(np.diff(stream.received) < 0) or not np.isfinite(stream.values).all():
                raise EpisodeError(
                    f"{self.source}: stream '{name}' does not ascend in the instant of receipt, or holds NaN or Inf."
                )
        if any(later.received < earlier.received for earlier, later in pairwise(self.instructions)):
            raise EpisodeError(f"{self.source}: the instructions do not ascend in the instant of receipt.")

    @property
    def seconds(self) -> float:
        """How long it is, s."""
        span = len(self.stamps) * self.tick_ns if self.tick_ns else int(self.received[-1] - self.received[0])
        return span / 1e9

    @property
    def instruction(self) -> str:
        """The last instruction, "" where nobody gave one."""
        return self.instructions[-1].text if self.instructions else ""

    def told(self, text: str) -> Recording:
        """The same, with this instruction from its beginning to its end."""
        return replace(self, instructions=(Instruction(int(self.received[0]), text),))

    @staticmethod
    def of_episode(episode: Episode, source: str = "") -> Recording:
        """The episode as a recording: everything is received when it is stamped; what is learned (``label``) is the command."""
        return Recording(
            joints=episode.joints,
            stamps=episode.stamps,
            received=episode.stamps,
            position=episode.position,
            command_stamps=episode.stamps,
            commands=episode.label,
            streams={name: Stream(stamps, stamps, values) for name, (stamps, values) in episode.streams.items()},
            robot=episode.robot or f"adroit_{episode.task}",
            task=episode.task,
            success=episode.success,
            source=source or f"episode of seed {episode.seed}",
            tick_ns=episode.dt_ns,
            instructions=(Instruction(int(episode.stamps[0]), episode.instruction),) if episode.instruction else (),
        )

    def save(self, path: str | Path) -> None:
        """Write a compressed ``.npz``; an existing file is replaced at once or not at all."""
        path = Path(path)
        content: dict[str, Any] = {_KEY: _FORMAT, "joints": np.array(self.joints, dtype=np.str_)}
        content |= {name: getattr(self, name) for name in (*_TABLES, "robot", "task", "source", "tick_ns") if name not in content}
        content["success"] = UNKNOWN if self.success is None else int(self.success)
        content["problems"] = np.array(self.problems, dtype=np.str_)
        content["instructions/received"] = np.array([told.received for told in self.instructions], dtype=np.int64)
        content["instructions/text"] = np.array([told.text for told in self.instructions], dtype=np.str_)
        for name, stream in self.streams.items():
            content |= {f"stream/{name}/{part}": values for part, values in stream._asdict().items()}
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **content)
        partial.replace(path)


def read_recordings(folder: str | Path) -> list[Recording]:
    """Every ``*.npz`` of ``folder`` in the order of names, episodes and recordings alike.

    Raises ``EpisodeError`` when there is none, or one is bad."""
    folder = Path(folder)
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise no_episodes(folder)
    return [load_recording(path) for path in paths]


def load_recording(path: Path) -> Recording:
    """An ``.npz`` file, an episode or a recording. Raises ``EpisodeError`` naming the file and what is wrong with it."""
    content = read_npz(path)
    if _KEY not in content:
        return Recording.of_episode(Episode.of_content(path, content), f"episode {path}")
    try:
        if int(content[_KEY]) != _FORMAT:
            raise EpisodeError(f"its format is {content[_KEY]}, expected {_FORMAT}; make it again.")
        names = sorted({key.split("/")[1] for key in content if key.startswith("stream/")})
        success = int(content["success"])
        return Recording(
            **{name: content[name] for name in _TABLES if name != "joints"},
            joints=tuple(str(joint) for joint in content["joints"]),
            streams={n: Stream(*(content[f"stream/{n}/{part}"] for part in Stream._fields)) for n in names},
            robot=str(content["robot"]),
            task=str(content["task"]),
            success=None if success == UNKNOWN else bool(success),
            source=str(content["source"]),
            tick_ns=int(content["tick_ns"]),
            problems=tuple(str(problem) for problem in content["problems"]),
            instructions=_instructions(content),
        )
    except KeyError as error:
        raise EpisodeError(f"recording file {path} lacks the array {error}; make it again.") from error
    except ValueError as error:
        raise EpisodeError(f"recording file {path}: {error}") from error


def _instructions(content: dict[str, NDArray[Any]]) -> tuple[Instruction, ...]:
    received, texts = content.get("instructions/received"), content.get("instructions/text")
    if received is None or texts is None:
        return ()  # recordings of before had none
    return tuple(Instruction(int(instant), str(text)) for instant, text in zip(received, texts, strict=True))


def _require_shape(source: str, name: str, values: NDArray[Any], expected: tuple[int, ...]) -> None:
    if np.shape(values) != expected:
        raise EpisodeError(f"{source}: {name} has shape {np.shape(values)}, expected {expected}.")
