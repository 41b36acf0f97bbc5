"""One SQLite file (.db3) of a rosbag2. Nothing is ever written beside it; what is left of a damaged one: ``sqlite_salvage``."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from flow_policy_ros.data.bags.bag import BagError, RawMessage, Topic
from flow_policy_ros.data.bags.decompress import RESERVE
from flow_policy_ros.data.bags.reading import join_topics
from flow_policy_ros.data.bags.sqlite_salvage import Salvage
from flow_policy_ros.data.bags.storage import Complaints, Definition, count_of

MAGIC = b"SQLite format 3\x00"
LEAST = -(1 << 63)  # of the integers that SQLite knows
COMPANIONS = ("-wal", "-journal")  # what a recorder that was killed leaves: the newest messages, or how to undo half of a write


class SqliteFile:
    """An SQLite file of any rosbag2 version, also one that was cut off or not closed. A ``Storage``."""

    kind = "SQLite"

    def __init__(self, path: Path, name: str, problems: list[str]) -> None:
        """``name`` is what the sentences added to ``problems`` call it.

        Raises ``BagError`` when it is no rosbag2 file, ``OSError`` as ``open`` does.
        """
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise BagError(f"{name} does not begin as an SQLite file does. Give a recording, or repair it.")
        self.path, self._name = path, name
        self._complaints = Complaints(problems)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._salvage: Salvage | None = None
        self._database = self._connect(path)
        try:
            self._describe()
        except sqlite3.Error as error:
            self.close()
            raise BagError(f"{name} cannot be read: {error}. Its first part is damaged; give another copy of it.") from error
        except BaseException:
            self.close()
            raise

    def messages(self, topics: Collection[str] | None, start: int | None, stop: int | None) -> Iterator[RawMessage]:
        """As ``Bag.messages``."""
        wanted = {number: topic for number, topic in self._names.items() if topics is None or topic in topics}
        first = LEAST if start is None else max(start, LEAST)
        last = -LEAST - 1 if stop is None else min(stop, -LEAST) - 1
        if first > last or not wanted:
            return
        if self._salvage is not None:
            yield from self._salvage.messages(wanted, first, last, None)
            return
        numbers = "" if len(wanted) == len(self._names) else f" AND topic_id IN ({','.join(map(str, wanted))})"
        where = f"timestamp BETWEEN ? AND ?{numbers}"
        query = f"SELECT id, topic_id, timestamp, data FROM messages WHERE {where} ORDER BY timestamp, id"
        at: tuple[int, int] | None = None
        try:
            for row, number, received, data in self._database.execute(query, (first, last)):
                if number not in wanted:
                    continue
                if type(received) is not int or type(data) is not bytes:
                    self._complaints.lost("rows without message", row, f"{self._name}: row {row} holds no message and is left out.")
                    continue
                at = (received, row)
                yield RawMessage(wanted[number], received, data)
        except sqlite3.DatabaseError as error:
            self._begin_salvage(error)
            assert self._salvage is not None
            yield from self._salvage.messages(wanted, first, last, at)

    def close(self) -> None:
        """Give the file up, and the copy of it where one was needed."""
        if self._salvage is not None:
            self._salvage.close()
        self._database.close()
        if self._copy is not None:
            self._copy.cleanup()

    def _connect(self, path: Path) -> sqlite3.Connection:
        left = [Path(f"{path}{end}") for end in COMPANIONS]
        left = [companion for companion in left if companion.is_file() and companion.stat().st_size]
        immutable = "&immutable=1"  # read-only media, and no files beside the recording
        if left:
            names = ", ".join(companion.name for companion in left)
            needed = path.stat().st_size + sum(companion.stat().st_size for companion in left)
            if shutil.disk_usage(tempfile.gettempdir()).free - RESERVE < needed:
                self._complaints.say(
                    f"{self._name} was not closed, and what {names} holds is lost: there is no room in {tempfile.gettempdir()} "
                    f"for a copy of {needed} bytes. Set TMPDIR to a folder with room."
                )
            else:
                self._copy = tempfile.TemporaryDirectory(prefix="flow_policy_bag_")
                for companion in (path, *left):
                    shutil.copyfile(companion, Path(self._copy.name) / companion.name)
                path, immutable = Path(self._copy.name) / path.name, ""
                self._complaints.say(f"{self._name} was not closed by its recorder; what {names} holds is read too.")
        mode = "rw" if self._copy else "ro"
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}{immutable}", uri=True, check_same_thread=False)
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA writable_schema=ON")  # else a file shorter than its header says is refused as a whole
        return database

    def _describe(self) -> None:
        tables = {name: str(sql or "") for name, sql in self._rows("SELECT name, sql FROM sqlite_master WHERE type='table'")}
        for table in ("messages", "topics"):
            if not tables.get(table, "").upper().startswith("CREATE TABLE"):
                raise BagError(f"{self._name} has no table '{table}': an SQLite file, but no rosbag2.")
        columns = {row[1] for row in self._rows("PRAGMA table_info(topics)")}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        rows = self._rows(f"SELECT id, name, type, serialization_format, {qos} FROM topics ORDER BY id")
        self.definitions = self._definitions() if "message_definitions" in tables else {}
        try:
            found = self._rows("SELECT topic_id, count(*), min(timestamp), max(timestamp) FROM messages GROUP BY topic_id")
        except sqlite3.DatabaseError as error:
            found = self._begin_salvage(error).summary()
        counts = {number: count for number, count, _, _ in found}
        times = [time for row in found for time in row[2:] if type(time) is int]
        self.start, self.end = min(times, default=None), max(times, default=None)
        described = {
            int(number): Topic(str(topic), str(kind), str(encoding), counts.get(number, 0), str(profiles or ""))
            for number, topic, kind, encoding, profiles in rows
        }
        self.topics, self._names = join_topics(described, self._name, self._complaints)
        for number, count in counts.items():
            if number not in described:
                self._complaints.say(
                    f"{self._name}: {count_of(count, 'message')} of topic number {number} lost; its table of topics lacks it."
                )

    def _definitions(self) -> dict[str, Definition]:
        rows = self._rows("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions ORDER BY id")
        return {str(kind): Definition(str(encoding), str(text)) for kind, encoding, text in rows if text}

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._database.execute(query).fetchall()

    def _whole(self) -> Path:
        """The file that has all pages, also those that a recorder left beside it."""
        if self._copy is None:
            return self.path
        with contextlib.suppress(sqlite3.DatabaseError):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(self._copy.name) / self.path.name

    def _begin_salvage(self, error: Exception) -> Salvage:
        if self._salvage is None:
            self._salvage = Salvage(self._database, self._whole(), self._name, str(error), self._complaints)
        return self._salvage
