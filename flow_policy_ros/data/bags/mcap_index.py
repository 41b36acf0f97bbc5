"""Where the messages of an MCAP file lie: found by walking its records, so that a file without footer is read like any other.

The summary at the end, where there is one, tells the topics at once, and where chunks go on after damaged bytes.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import BinaryIO

from flow_policy_ros.data.bags import mcap_records as m
from flow_policy_ros.data.bags.bag import BagError
from flow_policy_ros.data.bags.decompress import MEMORY, Damaged, decompress
from flow_policy_ros.data.bags.pieces import Entries, Piece
from flow_policy_ros.data.bags.storage import Complaints, count_of, span

RUN = 1 << 22  # bytes of messages outside chunks that make one piece


@dataclass
class Summary:
    """The end of a file that was closed: chunks by offset, with their instants; ``total`` messages by channel."""

    chunks: dict[int, tuple[int, int]] = field(default_factory=dict)
    total: dict[int, int] | None = None


class McapIndex:
    """The pieces of ``file``, and the ``catalogue`` of its topics; what was wrong goes to ``complaints``."""

    def __init__(self, file: BinaryIO, size: int, name: str, complaints: Complaints) -> None:
        """Raises ``BagError`` when this is no MCAP file."""
        self._file, self._size, self._name, self._complaints = file, size, name, complaints
        self.catalogue = m.Catalogue()
        self.pieces: list[Piece] = []
        file.seek(0)
        if file.read(len(m.MAGIC)) != m.MAGIC:
            raise BagError(f"{name} does not begin as an MCAP file does (or its version is not 0). Give a recording, or repair it.")
        summary = self._summary()
        _Walk(self, summary).run()
        self._describe()
        if summary is not None and summary.total is not None:
            told, found = sum(summary.total.values()), sum(sum(piece.counts.values()) for piece in self.pieces)
            if told != found:
                complaints.say(f"{name}: its summary tells of {count_of(told, 'message')}, and it has {found}.")

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        self._file.seek(offset)
        return self._file.read(max(0, min(length, self._size - offset)))

    def raw(self, piece: Piece) -> bytes:
        """The records of ``piece``. Raises ``Damaged``."""
        if piece.plain:
            return self.read(piece.offset, piece.length)
        data = memoryview(self.read(piece.offset + 9, piece.length - 9))
        if len(data) < m.CHUNK_HEAD.size:
            raise Damaged("is cut off in its header")
        _, _, size, crc, letters = m.CHUNK_HEAD.unpack_from(data)
        at = m.CHUNK_HEAD.size + letters
        compression = bytes(data[m.CHUNK_HEAD.size : at]).decode("utf-8", "replace") if letters <= m.COMPRESSION else "?"
        plain = decompress(data[at + 8 :], compression, size, piece.cut)
        if crc and not piece.cut and zlib.crc32(plain) != crc:
            raise Damaged("does not agree with its checksum")
        return plain

    def entries(self, piece: Piece) -> Entries:
        """The messages of ``piece``. Raises ``Damaged``."""
        return m.take_apart(self.raw(piece), self.catalogue)

    def _summary(self) -> Summary | None:
        """What the footer points at; None without footer or when it is damaged."""
        tail = 9 + m.FOOTER_BODY.size + len(m.MAGIC)
        end = self.read(self._size - tail, tail) if self._size >= tail + len(m.MAGIC) else b""
        if len(end) < tail or not end.endswith(m.MAGIC) or m.PREFIX.unpack_from(end) != (m.FOOTER, m.FOOTER_BODY.size):
            self._complaints.say(f"{self._name} was not closed (it has no footer): what was written until then is read.")
            return None
        begin, _, crc = m.FOOTER_BODY.unpack_from(end, 9)
        if not begin:
            return None  # a summary is optional
        length = self._size - tail - begin
        if not 0 <= length <= MEMORY:
            self._complaints.say(f"{self._name}: its footer points outside the file; its summary is not used.")
            return None
        raw = self.read(begin, length)
        if crc and zlib.crc32(end[: 9 + 16], zlib.crc32(raw)) != crc:
            self._complaints.say(f"{self._name}: its summary does not agree with its checksum and is not used.")
            return None
        try:
            return self._read_summary(raw)
        except Damaged as error:
            self._complaints.say(f"{self._name}: its summary is damaged ({error}) and not used.")
            return None

    def _read_summary(self, raw: bytes) -> Summary:
        summary, at = Summary(), 0
        while at + 9 <= len(raw):
            opcode, length = m.PREFIX.unpack_from(raw, at)
            if length > len(raw) - at - 9:
                raise Damaged(f"a record claims {length} bytes, and {len(raw) - at - 9} are left")
            body = raw[at + 9 : at + 9 + length]
            if opcode == m.CHUNK_INDEX:
                fields = m.Fields(body)
                start, end, offset = fields.number(8), fields.number(8), fields.number(8)
                summary.chunks[offset] = (start, end)
            elif opcode == m.STATISTICS:
                summary.total = m.read_statistics(body)
            else:
                self.catalogue.take(opcode, body)
            at += 9 + length
        return summary

    def _describe(self) -> None:
        """Find the channels that the summary did not tell of, where they are declared: in the chunks."""
        for piece in self.pieces:
            if not piece.counts.keys() <= self.catalogue.channels.keys():
                try:
                    self.entries(piece)
                except Damaged:
                    continue  # said when its messages are wanted
        unknown: dict[int, int] = {}
        for piece in self.pieces:
            for number, count in piece.counts.items():
                if number not in self.catalogue.channels:
                    unknown[number] = unknown.get(number, 0) + count
        for number, count in unknown.items():
            self._complaints.say(
                f"{self._name}: {count_of(count, 'message')} of channel {number} lost; the channel is described nowhere."
            )


class _Walk:
    """One pass over the records at the top of the file."""

    def __init__(self, index: McapIndex, summary: Summary | None) -> None:
        self._index, self._summary = index, summary
        self._chunks = sorted(summary.chunks) if summary else []
        self._chunk: Piece | None = None  # whose message indexes are being read
        self._run: Piece | None = None  # of messages outside chunks

    def run(self) -> None:
        """Fills the index."""
        index, size, at = self._index, self._index._size, len(m.MAGIC)
        while at < size:
            head = index.read(at, 9)
            opcode, length = m.PREFIX.unpack(head) if len(head) == 9 else (0, 0)
            if opcode in (m.DATA_END, m.FOOTER):
                break
            later = self._next_chunk(at)
            bound = size if later is None else later
            if len(head) == 9 and (0 < opcode <= m.DATA_END or opcode >= 0x80) and length <= bound - at - 9 and self._record(
                opcode, at, length
            ):
                at += 9 + length
                continue
            at = self._damaged(opcode, at, later)
        self._end_chunk()
        self._end_run()

    def _next_chunk(self, at: int) -> int | None:
        """Where the summary says that the next chunk after byte ``at`` lies."""
        k = bisect_right(self._chunks, at)
        return self._chunks[k] if k < len(self._chunks) else None

    def _record(self, opcode: int, at: int, length: int) -> bool:
        """Note the record; False when it is not what it claims to be."""
        index = self._index
        if opcode == m.MESSAGE_INDEX:
            body = m.Fields(index.read(at + 9, 6))
            if length < 6:
                return False
            number, entries = body.number(2), body.number(4)
            if entries > length - 6:
                return False
            if self._chunk is not None and entries:
                self._chunk.counts[number] = self._chunk.counts.get(number, 0) + entries // 16
            return True
        self._end_chunk()
        if opcode == m.MESSAGE:
            return length >= 22 and self._message(at, length)
        if opcode in (m.SCHEMA, m.CHANNEL):
            if length > MEMORY:
                return False
            try:
                index.catalogue.take(opcode, index.read(at + 9, length))
            except Damaged:
                return False
            return True
        self._end_run()
        if opcode != m.CHUNK:
            return True
        head = index.read(at + 9, m.CHUNK_HEAD.size + m.COMPRESSION + 8)
        if len(head) < m.CHUNK_HEAD.size + 8:
            return False
        start, end, _, _, letters = m.CHUNK_HEAD.unpack_from(head)
        body = m.CHUNK_HEAD.size + letters + 8
        if letters > m.COMPRESSION or int.from_bytes(head[body - 8 : body], "little") != length - body:
            return False
        self._chunk = Piece(at, 9 + length, start, end, {})
        return True

    def _message(self, at: int, length: int) -> bool:
        number, _, received, _ = m.MESSAGE_HEAD.unpack(self._index.read(at + 9, m.MESSAGE_HEAD.size))
        run = self._run
        if run is None:
            run = Piece(at, 0, received, received, {}, plain=True)
        run.counts[number] = run.counts.get(number, 0) + 1
        self._run = Piece(
            run.offset, at + 9 + length - run.offset, min(run.start, received), max(run.end, received), run.counts, plain=True
        )
        if self._run.length >= RUN:
            self._end_run()
        return True

    def _end_run(self) -> None:
        if self._run is not None:
            self._index.pieces.append(self._run)
            self._run = None

    def _end_chunk(self) -> None:
        if self._chunk is not None:
            self._keep(self._chunk)
            self._chunk = None

    def _keep(self, piece: Piece) -> int:
        """Add a chunk; one without message indexes is counted by reading it. Returns the number of its messages."""
        index = self._index
        if not piece.counts:
            try:
                entries = index.entries(piece)
            except Damaged as error:
                index._complaints.lost("damaged chunks", piece.offset, (
                    f"{index._name}: the chunk at byte {piece.offset} {error}; its messages from {span(piece.start, piece.end)} "
                    "are lost."
                ))
                return 0
            if entries.fault and not piece.cut:
                index._complaints.lost("damaged chunks", piece.offset, (
                    f"{index._name}: the chunk at byte {piece.offset} is damaged ({entries.fault}); what comes after that of its "
                    f"messages from {span(piece.start, piece.end)} is lost."
                ))
            if not len(entries.times):
                return 0
            piece = Piece(piece.offset, piece.length, min(entries.times), max(entries.times), entries.counts(), cut=piece.cut)
        index.pieces.append(piece)
        return sum(piece.counts.values())

    def _damaged(self, opcode: int, at: int, later: int | None) -> int:
        """Say what is lost at byte ``at``; returns where to go on: at the next chunk that the summary knows, or at the end."""
        index, size = self._index, self._index._size
        self._end_chunk()
        self._end_run()
        if later is not None:
            lost = self._summary.chunks.get(at) if self._summary else None
            when = "" if lost is None else f"; a chunk with messages from {span(*lost)} is lost"
            index._complaints.lost("damaged places", at, (
                f"{index._name}: {later - at} bytes from byte {at} on are damaged{when}; reading goes on behind."
            ))
            return later
        kept, until = 0, ""
        if opcode == m.CHUNK and size - at > 9 + m.CHUNK_HEAD.size:
            start, end, _, _, letters = m.CHUNK_HEAD.unpack(index.read(at + 9, m.CHUNK_HEAD.size))
            if letters <= m.COMPRESSION:
                kept = self._keep(Piece(at, size - at, start, end, {}, cut=True))
                until = f" It is a chunk that was to reach to {end / 1e9:.3f} s; {count_of(kept, 'message')} of it could be read."
        index._complaints.say(
            f"{index._name} is cut off or damaged at byte {at} of {size}: the last {size - at} bytes are no complete record.{until}"
        )
        return size
