"""Stretches of the log that were just read for subscribers, kept for those who could not take all.

Owns the reading and a handful of slices. Windows are small and batches big: without this a batch
would be read and decoded again for every few messages that a client acknowledges.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection
from operator import attrgetter
from typing import NamedTuple

from gateway.mqtt.positions import InFlight
from gateway.mqtt.session import Session
from log import CorruptBatch, Log, OffsetOutOfRange, Partition, Record

SLICE_BYTES = 64 * 1024
"""Stored bytes of one slice, one batch at least: some 3,600 readings, looked through in 1 ms."""

SLICE_RECORDS = 2_000
"""Of one slice, but for its last batch: decoded in about 5 ms."""

_SLICES_MAX = 4

_offset_of = attrgetter("offset")


class Slice(NamedTuple):
    records: list[Record]
    next_offset: int
    sessions: set[Session]
    """For whom it holds every record that matches."""

    def at(self, offset: int) -> int:
        """Of the first record at or behind the offset."""
        return bisect_left(self.records, offset, key=_offset_of)


class Slices:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._kept: OrderedDict[tuple[int, int], Slice] = OrderedDict()

    def read(
        self,
        partition: Partition,
        start: int,
        session: Session,
        sessions: Collection[Session],
        wanted: Callable[[bytes], bool],
    ) -> Slice:
        """The records from `start` on that these sessions want; one that was kept, if it has them
        for `session`. OffsetOutOfRange, CorruptBatch, OSError."""
        for (partition_id, first), kept in self._kept.items():
            if (
                partition_id == partition.partition_id
                and first <= start < kept.next_offset
                and session in kept.sessions
            ):
                return kept
        scan = partition.scan(start, wanted, bytes_max=SLICE_BYTES, records_max=SLICE_RECORDS)
        found = Slice(scan.records, scan.next_offset, set(sessions))
        self._keep((partition.partition_id, start), found)
        return found

    def record_at(self, place: InFlight) -> Record | None:
        """One record; None if it is there no more, or cannot be read."""
        partition = self._log.partitions.get(place.partition_id)
        if partition is None:
            return None
        key = (place.partition_id, -1)
        found = self._kept.get(key)
        if (
            found is None
            or not found.records
            or not found.records[0].offset <= place.offset < found.next_offset
        ):
            try:
                scan = partition.scan(place.offset, lambda topic: True, bytes_max=1)
            except (OffsetOutOfRange, CorruptBatch, OSError):
                return None
            found = Slice(scan.records, scan.next_offset, set())
            self._keep(key, found)
        at = found.at(place.offset)
        if at < len(found.records) and found.records[at].offset == place.offset:
            return found.records[at]
        return None

    def changed(self, session: Session) -> None:
        """Its subscriptions are others: what was read for it may not be all that it gets."""
        for kept in self._kept.values():
            kept.sessions.discard(session)

    def clear(self) -> None:
        """Nobody reads."""
        self._kept.clear()

    def _keep(self, key: tuple[int, int], found: Slice) -> None:
        self._kept[key] = found
        self._kept.move_to_end(key)
        if len(self._kept) > _SLICES_MAX:
            self._kept.popitem(last=False)


def behind_batch(partition: Partition, offset: int) -> int:
    """Where to go on behind a batch that cannot be read."""
    try:
        batches = partition.read(offset, bytes_max=1)
    except (CorruptBatch, OffsetOutOfRange, OSError):
        return partition.durable_end
    return batches[0].last_offset + 1 if batches else partition.durable_end
