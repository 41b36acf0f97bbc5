"""The text of message definitions, as recordings carry it, so that they are read where the message's package is missing.

Taken from installed interface packages, else from the standard ones that the reader of bags knows. Imports nothing of ROS.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

RULE = "=" * 80
PRIMITIVES = frozenset((
    "bool", "byte", "char", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "string", "wstring",
))  # fmt: skip
_TYPE = re.compile(r"([A-Za-z][A-Za-z0-9_]*(?:/[A-Za-z0-9_]+)*)")


@dataclass(frozen=True)
class MessageType:
    """What a message of type ``name`` (``sensor_msgs/msg/JointState``) consists of: ``text`` in ``encoding`` (``ros2msg``), with
    every type that it is made of. Both are empty when nobody knows. ``type_hash`` (REP 2016) or empty."""

    name: str
    encoding: str = ""
    text: str = ""
    type_hash: str = ""


@cache
def standard_types() -> Typestore:
    """The message types of a ROS distribution, known without it."""
    return get_typestore(Stores.ROS2_HUMBLE)


@cache
def message_type(type_name: str) -> MessageType:
    """Of ``pkg/msg/Name``; without text when neither an installed package nor the standard types have it."""
    text = _installed(type_name)
    store = standard_types()
    known = type_name in store.types
    if text is None and known:
        text = store.generate_msgdef(type_name, ros_version=2)[0]
    if text is None:
        return MessageType(type_name)
    return MessageType(type_name, "ros2msg", text, store.hash_rihs01(type_name) if known else "")


def _installed(type_name: str) -> str | None:
    """The definition from ``share/pkg/msg/Name.msg`` and those of its parts; None when one of them is missing."""
    parts: dict[str, str] = {}
    waiting = [type_name]
    while waiting:
        name = waiting.pop(0)
        if name in parts:
            continue
        text = _file(name)
        if text is None:
            return None
        parts[name] = text
        waiting += _made_of(text, name.split("/")[0])
    head, *others = parts
    blocks = [parts[head], *(f"{RULE}\nMSG: {_short(name)}\n{parts[name]}" for name in others)]
    return "\n".join(block.rstrip("\n") for block in blocks) + "\n"


def _file(type_name: str) -> str | None:
    package, _, rest = type_name.partition("/")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (*prefixes, sys.prefix):  # wheels install where Python is
        path = Path(prefix) / "share" / package / f"{rest}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None


def _made_of(text: str, package: str) -> list[str]:
    """Full names of the types of the fields in ``text``, without primitives, in order."""
    found = []
    for line in text.splitlines():
        match = _TYPE.match(line.split("#", 1)[0].strip())
        if match is None or match[1] in PRIMITIVES:
            continue
        words = match[1].split("/")
        found.append(f"{words[0] if len(words) > 1 else package}/msg/{words[-1]}")
    return found


def _short(type_name: str) -> str:
    package, *_, name = type_name.split("/")
    return f"{package}/{name}"
