"""From a recorded message to an object with the fields of its ROS 2 type: the recording's own definition, else the standard one.

Nothing of a recording is executed: type and field names are checked before code for them is made, constants are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from flow_policy_ros.data.bags.bag import BagError, RawMessage, Topic
from flow_policy_ros.data.bags.joint_state_cdr import JOINT_STATE, JointStateDecoder
from flow_policy_ros.data.bags.json_messages import from_json
from flow_policy_ros.data.bags.storage import Definition

TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]*/(msg|srv|action)/[A-Za-z][A-Za-z0-9_]*")
FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
TEXT = 1 << 20  # characters of a definition
FIXED = 1 << 24  # entries of an array of fixed length
SEPARATOR = "=" * 80 + "\n"
ENCODINGS = ("ros2msg", "ros1msg", "ros2idl", "omgidl")
Types = dict[str, Any]


@cache
def standard(encoding: str) -> Typestore:
    """The types of the common distributions: ROS 1 Noetic for ``ros1``, else ROS 2 Humble."""
    return get_typestore(Stores.ROS1_NOETIC if encoding == "ros1" else Stores.ROS2_HUMBLE)


class TypeLibrary:
    """Decodes messages of one recording, whose own ``definitions`` are by type name."""

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        self._definitions = definitions
        self._stores: dict[tuple[str, str], Typestore] = {}
        self._refused: dict[str, str] = {}  # by topic
        self._fast: dict[str, JointStateDecoder] = {}  # by topic

    def decode(self, topic: Topic, message: RawMessage) -> Any:
        """Raises ``BagError`` naming topic, type and remedy."""
        store = self._store(topic)
        try:
            if topic.encoding == "cdr":
                fast = self._fast.get(topic.name)
                found = None if fast is None else fast.decode(bytes(message.data))
                if found is not None:
                    return found
                return store.deserialize_cdr(message.data, topic.type)
            if topic.encoding == "ros1":
                return store.deserialize_ros1(message.data, topic.type)
            return from_json(bytes(message.data), topic.type, store)
        except (SerdeError, ValueError, KeyError, IndexError, TypeError, RecursionError, MemoryError) as error:
            raise BagError(
                f"a message of {topic.name} received at {message.received / 1e9:.3f} s is no {topic.type}: {error}. "
                "It is damaged, or was written with another definition of that type."
            ) from error

    def _store(self, topic: Topic) -> Typestore:
        key = (topic.type, topic.encoding)
        if topic.name in self._refused:
            raise BagError(self._refused[topic.name])
        if key not in self._stores:
            try:
                self._stores[key] = self._load(topic)
            except BagError as error:
                self._refused[topic.name] = str(error)
                raise
        store = self._stores[key]
        if topic.type == JOINT_STATE and topic.encoding == "cdr" and topic.name not in self._fast and _usual(store):
            self._fast[topic.name] = JointStateDecoder(store)
        return store

    def _load(self, topic: Topic) -> Typestore:
        if topic.encoding not in ("cdr", "ros1", "json"):
            raise BagError(
                f"messages of {topic.name} are encoded as '{topic.encoding}', expected cdr, ros1 or json. Convert the recording."
            )
        common = standard(topic.encoding)
        definition = self._definitions.get(topic.type)
        if definition is not None and definition.encoding in ENCODINGS and definition.text.strip():
            try:
                return self._own(topic.type, definition, common)
            # A hostile definition may break the parser in any way; it must not break the reader.
            except Exception as error:
                if topic.type not in common.fielddefs:
                    raise BagError(
                        f"the definition of {topic.type} (topic {topic.name}) in the recording cannot be used: {_short(error)}. "
                        "Record the topic again, or leave it out."
                    ) from error
        if topic.type in common.fielddefs:
            return common
        known = f"by a {definition.encoding} alone" if definition is not None else "nowhere"
        raise BagError(
            f"type {topic.type} of topic {topic.name} is described {known}, and it is none of the standard types. Record with a "
            "tool that stores message definitions (MCAP, ROS 2 Iron or later), or leave the topic out."
        )

    def _own(self, name: str, definition: Definition, common: Typestore) -> Typestore:
        """A store of ``name`` and what it consists of, as the recording defines them."""
        if len(definition.text) > TEXT:
            raise BagError(f"it has {len(definition.text)} characters, expected at most {TEXT}")
        if definition.encoding in ("ros2idl", "omgidl"):
            types: Types = {}
            for part in filter(str.strip, definition.text.split(SEPARATOR)):
                types.update(get_types_from_idl(part.partition("\n")[2] if part.startswith("IDL: ") else part))
        else:
            types = dict(get_types_from_msg(definition.text, name))
        wanted: Types = {}
        todo = [name]
        while todo:
            current = todo.pop()
            if current in wanted:
                continue
            if current not in types and current not in common.fielddefs:
                raise BagError(f"{current}, which it consists of, is defined nowhere")
            _, fields = types[current] if current in types else common.fielddefs[current]
            if definition.encoding == "ros1msg":
                fields = [(field.lower(), kind) for field, kind in fields]  # ROS 2 allows no capitals: CameraInfo.K is k
            wanted[_checked(TYPE, current)] = ([], [(_checked(FIELD, field), kind) for field, kind in fields])
            todo += [inner for _, kind in fields for inner in _parts(kind)]
        store = get_typestore(Stores.EMPTY)
        store.register(wanted)
        store.get_msgdef(name)
        return store


def _checked(pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(name):
        raise BagError(f"it names {name!r}, which is no name that ROS allows")
    return name


def _usual(store: Typestore) -> bool:
    """Whether ``JointState`` is what it is everywhere."""
    types = (JOINT_STATE, "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    return all(store.fielddefs.get(name, ((), ()))[1] == standard("cdr").fielddefs[name][1] for name in types)


def _short(error: Exception) -> str:
    """The first line: parsers quote the whole definition."""
    return f"{error}".partition("\n")[0].rstrip(":") or type(error).__name__


def _parts(kind: Any) -> list[str]:
    """The message types in a field's description."""
    if kind[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        inner, size = kind[1]
        if kind[0] == Nodetype.ARRAY and size > FIXED:
            raise BagError(f"an array of it has {size} entries, expected at most {FIXED}")
        return _parts(inner)
    return [kind[1]] if kind[0] == Nodetype.NAME else []
