"""Rows of an SQLite recording straight from its pages, for files whose tables cannot be walked any more: cut off, mostly.

A row of ``messages`` lies whole in a leaf page (and the overflow pages that this names), whatever became of the pages above it.
SQLite's file format, sections 1.5 to 2.1. Which rows SQLite itself still reaches is ``sqlite_salvage``'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LEAF = 0x0D
COLUMNS = 4  # id, topic_id, timestamp, data
LONGEST = 1 << 30  # bytes of a message, as everywhere in these readers
INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type


@dataclass(frozen=True)
class Row:
    """A row of ``messages`` without its data: where that lies is (``page``, ``cell``)."""

    row: int
    topic: int
    received: int
    page: int
    cell: int


class Leaves:
    """The leaf pages of the SQLite file ``path``. Reads a page at a time."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        head = self._file.read(100)
        size = int.from_bytes(head[16:18], "big")
        self._size = 65536 if size == 1 else size
        self._usable = self._size - head[20]
        self._pages = path.stat().st_size // self._size if self._size >= 512 else 0

    def close(self) -> None:
        """Give the file up."""
        self._file.close()

    def rows(self) -> Iterator[Row]:
        """Every row that lies in a leaf page and looks like one of ``messages``; one that was moved may come twice."""
        for number in range(2, self._pages + 1):  # the first page is the table of tables
            page = self._page(number)
            if page[0] != LEAF:
                continue
            for cell in range(int.from_bytes(page[3:5], "big")):
                try:
                    row, _, header, body = self._cell(page, cell)
                    if header is not None and body is not None:
                        yield Row(row, *self._columns(header, body), number, cell)
                except (IndexError, ValueError):
                    continue

    def data(self, page: int, cell: int) -> bytes | None:
        """The message of that cell; None where a part of it is gone."""
        try:
            content = self._page(page)
            _, size, header, _ = self._cell(content, cell)
            payload = self._payload(content, cell, size)
        except (IndexError, ValueError):
            return None
        length = (header[-1] - 12) // 2 if header else 0
        return payload[-length:] if payload is not None and 0 < length <= len(payload) else None

    def _page(self, number: int) -> bytes:
        self._file.seek((number - 1) * self._size)
        return self._file.read(self._size)

    def _cell(self, page: bytes, cell: int) -> tuple[int, int, list[int] | None, bytes | None]:
        """Row number, size of the payload, and serial types and the bytes behind them if it is a row of ``messages``."""
        at = int.from_bytes(page[8 + 2 * cell : 10 + 2 * cell], "big")
        size, at = _varint(page, at)
        row, at = _varint(page, at)
        length, behind = _varint(page, at)
        end = at + length
        types: list[int] = []
        while behind < end and len(types) <= COLUMNS:
            kind, behind = _varint(page, behind)
            types.append(kind)
        message = len(types) == COLUMNS and types[0] == 0 and types[3] >= 12 and types[3] % 2 == 0 and size <= LONGEST
        return row, size, (types if message else None), (page[end : end + 16] if message else None)

    def _columns(self, types: list[int], body: bytes) -> tuple[int, int]:
        """topic_id and timestamp. Raises ``ValueError`` for values that are no integers."""
        values = []
        for kind in types[1:3]:
            if kind in (8, 9):
                values.append(kind - 8)
                continue
            if kind not in INTEGERS:
                raise ValueError("no integer")
            values.append(int.from_bytes(body[: INTEGERS[kind]], "big", signed=True))
            body = body[INTEGERS[kind] :]
        return values[0], values[1]

    def _payload(self, page: bytes, cell: int, size: int) -> bytes | None:
        at = int.from_bytes(page[8 + 2 * cell : 10 + 2 * cell], "big")
        for _ in range(2):
            _, at = _varint(page, at)
        if size <= self._usable - 35:
            return page[at : at + size]
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (self._usable - 4)
        local = least if local > self._usable - 35 else local
        parts, held = [page[at : at + local]], local
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        while held < size:
            if not 1 < following <= self._pages:
                return None
            more = self._page(following)
            following = int.from_bytes(more[:4], "big")
            parts.append(more[4 : 4 + min(size - held, self._usable - 4)])
            held += len(parts[-1])
        return b"".join(parts)


def _varint(page: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(8):
        byte = page[at + k]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + k + 1
    return value << 8 | page[at + 8], at + 9
