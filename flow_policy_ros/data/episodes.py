"""Episodes on disk: what one recording holds, one ``.npz`` file each, never pickled.

Recordings that are on no regular grid, and the form in which all are trained on, live in ``recording``; cutting them into
training samples lives in ``windows``.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray

EXTRACTOR_FILE = "extractor.json"
_FORMAT = 1
_SCALARS = ("format", "task", "robot", "seed", "success", "dt_ns", "instruction")
_ARRAYS = ("stamps", "joints", "position", "commands", "label")


class EpisodeError(ValueError):
    """An episode that cannot be used; the message names the file, the array and the remedy."""


@dataclass(frozen=True)
class Episode:
    """One recording of T control ticks, ``dt_ns`` apart, of the joints ``joints`` (J of them, A = J columns commanded).

    ``stamps`` (T,) int64 ns; ``position`` (T, J) measured, rad or m; ``commands`` (T, A) the set-point published at
    each tick; ``label`` (T, A) what the policy shall learn, equal to ``commands`` unless the execution was disturbed.
    ``streams[name]`` = (stamps (N,) int64 ns of the images, values (N, tokens, channels) float32, or uint8 where they are the
    pictures themselves), ascending in time.
    ``sim_state[name]`` (T, ...) raw simulator state, for rendering again. ``robot`` is the robot file's name, if known,
    ``instruction`` what the robot was told to do, "" where nobody told it.
    Raises ``EpisodeError`` for arrays that do not fit together.
    """

    task: str
    seed: int
    success: bool
    dt_ns: int
    stamps: NDArray[np.int64]
    joints: tuple[str, ...]
    position: FloatArray
    commands: FloatArray
    label: FloatArray
    streams: dict[str, tuple[NDArray[np.int64], NDArray[Any]]] = field(default_factory=dict)
    sim_state: dict[str, NDArray[Any]] = field(default_factory=dict)
    robot: str = ""
    instruction: str = ""

    def __post_init__(self) -> None:
        ticks, joints = len(self.stamps), len(self.joints)
        if ticks == 0 or self.dt_ns <= 0:
            raise EpisodeError(f"episode has {ticks} ticks of {self.dt_ns} ns, expected at least one, above zero.")
        if np.shape(self.stamps) != (ticks,) or not np.all(np.diff(self.stamps) == self.dt_ns):
            raise EpisodeError(f"episode stamps are not {self.dt_ns} ns apart, one per tick; resample the recording.")
        for name in ("position", "commands", "label"):
            given = np.shape(getattr(self, name))
            if given != (ticks, joints):
                raise EpisodeError(f"episode {name} has shape {given}, expected {(ticks, joints)} (ticks, joints).")
            if not np.isfinite(getattr(self, name)).all():
                raise EpisodeError(f"episode {name} holds NaN or Inf; leave this recording out.")
        for name, (stamps, values) in self.streams.items():
            if values.ndim != 3 or np.shape(stamps) != values.shape[:1]:
                raise EpisodeError(
                    f"episode stream '{name}' has {np.shape(stamps)} stamps and values of shape {values.shape}, "
                    "expected (N,) and (N, tokens, channels)."
                )
            if np.any(np.diff(stamps) <= 0) or not np.isfinite(values).all():
                raise EpisodeError(f"episode stream '{name}' has stamps that do not ascend, or values of NaN or Inf.")
        for name, values in self.sim_state.items():
            if np.shape(values)[:1] != (ticks,):
                raise EpisodeError(f"episode sim_state '{name}' has shape {np.shape(values)}, expected ({ticks}, ...).")

    def save(self, path: str | Path) -> None:
        """Write a compressed ``.npz``; an existing file is replaced at once or not at all."""
        path = Path(path)
        content: dict[str, Any] = {"format": _FORMAT, "joints": np.array(self.joints, dtype=np.str_)}
        content |= {name: getattr(self, name) for name in (*_SCALARS, *_ARRAYS) if name not in content}
        for name, (stamps, values) in self.streams.items():
            content[f"stream/{name}/stamps"] = np.asarray(stamps, dtype=np.int64)
            content[f"stream/{name}/values"] = values if values.dtype == np.uint8 else np.asarray(values, dtype=np.float32)
        content |= {f"sim_state/{name}": values for name, values in self.sim_state.items()}
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **content)
        partial.replace(path)

    @staticmethod
    def load(path: str | Path) -> Episode:
        """Read an episode file. Raises ``EpisodeError`` naming the file and what is wrong with it."""
        return Episode.of_content(path, read_npz(path))

    @staticmethod
    def of_content(path: str | Path, content: dict[str, NDArray[Any]]) -> Episode:
        """What ``read_npz`` read from ``path``. Raises ``EpisodeError`` naming the file and what is wrong with it."""
        try:
            if int(content["format"]) != _FORMAT:
                raise EpisodeError(f"episode file format is {content['format']}, expected {_FORMAT}; record it again.")
            streams = {
                name.split("/")[1]: (content[name], content[name.removesuffix("stamps") + "values"])
                for name in content
                if name.startswith("stream/") and name.endswith("/stamps")
            }
            return Episode(
                task=str(content["task"]),
                robot=str(content["robot"]),
                seed=int(content["seed"]),
                success=bool(content["success"]),
                dt_ns=int(content["dt_ns"]),
                joints=tuple(str(joint) for joint in content["joints"]),
                streams=streams,
                instruction=str(content.get("instruction", "")),
                sim_state={n.removeprefix("sim_state/"): v for n, v in content.items() if n.startswith("sim_state/")},
                **{name: content[name] for name in _ARRAYS if name != "joints"},
            )
        except KeyError as error:
            raise EpisodeError(f"episode file {path} lacks the array {error}; record it again.") from error
        except ValueError as error:
            raise EpisodeError(f"episode file {path}: {error}") from error


def read_npz(path: str | Path) -> dict[str, NDArray[Any]]:
    """Every array of a ``.npz`` file. Raises ``EpisodeError`` naming a file that cannot be read, or holds pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise EpisodeError(f"episode file {path} cannot be read: {error}. Record it again or remove it.") from error
    except (ValueError, AttributeError) as error:  # numpy's refusal of a pickled array; a bare array instead of an archive
        raise EpisodeError(f"episode file {path}: {error}") from error


def no_episodes(folder: Path) -> EpisodeError:
    """What is raised of a folder without any."""
    return EpisodeError(
        f"folder {folder} holds no episodes (*.npz). Record some with `flow_policy demonstrate`, or give the "
        "folder that they are in."
    )


def load_episodes(folder: str | Path) -> list[Episode]:
    """Every ``*.npz`` of ``folder`` in the order of names. Raises ``EpisodeError`` when there is none or one is bad."""
    folder = Path(folder)
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise no_episodes(folder)
    return [Episode.load(path) for path in paths]


def load_extractors(folder: str | Path) -> dict[str, dict[str, Any]]:
    """What made each feature stream of the folder's episodes (``extractor.json``: {stream: {...}}); {} without it."""
    path = Path(folder) / EXTRACTOR_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise EpisodeError(f"{path} is not JSON: {error}. Write it again with the command that made it.") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise EpisodeError(f"{path} must hold an object per stream, {{stream: {{...}}}}.")
    return content
