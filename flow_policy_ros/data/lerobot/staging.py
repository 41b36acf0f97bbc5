"""One episode on its way into a dataset: its table, videos and statistics in a folder of its own, which is whole or not there.

What only all episodes together determine (their number, the index of a frame) is added when they are put together (``write``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flow_policy_ros.data.lerobot.frames import DatasetError, Frame, Notes
from flow_policy_ros.data.lerobot.layout import ACTION, AGE, IMAGES, INDICES, STAMP, STATE, STREAMS, V30, Shape, schema
from flow_policy_ros.data.lerobot.statistics import ImageStatistics, Statistics, VectorStatistics, restored
from flow_policy_ros.data.lerobot.videos import VideoWriter, require_size
from flow_policy_ros.runtime.types import EncodedImage

Decode = Callable[[EncodedImage], NDArray[np.uint8]]
"""Raises ``ValueError`` for an image that cannot be decoded."""
GROUP_ROWS, GROUP_BYTES = 1000, 16 << 20
"""What is gathered before it is written."""
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
"""Fast, and small for photographs."""
_TABLE, _EPISODE, _STATISTICS = "table.parquet", "episode.json", "statistics.npz"


@dataclass(frozen=True)
class StagedEpisode:
    """An episode that is whole, in ``folder``: ``frames`` frames of ``shape``."""

    folder: Path
    shape: Shape
    frames: int
    notes: Notes

    @property
    def table(self) -> Path:
        """Its columns but those that only the dataset determines."""
        return self.folder / _TABLE

    def video(self, key: str) -> Path:
        """The file of a video feature."""
        return self.folder / f"{key}.mp4"

    def statistics(self) -> dict[str, Statistics]:
        """By feature."""
        with np.load(self.folder / _STATISTICS, allow_pickle=False) as archive:
            tables: dict[str, dict[str, NDArray[Any]]] = {}
            for name in archive.files:
                feature, _, part = name.rpartition("|")
                tables.setdefault(feature, {})[part] = archive[name]
        return {feature: restored(arrays) for feature, arrays in tables.items()}

    @staticmethod
    def load(folder: Path) -> StagedEpisode:
        """Read what ``EpisodeWriter.finish`` wrote."""
        content = json.loads((folder / _EPISODE).read_text())
        return StagedEpisode(folder, Shape.of_json(content["shape"]), content["frames"], Notes(**content["notes"]))


class EpisodeWriter:
    """Frames of one episode into ``folder``, which comes into being with ``finish``; ``abandon`` leaves nothing.

    Images that do not have the size of the first are left out, the one before stays; ``problems`` says so.
    """

    def __init__(self, folder: Path, shape: Shape, decode: Decode, threads: int = 0) -> None:
        for camera, (height, width) in shape.cameras.items() if shape.images == "video" else ():
            require_size(camera, height, width)
        self.problems: list[str] = []
        self.frames = 0
        self._folder, self._shape, self._decode = folder, shape, decode
        self._partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        features = {name: feature for name, feature in shape.features().items() if name not in INDICES[2:]}
        self._schema = schema(features, V30)
        plain = [name for name in self._schema.names if not name.startswith(IMAGES)]
        self._table = pq.ParquetWriter(self._partial / _TABLE, self._schema, compression="snappy", use_dictionary=plain)
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._bytes = 0
        self._statistics: dict[str, Statistics] = {
            name: ImageStatistics() if name.startswith(IMAGES) else VectorStatistics(int(feature["shape"][-1]))
            for name, feature in features.items()
        }
        self._videos = {key: VideoWriter(self._partial / f"{key}.mp4", shape.fps, *shape.cameras[key.removeprefix(IMAGES)], threads)
                        for key in shape.video_keys}
        self._shown: dict[str, tuple[EncodedImage, NDArray[np.uint8], bytes]] = {}

    def add(self, frame: Frame) -> None:
        """The next frame."""
        columns = self._columns
        columns[STATE].append(frame.state)
        columns[ACTION].append(frame.action)
        columns[AGE].append([frame.ages[name] for name in self._shape.inputs])
        columns[STAMP].append(frame.stamp)
        columns["timestamp"].append(self.frames / self._shape.fps)
        columns["frame_index"].append(self.frames)
        for name in self._shape.streams:
            columns[STREAMS + name].append(frame.features[name])
        for camera in self._shape.cameras:
            self._image(camera, frame.images[camera])
        self.frames += 1
        if len(columns[STATE]) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def finish(self, notes: Notes) -> StagedEpisode | None:
        """Write the rest and let the folder appear at once; None for an episode of less than two frames."""
        self._flush()
        self._table.close()
        for video in self._videos.values():
            video.close()
        if self.frames < 2:
            shutil.rmtree(self._partial)
            return None
        np.savez(
            self._partial / _STATISTICS,
            allow_pickle=False,
            **{f"{name}|{part}": values for name, table in self._statistics.items() for part, values in table.arrays().items()},  # type: ignore[arg-type]
        )
        episode = {"shape": self._shape.as_json(), "frames": self.frames, "notes": asdict(notes)}
        (self._partial / _EPISODE).write_text(json.dumps(episode))
        shutil.rmtree(self._folder, ignore_errors=True)
        os.replace(self._partial, self._folder)
        return StagedEpisode(self._folder, self._shape, self.frames, notes)

    def abandon(self) -> None:
        """Give everything up, after an error; raises none of its own."""
        for part in (self._table, *self._videos.values()):
            with suppress(Exception):
                part.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _image(self, camera: str, image: EncodedImage) -> None:
        key = IMAGES + camera
        held = self._shown.get(camera)
        if held is None or held[0] is not image:
            held = self._shown[camera] = (image, *self._picture(camera, image, held))
        _, pixels, png = held
        statistics = self._statistics[key]
        assert isinstance(statistics, ImageStatistics)
        statistics.update(pixels)
        if key in self._videos:
            self._videos[key].add(pixels)
        else:
            self._columns[key].append({"bytes": png, "path": f"frame-{self.frames:06d}.png"})
            self._bytes += len(png)

    def _picture(
        self, camera: str, image: EncodedImage, before: tuple[EncodedImage, NDArray[np.uint8], bytes] | None
    ) -> tuple[NDArray[np.uint8], bytes]:
        """The image's pixels and, where it is to be one, its PNG."""
        expected = (*self._shape.cameras[camera], 3)
        try:
            pixels = self._decode(image)
            if pixels.shape != expected:
                raise ValueError(f"shape {pixels.shape}, expected {expected} as before.")
        except ValueError as error:
            if before is None:
                raise DatasetError(f"camera '{camera}': {error}") from error
            if len(self.problems) < 20:
                self.problems.append(f"camera '{camera}', frame {self.frames}: {error} The image before it stays.")
            return before[1], before[2]
        if self._shape.images == "video":
            return pixels, b""
        data = bytes(image.data)
        return pixels, data if _is_rgb_png(data) else png(pixels)

    def _flush(self) -> None:
        if not self._columns[STATE]:
            return
        arrays = [_array(self._columns[field.name], field.type) for field in self._schema]
        self._table.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        for name, values in self._columns.items():
            if not name.startswith(IMAGES):
                rows = np.asarray(values, dtype=np.float32 if name == "timestamp" else None)
                statistics = self._statistics[name]
                assert isinstance(statistics, VectorStatistics)
                statistics.update(rows)
        self._columns = {name: [] for name in self._schema.names}
        self._bytes = 0


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The RGB image (H, W, 3), without loss."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), PNG)
    if not done:
        raise DatasetError(f"image of shape {pixels.shape} cannot be encoded as PNG.")
    return data.tobytes()


def _is_rgb_png(data: bytes) -> bool:
    """A PNG of 8-bit RGB, not interlaced, which can go on as it is."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:29] == b"\x08\x02\x00\x00\x00"


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; lists of numbers go through numpy, which is much faster."""
    if pa.types.is_struct(kind):
        return pa.array(values, type=kind)
    table = np.asarray(values)
    if not pa.types.is_fixed_size_list(kind) and not pa.types.is_list(kind):  # also vectors of one value, as LeRobot has it
        return pa.array(table.ravel(), type=kind)
    if table.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(table.ravel(), type=kind.value_type), table.shape[1])
    inner = _lists(pa.array(table.ravel(), type=kind.value_type.value_type), table.shape[0] * table.shape[1], table.shape[2])
    return _lists(inner, table.shape[0], table.shape[1])


def _lists(values: pa.Array, count: int, length: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * length, type=pa.int32()), values)
