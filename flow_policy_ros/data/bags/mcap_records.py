"""The bytes of MCAP records (https://mcap.dev/spec), taken apart with every length checked.

Which of them a file has is found in ``mcap_index``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from flow_policy_ros.data.bags.decompress import Damaged
from flow_policy_ros.data.bags.pieces import Entries

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
PREFIX = struct.Struct("<BQ")  # opcode, length of what follows
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
CHUNK_HEAD = struct.Struct("<QQQII")  # start, end, size, CRC, length of the compression's name
COMPRESSION = 64  # bytes of a compression's name; they are "", zstd and lz4
FOOTER_BODY = struct.Struct("<QQI")  # summary's start, summary offsets' start, CRC


@dataclass(frozen=True)
class Schema:
    """A message type: its name, and its definition in ``encoding``."""

    name: str
    encoding: str
    text: str


@dataclass(frozen=True)
class Channel:
    """A topic of one type and encoding."""

    topic: str
    schema: int
    encoding: str
    qos: str


@dataclass
class Catalogue:
    """Schemas and channels by number."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)

    def take(self, opcode: int, body: bytes) -> None:
        """Note a schema or channel record; others do not matter. Raises ``Damaged``."""
        if opcode == SCHEMA:
            number, schema = read_schema(body)
            self.schemas.setdefault(number, schema)
        elif opcode == CHANNEL:
            number, channel = read_channel(body)
            self.channels.setdefault(number, channel)


class Fields:
    """Reads the fields of a record's ``body`` one after the other. Raises ``Damaged`` where the body ends first."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def number(self, size: int) -> int:
        """An unsigned number of ``size`` bytes."""
        return int.from_bytes(self.bytes(size), "little")

    def bytes(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if size > len(self.body) - self.at:
            raise Damaged(f"a field claims {size} bytes, and {len(self.body) - self.at} are left")
        self.at += size
        return self.body[self.at - size : self.at]

    def text(self) -> str:
        """A string with its length in 4 bytes before it."""
        return self.bytes(self.number(4)).decode("utf-8", "replace")


def read_schema(body: bytes) -> tuple[int, Schema]:
    """Number and schema. Raises ``Damaged``."""
    fields = Fields(body)
    number, name, encoding = fields.number(2), fields.text(), fields.text()
    return number, Schema(name, encoding, fields.text())


def read_channel(body: bytes) -> tuple[int, Channel]:
    """Number and channel. Raises ``Damaged``."""
    fields = Fields(body)
    number, schema, topic, encoding = fields.number(2), fields.number(2), fields.text(), fields.text()
    metadata, extra = Fields(fields.bytes(fields.number(4))), {}
    while metadata.at < len(metadata.body):
        key = metadata.text()
        extra[key] = metadata.text()
    return number, Channel(topic, schema, encoding, extra.get("offered_qos_profiles", ""))


def read_statistics(body: bytes) -> dict[int, int]:
    """Messages by channel. Raises ``Damaged``."""
    fields = Fields(body)
    fields.bytes(8 + 2 + 4 * 4 + 8 + 8)
    counts = Fields(fields.bytes(fields.number(4)))
    return {counts.number(2): counts.number(8) for _ in range(len(counts.body) // 10)}


def take_apart(raw: bytes, catalogue: Catalogue) -> Entries:
    """The messages among the records ``raw``; schemas and channels go to ``catalogue``. Ends at the first that is damaged."""
    entries = Entries(raw)
    at, end = 0, len(raw)
    prefix, head = PREFIX.unpack_from, MESSAGE_HEAD.unpack_from
    while at < end:
        if end - at < 9:
            entries.fault = "its last record is cut off"
            break
        opcode, length = prefix(raw, at)
        begin = at + 9
        if length > end - begin:
            entries.fault = f"a record claims {length} bytes, and {end - begin} are left"
            break
        at = begin + length
        if opcode == MESSAGE and length >= 22:
            channel, _, received, _ = head(raw, begin)
            entries.add(received, channel, begin + 22, at)
        elif opcode in (SCHEMA, CHANNEL):
            try:
                catalogue.take(opcode, raw[begin:at])
            except Damaged as error:
                entries.fault = str(error)
                break
    return entries
