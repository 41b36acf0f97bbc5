"""What can still be read of a damaged SQLite recording: the rows in the pages that are whole (``sqlite_leaves``), in order."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from flow_policy_ros.data.bags.bag import RawMessage
from flow_policy_ros.data.bags.sqlite_leaves import Leaves
from flow_policy_ros.data.bags.storage import Complaints, count_of, span


class Salvage:
    """The rows of ``messages`` that are left, found once; 40 bytes of memory for each. SQLite itself is not asked for them: it
    fills what a page lacks with zeros."""

    def __init__(self, database: sqlite3.Connection, path: Path, name: str, error: str, complaints: Complaints) -> None:
        """``error`` is what SQLite said of the file ``path``; how much is lost goes to ``complaints``."""
        self._name, self._complaints = name, complaints
        self._leaves = Leaves(path)
        columns = tuple(array("q") for _ in range(5))
        seen: set[int] = set()
        for row in self._leaves.rows():
            if row.row not in seen:  # a page that was given up may hold a row of another once more
                seen.add(row.row)
                for column, value in zip(columns, (row.row, row.received, row.topic, row.page, row.cell), strict=True):
                    column.append(value)
        found = [np.frombuffer(column, dtype=np.int64) for column in columns]
        order = np.lexsort((found[0], found[1]))
        self._rows, self._times, self._topics, self._pages, self._cells = (column[order] for column in found)
        total = _total(database)
        lost = "" if total is None else f" of {total}"
        when = f", received from {span(int(self._times[0]), int(self._times[-1]))}" if len(order) else ""
        can = f"{count_of(len(order), 'message')}{lost} can be read{when}"
        complaints.say(f"{name} is damaged ({error}): {can}; the others are lost.")

    def summary(self) -> list[tuple[int, int, int, int]]:
        """(topic's number, messages, first and last instant in ns) of every topic that has messages."""
        found = []
        for number in np.unique(self._topics).tolist():
            times = self._times[self._topics == number]
            found.append((number, len(times), int(times[0]), int(times[-1])))
        return found

    def messages(
        self, wanted: Mapping[int, str], first: int, last: int, after: tuple[int, int] | None
    ) -> Iterator[RawMessage]:
        """Messages of the topics ``wanted`` with first <= received <= last, behind the (instant, row) ``after``."""
        begin, end = np.searchsorted(self._times, first), np.searchsorted(self._times, last, side="right")
        for k in range(int(begin), int(end)):
            row, received, topic = int(self._rows[k]), int(self._times[k]), wanted.get(int(self._topics[k]))
            if topic is None or (after is not None and (received, row) <= after):
                continue
            data = self._leaves.data(int(self._pages[k]), int(self._cells[k]))
            if data is None:
                self._complaints.lost("messages with damaged bytes", row, (
                    f"{self._name}: the message of {topic} received at {received / 1e9:.3f} s is damaged and left out."
                ))
                continue
            yield RawMessage(topic, received, data)

    def close(self) -> None:
        """Give the file up."""
        self._leaves.close()


def _total(database: sqlite3.Connection) -> int | None:
    """How many messages there were, as far as an index that is whole tells."""
    names = "SELECT name FROM sqlite_master WHERE type='index' AND tbl_name='messages'"
    for (index,) in database.execute(names).fetchall():
        quoted = str(index).replace('"', '""')
        try:
            (count,) = database.execute(f'SELECT count(*) FROM messages INDEXED BY "{quoted}"').fetchone()
        except sqlite3.DatabaseError:
            continue
        return int(count)
    return None
