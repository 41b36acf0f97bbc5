"""A long recording made of a short one, for measurements: its messages over and over, each time later.

What a robot does between the end of one turn and the beginning of the next is not made up: joints jump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from flow_policy_ros.data import message_looks as looks
from flow_policy_ros.data.bags.bag import Bag, BagError, RawMessage
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer

SECOND_NS = 1_000_000_000


def repeat(bag: Bag, out: str | Path, seconds: float = 0.0, size: int = 0, compression: str = "zstd") -> Path:
    """Write the new rosbag2 (MCAP) folder ``out``: ``bag`` repeated until it is ``seconds`` long and its file has ``size`` bytes.

    At least one of the two is above zero. Instants of receipt and header stamps move on from turn to turn by the length of ``bag``
    and one mean period of its densest topic; stamps elsewhere in a message stay. Streams. Raises ``BagError`` for a recording
    without messages, or with other ones than CDR; ``ValueError`` when ``out`` exists.
    """
    if seconds <= 0.0 and size <= 0:
        raise ValueError(f"a recording of {seconds} s and {size} bytes is asked for, expected one of the two above zero.")
    turns = _turns(bag)
    first = next(turns)  # refuses before there is a file
    with Rosbag2Writer(out, compression) as written:
        for message in chain([first], turns):
            if message.received - first.received >= seconds * SECOND_NS and written.file.size >= size:
                break
            written.put(message.topic, bag.topics[message.topic].type, message.received, bytes(message.data))
    return Path(out)


def _turns(bag: Bag) -> Iterator[RawMessage]:
    """The messages of ``bag``, again and again without end."""
    others = sorted(topic.name for topic in bag.topics.values() if topic.encoding != "cdr")
    if others:
        raise BagError(f"recording {bag.path} cannot be repeated: {', '.join(others)} are not CDR; convert it first.")
    headed: dict[str, bool] = {}
    counts: dict[str, int] = {}
    start: int | None = None
    end = turn = step = 0
    while True:
        for message in bag.messages():
            topic = message.topic
            if topic not in headed:
                headed[topic] = looks.begins_with_header(bag.decode(message))
            if turn == 0:
                start, end = message.received if start is None else start, message.received
                counts[topic] = counts.get(topic, 0) + 1
            data = later(message.data, turn * step) if headed[topic] else message.data
            yield RawMessage(topic, message.received + turn * step, data)
        if start is None:
            raise BagError(f"recording {bag.path} cannot be repeated: it has no messages.")
        step = end - start + max(1, (end - start) // max(1, max(counts.values()) - 1))
        turn += 1


def later(data: bytes | memoryview, by: int) -> bytes:
    """A CDR message that begins with its header, its stamp ``by`` ns later."""
    stamp = looks.leading_stamp("cdr", data)
    if stamp is None:
        raise BagError(f"a message of {len(data)} bytes has no header, expected CDR that begins with one.")
    form = "<iI" if data[1] else ">iI"
    return bytes(data[:4]) + struct.pack(form, *divmod(stamp + by, SECOND_NS)) + bytes(data[12:])
