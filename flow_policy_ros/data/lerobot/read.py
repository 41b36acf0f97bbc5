"""A local LeRobot dataset, v3.0 or v2.1 (and v2.0): what it says of itself, and its episodes, frame by frame.

Made by whomever: columns that the package writes itself (``stamp``, ``input_age``) may be missing; names of joints may be other
than the robot file's. Mapping them lives in ``sources``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flow_policy_ros.data.lerobot import layout
from flow_policy_ros.data.lerobot.frames import JOINT_STATE, DatasetError, Frame, Notes, instant
from flow_policy_ros.data.lerobot.layout import ACTION, AGE, IMAGES, INDICES, STAMP, STATE, STREAMS
from flow_policy_ros.data.lerobot.videos import read_video
from flow_policy_ros.runtime.types import EncodedImage

START_NS = 1_600_000_000 * 1_000_000_000
"""Where episodes begin whose dataset does not say when they were recorded."""
ROWS_AT_ONCE = 32
FPS = (1, 1000)
MOST_VALUES = 1_000_000
"""In one frame of one feature that is no image; LeRobot's largest have some thousands."""
MOST_PIXELS = 1_000_000_000
MOST_AGE_S = 1e6
PICTURES = ("image", "video")
_WIDTH = re.compile(r"(0[1-9]d)?")
KNOWN = (STATE, ACTION, AGE, STAMP, *INDICES)


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode: its table ``data``, rows from ``first`` of it on (None: all), and per video feature (file, start in s)."""

    number: int
    frames: int
    notes: Notes
    data: Path
    first: int | None
    videos: dict[str, tuple[Path, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """What ``open_dataset`` found. ``state_names`` and ``action_names`` are () where the dataset names nothing.

    ``left_out`` are features that frames do not have.
    """

    root: Path
    version: str
    fps: int
    robot: str
    features: dict[str, dict[str, Any]]
    episodes: tuple[EpisodeEntry, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: tuple[str, ...]
    streams: tuple[str, ...]
    left_out: tuple[str, ...]

    def frames(self, entry: EpisodeEntry, cameras: Sequence[str]) -> Iterator[Frame]:
        """The episode's frames with the images of ``cameras``, joints as the dataset orders them.

        Raises ``DatasetError`` naming the file."""
        videos = {
            camera: read_video(*entry.videos[IMAGES + camera], self.fps, entry.frames)
            for camera in cameras
            if self.features[IMAGES + camera]["dtype"] == "video"
        }
        unread = {IMAGES + camera for camera in self.cameras if camera not in cameras or camera in videos}
        shown: dict[str, tuple[int, EncodedImage]] = {}
        held: dict[str, tuple[int, NDArray[np.float32]]] = {}
        number = 0
        for part in _batches(entry, [name for name in self.features if name not in unread]):
            rows = _Rows(self, entry, part)
            for k in range(len(part)):
                stamp, ages = rows.stamp(k, number), rows.ages(k)
                images, features = {}, {}
                for camera in cameras:
                    image = _rgb(next(videos[camera])) if camera in videos else rows.image(camera, k)
                    images[camera] = _unchanged(shown, camera, stamp, ages, image)
                for name in self.streams:
                    features[name] = _unchanged(held, name, stamp, ages, rows.streams[name][k])
                yield Frame(entry.number, stamp, rows.state[k], rows.action[k], images, features, ages)
                number += 1
        if number != entry.frames:
            raise DatasetError(
                f"{entry.data} has {number} frames of episode {entry.number}, expected {entry.frames}; the dataset is damaged."
            )


class _Rows:
    """Some rows of a table as arrays."""

    def __init__(self, dataset: Dataset, entry: EpisodeEntry, part: pa.Table) -> None:
        self._dataset, self._entry, self._part = dataset, entry, part
        self.state, self.action = self._values(STATE), self._values(ACTION)
        self.streams = {name: self._values(STREAMS + name) for name in dataset.streams}
        for name, values in (("state", self.state), ("action", self.action)):
            if not np.isfinite(values).all():
                raise DatasetError(f"{entry.data}: {name} of episode {entry.number} holds NaN or Inf; leave this episode out.")
        self._inputs = _names(dataset.features[AGE]) if AGE in dataset.features else ()
        self._ages = self._values(AGE, np.float64) if self._inputs else np.zeros((len(part), 0))
        if not (np.abs(self._ages) <= MOST_AGE_S).all():
            raise DatasetError(f"{entry.data}: '{AGE}' of episode {entry.number} is not in s; leave this episode out.")
        self._stamps = _matrix(part, STAMP, entry.data)[:, 0] if STAMP in dataset.features else None
        if self._stamps is not None and self._stamps.dtype != np.int64:
            raise DatasetError(f"{entry.data}: '{STAMP}' of episode {entry.number} holds no whole numbers; leave this episode out.")
        if "episode_index" in part.schema.names and (_matrix(part, "episode_index", entry.data) != entry.number).any():
            raise DatasetError(f"{entry.data}: the rows of episode {entry.number} are another's; the metadata are damaged.")

    def _values(self, name: str, kind: type = np.float32) -> NDArray[Any]:
        """(rows, *shape of the feature)."""
        shape, table = self._dataset.features[name]["shape"], _matrix(self._part, name, self._entry.data)
        if table.shape[1] != math.prod(shape):
            raise DatasetError(
                f"{self._entry.data}: '{name}' has {table.shape[1]} values a frame, meta/info.json says {shape}; the dataset is "
                "damaged."
            )
        return table.reshape(len(table), *shape).astype(kind)

    def stamp(self, k: int, number: int) -> int:
        return instant(START_NS, number, self._dataset.fps) if self._stamps is None else int(self._stamps[k])

    def ages(self, k: int) -> dict[str, float]:
        given = dict(zip(self._inputs, self._ages[k].tolist(), strict=True))
        return {name: given.get(name, 0.0) for name in (JOINT_STATE, *self._dataset.cameras, *self._dataset.streams)}

    def image(self, camera: str, k: int) -> EncodedImage:
        cell = self._part[IMAGES + camera][k].as_py() if IMAGES + camera in self._part.schema.names else None
        if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
            raise DatasetError(
                f"{self._entry.data}: images of '{camera}' are not in the table but in files beside it; let LeRobot embed them."
            )
        return EncodedImage("compressed", 0, 0, 0, cell["bytes"])


def open_dataset(path: str | Path) -> Dataset:
    """Read the metadata of a dataset. Raises ``DatasetError`` naming the file and the remedy."""
    root = Path(path)
    info = _json(root / layout.INFO)
    version = str(info.get("codebase_version", ""))
    if version not in (layout.V30, layout.V21, "v2.0"):
        raise DatasetError(f"dataset {root} has format {version!r}, expected v3.0, v2.1 or v2.0. Convert it with LeRobot.")
    try:
        features = {str(name): dict(feature) for name, feature in info["features"].items()}
        fps = float(info["fps"])
        if not (FPS[0] <= fps <= FPS[1] and fps == int(fps)):
            raise DatasetError(f"dataset {root} has {fps} frames per second, expected a whole number from {FPS[0]} to {FPS[1]}.")
        _check_features(root, features)
        entries = (_entries_v30 if version == layout.V30 else _entries_v21)(root, info)
        seen = [name for name in features if features[name]["dtype"] in PICTURES]
        cameras = tuple(name.removeprefix(IMAGES) for name in seen if name.startswith(IMAGES))
        tables = [name for name in features if len(features[name]["shape"]) == 2]
        streams = tuple(name.removeprefix(STREAMS) for name in tables if name.startswith(STREAMS))
        used = {*KNOWN, *(IMAGES + name for name in cameras), *(STREAMS + name for name in streams)}
        return Dataset(
            root, version, int(fps), str(info.get("robot_type") or ""), features, tuple(entries),
            _names(features[STATE]), _names(features[ACTION]), cameras, streams, tuple(n for n in features if n not in used),
        )  # fmt: skip
    except DatasetError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DatasetError(f"dataset {root}: metadata lack or misplace {error}; it is damaged, or not LeRobot's.") from error


def is_dataset(path: str | Path) -> bool:
    """Whether the folder looks like a LeRobot dataset."""
    return (Path(path) / layout.INFO).is_file()


def _check_features(root: Path, features: dict[str, dict[str, Any]]) -> None:
    """Raises ``DatasetError`` for features that are no tables of numbers or images, or lack state and action."""
    for name, feature in features.items():
        shape, kind = feature["shape"], feature["dtype"]
        most = MOST_PIXELS if kind in PICTURES else MOST_VALUES
        whole = isinstance(shape, list) and len(shape) <= 4 and all(type(size) is int and size >= 1 for size in shape)
        if not (isinstance(kind, str) and whole and math.prod(shape) <= most):
            raise DatasetError(
                f"dataset {root}: '{name}' has dtype {str(kind)[:40]!r} and shape {str(shape)[:80]}, expected up to four whole "
                "numbers above zero; it is damaged, or not LeRobot's."
            )
    for name in (STATE, ACTION):
        if name not in features or len(features[name]["shape"]) != 1:
            raise DatasetError(f"dataset {root} has no vectors '{name}', only {sorted(features)}. It cannot be used here.")
    if AGE in features and len(_names(features[AGE])) != features[AGE]["shape"][0]:
        raise DatasetError(f"dataset {root}: '{AGE}' names {features[AGE].get('names')}, expected a name for each value.")


def _entry(
    root: Path, row: dict[str, Any], data: Path, first: int | None, videos: dict[str, tuple[Path, float]]
) -> EpisodeEntry:
    """Raises ``DatasetError`` for numbers that no episode has."""
    number, frames = int(row["episode_index"]), int(row["length"])
    end = row.get("dataset_to_index")
    wrong_end = first is not None and end is not None and int(end) - int(row["dataset_from_index"]) != frames
    if number < 0 or frames < 1 or (first is not None and first < 0) or wrong_end:
        rows = f"from row {row.get('dataset_from_index')} to {end}"
        raise DatasetError(f"dataset {root}: episode {number} has length {frames}, {rows}; its metadata are damaged.")
    if not all(math.isfinite(start) and start >= 0 for _, start in videos.values()):
        raise DatasetError(f"dataset {root}: a video of episode {number} does not begin at a time; its metadata are damaged.")
    return EpisodeEntry(number, frames, _notes(root, row), data, first, videos)


def _entries_v30(root: Path, info: dict[str, Any]) -> Iterator[EpisodeEntry]:
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    starts: dict[Path, int] = {}
    for path in paths:
        table = _parquet(path)
        wanted = [name for name in table.schema_arrow.names if not name.startswith("stats/")]
        for row in table.read(columns=wanted).to_pylist():
            data = _inside(root, info["data_path"], chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
            first = int(row["dataset_from_index"])
            files = {
                key: (
                    _inside(root, info["video_path"], video_key=key, chunk_index=row[f"videos/{key}/chunk_index"],
                            file_index=row[f"videos/{key}/file_index"]),
                    float(row[f"videos/{key}/from_timestamp"]),
                )
                for key in videos
            }  # fmt: skip
            start = starts.setdefault(data, first)
            yield _entry(root, row, data, first - start, files)
    if not paths:
        raise DatasetError(f"dataset {root} has no meta/episodes; it is not whole.")


def _entries_v21(root: Path, info: dict[str, Any]) -> Iterator[EpisodeEntry]:
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    size = int(info.get("chunks_size", layout.CHUNK_FILES))
    if size < 1:
        raise DatasetError(f"dataset {root} has {size} episodes in a chunk (chunks_size), expected at least 1; it is damaged.")
    for line in _lines(root / layout.EPISODES_21):
        number = int(line["episode_index"])
        spot = {"episode_chunk": number // size, "episode_index": number}
        files = {key: (_inside(root, info["video_path"], video_key=key, **spot), 0.0) for key in videos}
        yield _entry(root, line, _inside(root, info["data_path"], **spot), None, files)


def _notes(root: Path, row: dict[str, Any]) -> Notes:
    tasks, number = row.get("tasks") or [""], int(row["episode_index"])
    success, seed = row.get("success"), row.get("seed")
    return Notes(
        str(row.get("source") or f"{root.name} episode {number}"),
        str(tasks[0]),
        None if success is None else bool(success),
        None if seed is None else int(seed),
    )


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    """Names of a vector's values, which datasets write as a list or as a list in an object."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = next((value for value in names.values() if isinstance(value, list)), None)
    if not isinstance(names, list) or len(names) != feature["shape"][0]:
        return ()
    return tuple(str(name) for name in names)


def _batches(entry: EpisodeEntry, columns: list[str]) -> Iterator[pa.Table]:
    """The episode's rows, a few at a time; of other episodes in the file only the row groups' sizes are looked at."""
    with _parquet(entry.data) as table:
        first = entry.first or 0
        left = table.metadata.num_rows if entry.first is None else entry.frames
        present = [name for name in columns if name in table.schema_arrow.names]
        starts = np.cumsum([0, *(table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))]).tolist()
        groups = [k for k, start in enumerate(starts[:-1]) if starts[k + 1] > first and start < first + left]
        skip = first - starts[groups[0]] if groups else 0
        try:
            for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=present) if groups else ():
                part = pa.Table.from_batches([batch]).slice(skip, left)
                skip, left = max(0, skip - len(batch)), left - len(part)
                if len(part):
                    yield part
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{entry.data} cannot be read: {error}. It is damaged; leave episode {entry.number} out.") from error


def _matrix(part: pa.Table, name: str, path: Path) -> NDArray[Any]:
    """A column of vectors (rows, D); lists of lists flattened."""
    if name not in part.schema.names:
        raise DatasetError(f"{path} has no column '{name}', which meta/info.json promises; the dataset is damaged.")
    values = part[name].combine_chunks()
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type) or pa.types.is_large_list(values.type):
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise DatasetError(f"{path}: '{name}' holds {values.type}, expected numbers; the dataset is damaged.")
    table = values.to_numpy(zero_copy_only=False)
    if len(part) == 0 or len(table) % len(part):
        raise DatasetError(f"{path}: rows of '{name}' differ in length; the dataset is damaged.")
    return np.asarray(table).reshape(len(part), -1)


def _unchanged(held: dict[str, tuple[int, Any]], name: str, stamp: int, ages: dict[str, float], new: Any) -> Any:
    """The object of the frame before where the input has the same header stamp, so that it is not taken for a new one."""
    taken = stamp - round(ages[name] * 1e9)
    before = held.get(name)
    if before is None or before[0] != taken:
        held[name] = before = (taken, new)
    return before[1]


def _rgb(pixels: NDArray[np.uint8]) -> EncodedImage:
    height, width, _ = pixels.shape
    return EncodedImage("rgb8", height, width, 3 * width, pixels.tobytes())


def _inside(root: Path, template: str, **values: Any) -> Path:
    """A file of the dataset; templates that lead out of it are refused."""
    try:
        for _, name, width, conversion in Formatter().parse(template):
            if name is not None and (name not in values or conversion or not _WIDTH.fullmatch(width or "")):
                raise ValueError(f"expected no fields but {{{'}, {'.join(values)}}}, with :01d to :09d at most")
        path = root / template.format(**values)
        inside = path.resolve().is_relative_to(root.resolve())
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise DatasetError(f"dataset {root}: path template {str(template)[:200]!r} cannot be filled in ({error}).") from error
    if not inside:
        raise DatasetError(f"dataset {root}: path {path} leads out of it; it is not used.")
    return path


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}. Copy the dataset again, or leave it out.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); expected the folder of a LeRobot dataset.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} must hold an object.")
    return content


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open() as file:
            for line in file:
                if line.strip():
                    yield json.loads(line)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); the dataset is not whole.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} has a line that is not JSON: {error}.") from error
