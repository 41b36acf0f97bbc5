"""What can still be read of a damaged SQLite recording: rows around the pages that are gone, by their number."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Mapping

import numpy as np

from flow_policy_ros.data.bags.bag import RawMessage
from flow_policy_ros.data.bags.storage import Complaints, count_of, span

FAR = 1 << 40  # rows; no recording has as many


class Salvage:
    """The rows of ``messages`` that can be reached, found once; 24 bytes of memory for each."""

    def __init__(self, database: sqlite3.Connection, name: str, error: str, complaints: Complaints) -> None:
        """``error`` is what SQLite said; how much is lost goes to ``complaints``."""
        self._database, self._name, self._complaints = database, name, complaints
        rows, times, topics = array("q"), array("q"), array("q")
        at, step = -FAR, -1  # as many rows at once as there are; one alone behind an error, which comes a row early
        while at < FAR:
            query = f"SELECT id, timestamp, topic_id FROM messages NOT INDEXED WHERE id >= ? ORDER BY id LIMIT {step}"
            try:
                found = 0
                for row, received, topic in database.execute(query, (at + 1,)):
                    at, found = row, found + 1
                    if type(received) is int and type(topic) is int:
                        rows.append(row)
                        times.append(received)
                        topics.append(topic)
                if step < 0 or not found:
                    break
                step = -1
            except sqlite3.DatabaseError:
                at, step = (at, 1) if step < 0 else (self._behind(max(at, 0)), -1)
        self._rows, self._times, self._topics = (np.frombuffer(column, dtype=np.int64) for column in (rows, times, topics))
        order = np.lexsort((self._rows, self._times))
        self._rows, self._times, self._topics = self._rows[order], self._times[order], self._topics[order]
        total = self._total()
        lost = "" if total is None else f" of {total}"
        when = f", received from {span(int(self._times[0]), int(self._times[-1]))}" if len(rows) else ""
        can = f"{count_of(len(rows), 'message')}{lost} can be read{when}"
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
            try:
                data = self._database.execute("SELECT data FROM messages WHERE id = ?", (row,)).fetchone()
            except sqlite3.DatabaseError:
                data = None
            if data is None or type(data[0]) is not bytes:
                self._complaints.lost("messages with damaged bytes", row, (
                    f"{self._name}: the message of {topic} received at {received / 1e9:.3f} s is damaged and left out."
                ))
                continue
            yield RawMessage(topic, received, data[0])

    def _behind(self, bad: int) -> int:
        """The greatest row that cannot be reached of those from ``bad`` + 1 on, where one behind it can be; else ``FAR``."""
        step = 1
        while step < FAR and not self._reachable(bad + step):
            step *= 2
        if step >= FAR:
            return FAR
        low, high = bad + step // 2, bad + step  # cannot be reached, can be
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._reachable(middle) else (middle, high)
        return high - 1

    def _reachable(self, row: int) -> bool:
        """Whether a row of this number or a greater one comes without an error."""
        try:
            found = self._database.execute("SELECT timestamp FROM messages NOT INDEXED WHERE id >= ? ORDER BY id LIMIT 1", (row,))
            return found.fetchone() is not None
        except sqlite3.DatabaseError:
            return False

    def _total(self) -> int | None:
        """How many messages there were, as far as an index that is whole tells."""
        names = "SELECT name FROM sqlite_master WHERE type='index' AND tbl_name='messages'"
        for (index,) in self._database.execute(names).fetchall():
            quoted = str(index).replace('"', '""')
            try:
                (count,) = self._database.execute(f'SELECT count(*) FROM messages INDEXED BY "{quoted}"').fetchone()
            except sqlite3.DatabaseError:
                continue
            return int(count)
        return None
