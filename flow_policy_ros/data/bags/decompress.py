"""Decompression that a hostile or damaged recording cannot turn into unbounded memory or disk. What is in the bytes: not here."""

from __future__ import annotations

import bz2
import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import lz4.frame  # type: ignore[import-untyped]
import zstandard

MEMORY = 1 << 29  # bytes of one chunk or message; recorders' chunks have a few MB, an 8k image 100 MB
RESERVE = 1 << 29  # bytes of the disk that are left free
BLOCK = 1 << 20
RUN_LENGTH = 1  # kind of a Zstandard block that is one byte, whatever length it stands for
ZSTD = b"\x28\xb5\x2f\xfd"  # how a Zstandard frame begins; no CDR message does


class Damaged(ValueError):
    """Bytes that are not what their header says; the message says why, without naming the file."""


def decompress(data: bytes | memoryview, compression: str, size: int | None, partial: bool = False) -> bytes:
    """``data`` of ``compression`` ("" or ``none``, ``zstd``, ``lz4``, ``bz2``); ``size`` bytes are to come (None: not known).

    ``partial``: whatever can be had of data that was cut off. Raises ``Damaged``.
    """
    if size is not None and size > MEMORY:
        raise Damaged(f"claims {size} bytes, expected at most {MEMORY}")
    limit = MEMORY if size is None else size
    if compression in ("", "none"):
        plain = bytes(data)
    elif compression == "zstd":
        plain = _zstd(data, limit, partial)
    elif compression == "lz4":
        plain = _lz4(data, limit)
    elif compression == "bz2":
        plain = _bz2(data, limit)
    else:
        raise Damaged(f"is compressed with '{compression}', expected none, zstd, lz4 or bz2")
    if size is not None and not partial and len(plain) != size:
        raise Damaged(f"has {len(plain)} bytes, expected {size}")
    return plain


def _zstd(data: bytes | memoryview, limit: int, partial: bool) -> bytes:
    """In steps, so that memory follows what really comes and not what a header claims."""
    parts: list[bytes] = []
    total = 0
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(bytes(data), read_across_frames=True)
        while block := reader.read(min(BLOCK, limit + 1 - total)):
            parts.append(block)
            total += len(block)
            if total > limit:
                raise Damaged(f"has more than the {limit} bytes that it is to have")
    except zstandard.ZstdError as error:
        if not partial:
            raise Damaged(f"cannot be decompressed ({error})") from error
    if not partial and not whole(BytesIO(data)):
        raise Damaged("cannot be decompressed (it is cut off)")
    return b"".join(parts)


def whole(file: BinaryIO) -> bool:
    """Whether a Zstandard file ends where its last block ends (RFC 8878); the decompressor does not tell."""
    file.seek(0, os.SEEK_END)
    size, at = file.tell(), 0
    while at < size:
        file.seek(at)
        head = file.read(18)
        try:
            checksum = zstandard.get_frame_parameters(head).has_checksum
            at += zstandard.frame_header_size(head)
        except zstandard.ZstdError:
            return False
        last = False
        while not last:
            file.seek(at)
            block = int.from_bytes(file.read(3), "little")
            if at + 3 > size:
                return False
            last = bool(block & 1)
            at += 3 + (1 if block >> 1 & 3 == RUN_LENGTH else block >> 3)
        at += 4 * checksum
    return at == size


def _lz4(data: bytes | memoryview, limit: int) -> bytes:
    try:
        plain = lz4.frame.LZ4FrameDecompressor().decompress(bytes(data), max_length=limit + 1)
    except (RuntimeError, EOFError, ValueError) as error:
        raise Damaged(f"cannot be decompressed ({error})") from error
    if len(plain) > limit:
        raise Damaged(f"has more than the {limit} bytes that it is to have")
    return bytes(plain)


def _bz2(data: bytes | memoryview, limit: int) -> bytes:
    try:
        plain = bz2.BZ2Decompressor().decompress(bytes(data), max_length=limit + 1)
    except (OSError, ValueError) as error:
        raise Damaged(f"cannot be decompressed ({error})") from error
    if len(plain) > limit:
        raise Damaged(f"has more than the {limit} bytes that it is to have")
    return plain


def unpack(path: Path, target: Path) -> str | None:
    """Decompress the Zstandard file ``path`` to ``target``; None, or a sentence (without the file's name) when not all came.

    Stops before the disk is full. Raises ``Damaged`` when it is not a Zstandard file at all.
    """
    room = shutil.disk_usage(target.parent).free - RESERVE
    written = 0
    with path.open("rb") as packed, target.open("wb") as plain:
        if packed.read(len(ZSTD)) != ZSTD:
            raise Damaged("does not begin as a Zstandard file does")
        packed.seek(0)
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed, read_across_frames=True)
            while block := reader.read(BLOCK):
                if written + len(block) > room:
                    return f"needs more room than {target.parent} has (set TMPDIR); read only the first {written} bytes of it"
                plain.write(block)
                written += len(block)
        except zstandard.ZstdError as error:
            return f"is damaged: decompression ended after {written} bytes ({error})"
        if not whole(packed):
            return f"is cut off: decompression ended after {written} bytes"
    return None
