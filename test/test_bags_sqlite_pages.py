"""SQLite recordings whose tables cannot be walked any more give the messages of the pages that are left, and no other."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.data.bags.open import open_bag

ROWS, T0, MS = 12_000, 1_700_000_000_000_000_000, 1_000_000
TABLES = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL,
  offered_qos_profiles TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
INSERT INTO topics VALUES(1, '/small', 'std_msgs/msg/String', 'cdr', ''), (2, '/large', 'sensor_msgs/msg/Image', 'cdr', '');
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[tuple[str, int], bytes]]:
    """A file of three levels of pages, with messages of 0 to 300 bytes, and of 20 kB now and then; and what is in it."""
    path = tmp_path_factory.mktemp("sqlite") / "whole.db3"
    draw = np.random.default_rng(0)
    held: dict[tuple[str, int], bytes] = {}
    with sqlite3.connect(path) as database:
        database.executescript(TABLES)
        for k in range(ROWS):
            large = k % 200 == 7
            data = draw.bytes(20_000 if large else int(draw.integers(1, 300)))
            held["/large" if large else "/small", T0 + k * MS] = data
            database.execute("INSERT INTO messages VALUES(?, ?, ?, ?)", (k + 1, 2 if large else 1, T0 + k * MS, data))
    database.close()
    return path.read_bytes(), held


@pytest.mark.parametrize("part", [0.02, 0.1, 0.35, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_off(recording: tuple[bytes, dict[tuple[str, int], bytes]], tmp_path: Path, part: float) -> None:
    whole, held = recording
    path = tmp_path / "cut.db3"
    path.write_bytes(whole[: int(len(whole) * part) + 37])  # in the middle of a page
    bag = open_bag(path)
    found = {(message.topic, message.received): bytes(message.data) for message in bag.messages()}
    bag.close()
    assert found and found.items() <= held.items()  # no message that was not recorded, none with other bytes
    assert sum(map(len, found.values())) > 0.7 * part * sum(map(len, held.values()))  # indexes take the rest
    assert any("damaged" in problem and "lost" in problem for problem in bag.problems)


def test_pages_that_lead_to_others_are_gone(recording: tuple[bytes, dict[tuple[str, int], bytes]], tmp_path: Path) -> None:
    whole, held = recording
    size = int.from_bytes(whole[16:18], "big")
    pages = [bytearray(whole[k : k + size]) for k in range(0, len(whole), size)]
    inner = [page for page in pages[1:] if page[0] == 0x05]
    assert len(inner) > 2
    for page in inner:
        page[:] = bytes(size)
    path = tmp_path / "torn.db3"
    path.write_bytes(b"".join(pages))
    bag = open_bag(path)
    assert {(m.topic, m.received): bytes(m.data) for m in bag.messages()} == held
    bag.close()


def test_bytes_that_look_like_pages_end_no_reader(recording: tuple[bytes, dict[tuple[str, int], bytes]], tmp_path: Path) -> None:
    whole, held = recording
    draw = np.random.default_rng(1)
    for k in range(8):
        torn = bytearray(whole)
        for at in draw.integers(8192, len(torn), 300).tolist():
            torn[at] = int(draw.integers(256))
        path = tmp_path / f"noise_{k}.db3"
        path.write_bytes(bytes(torn))
        bag = open_bag(path)
        found = [(message.topic, message.received) for message in bag.messages()]
        bag.close()
        assert len(set(found) & held.keys()) > 0.5 * ROWS
