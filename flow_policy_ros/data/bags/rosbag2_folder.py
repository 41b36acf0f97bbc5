"""The folder of a rosbag2: which files it consists of, and what its ``metadata.yaml`` says that they do not bear out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flow_policy_ros.data.bags.bag import BagError, Topic
from flow_policy_ros.data.bags.storage import count_of, span
from flow_policy_ros.runtime.yaml_bounded import load_yaml

SUFFIXES = (".mcap", ".db3", ".bag")
PACKED = (".zstd", ".zst")
METADATA = "metadata.yaml"
LARGE = 1 << 24  # bytes of a metadata file; they have some kilobytes
ROUNDING_NS = 1000  # some writers keep seconds as floating-point numbers
WORDS = {  # what the numbers of the older versions mean
    "history": {"0": "system_default", "1": "keep_last", "2": "keep_all", "3": "unknown"},
    "reliability": {"0": "system_default", "1": "reliable", "2": "best_effort", "3": "unknown"},
    "durability": {"0": "system_default", "1": "transient_local", "2": "volatile", "3": "unknown"},
    "liveliness": {"0": "system_default", "1": "automatic", "3": "manual_by_topic", "4": "unknown"},
}


@dataclass(frozen=True)
class Metadata:
    """What ``metadata.yaml`` says: None or empty where it does not. ``topics`` with the counts told."""

    files: tuple[str, ...] = ()
    start: int | None = None
    duration: int | None = None
    messages: int | None = None
    topics: dict[str, Topic] = field(default_factory=dict)


def is_recording(path: Path) -> bool:
    """Whether the file's name is that of a recording, compressed or not."""
    name = path.name
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.endswith(SUFFIXES)


def files_of(folder: Path, problems: list[str]) -> tuple[list[Path], Metadata | None]:
    """The files of a recording in their order, and what its metadata says. Raises ``BagError`` when the folder holds none."""
    present = sorted((path for path in folder.iterdir() if path.is_file() and is_recording(path)), key=_natural)
    metadata = read_metadata(folder / METADATA, problems)
    if metadata is None:
        if not present:
            folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
            inner = [path.name for path in folders if any(map(is_recording, path.iterdir()))]
            hint = f" Give one of those in it: {', '.join(inner)}." if inner else " Give the folder of a rosbag2, or its file."
            raise BagError(f"{folder} is no recording: it holds no {METADATA} and no .mcap, .db3 or .bag file.{hint}")
        return present, None
    listed: list[Path] = []
    for name in metadata.files:
        path = _find(folder, name)
        if path is None:
            problems.append(f"{METADATA} lists {name}, which is not in {folder}; its messages are lost.")
        elif path not in listed:
            listed.append(path)
    extra = [path for path in present if path not in listed]
    for path in extra:
        problems.append(f"{path.name} is not listed in {METADATA}; it is read too.")
    if not listed and not extra:
        raise BagError(f"{folder} holds none of the files that its {METADATA} lists: {', '.join(metadata.files) or '(none)'}.")
    return listed + extra, metadata


def read_metadata(path: Path, problems: list[str]) -> Metadata | None:
    """What ``metadata.yaml`` says; None, with a sentence in ``problems``, when it is missing or cannot be used."""
    if not path.is_file():
        problems.append(f"{path.parent} has no {METADATA}: its files are read in the order of their names.")
        return None
    try:
        if path.stat().st_size > LARGE:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        tree = load_yaml(path.read_text(encoding="utf-8", errors="replace"))
        information = tree["rosbag2_bagfile_information"]
        files = [str(name) for name in information.get("relative_file_paths") or ()]
        topics = [_topic(entry) for entry in information.get("topics_with_message_count") or ()]
        return Metadata(
            tuple(files),
            _integer(information, "starting_time", "nanoseconds_since_epoch"),
            _integer(information, "duration", "nanoseconds"),
            _integer(information, "message_count"),
            {topic.name: topic for topic in topics},
        )
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(f"{METADATA} cannot be used ({reason}): what the files say counts.")
        return None


def check(metadata: Metadata, topics: Mapping[str, Topic], start: int | None, end: int | None) -> list[str]:
    """Sentences on what ``metadata`` says and the files, with ``topics`` from ``start`` to ``end`` (ns), do not bear out."""
    found = []
    total = sum(topic.count or 0 for topic in topics.values())
    if metadata.messages is not None and metadata.messages != total:
        found.append(f"{METADATA} tells of {count_of(metadata.messages, 'message')}, and the files have {total}.")
    for name, listed in metadata.topics.items():
        topic = topics.get(name)
        if topic is None:
            if listed.count:
                found.append(f"{METADATA} tells of {count_of(listed.count, 'message')} of {name}, which no file has.")
            continue
        if listed.count is not None and listed.count != topic.count:
            found.append(f"{METADATA} tells of {count_of(listed.count, 'message')} of {name}, and the files have {topic.count}.")
        if listed.type != topic.type:
            found.append(f"{METADATA} says that {name} is {listed.type}, and the files that it is {topic.type}; the files count.")
        differing = _differing(_profiles(listed.qos), _profiles(topic.qos))
        if differing:
            found.append(f"{METADATA} and the files disagree on the QoS of {name} ({', '.join(differing)}); the files count.")
    unlisted = [name for name, topic in topics.items() if name not in metadata.topics and topic.count]
    if unlisted and metadata.topics:
        found.append(f"{METADATA} does not tell of {', '.join(unlisted)}; read all the same.")
    if start is not None and end is not None:
        if metadata.duration is not None and metadata.duration < 0:
            told, real = metadata.duration / 1e9, (end - start) / 1e9
            found.append(f"{METADATA} gives a duration of {told:.3f} s; by the files it is {real:.3f} s.")
        elif metadata.start is not None and metadata.duration is not None:
            told_end = metadata.start + metadata.duration
            if max(abs(metadata.start - start), abs(told_end - end)) > ROUNDING_NS:
                found.append(f"{METADATA} says {span(metadata.start, told_end)}, and the files reach from {span(start, end)}.")
    return found


def _find(folder: Path, name: str) -> Path | None:
    """The file that metadata calls ``name``: inside ``folder`` whatever the name, compressed or not."""
    plain = Path(name).name
    for packed in PACKED:
        plain = plain.removesuffix(packed)
    for candidate in (Path(name).name, plain, *(plain + packed for packed in PACKED)):
        if candidate not in ("", "..") and (folder / candidate).is_file():
            return folder / candidate
    return None


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order of names with their numbers as numbers: bag_2 before bag_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


def _topic(entry: Any) -> Topic:
    told = entry["topic_metadata"]
    qos = told.get("offered_qos_profiles") or ""
    text = qos if isinstance(qos, str) else yaml.safe_dump(qos)
    return Topic(str(told["name"]), str(told["type"]), str(told.get("serialization_format", "")), int(entry["message_count"]), text)


def _integer(tree: Any, *keys: str) -> int | None:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return None if tree is None else int(tree)


def _profiles(text: str) -> list[dict[str, str]]:
    """QoS profiles as they are written in recordings, numbers as words; empty when they cannot be told."""
    try:
        profiles = load_yaml(text) if text else None
        return [
            {key: WORDS.get(key, {}).get(_plain(value), _plain(value)) for key, value in profile.items()}
            for profile in profiles or ()
        ]
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError):
        return []


def _plain(value: Any) -> str:
    """A setting as text; durations whatever the order in which they were written."""
    return str(sorted(value.items()) if isinstance(value, dict) else value)


def _differing(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> list[str]:
    """The settings in which two lists of profiles differ; none when one of them is not known."""
    if not ours or not theirs:
        return []
    if len(ours) != len(theirs):
        return ["number of publishers"]
    return sorted({key for a, b in zip(ours, theirs, strict=True) for key in a.keys() & b.keys() if a[key] != b[key]})
