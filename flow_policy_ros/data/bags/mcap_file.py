"""One MCAP file. Its records are taken apart in ``mcap_records``, found in ``mcap_index``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from flow_policy_ros.data.bags.bag import RawMessage, Topic
from flow_policy_ros.data.bags.mcap_index import McapIndex
from flow_policy_ros.data.bags.reading import PieceReader, join_topics
from flow_policy_ros.data.bags.storage import Complaints, Definition


class McapFile:
    """An MCAP file, also one that was cut off, without summary, without chunks or with damaged ones. A ``Storage``."""

    kind = "MCAP"

    def __init__(self, path: Path, name: str, problems: list[str]) -> None:
        """``name`` is what the sentences added to ``problems`` call it.

        Raises ``BagError`` when it is no MCAP file, ``OSError`` as ``open`` does.
        """
        self.path = path
        self._file = path.open("rb")
        try:
            complaints = Complaints(problems)
            self._index = McapIndex(self._file, path.stat().st_size, name, complaints)
        except BaseException:
            self._file.close()
            raise
        catalogue, pieces = self._index.catalogue, self._index.pieces
        self.definitions: dict[str, Definition] = {}
        found: dict[int, Topic] = {}
        for number, channel in catalogue.channels.items():
            schema = catalogue.schemas.get(channel.schema)
            kind = schema.name if schema else ""
            count = sum(piece.counts.get(number, 0) for piece in pieces)
            found[number] = Topic(channel.topic, kind, channel.encoding, count, channel.qos)
            if schema is not None and schema.encoding:
                self.definitions.setdefault(kind, Definition(schema.encoding, schema.text))
        self.topics, names = join_topics(found, name, complaints)
        self.start = min((piece.start for piece in pieces), default=None)
        self.end = max((piece.end for piece in pieces), default=None)
        self._reader = PieceReader(pieces, self._index.raw, self._index.entries, names, name, complaints)

    def messages(self, topics: Collection[str] | None, start: int | None, stop: int | None) -> Iterator[RawMessage]:
        """As ``Bag.messages``."""
        return self._reader.messages(topics, start, stop)

    def close(self) -> None:
        """Give the file up."""
        self._file.close()
