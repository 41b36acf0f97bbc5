"""Recordings that were made to harm: sizes that are not there, bombs, definitions that are code. They cost an error, no memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from bag_support import START, STATE, cdr, numbers, state, states, write_folder, write_mcap, write_ros1
from mcap.writer import CompressionType

from flow_policy_ros.data.bags import decompress as module
from flow_policy_ros.data.bags.bag import BagError, RawMessage, Topic
from flow_policy_ros.data.bags.decompress import Damaged, decompress
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.bags.storage import Definition
from flow_policy_ros.data.bags.typestore import TypeLibrary

MB = 1 << 20
HUGE = [1 << 60, (1 << 64) - 1]


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MB


def replaced(path: Path, at: int, number: int, size: int) -> Path:
    data = bytearray(path.read_bytes())
    data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    path.write_bytes(data)
    return path


def read_all(path: Path) -> list[str]:
    """What is said of a recording that may be refused or read in part."""
    try:
        bag = open_bag(path)
    except BagError as error:
        return [str(error)]
    for message in bag.messages():
        try:
            bag.decode(message)
        except BagError as error:
            bag.problems.append(str(error))
    bag.close()
    return bag.problems


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("compression", list(CompressionType), ids=lambda c: c.name)
def test_every_length_of_an_mcap(tmp_path: Path, number: int, compression: CompressionType) -> None:
    whole = write_mcap(tmp_path / "whole.mcap", states(10), compression=compression).read_bytes()
    path = tmp_path / "a.mcap"
    places, at = [9], 8
    while at < len(whole) - 8:
        if whole[at] in (3, 4, 6, 7, 11):  # one of each kind that has lengths inside
            places += [place for place in (at + 1, at + 9 + 2, at + 9 + 16, at + 9 + 28) if len(places) < 24]
        at += 9 + struct.unpack_from("<Q", whole, at + 1)[0]
    for place in places:
        path.write_bytes(whole)
        read_all(replaced(path, place, number, 4 if place % 2 else 8))


@pytest.mark.parametrize("number", HUGE)
def test_every_length_of_a_ros1_bag(tmp_path: Path, number: int) -> None:
    whole = write_ros1(tmp_path / "whole.bag", 10).read_bytes()
    path = tmp_path / "a.bag"
    for place in [13, *(4096 + 13 + k for k in range(0, 120, 9)), *range(len(whole) - 300, len(whole) - 4, 23)]:
        path.write_bytes(whole)
        read_all(replaced(path, place, number, 4))


def test_random_bytes_anywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = {
        "mcap": write_mcap(tmp_path / "w.mcap", states(20), compression=CompressionType.ZSTD).read_bytes(),
        "plain.mcap": write_mcap(tmp_path / "p.mcap", states(20), use_chunking=False).read_bytes(),
        "bag": write_ros1(tmp_path / "w.bag", 20).read_bytes(),
        "db3": next(write_folder(tmp_path / "f", states(200)).glob("*.db3")).read_bytes(),
    }
    for suffix, whole in good.items():
        for trial in range(12):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 4).tolist():
                data[at] = int(rng.integers(0, 256))
            path = tmp_path / f"t{trial}.{suffix}"
            path.write_bytes(data)
            read_all(path)
            path.unlink()


def test_a_bomb_in_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY", 4 * MB)
    bomb = zstandard.compress(bytes(200 * MB))
    assert len(bomb) < MB
    tracemalloc.clear_traces()  # what making it took
    for size in (MB, 200 * MB, None):
        with pytest.raises(Damaged):
            decompress(bomb, "zstd", size)


@pytest.mark.parametrize("compression", ["lz4", "bz2"])
def test_other_bombs(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import bz2

    import lz4.frame

    bomb = {"lz4": lz4.frame.compress, "bz2": bz2.compress}[compression](bytes(8 * MB))
    monkeypatch.setattr(module, "MEMORY", 4 * MB)
    for size in (MB, None):
        with pytest.raises(Damaged):
            decompress(bomb, compression, size)


def test_a_bomb_as_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY", 4 * MB)
    path = write_mcap(tmp_path / "a.mcap", [(START, zstandard.compress(bytes(50 * MB))), *states(3)])
    tracemalloc.clear_traces()  # what making it took
    bag = open_bag(path)
    assert numbers(bag) == [0, 1, 2] and any("more than" in problem for problem in bag.problems)


def test_a_sequence_of_four_billion(tmp_path: Path) -> None:
    data = bytearray(cdr(state(START)))
    at = data.index(struct.pack("<I", 2), 20)  # the number of names
    data[at : at + 4] = b"\xff" * 4
    bag = open_bag(write_mcap(tmp_path / "a.mcap", [(START, bytes(data))]))
    with pytest.raises(BagError, match="/joint_states"):
        bag.decode(next(bag.messages()))


@pytest.mark.parametrize("text", [
    "string X=')\nimport os\n#'\nfloat64 x\n",
    "float64 x = __import__('os')\n",
    "float64 __class__\n",
    "float64 x; import os\n",
    "my_msgs/Mine me\n",
    "my_msgs/Nowhere me\n",
    "float64[1000000000] x\n",
    "string[1000000000] x\n",
    "(" * 5000,
    "x" * (1 << 21),
    "\x00\x00",
    "=" * 200,
])  # fmt: skip
def test_definitions(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__
    imported: list[str] = []
    monkeypatch.setattr(builtins, "__import__", lambda name, *more, **named: (imported.append(name), real(name, *more, **named))[1])
    for encoding in ("ros2msg", "ros2idl", "ros1msg"):
        library = TypeLibrary({"my_msgs/msg/Mine": Definition(encoding, text)})
        encoded = "ros1" if encoding == "ros1msg" else "cdr"
        try:
            library.decode(Topic("/mine", "my_msgs/msg/Mine", encoded), RawMessage("/mine", 0, b"\x00\x01\x00\x00" + bytes(8)))
        except BagError as error:
            assert "my_msgs/msg/Mine" in str(error) and len(str(error)) < 1000
    assert "os" not in imported


@pytest.mark.parametrize("name", ["my_msgs/msg/Mine:\n    import os\nclass B", "../../x", "a/msg/B\nfloat64 x", "", "é/msg/E"])
def test_type_names_that_are_code(name: str) -> None:
    library = TypeLibrary({name: Definition("ros2msg", "float64 x\n")})
    with pytest.raises(BagError):
        library.decode(Topic("/mine", name, "cdr"), RawMessage("/mine", 0, b"\x00\x01\x00\x00" + bytes(8)))


def test_json_of_great_depth() -> None:
    library = TypeLibrary({})
    with pytest.raises(BagError):
        library.decode(Topic("/j", STATE, "json"), RawMessage("/j", 0, b'{"header":' * 50_000))
