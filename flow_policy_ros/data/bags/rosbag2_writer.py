"""A rosbag2 folder that is being written: one MCAP file, and at the end ``metadata.yaml`` beside it.

The format is version 8 of rosbag2's, which every distribution from Humble on reads; ``ros2 bag`` and rosbags take it as theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from flow_policy_ros.data.bags.definitions import MessageType, message_type
from flow_policy_ros.data.bags.mcap_writer import McapWriter

METADATA = "metadata.yaml"
VERSION = 8


@dataclass(frozen=True)
class _Entry:
    what: MessageType
    qos: str


class Rosbag2Writer:
    """One bag in the new folder ``path``; use as a context manager. ``custom`` goes to the metadata's custom data, which may be
    changed until ``close`` and, with ``write_metadata``, after it."""

    def __init__(self, path: str | Path, compression: str = "zstd", custom: Mapping[str, str] | None = None) -> None:
        """Raises ``ValueError`` when the folder exists or cannot be made."""
        self.path = Path(path)
        self.custom = dict(custom or {})
        if self.path.exists():
            raise ValueError(f"bag folder {path} exists already; give another name or remove it.")
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise ValueError(
                f"bag folder {path} cannot be made ({error.strerror}); give a folder where you may write."
            ) from error
        self.file = McapWriter(self.path / f"{self.path.name}_0.mcap", compression)
        self._entries: dict[str, _Entry] = {}
        if self.custom:
            self.file.add_metadata("flow_policy_ros", self.custom)  # what a bag that was cut off can still say of itself

    def __enter__(self) -> Rosbag2Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add_topic(self, topic: str, what: MessageType, qos: str = "") -> int:
        """A number for ``file.write``."""
        self._entries[topic] = _Entry(what, qos)
        return self.file.add_topic(topic, what, qos)

    def put(self, topic: str, type_name: str, received: int, data: bytes) -> None:
        """One serialised message, received at ``received`` (ns), of a topic that is added when it is new."""
        if topic not in self._entries:
            self._entries[topic] = _Entry(message_type(type_name), "")
        self.file.put(topic, type_name, received, data)

    def close(self) -> None:
        """End the file and write the metadata. Raises ``OSError`` when there is no room for it; the messages can be read."""
        try:
            if not self.file.interrupted:
                self.file.add_metadata("rosbag2", {"serialized_metadata": yaml.safe_dump(self._metadata())})
        finally:
            try:
                self.file.close()
            finally:
                self.write_metadata()

    def write_metadata(self) -> None:
        """Write ``metadata.yaml``, or write it anew."""
        text = yaml.safe_dump({"rosbag2_bagfile_information": self._metadata()}, sort_keys=False)
        part = self.path / f".{METADATA}.part"
        part.write_text(text)
        os.replace(part, self.path / METADATA)

    def _metadata(self) -> dict[str, Any]:
        file = self.file
        start, end = (0, 0) if file.start is None or file.end is None else (file.start, file.end)
        begun, lasts, count = {"nanoseconds_since_epoch": start}, {"nanoseconds": end - start}, sum(file.counts.values())
        return {
            "version": VERSION,
            "storage_identifier": "mcap",
            "duration": lasts,
            "starting_time": begun,
            "message_count": count,
            "topics_with_message_count": [self._topic(topic, entry) for topic, entry in self._entries.items()],
            "compression_format": "",  # chunks inside the file are compressed, which is the file's own affair
            "compression_mode": "",
            "relative_file_paths": [file.path.name],
            "files": [
                {"path": file.path.name, "starting_time": dict(begun), "duration": dict(lasts), "message_count": count}
            ],
            "custom_data": dict(self.custom),
            "ros_distro": os.environ.get("ROS_DISTRO", ""),
        }

    def _topic(self, topic: str, entry: _Entry) -> dict[str, Any]:
        return {
            "topic_metadata": {
                "name": topic,
                "type": entry.what.name,
                "serialization_format": "cdr",
                "offered_qos_profiles": entry.qos,
                "type_description_hash": entry.what.type_hash,
            },
            "message_count": self.file.counts[topic],
        }
