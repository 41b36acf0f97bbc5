"""One ROS 1 bag (format 2.0, http://wiki.ros.org/Bags/Format/2.0), found by walking its records.

It may be indexed or not, or cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from flow_policy_ros.data.bags.bag import BagError, RawMessage, Topic
from flow_policy_ros.data.bags.decompress import MEMORY, Damaged, decompress
from flow_policy_ros.data.bags.pieces import Entries, Piece
from flow_policy_ros.data.bags.reading import PieceReader, join_topics
from flow_policy_ros.data.bags.storage import Complaints, Definition, count_of, span

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7
HEADER = 1 << 20  # bytes of a record's header; they have some fifty
LENGTH = struct.Struct("<I")
TIME = struct.Struct("<II")


class Ros1File:
    """A ROS 1 bag. A ``Storage``; types and field names are given as ROS 2 has them."""

    kind = "ROS 1"

    def __init__(self, path: Path, name: str, problems: list[str]) -> None:
        """``name`` is what the sentences added to ``problems`` call it.

        Raises ``BagError`` when it is no such bag, ``OSError`` as ``open`` does.
        """
        self.path, self._name = path, name
        self._complaints = Complaints(problems)
        self._connections: dict[int, Topic] = {}
        self.definitions: dict[str, Definition] = {}
        self._pieces: list[Piece] = []
        self._file = path.open("rb")
        try:
            self._size = path.stat().st_size
            start = self._file.read(len(MAGIC))
            if start != MAGIC:
                raise BagError(f"{name} begins with {start!r}, expected {MAGIC!r}. Bags older than 2.0: run rosbag fix.")
            self._walk()
            self._find_connections()
        except BaseException:
            self._file.close()
            raise
        counts: dict[int, int] = {}
        for piece in self._pieces:
            for number, count in piece.counts.items():
                counts[number] = counts.get(number, 0) + count
        found = {
            number: Topic(topic.name, topic.type, topic.encoding, counts.get(number, 0))
            for number, topic in self._connections.items()
        }
        self.topics, names = join_topics(found, name, self._complaints)
        self.start = min((piece.start for piece in self._pieces), default=None)
        self.end = max((piece.end for piece in self._pieces), default=None)
        self._reader = PieceReader(self._pieces, self._raw, self._entries, names, name, self._complaints)

    def messages(self, topics: Collection[str] | None, start: int | None, stop: int | None) -> Iterator[RawMessage]:
        """As ``Bag.messages``."""
        return self._reader.messages(topics, start, stop)

    def close(self) -> None:
        """Give the file up."""
        self._file.close()

    def _walk(self) -> None:
        """Note where the chunks lie, from the first record to the last or to the first that is damaged."""
        at, chunk, indexed = len(MAGIC), None, False
        while at < self._size:
            begin = at
            try:
                fields, body, length = self._record(at)
                opcode = _number(fields, "op")
                if length > self._size - body and opcode != CHUNK:
                    raise Damaged(f"a record claims {length} bytes, and {self._size - body} are left")
                at = body + length
                if opcode == INDEX and chunk is not None:
                    chunk = self._indexed(chunk, _number(fields, "conn"), self._read(body, length))
                    continue
                self._keep(chunk)
                chunk = None
                if opcode == CHUNK:
                    chunk = Piece(begin, at - begin, 0, 0, {}, cut=at > self._size)
                elif opcode == BAG:
                    indexed = _number(fields, "index_pos") != 0
                    self._refuse_encrypted(fields)
                elif opcode == CONNECTION:
                    self._connection(fields, self._read(body, length))
                elif opcode == MESSAGE:
                    lost = f"{self._name}: message at byte {begin}, outside chunks, lost."
                    self._complaints.lost("messages outside chunks", begin, lost)
            except Damaged as error:
                self._keep(chunk)
                self._complaints.say(
                    f"{self._name} is cut off or damaged at byte {begin} of {self._size} ({error}); the last {self._size - begin} "
                    "bytes are not read."
                )
                return
        self._keep(chunk)
        if not indexed:
            self._complaints.say(f"{self._name} was not closed (it has no index): what was written until then is read.")

    def _refuse_encrypted(self, fields: dict[str, bytes]) -> None:
        if fields.get("encryptor"):
            method = fields["encryptor"].decode("utf-8", "replace")
            raise BagError(f"{self._name} is encrypted ({method}). Decrypt it first.")

    def _record(self, at: int) -> tuple[dict[str, bytes], int, int]:
        """Header's fields of the record at byte ``at``, and offset and length of its data."""
        (size,) = LENGTH.unpack(self._exactly(at, 4))
        if size > HEADER:
            raise Damaged(f"a header claims {size} bytes")
        fields = _fields(self._exactly(at + 4, size))
        (length,) = LENGTH.unpack(self._exactly(at + 4 + size, 4))
        return fields, at + 8 + size, length

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(max(0, min(length, self._size - offset)))

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise Damaged(f"{length} bytes expected, and {len(data)} are left")
        return data

    @staticmethod
    def _indexed(chunk: Piece, number: int, data: bytes) -> Piece:
        """``chunk`` with what an index record says of one of its connections: entries of seconds, nanoseconds, offset."""
        rows = np.frombuffer(data[: len(data) // 12 * 12], dtype="<u4").reshape(-1, 3)
        if not len(rows):
            return chunk
        times = rows[:, 0].astype(np.int64) * 1_000_000_000 + rows[:, 1]
        start, end = int(times.min()), int(times.max())
        if chunk.counts:
            start, end = min(start, chunk.start), max(end, chunk.end)
        counts = {**chunk.counts, number: chunk.counts.get(number, 0) + len(rows)}
        return Piece(chunk.offset, chunk.length, start, end, counts)

    def _keep(self, chunk: Piece | None) -> None:
        """Add a chunk; one without index is counted by reading it."""
        if chunk is None:
            return
        if not chunk.counts:
            try:
                entries = self._entries(chunk)
            except Damaged as error:
                lost = f"{self._name}: the chunk at byte {chunk.offset} {error}; its messages are lost."
                self._complaints.lost("damaged chunks", chunk.offset, lost)
                return
            if chunk.cut or entries.fault:
                when = f", received from {span(min(entries.times), max(entries.times))}" if len(entries.times) else ""
                self._complaints.lost("damaged chunks", chunk.offset, (
                    f"{self._name}: the chunk at byte {chunk.offset} is cut off or damaged; "
                    f"{count_of(len(entries.times), 'message')} of it could be read{when}."
                ))
            if not len(entries.times):
                return
            chunk = Piece(
                chunk.offset, chunk.length, min(entries.times), max(entries.times), entries.counts(), cut=chunk.cut
            )
        self._pieces.append(chunk)

    def _raw(self, piece: Piece) -> bytes:
        fields, body, length = self._record(piece.offset)
        compression = fields.get("compression", b"?").decode("utf-8", "replace")
        if length > MEMORY:
            raise Damaged(f"claims {length} bytes, expected at most {MEMORY}")
        return decompress(self._read(body, length), compression, _number(fields, "size"), piece.cut)

    def _entries(self, piece: Piece) -> Entries:
        raw = self._raw(piece)
        entries, at, end = Entries(raw), 0, len(raw)
        while at < end:
            try:
                (size,) = LENGTH.unpack_from(raw, at)
                if size > end - at - 8:
                    raise Damaged(f"a header claims {size} bytes, and {end - at - 8} are left")
                fields = _fields(raw[at + 4 : at + 4 + size])
                (length,) = LENGTH.unpack_from(raw, at + 4 + size)
                begin = at + 8 + size
                if length > end - begin:
                    raise Damaged(f"a record claims {length} bytes, and {end - begin} are left")
                opcode = _number(fields, "op")
                if opcode == MESSAGE:
                    seconds, nanoseconds = TIME.unpack(fields.get("time", b""))
                    entries.add(seconds * 1_000_000_000 + nanoseconds, _number(fields, "conn"), begin, begin + length)
                elif opcode == CONNECTION:
                    self._connection(fields, raw[begin : begin + length])
            except (Damaged, struct.error) as error:
                entries.fault = str(error)
                break
            at = begin + length
        return entries

    def _connection(self, fields: dict[str, bytes], data: bytes) -> None:
        number = _number(fields, "conn")
        if number in self._connections:
            return
        more = _fields(data)
        package, _, kind = more.get("type", b"").decode("utf-8", "replace").rpartition("/")
        name = f"{package}/msg/{kind}"
        self._connections[number] = Topic(fields.get("topic", b"").decode("utf-8", "replace"), name, "ros1")
        text = more.get("message_definition", b"").decode("utf-8", "replace")
        self.definitions.setdefault(name, Definition("ros1msg", text))

    def _find_connections(self) -> None:
        """Those that only the chunks tell of, since the file was not closed."""
        for piece in self._pieces:
            if not piece.counts.keys() <= self._connections.keys():
                try:
                    self._entries(piece)
                except Damaged:
                    continue  # said when its messages are wanted


def _fields(data: bytes) -> dict[str, bytes]:
    """``NAME=VALUE`` fields, each with its length in 4 bytes before it. Raises ``Damaged``."""
    fields, at = {}, 0
    while at < len(data):
        if len(data) - at < 4:
            raise Damaged("a header's last field is cut off")
        (size,) = LENGTH.unpack_from(data, at)
        at += 4
        name, equals, value = data[at : at + size].partition(b"=")
        if size > len(data) - at or not equals:
            raise Damaged(f"a header's field claims {size} bytes, and {len(data) - at} are left")
        fields[name.decode("utf-8", "replace")] = value
        at += size
    return fields


def _number(fields: dict[str, bytes], name: str) -> int:
    if name not in fields or len(fields[name]) > 8:
        raise Damaged(f"a header lacks '{name}'")
    return int.from_bytes(fields[name], "little")
