"""Retained messages on disk: a table that is derived from the log, in one SQLite file.

Owns the file DATA/retained.db, the limits of what is kept, and the search by topic filter. Knows
nothing of sessions or of the loop; every method blocks and is called in one worker thread.

    retained   key, message      one row a topic
    position   partition, offset everything below it is in `retained`
    meta       log id            of which log

`key` is the topic as retained_keys.py orders it, so that a search seeks and does not scan.

Rows and positions change in one transaction. WAL with synchronous=NORMAL: if power fails, the
last transactions may be gone, whole; then positions are back too, and the log is read from there.
`sync` bounds how far back that can be. A file that is damaged, or of another log, is set aside,
and a new one filled from the log as far as that goes.

A removed message is a row without payload (a tombstone) while the log is caught up with: of two
partitions the later record counts, whichever is read first. `forget_removed` ends that.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from gateway.limits import MqttLimits
from gateway.mqtt.retained_keys import first_key, key_of, step, topic_of

FILE_NAME: Final = "retained.db"
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE retained (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    partition_id INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    stored_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    size INTEGER NOT NULL,
    qos INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB
);
CREATE INDEX expiring ON retained (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE position (partition_id INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
CREATE TABLE meta (log_id BLOB NOT NULL);
"""
_PUT: Final = """
INSERT INTO retained
    (key, partition_id, offset, stored_ms, expires_ms, size, qos, client_id, properties,
     payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    partition_id = excluded.partition_id, offset = excluded.offset,
    stored_ms = excluded.stored_ms, expires_ms = excluded.expires_ms, size = excluded.size,
    qos = excluded.qos, client_id = excluded.client_id, properties = excluded.properties,
    payload = excluded.payload
"""
_FIND: Final = "SELECT size, partition_id, offset, stored_ms FROM retained WHERE key = ?"
_KEYS: Final = "SELECT key, id FROM retained WHERE key >= ? ORDER BY key"
_GET: Final = (
    "SELECT partition_id, offset, stored_ms, expires_ms, qos, client_id, properties, payload"
    " FROM retained WHERE id = ? AND payload IS NOT NULL"
)
_ROW_OVERHEAD_BYTES: Final = 100
"""What a row takes in the file beside topic (twice: its index has it too), properties, payload."""

_STEPS_BEFORE_SEEK: Final = 8
"""Keys that a search walks over before it seeks: a step costs a tenth of a seek."""


class Retained(NamedTuple):
    """A retained message, or its removal where `payload` is empty. `client_id` is its publisher's,
    `properties` are as in a PUBLISH of 5.0, b"" for none. Times are the log's, in ms since 1970."""

    topic: bytes
    payload: bytes
    qos: int
    client_id: str
    properties: bytes
    partition_id: int
    offset: int
    stored_ms: int
    expires_ms: int | None


class Slice(NamedTuple):
    """A part of what a search finds; go on at `next_key`, None at the end."""

    found: list[Retained]
    next_key: bytes | None


NOTHING: Final = Slice([], None)


class Lookup(NamedTuple):
    """A search that waits; `done` is called in the loop's thread."""

    topic_filter: str
    from_key: bytes
    count_max: int
    bytes_max: int
    done: Callable[[Slice], None]


class Applied(NamedTuple):
    """What the table has now; `refused_count` of the changes were over a limit."""

    message_count: int
    size_bytes: int
    refused_count: int


@dataclass(slots=True)
class RetainedCounters:
    """What the loop knows of the table."""

    message_count: int = 0
    size_bytes: int = 0
    refused: int = 0
    """Messages over a limit, since the start."""


class RetainedStore:
    """An open file. `close` it in the thread that uses it."""

    def __init__(self, path: Path, log_id: bytes, limits: MqttLimits) -> None:
        """Opens or makes the file. sqlite3.Error, OSError: the disk lets no file be there."""
        self._path = path
        self._log_id = log_id
        self.limits = limits
        self.set_aside: str | None = None
        """Why the file that was there is not used."""
        self._count = 0
        self._size_bytes = 0
        self._is_behind = False
        """A change failed: no other may say that it has everything, till the log was read."""
        self._open()
        self.saved_positions = self.positions()

    # -- the file

    def _open(self) -> None:
        problem = self._try_open()
        if problem is None:
            return
        self.set_file_aside()
        self.set_aside = problem
        problem = self._try_open()
        if problem is not None:
            raise sqlite3.DatabaseError(f"{self._path}: a new file is unusable: {problem}")

    def _try_open(self) -> str | None:
        """None when usable, else why not."""
        self._database = sqlite3.connect(
            self._path, check_same_thread=False, isolation_level=None, cached_statements=32
        )
        try:
            return self._prepare()
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return str(error)
            self._database.close()
            raise

    def _prepare(self) -> str | None:
        database = self._database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA cache_size = -1024")  # the table is on disk, not in memory
        version = self._value("PRAGMA user_version")
        if version == 0 and self._value("SELECT count(*) FROM sqlite_master") == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT")
            database.execute("INSERT INTO meta VALUES (?)", (self._log_id,))
        elif version != _VERSION:
            return f"format {version}, not {_VERSION}"
        verdict = self._value("PRAGMA quick_check(1)")
        if verdict != "ok":
            return f"quick_check: {verdict}"
        if self._value("SELECT log_id FROM meta") != self._log_id:
            return "it belongs to another log"
        totals = "SELECT count(payload), coalesce(sum(size), 0) FROM retained"
        self._count, self._size_bytes = database.execute(totals).fetchone()
        return None

    def _value(self, query: str) -> object:
        row = self._database.execute(query).fetchone()
        return row[0] if row else None

    def set_file_aside(self) -> None:
        """It turned out to be damaged; this store is at its end. OSError."""
        self.close()
        # A WAL left behind would be replayed into the next file, so it goes first.
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._path.replace(self._path.with_name(self._path.name + ".unusable"))

    def sync(self) -> None:
        """What was applied survives a power cut from here on."""
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    # -- changes

    def positions(self) -> dict[int, int]:
        """Partition id -> the offset below which the table has everything."""
        return dict(self._database.execute("SELECT partition_id, offset FROM position"))

    def totals(self) -> Applied:
        return Applied(self._count, self._size_bytes, 0)

    def apply(
        self, changes: Sequence[Retained], positions: Mapping[int, int], *, catching_up: bool
    ) -> Applied:
        """All of it in one transaction, in order; sqlite3.Error: nothing of it.

        `catching_up`: the changes are read from the log, one partition after the other, and some
        may be older than what the table has.
        """
        database = self._database
        if self._is_behind and not catching_up:
            raise sqlite3.OperationalError("a change before this one failed")
        before = self._count, self._size_bytes
        self._is_behind = True
        database.execute("BEGIN IMMEDIATE")
        try:
            refused = sum(not self._change(change, catching_up) for change in changes)
            database.executemany(
                "INSERT INTO position VALUES (?, ?) ON CONFLICT DO UPDATE SET offset ="
                " excluded.offset",
                list(positions.items()),
            )
            database.execute("COMMIT")
            self._is_behind = False
        except BaseException:
            self._count, self._size_bytes = before
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        return Applied(self._count, self._size_bytes, refused)

    def _change(self, change: Retained, catching_up: bool) -> bool:
        """False: over a limit. What was there before is outdated then, so it goes all the same."""
        key = key_of(change.topic)
        known = self._database.execute(_FIND, (key,)).fetchone()
        known_bytes = 0
        if known is not None:
            known_bytes, partition_id, offset, stored_ms = known
            if catching_up and _is_older(change, partition_id, offset, stored_ms):
                return True
        size = len(change.payload) + len(change.properties) + 2 * len(key) + _ROW_OVERHEAD_BYTES
        limits = self.limits
        is_kept = bool(change.payload) and (
            len(change.payload) <= limits.retained_message_bytes_max
            and self._count + (not known_bytes) <= limits.retained_max
            and self._size_bytes - known_bytes + size <= limits.retained_bytes_max
        )
        self._size_bytes -= known_bytes
        self._count -= bool(known_bytes)
        place = (change.partition_id, change.offset, change.stored_ms)
        if is_kept:
            self._size_bytes += size
            self._count += 1
            rest = (change.client_id, change.properties, change.payload)
            row = (key, *place, change.expires_ms, size, change.qos, *rest)
            self._database.execute(_PUT, row)
        elif catching_up:
            self._database.execute(_PUT, (key, *place, None, 0, 0, "", b"", None))
        elif known is not None:
            self._database.execute("DELETE FROM retained WHERE key = ?", (key,))
        return is_kept or not change.payload

    def forget_removed(self) -> None:
        """The log is caught up with: tombstones are not needed any more."""
        self._database.execute("DELETE FROM retained WHERE payload IS NULL")

    def expire(self, now_ms: int) -> Applied:
        """Removes what has expired [MQTT-3.3.2-5]."""
        query = "DELETE FROM retained WHERE expires_ms <= ? RETURNING size"
        for (size,) in self._database.execute(query, (now_ms,)).fetchall():
            self._size_bytes -= size
            self._count -= 1
        return self.totals()

    # -- searching

    def search(
        self,
        topic_filter: str,
        from_key: bytes = b"",
        *,
        now_ms: int,
        count_max: int,
        bytes_max: int,
        steps_max: int = 10_000,
    ) -> Slice:
        """What the filter matches and has not expired, by key, from `from_key` on; one message at
        least where there is one, then as many as the limits hold. `steps_max` bounds the time."""
        found: list[Retained] = []
        size = 0
        for steps, (key, row_id) in enumerate(self._matching(topic_filter, from_key), 1):
            if row_id is not None:
                message = self._get(key, row_id, now_ms)
                if message is not None:
                    size += len(message.payload)
                    if found and (size > bytes_max or len(found) == count_max):
                        return Slice(found, key)
                    found.append(message)
            if steps >= steps_max:
                return Slice(found, key + b"\0")
        return Slice(found, None)

    def _get(self, key: bytes, row_id: int, now_ms: int) -> Retained | None:
        row = self._database.execute(_GET, (row_id,)).fetchone()
        if row is None or (row[3] is not None and row[3] <= now_ms):
            return None
        partition_id, offset, stored_ms, expires_ms, qos, client_id, properties, payload = row
        return Retained(
            topic=topic_of(key),
            payload=payload,
            qos=qos,
            client_id=client_id,
            properties=properties,
            partition_id=partition_id,
            offset=offset,
            stored_ms=stored_ms,
            expires_ms=expires_ms,
        )

    def _matching(self, topic_filter: str, low: bytes) -> Iterator[tuple[bytes, int | None]]:
        """Keys that match with their row, and without one those that were looked at for it."""
        wanted = topic_filter.encode().split(b"/")
        low = max(low, first_key(wanted))
        while True:
            seek = False
            skipped = 0
            for key, row_id in self._database.execute(_KEYS, (low,)):
                if key < low:
                    skipped += 1
                    if skipped < _STEPS_BEFORE_SEEK:
                        continue
                    seek = True
                    break
                skipped = 0
                matches, following = step(wanted, key)
                yield key, row_id if matches else None
                if following is None:
                    return
                low = following
            if not seek:
                return


def _is_older(change: Retained, partition_id: int, offset: int, stored_ms: int) -> bool:
    """In one partition offsets decide; of two, the gateway's time (the later read, in one ms)."""
    if change.partition_id == partition_id:
        return change.offset <= offset
    return change.stored_ms < stored_ms


def is_damage(error: sqlite3.Error) -> bool:
    """The file is at fault; everything else (full, read-only, locked, ...) is not its fault."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
