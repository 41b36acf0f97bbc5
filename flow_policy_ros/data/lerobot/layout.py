"""LeRobot's layout: versions, paths, features of a frame, and the Arrow schema that Hugging Face ``datasets`` reads as such.

As LeRobot 0.4.4 writes v3.0, and 0.3.3 v2.1. Values are float32, as LeRobot has them; stamps are int64 and ages float64, so that
they come back to the nanosecond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flow_policy_ros.data.lerobot.frames import JOINT_STATE, DatasetError

V30, V21 = "v3.0", "v2.1"
STATE, ACTION, AGE, STAMP = "observation.state", "action", "input_age", "stamp"
IMAGES, STREAMS = "observation.images.", "observation.features."
INFO, STATS, TASKS_30 = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES_21, EPISODE_STATS_21, TASKS_21 = "meta/episodes.jsonl", "meta/episodes_stats.jsonl", "meta/tasks.jsonl"
EPISODES_30 = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_30 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_30 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_21 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
CHUNK_FILES = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""The columns that every dataset has; the last three are known only when all episodes are."""
_ARROW = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class Shape:
    """What every episode of one dataset has in common. ``cameras[name]`` = (height, width) in pixels, ``streams[name]`` =
    (tokens, channels); ``images`` is ``video`` or ``png``."""

    fps: int
    robot: str
    joints: tuple[str, ...]
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    streams: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    images: str = "video"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the ages."""
        return (JOINT_STATE, *self.cameras, *self.streams)

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features whose frames are in video files."""
        return tuple(IMAGES + camera for camera in self.cameras) if self.images == "video" else ()

    def features(self) -> dict[str, dict[str, Any]]:
        """``features`` of info.json, in the order of the columns."""
        joints = list(self.joints)
        kind = "video" if self.images == "video" else "image"
        table: dict[str, dict[str, Any]] = {
            STATE: {"dtype": "float32", "shape": [len(joints)], "names": joints},
            ACTION: {"dtype": "float32", "shape": [len(joints)], "names": joints},
        }
        for name, (tokens, channels) in self.streams.items():
            table[STREAMS + name] = {"dtype": "float32", "shape": [tokens, channels], "names": ["token", "channel"]}
        table[AGE] = {"dtype": "float64", "shape": [len(self.inputs)], "names": list(self.inputs)}
        table[STAMP] = {"dtype": "int64", "shape": [1], "names": None}
        for name, size in self.cameras.items():
            table[IMAGES + name] = {"dtype": kind, "shape": [*size, 3], "names": ["height", "width", "channels"]}
        return table | {
            name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None} for name in INDICES
        }

    def as_json(self) -> dict[str, Any]:
        """For ``of_json``."""
        return {
            "fps": self.fps, "robot": self.robot, "joints": list(self.joints), "images": self.images,
            "cameras": {name: list(size) for name, size in self.cameras.items()},
            "streams": {name: list(size) for name, size in self.streams.items()},
        }  # fmt: skip

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Shape:
        """The inverse of ``as_json``."""
        cameras, streams = ({name: (int(a), int(b)) for name, (a, b) in content[key].items()} for key in ("cameras", "streams"))
        return Shape(int(content["fps"]), content["robot"], tuple(content["joints"]), cameras, streams, content["images"])

    def difference(self, other: Shape) -> str | None:
        """What ``other`` has otherwise, in words; None when both may lie in one dataset."""
        ours, theirs = self.as_json(), other.as_json()
        found = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key]]
        return "; ".join(found) or None


def check_names(names: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raises ``DatasetError`` for cameras or streams whose names LeRobot cannot have, or that are there twice."""
    bad = [name for name in names if "/" in name or not name]
    if bad or len({JOINT_STATE, *names}) != len(names) + 1:
        raise DatasetError(
            f"cameras and streams are {sorted(names)}, expected names without '/', each once and none of them '{JOINT_STATE}'. "
            "Rename them in the robot file."
        )


def schema(features: Mapping[str, Mapping[str, Any]], version: str) -> pa.Schema:
    """The columns of a data file; videos have none. Lists are told ``datasets`` by the word that the version's readers know."""
    columns, described = [], {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        kind, told, metadata = _column(feature, version)
        columns.append(pa.field(name, kind, metadata=metadata))
        described[name] = told
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def _column(feature: Mapping[str, Any], version: str) -> tuple[pa.DataType, dict[str, Any], dict[str, str] | None]:
    dtype, shape = feature["dtype"], feature["shape"]
    if dtype == "image":
        return pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]), {"_type": "Image"}, None
    value = {"dtype": dtype, "_type": "Value"}
    if list(shape) == [1]:
        return _ARROW[dtype], value, None
    if len(shape) == 1:
        told = {"feature": value, "length": shape[0], "_type": "List" if version == V30 else "Sequence"}
        return pa.list_(_ARROW[dtype], shape[0]), told, None
    marked = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": json.dumps([list(shape), dtype]),
    }
    return pa.list_(pa.list_(_ARROW[dtype])), {"shape": list(shape), "dtype": dtype, "_type": "Array2D"}, marked
