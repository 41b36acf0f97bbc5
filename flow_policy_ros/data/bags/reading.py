"""Messages of a file that consists of pieces: which pieces, which of their messages, and what to say of those that are damaged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from flow_policy_ros.data.bags.bag import RawMessage, Topic
from flow_policy_ros.data.bags.decompress import Damaged
from flow_policy_ros.data.bags.pieces import Entries, Piece, RawCache, Source, in_order
from flow_policy_ros.data.bags.storage import Complaints, count_of, span


def join_topics(found: Mapping[int, Topic], name: str, complaints: Complaints) -> tuple[dict[str, Topic], dict[int, str]]:
    """Topics of a file by name, and the topic of each channel number: channels of one topic count together.

    Of a topic with several types, the type with the most messages is the topic's; channels of the others are left out.
    """
    topics: dict[str, Topic] = {}
    names: dict[int, str] = {}
    left: list[Topic] = []
    for number, topic in sorted(found.items(), key=lambda item: -(item[1].count or 0)):
        have = topics.setdefault(topic.name, replace(topic, count=0))
        if (have.type, have.encoding) != (topic.type, topic.encoding):
            left.append(topic)
            continue
        topics[topic.name] = replace(have, count=(have.count or 0) + (topic.count or 0), qos=have.qos or topic.qos)
        names[number] = topic.name
    for topic in left:
        have = topics[topic.name]
        complaints.say(
            f"{name}: topic {topic.name} is {have.type} ({have.encoding}) and {topic.type} ({topic.encoding}) too; "
            f"{count_of(topic.count or 0, 'message')} of the latter left out."
        )
    return {topic: topics[topic] for topic in sorted(topics)}, names


class PieceReader:
    """Reads the ``pieces`` of a file: ``raw`` gives a piece's bytes, ``entries`` its messages, both may raise ``Damaged``."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        raw: Callable[[Piece], bytes],
        entries: Callable[[Piece], Entries],
        names: Mapping[int, str],
        name: str,
        complaints: Complaints,
    ) -> None:
        self._pieces, self._raw, self._entries = pieces, raw, entries
        self._names, self._name, self._complaints = names, name, complaints

    def messages(self, topics: Collection[str] | None, start: int | None, stop: int | None) -> Iterator[RawMessage]:
        """As ``Bag.messages``."""
        wanted = {number: topic for number, topic in self._names.items() if topics is None or topic in topics}
        first, last = (0 if start is None else start), ((1 << 64) if stop is None else stop)
        cache = RawCache(self._raw)
        sources: list[Source] = [
            (piece.start, partial(self._read, piece, cache, wanted, first, last))
            for piece in self._pieces
            if piece.end >= first and piece.start < last and not wanted.keys().isdisjoint(piece.counts)
        ]
        return in_order(sources)

    def _read(self, piece: Piece, cache: RawCache, wanted: Mapping[int, str], first: int, last: int) -> Iterator[RawMessage]:
        try:
            entries = self._entries(piece)
        except Damaged as error:
            self._say(piece, sum(piece.counts.values()), str(error))
            return
        expected, got = sum(piece.counts.values()), len(entries.times)
        if got < expected:
            self._say(piece, expected - got, f"is damaged ({entries.fault or 'it has fewer than its index says'})")
        cache.put(piece, entries.raw)
        entries.raw = b""
        times, channels, begins, ends = entries.times, entries.channels, entries.begins, entries.ends
        early = 0
        for k in entries.order():
            topic = wanted.get(channels[k])
            received = times[k]
            if topic is None or not first <= received < last:
                continue
            if received < piece.start:
                early += 1
                continue
            yield RawMessage(topic, received, cache.get(piece)[begins[k] : ends[k]])
        cache.drop(piece)
        if early:
            self._complaints.lost("chunks with wrong instants", piece.offset, (
                f"{self._name}: {count_of(early, 'message')} of the chunk at byte {piece.offset} were received before "
                f"{piece.start / 1e9:.3f} s, when it says that it begins, and are left out. Write the recording anew (mcap sort)."
            ))

    def _say(self, piece: Piece, lost: int, why: str) -> None:
        self._complaints.lost("damaged chunks", piece.offset, (
            f"{self._name}: the chunk at byte {piece.offset} {why}; {count_of(lost, 'message')} "
            f"from {span(piece.start, piece.end)} lost."
        ))
