"""Retained messages: which there are, from the log (3.3.1.3).

Owns the way of a retained message from the log's round to the table on disk (retained_store.py),
and looks them up for SUBSCRIBE. A PUBLISH with RETAIN is a record like any other, durable before
its PUBACK; this table is derived from the log, so nothing waits for it. It is

    live       what a round made durable is gathered by topic, and applied once a second, or
               before a search; positions say up to where in each partition that is
    behind     after a start, or when the file could not take it: records with the header
               mqtt.retain are read from the log from those positions on, until there is no more

Of a run of messages the last one counts [MQTT-3.3.1-5]; an empty payload removes [MQTT-3.3.1-6].
The log's retention may remove a record within a second of its being stored only where a whole
segment is written in that time and let go at once; then the message is still in the gathered
ones. Only a table that was deleted or damaged is as old as the log reaches.

Sans-I/O: files are the worker's; its outcomes come back in the loop's thread.
"""

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from gateway.ingest import Route
from gateway.limits import MqttLimits
from gateway.mqtt.properties import Properties
from gateway.mqtt.retained_reader import memory_bytes, read_retained, retained_of
from gateway.mqtt.retained_store import (
    FILE_NAME,
    NOTHING,
    Applied,
    Lookup,
    Retained,
    RetainedCounters,
    RetainedStore,
    is_damage,
)
from gateway.worker import Worker
from log import Log, Partition

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PENDING_BYTES = 256 * 1024
"""Gathered messages are applied at this size, if a second has not passed before."""

_PENDING_BYTES_MAX = 4 * 1024 * 1024
"""What may be gathered while the disk is busy; above it they are read from the log instead."""

_READ_BYTES = 4 * 1024 * 1024
"""Stored bytes that one job looks through while behind: searches wait for no more than that."""

_POSITION_RECORDS = 100_000
"""Records, retained or not, after which positions are written: a start reads no more."""

_SYNC_INTERVAL_MS = 30_000
_EXPIRE_INTERVAL_MS = 60_000


class Token(NamedTuple):
    """What of a round is here: its messages, and searches that have to see them."""

    changes: list[Retained]
    lookups: list[Lookup]


class RetainedTable:
    """A participant of the committer: `cut`, `durable`, `failed`. `now_ms` is the log's clock.

    Nothing is here before `open`; `sweep` is to be called once a second, `close` at the end.
    """

    def __init__(self, log: Log, limits: MqttLimits, worker: Worker, directory: Path) -> None:
        self._log = log
        self.limits = limits
        self._worker = worker
        self._path = directory / FILE_NAME
        self._store: RetainedStore | None = None
        self._round: list[Retained] = []
        self._waiting: list[Lookup] = []
        """For the cut."""
        self._undurable_count = 0
        """Messages in rounds that were cut and are not durable."""
        self._pending: dict[bytes, Retained] = {}
        self._pending_bytes = 0
        self._positions: dict[int, int] = {}
        """Partition id -> below it the file has everything."""
        self._behind = True
        self._jobs_count = 0
        """Jobs that change the file and are under way."""
        self._rebuilding = True
        """Searches do not wait until the log is caught up with, which may take minutes."""
        self._caught_up: list[Callable[[], None]] = []
        self._is_damaged = False
        self._trouble = ""
        self._synced_ms = self._expired_ms = log.now_ms()
        self._is_closed = False
        self.counters = RetainedCounters()
        self.request: Callable[[], None] = lambda: None
        """The committer's `request`."""

    # -- from the broker

    def stored(
        self, route: Route, qos: int, properties: Properties, payload: bytes, offset: int
    ) -> None:
        """A message with RETAIN was put into the log's current round at `offset`."""
        self._round.append(
            retained_of(
                topic=route.topic.encode(),
                payload=payload,
                qos=qos,
                client_id=route.client_id,
                properties=properties,
                place=(route.partition.partition_id, offset),
                stored_ms=self._log.now_ms(),
            )
        )

    def now_ms(self) -> int:
        """The log's clock, by which messages are stored and expire."""
        return self._log.now_ms()

    def ends(self) -> dict[int, int]:
        """Partition id -> the offset behind what is stored, durable or not."""
        partitions = self._log.partitions
        return {key: partition.end_offset for key, partition in partitions.items()}

    @property
    def is_empty(self) -> bool:
        """There is no retained message, nor one on its way."""
        return not (
            self.counters.message_count
            or self._round
            or self._undurable_count
            or self._pending
            or self._jobs_count
            or self._behind
        )

    def lookup(self, lookup: Lookup, *, after_round: bool = False) -> None:
        """Searches all that is in the log by now, once that is durable; `after_round`: not before
        the round that is open now is."""
        if after_round or self._round or self._undurable_count:
            self._waiting.append(lookup)
            self.request()
        else:
            self._start(lookup)

    def when_caught_up(self, callback: Callable[[], None]) -> None:
        """Calls back once, when the table has all that the log has."""
        if self._behind:
            self._caught_up.append(callback)
        else:
            callback()

    # -- participant of the committer

    def cut(self) -> Token | None:
        if not self._round and not self._waiting:
            return None
        token = Token(self._round, self._waiting)
        self._round = []
        self._waiting = []
        self._undurable_count += len(token.changes)
        return token

    def durable(self, token: object) -> None:
        assert isinstance(token, Token)
        self._undurable_count -= len(token.changes)
        if not self._behind:
            for change in token.changes:
                known = self._pending.get(change.topic)
                self._pending_bytes += memory_bytes(change) - (memory_bytes(known) if known else 0)
                self._pending[change.topic] = change
            if self._pending_bytes > _PENDING_BYTES_MAX:
                self._fall_behind("the disk is busy")
            elif self._pending_bytes > _PENDING_BYTES and not self._jobs_count:
                self._apply({})
        for lookup in token.lookups:
            self._start(lookup)

    def failed(self, error: BaseException) -> None:
        """Nothing is durable any more: who waits for it waits for the end."""

    # -- searching

    def _start(self, lookup: Lookup) -> None:
        if self._behind and not self._rebuilding:
            self._caught_up.append(lambda: self._start(lookup))
            return
        store = self._store
        if store is None:
            lookup.done(NOTHING)
            return
        if self._pending:
            self._apply({})
        topic_filter, from_key, count_max, bytes_max, done = lookup
        now_ms = self._log.now_ms()

        def failed(error: Exception) -> None:
            self._failed(error)
            done(NOTHING)

        self._worker.submit(
            lambda: store.search(
                topic_filter, from_key, now_ms=now_ms, count_max=count_max, bytes_max=bytes_max
            ),
            done,
            failed,
        )

    # -- applying

    def sweep(self) -> None:
        """Once a second."""
        now_ms = self._log.now_ms()
        if self._jobs_count or self._is_closed:
            return
        if self._store is None:
            self.open()
        elif self._behind:
            self._read_on()
        elif self._pending or self._moved() >= _POSITION_RECORDS:
            self._apply(self._durable_ends())
        elif now_ms - self._expired_ms >= _EXPIRE_INTERVAL_MS or now_ms < self._expired_ms:
            self._expired_ms = now_ms
            store = self._store
            self._change(lambda: store.expire(now_ms), self._applied)
        elif now_ms - self._synced_ms >= _SYNC_INTERVAL_MS or now_ms < self._synced_ms:
            self._synced_ms = now_ms
            self._change(self._store.sync, lambda _: None)

    def _durable_ends(self) -> dict[int, int]:
        """Not to be called within `durable`: other rounds may be durable and not told yet."""
        return {
            partition_id: partition.durable_end
            for partition_id, partition in self._log.partitions.items()
            if partition.durable_end != self._positions.get(partition_id)
        }

    def _moved(self) -> int:
        return sum(end - self._positions.get(key, 0) for key, end in self._durable_ends().items())

    def _apply(self, positions: dict[int, int]) -> None:
        """Gives what is gathered to the file."""
        changes, self._pending = list(self._pending.values()), {}
        self._pending_bytes = 0
        store = self._store
        assert store is not None

        def applied(result: Applied) -> None:
            self._positions.update(positions)
            self._applied(result)

        self._change(lambda: store.apply(changes, positions, catching_up=False), applied)

    def _applied(self, result: Applied) -> None:
        counters = self.counters
        counters.message_count = result.message_count
        counters.size_bytes = result.size_bytes
        if result.refused_count:
            counters.refused += result.refused_count
            _log.warning(
                "retained.not_kept count=%d reason=over_a_limit kept=%d bytes=%d",
                result.refused_count,
                result.message_count,
                result.size_bytes,
            )
        if self._trouble:
            _log.info("retained.recovered from=%s", self._trouble)
            self._trouble = ""

    def _change(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """A job that changes the file."""
        self._jobs_count += 1

        def told(result: T) -> None:
            self._jobs_count -= 1
            done(result)

        def failed(error: Exception) -> None:
            self._jobs_count -= 1
            self._failed(error)

        self._worker.submit(job, told, failed)

    def _failed(self, error: Exception) -> None:
        """What was gathered may not be in the file: it is read from the log at the next sweep."""
        self._fall_behind(str(error))
        self._is_damaged |= isinstance(error, sqlite3.Error) and is_damage(error)
        self._rebuilding = True
        self._tell_caught_up()

    def _fall_behind(self, cause: str) -> None:
        if not self._trouble:
            _log.warning("retained.behind cause=%s", cause)
            self._trouble = cause
        self._behind = True
        self._pending = {}
        self._pending_bytes = 0

    # -- reading the log

    def open(self) -> None:
        """Opens the file, and reads what the log has beyond it."""
        self._change(
            lambda: RetainedStore(self._path, self._log.journal.log_id, self.limits), self._opened
        )

    def _opened(self, store: RetainedStore) -> None:
        self._store = store
        self._is_damaged = False
        if store.set_aside is not None:
            _log.warning("retained.set_aside file=%s cause=%s", self._path, store.set_aside)
        self._positions = dict(store.saved_positions)
        for partition_id, partition in self._log.partitions.items():
            position = self._positions.get(partition_id)
            if position is not None and position < partition.start_offset:
                _log.warning(
                    "retained.removed_unread stream=%s partition=%d from=%d to=%d",
                    partition.stream,
                    partition.index,
                    position,
                    partition.start_offset,
                )
        self._applied(store.totals())
        self._read_on()

    def _read_on(self) -> None:
        """The next piece of the log; when there is none, the table is live again."""
        store = self._store
        if self._jobs_count or store is None or self._is_closed:
            return
        if self._is_damaged:
            self._store = None
            self._rebuilding = True
            self._change(lambda: store.set_file_aside(), lambda _: self.open())
            return
        for partition_id, partition in self._log.partitions.items():
            position = max(self._positions.get(partition_id, 0), partition.start_offset)
            if position < partition.durable_end:
                self._read(store, partition_id, partition, position)
                return
        self._behind = self._rebuilding = False
        self._change(store.forget_removed, lambda _: None)
        _log.info(
            "retained.caught_up count=%d bytes=%d",
            self.counters.message_count,
            self.counters.size_bytes,
        )
        self._tell_caught_up()

    def _tell_caught_up(self) -> None:
        callbacks, self._caught_up = self._caught_up, []
        for callback in callbacks:
            callback()

    def _read(
        self, store: RetainedStore, partition_id: int, partition: Partition, position: int
    ) -> None:
        def job() -> tuple[int, Applied]:
            changes, next_offset = read_retained(partition, position, bytes_max=_READ_BYTES)
            return next_offset, store.apply(changes, {partition_id: next_offset}, catching_up=True)

        def done(outcome: tuple[int, Applied]) -> None:
            next_offset, result = outcome
            self._positions[partition_id] = next_offset
            self._applied(result)
            self._read_on()

        self._change(job, done)

    # -- the rest

    def set_limits(self, limits: MqttLimits) -> None:
        """For what is stored from now on."""
        self.limits = limits
        if self._store is not None:
            self._store.limits = limits

    def abandon(self) -> None:
        """Closes the file as it is, in the worker's thread, as the end of the process would."""
        self._is_closed = True
        if self._store is not None:
            self._store.close()

    def close(self) -> None:
        """Writes what is gathered; the worker is to be closed behind it."""
        self._is_closed = True
        store = self._store
        if store is None:
            return
        if not self._behind:
            self._apply(self._durable_ends())
            self._change(store.sync, lambda _: None)
        self._change(store.close, lambda _: None)
