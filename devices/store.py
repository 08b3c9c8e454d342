"""The device table on disk: one SQLite file, written in batches.

Owns `devices.db` in the data directory (with SQLite's `-wal` and `-shm` beside it):

    device  client_id PK | protocol | address | connected | first_seen_ms | connected_ms
            | disconnected_ms | last_message_ms | last_topic | last_size_bytes | last_payload
            | message_count

WAL with synchronous=NORMAL: if power fails here, the last transactions may be missing, and the
file stays sound; all of it is rebuilt by the devices' next messages, so that is the right price.
For the same reason a file that SQLite calls corrupt, or that is of another schema, is set aside
as `devices.db.unusable` and an empty one made: a display table must not keep a gateway down.

Never on the way of a message: aiosqlite runs SQLite in a thread of its own.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiosqlite

from devices.errors import StoreClosed, StoreFailed
from devices.limits import DeviceLimits, PreviewLimits
from devices.preview import Preview, preview
from devices.table import DeviceChange

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE device (
    client_id TEXT PRIMARY KEY NOT NULL,
    protocol TEXT,
    address TEXT,
    connected INTEGER NOT NULL,
    first_seen_ms INTEGER NOT NULL,
    connected_ms INTEGER,
    disconnected_ms INTEGER,
    last_message_ms INTEGER,
    last_topic TEXT,
    last_size_bytes INTEGER,
    last_payload BLOB,
    message_count INTEGER NOT NULL
) WITHOUT ROWID
"""
_COLUMNS: Final = (
    "client_id, protocol, address, connected, first_seen_ms, connected_ms, disconnected_ms,"
    " last_message_ms, last_topic, last_size_bytes, last_payload, message_count"
)
_UPSERT: Final = f"""
INSERT INTO device ({_COLUMNS}) VALUES (?, ?, ?, coalesce(?, 0), ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (client_id) DO UPDATE SET
    protocol = coalesce(excluded.protocol, protocol),
    address = coalesce(excluded.address, address),
    connected = coalesce(?, connected),
    connected_ms = coalesce(excluded.connected_ms, connected_ms),
    disconnected_ms = coalesce(excluded.disconnected_ms, disconnected_ms),
    last_message_ms = coalesce(excluded.last_message_ms, last_message_ms),
    last_topic = coalesce(excluded.last_topic, last_topic),
    last_size_bytes = coalesce(excluded.last_size_bytes, last_size_bytes),
    last_payload = coalesce(excluded.last_payload, last_payload),
    message_count = message_count + excluded.message_count
"""
_PRUNE: Final = """
DELETE FROM device WHERE client_id IN (
    SELECT client_id FROM device WHERE connected = 0
    ORDER BY max(coalesce(last_message_ms, 0), coalesce(connected_ms, 0), first_seen_ms)
    LIMIT max(0, (SELECT count(*) FROM device) - ?))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One row of the table. Times are the gateway's, in ms since 1970; None: never."""

    client_id: str
    protocol: str | None
    address: str | None
    connected: bool
    first_seen_ms: int
    connected_ms: int | None
    disconnected_ms: int | None
    last_message_ms: int | None
    last_topic: str | None
    last_size_bytes: int | None
    last_payload: bytes | None
    message_count: int

    def preview(self, limits: PreviewLimits | None = None) -> Preview | None:
        """The last payload decoded for display; None when there was no message."""
        if self.last_payload is None:
            return None
        return preview(self.last_payload, size_bytes=self.last_size_bytes, limits=limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReport:
    """What opening found. When `set_aside` is not None, the table begins empty."""

    set_aside: Path | None = None
    reason: str | None = None


class DeviceStore:
    """The table on disk; `async with await DeviceStore.open(path) as store`."""

    def __init__(self, path: Path, limits: DeviceLimits) -> None:
        self._path = path
        self._limits = limits
        self._database: aiosqlite.Connection | None = None
        self._written_since_prune_count = 0
        self.report = OpenReport()

    @classmethod
    async def open(cls, path: Path, *, limits: DeviceLimits | None = None) -> Self:
        """Open or make the file; an unusable one is set aside (see `report`).

        Raises StoreFailed when the disk lets no file be made there.
        """
        store = cls(path, limits or DeviceLimits())
        await store._open()
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def write(self, changes: Sequence[DeviceChange]) -> None:
        """Apply all changes in one transaction. Raises StoreFailed; then none was applied.

        When the file turned out corrupt it has been set aside (`report`), and calling again works.
        """
        database = self._opened()
        what = f"writing {len(changes)} devices to {self._path}"
        try:
            await database.executemany(_UPSERT, [_row(change) for change in changes])
            await self._prune(database, len(changes))
            await database.commit()
        except sqlite3.DatabaseError as error:
            try:
                await self._after_failure(error)
            except (sqlite3.Error, OSError) as second:
                # Its state is not known now: closed, so that `reopen` begins with a clean one.
                await self._abandon()
                raise StoreFailed(f"{what}: {error}; and after that: {second}") from second
            raise StoreFailed(f"{what}: {error}") from error

    async def device(self, client_id: str) -> Device | None:
        """One device, or None when it was never seen. Raises StoreFailed."""
        rows = await self._select("WHERE client_id = ?", (client_id,))
        return rows[0] if rows else None

    async def devices(self, *, after: str = "", count_max: int | None = None) -> list[Device]:
        """Devices by client id, those above `after`, at most `page_max`. Raises StoreFailed."""
        page_max = self._limits.page_max
        count = page_max if count_max is None else min(count_max, page_max)
        return await self._select("WHERE client_id > ? ORDER BY client_id LIMIT ?", (after, count))

    async def counts(self) -> tuple[int, int]:
        """(devices in the table, devices connected). Raises StoreFailed."""
        query = "SELECT count(*), coalesce(sum(connected), 0) FROM device"
        try:
            async with self._opened().execute(query) as cursor:
                row = await cursor.fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreFailed(f"reading {self._path}: {error}") from error
        assert row is not None
        return int(row[0]), int(row[1])

    @property
    def is_open(self) -> bool:
        """False after `close`, and after a failure that left nothing to write to."""
        return self._database is not None

    async def reopen(self) -> None:
        """Open again what a failure closed. Raises StoreFailed."""
        if not self.is_open:
            await self._open()

    async def _abandon(self) -> None:
        with contextlib.suppress(sqlite3.Error, OSError):
            await self.close()

    async def close(self) -> None:
        """Close the file; the store cannot be used after that. Safe to call twice."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    async def _open(self) -> None:
        try:
            reason = await self._try_open()
            if reason is None:
                return
            self._set_aside(reason)
            reason = await self._try_open()
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise StoreFailed(f"opening {self._path}: {error}") from error
        if reason is not None:
            raise StoreFailed(f"opening {self._path}: a new file is unusable: {reason}")

    async def _try_open(self) -> str | None:
        """Open; None when usable, else why not (and it is closed again)."""
        self._touch()
        database = await aiosqlite.connect(self._path)
        try:
            reason = await self._prepare(database)
        except sqlite3.DatabaseError as error:
            await database.close()
            if not _is_corrupt(error):
                raise
            return str(error)
        if reason is not None:
            await database.close()
            return reason
        self._database = database
        return None

    async def _prepare(self, database: aiosqlite.Connection) -> str | None:
        await database.execute(f"PRAGMA busy_timeout = {self._limits.busy_timeout_ms}")
        await database.execute("PRAGMA journal_mode = WAL")
        await database.execute("PRAGMA synchronous = NORMAL")
        # A display table must not be a cache of the whole file: 512 KiB of pages.
        await database.execute("PRAGMA cache_size = -512")
        for query, expected in (
            ("PRAGMA integrity_check(1)", "ok"),
            ("PRAGMA user_version", _SCHEMA_VERSION),
        ):
            async with database.execute(query) as cursor:
                row = await cursor.fetchone()
            found = row[0] if row else None
            if query == "PRAGMA user_version" and found == 0 and await _is_empty(database):
                await database.execute(_SCHEMA)
                await database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif found != expected:
                return f"{query} says {found}, not {expected}"
        # Whoever was connected when the process ended is not connected to this one.
        await database.execute("UPDATE device SET connected = 0 WHERE connected = 1")
        await database.commit()
        return None

    def _touch(self) -> None:
        """Fails with the system's own reason, where SQLite's thread would leave one behind."""
        with self._path.open("ab"):
            pass

    def _set_aside(self, reason: str) -> None:
        # One file is kept for a look at it, not one for every bad start. Its WAL would be
        # replayed into the new file if power failed between the two, so it goes first.
        aside = self._path.with_name(self._path.name + ".unusable")
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._path.replace(aside)
        self.report = OpenReport(set_aside=aside, reason=reason)

    async def _prune(self, database: aiosqlite.Connection, written_count: int) -> None:
        # Counting rows reads the whole table, so only when a tenth of it may be new.
        self._written_since_prune_count += written_count
        if self._written_since_prune_count * 10 > self._limits.devices_max:
            self._written_since_prune_count = 0
            await database.execute(_PRUNE, (self._limits.devices_max,))

    async def _after_failure(self, error: sqlite3.DatabaseError) -> None:
        database = self._opened()
        if not _is_corrupt(error):
            await database.rollback()
            return
        await self.close()
        self._set_aside(str(error))
        await self._open_after_set_aside()

    async def _open_after_set_aside(self) -> None:
        report = self.report
        await self._open()
        self.report = report

    async def _select(self, where: str, values: tuple[object, ...]) -> list[Device]:
        query = f"SELECT {_COLUMNS} FROM device {where}"
        try:
            async with self._opened().execute(query, values) as cursor:
                return [_device(row) async for row in cursor]
        except sqlite3.DatabaseError as error:
            raise StoreFailed(f"reading {self._path}: {error}") from error

    def _opened(self) -> aiosqlite.Connection:
        if self._database is None:
            raise StoreClosed(f"{self._path} is not open")
        return self._database


async def _is_empty(database: aiosqlite.Connection) -> bool:
    async with database.execute("SELECT count(*) FROM sqlite_master") as cursor:
        row = await cursor.fetchone()
    return row is not None and row[0] == 0


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """The file is at fault; everything else (full, read-only, locked, ...) is not its fault."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _row(change: DeviceChange) -> tuple[object, ...]:
    return (
        change.client_id,
        change.protocol,
        change.address,
        change.connected,
        change.first_seen_ms,
        change.connected_ms,
        change.disconnected_ms,
        change.last_message_ms,
        change.last_topic,
        change.last_size_bytes,
        change.last_payload,
        change.message_count,
        change.connected,
    )


def _device(row: aiosqlite.Row | tuple[object, ...]) -> Device:
    names = Device.__dataclass_fields__
    values = dict(zip(names, tuple(row), strict=True))
    values["connected"] = bool(values["connected"])
    return Device(**values)
