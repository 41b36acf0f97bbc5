"""A local LeRobot dataset, v3.0 or v2.1 (and v2.0): what it says of itself, and its episodes, frame by frame.

Made by whomever: columns that the package writes itself (``stamp``, ``input_age``) may be missing; names of joints may be other
than the robot file's. Mapping them lives in ``sources``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
        self.state = _matrix(part, STATE, entry.data).astype(np.float32)
        self.action = _matrix(part, ACTION, entry.data).astype(np.float32)
        self.streams = {
            name: _matrix(part, key, entry.data).reshape(len(part), *dataset.features[key]["shape"]).astype(np.float32)
            for name, key in ((name, STREAMS + name) for name in dataset.streams)
        }
        for name, values in (("state", self.state), ("action", self.action)):
            if not np.isfinite(values).all():
                raise DatasetError(f"{entry.data}: {name} of episode {entry.number} holds NaN or Inf; leave this episode out.")
        self._inputs = tuple(dataset.features[AGE]["names"]) if AGE in dataset.features else ()
        self._ages = _matrix(part, AGE, entry.data) if self._inputs else np.zeros((len(part), 0))

    def stamp(self, k: int, number: int) -> int:
        if STAMP in self._dataset.features:
            return int(self._part[STAMP][k].as_py())
        return instant(START_NS, number, self._dataset.fps)

    def ages(self, k: int) -> dict[str, float]:
        given = dict(zip(self._inputs, self._ages[k].tolist(), strict=True))
        return {name: given.get(name, 0.0) for name in (JOINT_STATE, *self._dataset.cameras, *self._dataset.streams)}

    def image(self, camera: str, k: int) -> EncodedImage:
        cell = self._part[IMAGES + camera][k].as_py()
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
        if not 0 < fps == int(fps):
            raise DatasetError(f"dataset {root} has {fps} frames per second, expected a whole number above zero.")
        for name in (STATE, ACTION):
            if name not in features or len(features[name]["shape"]) != 1:
                raise DatasetError(f"dataset {root} has no vectors '{name}', only {sorted(features)}. It cannot be used here.")
        entries = (_entries_v30 if version == layout.V30 else _entries_v21)(root, info)
        seen = [name for name in features if features[name]["dtype"] in ("image", "video")]
        cameras = tuple(name.removeprefix(IMAGES) for name in seen if name.startswith(IMAGES))
        tables = [name for name in features if len(features[name]["shape"]) == 2]
        streams = tuple(name.removeprefix(STREAMS) for name in tables if name.startswith(STREAMS))
        used = {*KNOWN, *(IMAGES + name for name in cameras), *(STREAMS + name for name in streams)}
        return Dataset(
            root, version, int(fps), str(info.get("robot_type") or ""), features, tuple(entries),
            _names(features[STATE]), _names(features[ACTION]), cameras, streams, tuple(n for n in features if n not in used),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DatasetError(f"dataset {root}: metadata lack or misplace {error}; it is damaged, or not LeRobot's.") from error


def is_dataset(path: str | Path) -> bool:
    """Whether the folder looks like a LeRobot dataset."""
    return (Path(path) / layout.INFO).is_file()


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
            yield EpisodeEntry(int(row["episode_index"]), int(row["length"]), _notes(root, row), data, first - start, files)
    if not paths:
        raise DatasetError(f"dataset {root} has no meta/episodes; it is not whole.")


def _entries_v21(root: Path, info: dict[str, Any]) -> Iterator[EpisodeEntry]:
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    size = int(info.get("chunks_size", layout.CHUNK_FILES))
    for line in _lines(root / layout.EPISODES_21):
        number = int(line["episode_index"])
        spot = {"episode_chunk": number // size, "episode_index": number}
        files = {key: (_inside(root, info["video_path"], video_key=key, **spot), 0.0) for key in videos}
        yield EpisodeEntry(number, int(line["length"]), _notes(root, line), _inside(root, info["data_path"], **spot), None, files)


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
        path = root / str(template).format(**values)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DatasetError(f"dataset {root}: path template {template!r} cannot be filled in ({error}).") from error
    if not path.resolve().is_relative_to(root.resolve()):
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
    except ValueError as error:
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
    except ValueError as error:
        raise DatasetError(f"{path} has a line that is not JSON: {error}.") from error
