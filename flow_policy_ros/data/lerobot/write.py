"""From staged episodes to a dataset: v3.0 (episodes share files) or v2.1 (a file for each). ``meta/info.json`` comes last.

Only one row group is in memory at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flow_policy_ros.data.lerobot import layout
from flow_policy_ros.data.lerobot.layout import IMAGES, INDICES, V21, V30, Shape, schema
from flow_policy_ros.data.lerobot.staging import StagedEpisode
from flow_policy_ros.data.lerobot.statistics import Statistics, VectorStatistics, lists
from flow_policy_ros.data.lerobot.videos import describe, join

MB = 1 << 20
ROWS_AT_ONCE = 100


@dataclass(frozen=True)
class _Numbered:
    """An episode with what all episodes together determine."""

    staged: StagedEpisode
    number: int
    first: int
    task: int

    def indices(self, rows: int, start: int) -> list[pa.Array]:
        """``episode_index``, ``index`` and ``task_index`` of ``rows`` frames from ``start`` on."""
        return [
            pa.array(np.full(rows, self.number, dtype=np.int64)),
            pa.array(np.arange(rows, dtype=np.int64) + self.first + start),
            pa.array(np.full(rows, self.task, dtype=np.int64)),
        ]

    def statistics(self) -> dict[str, Statistics]:
        """The staged ones, and those of the columns that were not known then."""
        table = self.staged.statistics()
        for name, column in zip(INDICES[2:], self.indices(self.staged.frames, 0), strict=True):
            table[name] = VectorStatistics(1)
            table[name].update(column.to_numpy(zero_copy_only=False)[:, None])  # type: ignore[arg-type]
        return {name: table[name] for name in self.staged.shape.features()}


@dataclass
class _Place:
    """Where in the files of v3.0 the next episode goes."""

    file: int = 0
    size: float = 0.0
    frames: int = 0
    members: list[_Numbered] = field(default_factory=list)

    @property
    def where(self) -> dict[str, int]:
        """``chunk_index`` and ``file_index``."""
        return {"chunk_index": self.file // layout.CHUNK_FILES, "file_index": self.file % layout.CHUNK_FILES}


def write_dataset(
    root: Path, episodes: Sequence[StagedEpisode], version: str, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Put ``episodes`` (at least one, all of one shape) together in the folder ``root``; they stay where they are.

    ``progress`` is told the number of episodes done. What an earlier, interrupted call left is replaced.
    """
    for name in ("data", "videos", "meta"):
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "meta").mkdir(parents=True)
    numbered, tasks = _number(episodes)
    whole: dict[str, Statistics] = {}
    with ExitStack() as stack:
        notebook: _Rows30 | _Rows21 = _Rows30(root) if version == V30 else _Rows21(root)
        stack.push(notebook.__exit__)
        rows = (_write_v30 if version == V30 else _write_v21)(root, numbered)
        for row, episode in zip(rows, numbered, strict=True):
            statistics = episode.statistics()
            notebook.add(row, {name: lists(table.result()) for name, table in statistics.items()})
            for name, table in statistics.items():
                if name in whole:
                    whole[name].merge(table)  # type: ignore[arg-type]
                else:
                    whole[name] = table
            progress(episode.number + 1)
    notebook.tasks(tasks)
    _write_json(root / layout.STATS, {name: lists(table.result()) for name, table in whole.items()})
    _write_json(root / layout.INFO, _info(numbered, len(tasks), version))


def _number(episodes: Sequence[StagedEpisode]) -> tuple[list[_Numbered], list[str]]:
    tasks = list(dict.fromkeys(episode.notes.task for episode in episodes))
    numbered, first = [], 0
    for number, episode in enumerate(episodes):
        numbered.append(_Numbered(episode, number, first, tasks.index(episode.notes.task)))
        first += episode.frames
    return numbered, tasks


def _row(episode: _Numbered) -> dict[str, Any]:
    notes = episode.staged.notes
    return {
        "episode_index": episode.number, "tasks": [notes.task], "length": episode.staged.frames,
        "source": notes.source, "success": notes.success, "seed": notes.seed,
    }  # fmt: skip


def _write_v30(root: Path, episodes: list[_Numbered]) -> Iterator[dict[str, Any]]:
    shape = episodes[0].staged.shape
    columns = schema(shape.features(), V30)
    data, videos = _Place(), {key: _Place() for key in shape.video_keys}
    writer: pq.ParquetWriter | None = None
    try:
        for episode in episodes:
            size = episode.staged.table.stat().st_size / MB
            if writer is None or (data.size and data.size + size > layout.DATA_FILE_MB):
                if writer is not None:
                    writer.close()
                    data = _Place(data.file + 1)
                writer = _table_writer(root / layout.DATA_30.format(**data.where), columns)
            _copy_table(episode, writer, columns)
            data.size += size
            row = _row(episode) | {f"data/{name}": value for name, value in data.where.items()}
            row |= {"dataset_from_index": episode.first, "dataset_to_index": episode.first + episode.staged.frames}
            for key, place in videos.items():
                row |= _place_video(root, key, place, episode)
            yield row
    finally:
        if writer is not None:
            writer.close()
    for key, place in videos.items():
        _write_video(root, key, place)


def _place_video(root: Path, key: str, place: _Place, episode: _Numbered) -> dict[str, Any]:
    size, fps = episode.staged.video(key).stat().st_size / MB, episode.staged.shape.fps
    if place.members and place.size + size > layout.VIDEO_FILE_MB:
        _write_video(root, key, place)
        place.file, place.size, place.frames, place.members = place.file + 1, 0.0, 0, []
    first, place.frames = place.frames, place.frames + episode.staged.frames
    place.members.append(episode)
    place.size += size
    spot: dict[str, Any] = {f"videos/{key}/{name}": value for name, value in place.where.items()}
    return spot | {f"videos/{key}/from_timestamp": first / fps, f"videos/{key}/to_timestamp": place.frames / fps}


def _write_video(root: Path, key: str, place: _Place) -> None:
    path = root / layout.VIDEO_30.format(video_key=key, **place.where)
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(place.members) == 1:
        _link(place.members[0].staged.video(key), path)
    else:
        parts = [(episode.staged.video(key), episode.staged.frames) for episode in place.members]
        join(parts, path, place.members[0].staged.shape.fps)


def _write_v21(root: Path, episodes: list[_Numbered]) -> Iterator[dict[str, Any]]:
    shape = episodes[0].staged.shape
    columns = schema(shape.features(), V21)
    for episode in episodes:
        spot = {"episode_chunk": episode.number // layout.CHUNK_FILES, "episode_index": episode.number}
        with _table_writer(root / layout.DATA_21.format(**spot), columns) as writer:
            _copy_table(episode, writer, columns)
        for key in shape.video_keys:
            path = root / layout.VIDEO_21.format(video_key=key, **spot)
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(episode.staged.video(key), path)
        yield _row(episode)


def _table_writer(path: Path, columns: pa.Schema) -> pq.ParquetWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [name for name in columns.names if not name.startswith(IMAGES)]
    return pq.ParquetWriter(path, columns, compression="snappy", use_dictionary=plain)


def _copy_table(episode: _Numbered, writer: pq.ParquetWriter, columns: pa.Schema) -> None:
    start = 0
    with pq.ParquetFile(episode.staged.table) as table:
        for group in range(table.num_row_groups):
            part = table.read_row_group(group)
            arrays = [*part.combine_chunks().columns, *episode.indices(len(part), start)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=columns))
            start += len(part)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, so that videos need not be there twice; a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _info(episodes: list[_Numbered], tasks: int, version: str) -> dict[str, Any]:
    shape: Shape = episodes[0].staged.shape
    features = shape.features()
    for key in shape.video_keys:
        features[key]["info"] = describe(episodes[0].staged.video(key), shape.fps)
    count, videos = len(episodes), len(shape.video_keys)
    info: dict[str, Any] = {
        "codebase_version": version, "robot_type": shape.robot, "total_episodes": count,
        "total_frames": sum(episode.staged.frames for episode in episodes), "total_tasks": tasks,
    }  # fmt: skip
    if version == V30:
        info |= {"chunks_size": layout.CHUNK_FILES, "data_files_size_in_mb": layout.DATA_FILE_MB,
                 "video_files_size_in_mb": layout.VIDEO_FILE_MB}
    else:
        info |= {"total_videos": count * videos, "total_chunks": -(-count // layout.CHUNK_FILES), "chunks_size": layout.CHUNK_FILES}
    data, video = (layout.DATA_30, layout.VIDEO_30) if version == V30 else (layout.DATA_21, layout.VIDEO_21)
    return info | {
        "fps": shape.fps, "splits": {"train": f"0:{count}"}, "data_path": data, "video_path": video if videos else None,
        "features": features,
    }  # fmt: skip


class _Rows30:
    """``meta/episodes``, a row for each with its statistics, written a few at a time."""

    def __init__(self, root: Path) -> None:
        self._root, self._rows = root, list[dict[str, Any]]()
        self._writer: pq.ParquetWriter | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, row: dict[str, Any], statistics: dict[str, dict[str, Any]]) -> None:
        flat = {f"stats/{name}/{key}": value for name, table in statistics.items() for key, value in table.items()}
        self._rows.append(row | flat | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        if len(self._rows) == ROWS_AT_ONCE:
            self._flush()

    def tasks(self, tasks: list[str]) -> None:
        pq.write_table(_tasks_table(tasks), self._root / layout.TASKS_30)

    def _flush(self) -> None:
        if not self._rows:
            return
        known = {"success": pa.bool_(), "seed": pa.int64(), "source": pa.string()}  # which may all be unknown
        table = pa.table({name: pa.array([row[name] for row in self._rows], type=known.get(name)) for name in self._rows[0]})
        if self._writer is None:
            path = self._root / layout.EPISODES_30.format(chunk_index=0, file_index=0)
            path.parent.mkdir(parents=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._rows = []


class _Rows21:
    """``meta/episodes.jsonl`` and ``meta/episodes_stats.jsonl``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._episodes = (root / layout.EPISODES_21).open("w")
        self._statistics = (root / layout.EPISODE_STATS_21).open("w")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._episodes.close()
        self._statistics.close()

    def add(self, row: dict[str, Any], statistics: dict[str, dict[str, Any]]) -> None:
        self._episodes.write(json.dumps(row) + "\n")
        self._statistics.write(json.dumps({"episode_index": row["episode_index"], "stats": statistics}) + "\n")

    def tasks(self, tasks: list[str]) -> None:
        lines = (json.dumps({"task_index": number, "task": task}) + "\n" for number, task in enumerate(tasks))
        (self._root / layout.TASKS_21).write_text("".join(lines))


def _tasks_table(tasks: list[str]) -> pa.Table:
    """As pandas writes a frame whose index are the tasks, so that it reads it as one."""
    index = "__index_level_0__"
    unnamed: dict[str, Any] = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    unnamed["metadata"] = {"encoding": "UTF-8"}
    told = {
        "index_columns": [index],
        "column_indexes": [unnamed],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    columns = pa.schema([("task_index", pa.int64()), (index, pa.string())], metadata={"pandas": json.dumps(told)})
    return pa.table([pa.array(range(len(tasks)), type=pa.int64()), pa.array(tasks, type=pa.string())], schema=columns)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=4) + "\n")
    os.replace(partial, path)
