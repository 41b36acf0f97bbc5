"""Recordings that are damaged or contradict themselves: what is readable comes, and what was lost is said."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
import zstandard
from bag_support import PERIOD, START, cdr, numbers, state, states, write_folder, write_mcap, write_ros1
from mcap.writer import CompressionType
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from flow_policy_ros.data.bags.bag import BagError
from flow_policy_ros.data.bags.open import open_bag

N = 60
ALL = list(range(N))


def said(problems: list[str], *words: str) -> bool:
    """Whether one of the sentences has all of ``words``."""
    return any(all(word in problem for word in words) for problem in problems)


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def chunks(path: Path) -> list[tuple[int, int]]:
    """(offset, length) of an MCAP file's chunks."""
    data, at, found = path.read_bytes(), 8, []
    while at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 6:
            found.append((at, 9 + length))
        at += 9 + length
    return found


def flip(path: Path, at: int) -> Path:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    return path


class TestMcap:
    @pytest.mark.parametrize("compression", list(CompressionType), ids=lambda c: c.name)
    @pytest.mark.parametrize("chunking", [True, False], ids=["chunks", "plain"])
    def test_cut_off_anywhere(self, tmp_path: Path, compression: CompressionType, chunking: bool) -> None:
        whole = write_mcap(tmp_path / "whole.mcap", states(N), compression=compression, use_chunking=chunking).read_bytes()
        path, counts = tmp_path / "a.mcap", []
        for size in np.linspace(200, len(whole) - 1, 40).astype(int).tolist():
            path.write_bytes(whole[:size])
            bag = open_bag(path)
            got = numbers(bag) if "/joint_states" in bag.topics else []
            assert got == ALL[: len(got)] and said(bag.problems, "a.mcap")
            counts.append(len(got))
            bag.close()
        assert counts == sorted(counts) and counts[0] < 10 and counts[-1] == N

    def test_without_footer_it_reaches_into_the_last_chunk(self, tmp_path: Path) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N), compression=CompressionType.NONE)
        offset, length = chunks(path)[2]
        path.write_bytes(path.read_bytes()[: offset + length - 200])
        bag = open_bag(path)
        before = open_bag(write_mcap(tmp_path / "b.mcap", states(N)))
        assert len(numbers(before)) == N
        assert len(numbers(bag)) > 30 and bag.topics["/joint_states"].count == len(numbers(bag))
        assert said(bag.problems, "not closed")
        assert said(bag.problems, "cut off", "chunk that was to reach to", "messages of it could be read")

    @pytest.mark.parametrize("compression", list(CompressionType), ids=lambda c: c.name)
    @pytest.mark.parametrize("summary", [True, False])
    def test_a_flipped_byte_in_a_chunk(self, tmp_path: Path, compression: CompressionType, summary: bool) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N), compression=compression)
        places = chunks(path)
        offset, length = places[2]
        flip(path, offset + length - length // 3)
        if not summary:
            last, size = places[-1]
            path.write_bytes(path.read_bytes()[: last + size])
        bag = open_bag(path)
        got = numbers(bag)
        lost = sorted(set(ALL) - set(got))
        assert 5 < len(lost) < 30 and lost == list(range(lost[0], lost[-1] + 1))  # one chunk, and nothing else
        first, last_ = (START + k * PERIOD for k in (lost[0], lost[-1]))
        when = f"{len(lost)} messages from {first / 1e9:.3f} to {last_ / 1e9:.3f} s lost"
        assert said(bag.problems, f"chunk at byte {offset}", when)
        assert numbers(bag) == got and len(bag.problems) == (1 if summary else 2)  # said once

    def test_wrong_bytes_without_checksum_do_not_stop_the_others(self, tmp_path: Path) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N), enable_crcs=False)
        offset, _ = chunks(path)[1]
        data = bytearray(path.read_bytes())
        at = data.index(b"\x05", offset + 60)
        data[at + 1 : at + 9] = (1 << 60).to_bytes(8, "little")  # a record of 2^60 bytes
        path.write_bytes(data)
        bag = open_bag(path)
        got = numbers(bag)
        assert 30 < len(got) < N and got[-1] == N - 1 and said(bag.problems, f"chunk at byte {offset}", "claims")

    def test_a_chunk_with_a_false_length_is_skipped_when_the_summary_knows_the_next(self, tmp_path: Path) -> None:
        for length in (1 << 60, 5, 5000):
            path = write_mcap(tmp_path / "a.mcap", states(N))
            offset, _ = chunks(path)[1]
            data = bytearray(path.read_bytes())
            data[offset + 1 : offset + 9] = length.to_bytes(8, "little")
            path.write_bytes(data)
            bag = open_bag(path)
            got = numbers(bag)
            assert 30 < len(got) < N and got[-1] == N - 1
            assert said(bag.problems, f"byte {offset}", "a chunk with messages from", "lost")
            assert said(bag.problems, "summary tells of 60")

    def test_zeros_at_the_end(self, tmp_path: Path) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N))
        offset, length = chunks(path)[-1]
        path.write_bytes(path.read_bytes()[: offset + length] + bytes(10_000))  # a power failure
        bag = open_bag(path)
        assert numbers(bag) == ALL and said(bag.problems, "cut off or damaged", "10000 bytes")

    def test_a_summary_with_a_wrong_checksum_is_not_believed(self, tmp_path: Path) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N))
        flip(path, path.stat().st_size - 60)
        bag = open_bag(path)
        assert numbers(bag) == ALL and said(bag.problems, "summary does not agree with its checksum")

    def test_a_chunk_that_begins_later_than_its_messages(self, tmp_path: Path) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N), enable_crcs=False)
        offset, _ = chunks(path)[0]
        data = bytearray(path.read_bytes())
        data[offset + 9 : offset + 17] = (START + 3 * PERIOD).to_bytes(8, "little")
        path.write_bytes(data)
        bag = open_bag(path)
        assert numbers(bag) == ALL[3:] and said(bag.problems, "3 messages", "are left out")

    def test_many_damaged_chunks_do_not_make_as_many_sentences(self, tmp_path: Path) -> None:
        path = write_mcap(tmp_path / "a.mcap", states(N), chunk_size=300)
        places = chunks(path)
        assert len(places) > 10
        for offset, length in places:
            flip(path, offset + length - 20)
        bag = open_bag(path)
        assert numbers(bag) == [] and len(bag.problems) == 9 and said(bag.problems, f"and {len(places) - 8} more damaged chunks")


class TestSqlite:
    @pytest.mark.parametrize("part", [0.5, 0.8, 0.97])
    def test_cut_off(self, tmp_path: Path, part: float) -> None:
        folder = write_folder(tmp_path / "bag", states(1000))
        cut(next(folder.glob("*.db3")), part)
        bag = open_bag(folder)
        got = numbers(bag)
        assert 300 * part < len(got) < 1000 and got == sorted(got) and got[0] == 0
        told = bag.topics["/joint_states"].count or 0  # the last one's bytes may be on a page that is gone
        assert told - 2 <= len(got) <= told and said(bag.problems, "damaged", f"{told} messages", "the others are lost")
        assert told == len(got) or said(bag.problems, "is damaged and left out")
        assert said(bag.problems, "metadata.yaml tells of 1000 messages")
        assert numbers(bag) == got

    def test_pages_overwritten_in_the_middle(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(2000))
        path = next(folder.glob("*.db3"))
        data = bytearray(path.read_bytes())
        middle = len(data) // 2 // 4096 * 4096
        data[middle : middle + 3 * 4096] = bytes(3 * 4096)
        path.write_bytes(data)
        bag = open_bag(folder)
        got = numbers(bag)
        assert 1700 < len(got) < 2000 and got[-1] == 1999 and said(bag.problems, "damaged", "are lost")

    def test_cut_to_its_head(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(1000))
        path = next(folder.glob("*.db3"))
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(BagError, match=path.name):
            open_bag(folder)

    def test_what_a_killed_recorder_left_in_its_wal(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(20))
        path = next(folder.glob("*.db3"))
        database = sqlite3.connect(path)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA wal_autocheckpoint=0")
        for received, message in states(N)[20:]:
            database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)", (received, cdr(message)))
        database.commit()
        killed = tmp_path / "killed"
        shutil.copytree(folder, killed)
        database.close()
        (killed / f"{path.name}-shm").unlink()
        before = sorted(entry.name for entry in killed.iterdir())
        killed.chmod(0o555)
        try:
            bag = open_bag(killed)
            assert numbers(bag) == ALL and said(bag.problems, "not closed by its recorder", "-wal")
            bag.close()
            assert sorted(entry.name for entry in killed.iterdir()) == before
        finally:
            killed.chmod(0o755)

    def test_a_wal_without_room_for_a_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_folder(tmp_path / "bag", states(20))
        path = next(folder.glob("*.db3"))
        path.with_name(path.name + "-wal").write_bytes(b"x" * 100)
        monkeypatch.setattr("flow_policy_ros.data.bags.sqlite_file.RESERVE", 1 << 62)
        bag = open_bag(folder)
        assert numbers(bag) == ALL[:20] and said(bag.problems, "-wal", "is lost", "TMPDIR")

    def test_rows_that_hold_no_message(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(N))
        with sqlite3.connect(next(folder.glob("*.db3"))) as database:
            database.execute("UPDATE messages SET data='text' WHERE id=3")
            database.execute("UPDATE messages SET topic_id=9 WHERE id=5")
        bag = open_bag(folder)
        assert numbers(bag) == [k for k in ALL if k not in (2, 4)]
        assert said(bag.problems, "row 3 holds no message") and said(bag.problems, "1 message of topic number 9 lost")

    def test_another_database(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db3"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE things (id INTEGER)")
        with pytest.raises(BagError, match="no rosbag2"):
            open_bag(path)

    def test_views_instead_of_tables(self, tmp_path: Path) -> None:
        """They could compute for ever."""
        path = tmp_path / "a.db3"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE topics (id, name, type, serialization_format)")
            endless = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id FROM n) SELECT id FROM n"
            database.execute(f"CREATE VIEW messages AS {endless}")
        with pytest.raises(BagError, match="no table 'messages'"):
            open_bag(path)


class TestRos1:
    @pytest.mark.parametrize("compression", [None, Ros1Writer.CompressionFormat.LZ4, Ros1Writer.CompressionFormat.BZ2])
    def test_cut_off_anywhere(self, tmp_path: Path, compression: Ros1Writer.CompressionFormat | None) -> None:
        whole = write_ros1(tmp_path / "whole.bag", N, compression).read_bytes()
        path, counts = tmp_path / "a.bag", []
        for size in np.linspace(5000, len(whole) - 1, 30).astype(int).tolist():
            path.write_bytes(whole[:size])
            bag = open_bag(path)
            got = numbers(bag) if "/joint_states" in bag.topics else []
            assert got == ALL[: len(got)]
            assert bag.problems or len(got) == N
            counts.append(len(got))
        assert counts == sorted(counts) and counts[0] < 20 and counts[-1] == N

    def test_not_indexed(self, tmp_path: Path) -> None:
        path = write_ros1(tmp_path / "a.bag", N)
        data = path.read_bytes()
        at = data.index(b"index_pos=") + len(b"index_pos=")
        (index,) = struct.unpack_from("<Q", data, at)
        path.write_bytes(data[:at] + bytes(8) + data[at + 8 : index])
        bag = open_bag(path)
        assert numbers(bag) == ALL and said(bag.problems, "not closed", "no index")

    def test_a_flipped_byte_in_a_compressed_chunk(self, tmp_path: Path) -> None:
        path = write_ros1(tmp_path / "a.bag", N, Ros1Writer.CompressionFormat.BZ2)
        data = path.read_bytes()
        at = data.index(b"BZh", data.index(b"BZh") + 10)
        flip(path, at + 60)
        bag = open_bag(path)
        got = numbers(bag)
        assert 20 < len(got) < N and got[-1] == N - 1 and said(bag.problems, "chunk at byte", "cannot be decompressed", "lost")

    def test_older_than_two(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bag"
        path.write_bytes(b"#ROSBAG V1.2\n" + bytes(100))
        with pytest.raises(BagError, match="rosbag fix"):
            open_bag(path)


class TestCompressed:
    @pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name)
    def test_a_cut_file(self, tmp_path: Path, storage: StoragePlugin) -> None:
        folder = write_folder(tmp_path / "bag", states(20_000), storage)
        path = next(path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
        packed = path.with_name(path.name + ".zstd")
        packed.write_bytes(zstandard.compress(path.read_bytes()))
        path.unlink()
        cut(packed, 0.7)
        bag = open_bag(folder)
        got = numbers(bag)
        assert 5000 < len(got) < 20_000 and got == sorted(got)
        assert said(bag.problems, packed.name, "cut off: decompression ended after")
        assert said(bag.problems, "tells of 20000 messages")
        bag.close()

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_folder(tmp_path / "bag", states(20), StoragePlugin.MCAP, CompressionMode.FILE)
        monkeypatch.setattr("flow_policy_ros.data.bags.decompress.RESERVE", 1 << 62)
        with pytest.raises(BagError, match="recording"):
            open_bag(folder)

    def test_a_damaged_message(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(N), compression=CompressionMode.MESSAGE)
        with sqlite3.connect(next(folder.glob("*.db3"))) as database:
            database.execute("UPDATE messages SET data=substr(data, 1, 12) WHERE id=4")
        bag = open_bag(folder)
        assert numbers(bag) == [k for k in ALL if k != 3]
        assert said(bag.problems, "message of /joint_states received at", "cannot be decompressed (it is cut off)", "lost")


class TestMetadata:
    def folder(self, tmp_path: Path, change: Callable[[dict], None], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
        folder = write_folder(tmp_path / "bag", states(N), storage)
        path = folder / "metadata.yaml"
        tree = yaml.safe_load(path.read_text())
        change(tree["rosbag2_bagfile_information"])
        path.write_text(yaml.safe_dump(tree))
        return folder

    def problems(self, folder: Path) -> list[str]:
        bag = open_bag(folder)
        assert numbers(bag) == ALL
        return bag.problems

    def test_counts(self, tmp_path: Path) -> None:
        def change(tree: dict) -> None:
            tree["message_count"] = 61
            tree["topics_with_message_count"][0]["message_count"] = 59

        problems = self.problems(self.folder(tmp_path, change))
        assert said(problems, "tells of 61 messages, and the files have 60")
        assert said(problems, "tells of 59 messages of /joint_states, and the files have 60")

    def test_negative_duration(self, tmp_path: Path) -> None:
        problems = self.problems(self.folder(tmp_path, lambda tree: tree["duration"].update(nanoseconds=-5 * 10**9)))
        assert said(problems, "duration of -5.000 s; by the files it is 0.590 s")

    def test_another_time(self, tmp_path: Path) -> None:
        change = lambda tree: tree["starting_time"].update(nanoseconds_since_epoch=START - 10**9)  # noqa: E731
        assert said(self.problems(self.folder(tmp_path, change)), "1699999999.000 to")

    def test_another_type(self, tmp_path: Path) -> None:
        def change(tree: dict) -> None:
            tree["topics_with_message_count"][0]["topic_metadata"]["type"] = "std_msgs/msg/String"

        assert said(self.problems(self.folder(tmp_path, change)), "/joint_states is std_msgs/msg/String", "the files count")

    def test_topics_that_no_file_has(self, tmp_path: Path) -> None:
        def change(tree: dict) -> None:
            (topic,) = tree["topics_with_message_count"]
            for name, count in (("/more", 4), ("/silent", 0)):
                other = {"message_count": count, "topic_metadata": {**topic["topic_metadata"], "name": name}}
                tree["topics_with_message_count"].append(other)

        bag = open_bag(self.folder(tmp_path, change))
        assert bag.topics["/silent"].count == 0 and list(bag.messages(["/silent", "/more"])) == []
        assert said(bag.problems, "tells of 4 messages of /more, which no file has") and not said(bag.problems, "/silent")

    def test_files_missing_and_extra(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, lambda tree: tree["relative_file_paths"].append("bag_1.mcap"))
        write_mcap(folder / "bag_7.mcap", states(5, START + N * PERIOD))
        bag = open_bag(folder)
        assert len(numbers(bag)) == N + 5
        assert said(bag.problems, "lists bag_1.mcap, which is not in") and said(bag.problems, "bag_7.mcap is not listed")

    def test_names_that_lead_outside(self, tmp_path: Path) -> None:
        write_mcap(tmp_path / "secret.mcap", states(3))
        folder = self.folder(tmp_path, lambda tree: tree["relative_file_paths"].append("../secret.mcap"))
        assert said(self.problems(folder), "../secret.mcap, which is not in")

    @pytest.mark.parametrize("text", ["", "[1, 2", "rosbag2_bagfile_information: 3", "a: 1", "\x00\x01", "- " * 5000,
                                      "rosbag2_bagfile_information: {message_count: many}"])
    def test_unreadable(self, tmp_path: Path, text: str) -> None:
        folder = write_folder(tmp_path / "bag", states(N), StoragePlugin.MCAP)
        (folder / "metadata.yaml").write_text(text)
        assert said(self.problems(folder), "metadata.yaml cannot be used")

    def test_none(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "bag", states(N), StoragePlugin.MCAP)
        (folder / "metadata.yaml").unlink()
        assert said(self.problems(folder), "no metadata.yaml")

    def test_one_file_of_several_is_damaged(self, tmp_path: Path) -> None:
        folder = tmp_path / "split"
        folder.mkdir()
        write_mcap(folder / "x_0.mcap", states(20))
        (folder / "x_1.mcap").write_bytes(b"")
        (folder / "x_2.mcap").write_bytes(b"nonsense, and nothing else")
        write_mcap(folder / "x_3.mcap", states(20, START + 40 * PERIOD))
        bag = open_bag(folder)
        assert len(numbers(bag)) == 40
        assert said(bag.problems, "x_1.mcap is empty (0 bytes)", "lost") and said(bag.problems, "x_2.mcap begins with")


class TestNoRecording:
    @pytest.mark.parametrize("content", [b"", b"x", b"\x89MCAP0\r\n"[:5], b"SQLite format 3\x00", b"#ROSBAG V2.0\n",
                                         b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd" + bytes(50), bytes(500)])
    @pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag", "a.mcap.zstd"])
    def test_a_file_with_nothing_in_it(self, tmp_path: Path, content: bytes, name: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        if content == b"#ROSBAG V2.0\n":  # just begun
            assert open_bag(path).problems
        else:
            with pytest.raises(BagError, match=r"a\.(mcap|db3|bag)"):
                open_bag(path)

    def test_an_mcap_just_begun(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mcap"
        path.write_bytes(b"\x89MCAP0\r\n")
        bag = open_bag(path)
        assert list(bag.messages()) == [] and said(bag.problems, "no footer")

    def test_folders(self, tmp_path: Path) -> None:
        with pytest.raises(BagError, match="does not exist"):
            open_bag(tmp_path / "nothing")
        with pytest.raises(BagError, match="is no recording"):
            open_bag(tmp_path)
        (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: {relative_file_paths: [a.mcap]}")
        with pytest.raises(BagError, match=r"none of the files.*a\.mcap"):
            open_bag(tmp_path)


def test_problems_of_reading_come_with_reading(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", [*states(3), (START + 4 * PERIOD, state(0))])
    offset, length = chunks(path)[0]
    flip(path, offset + length - 20)
    bag = open_bag(path)
    assert bag.problems == []
    assert list(bag.messages()) == [] and len(bag.problems) == 1
