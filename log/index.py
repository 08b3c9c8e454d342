"""Kafka's sparse indexes of a segment: what the bytes of `.index` and `.timeindex` are.

Source: Apache Kafka, storage/src/main/java/org/apache/kafka/storage/internals/log (OffsetIndex,
TimeIndex, LogSegment). Big-endian, entries ascending, both relative to the segment's base offset.

    .index      offset i32 (the last offset of a batch, relative), position i32 (of that batch)
    .timeindex  timestamp i64 (the newest so far, ms), offset i32 (where it was reached, relative)

An entry is made for the first batch after every index_interval_bytes of log. Both can be rebuilt
from the log, so they are synced only once, when the segment is closed, and never trusted: a reader
checks what it finds at the position.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import lt
from typing import Final

from log.record_batch import BatchHeader

OFFSET_ENTRY: Final = struct.Struct(">ii")
TIME_ENTRY: Final = struct.Struct(">qi")


class IndexBuilder:
    """Makes the entries of one segment as batches are appended to it."""

    def __init__(self, base_offset: int, interval_bytes: int) -> None:
        self._base = base_offset
        self._interval_bytes = interval_bytes
        self._since_entry_bytes = 0
        self._last_time_ms = -1
        self.newest_ms = -1
        self._newest_offset = base_offset
        self.offset_entries = bytearray()
        self.time_entries = bytearray()
        self.offset_bytes = 0
        self.time_bytes = 0
        """Sizes of what `take` has given away so far."""

    def add(self, header: BatchHeader, position: int) -> None:
        """A batch was appended at `position`."""
        if header.max_timestamp_ms > self.newest_ms:
            self.newest_ms = header.max_timestamp_ms
            self._newest_offset = header.last_offset
        if self._since_entry_bytes > self._interval_bytes:
            self.offset_entries += OFFSET_ENTRY.pack(header.last_offset - self._base, position)
            self._add_time()
            self._since_entry_bytes = 0
        self._since_entry_bytes += header.size_bytes

    def finish(self) -> None:
        """The segment is closed: its newest timestamp gets an entry, as Kafka's does."""
        self._add_time()

    def take(self) -> tuple[bytes, bytes]:
        """The entries made since the last call."""
        taken = bytes(self.offset_entries), bytes(self.time_entries)
        self.offset_entries.clear()
        self.time_entries.clear()
        self.offset_bytes += len(taken[0])
        self.time_bytes += len(taken[1])
        return taken

    def _add_time(self) -> None:
        if self.newest_ms > self._last_time_ms:
            self.time_entries += TIME_ENTRY.pack(self.newest_ms, self._newest_offset - self._base)
            self._last_time_ms = self.newest_ms


def offset_entries(data: bytes) -> Iterator[tuple[int, int]]:
    """(relative offset, position) of each entry."""
    return OFFSET_ENTRY.iter_unpack(data[: len(data) - len(data) % OFFSET_ENTRY.size])


def position_before(data: bytes, relative_offset: int) -> int:
    """Where to begin to look for an offset: the last batch indexed that ends before it, or 0."""
    entries = list(offset_entries(data))
    found = bisect_right(entries, (relative_offset - 1, 1 << 31))
    return entries[found - 1][1] if found else 0


def last_position(data: bytes) -> int | None:
    """The position of the last batch indexed, 0 if none is; None if the index cannot be right."""
    if len(data) % OFFSET_ENTRY.size:
        return None
    numbers = struct.unpack(f">{len(data) // 4}i", data)
    if not (_ascends(numbers[::2], 0) and _ascends(numbers[1::2], 0)):
        return None
    return numbers[-1] if numbers else 0


def _ascends(numbers: Sequence[int], above: int) -> bool:
    """Each above the one before, the first above `above`: zeros are what a power cut leaves."""
    return not numbers or (numbers[0] > above and all(map(lt, numbers, numbers[1:])))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeEntry:
    timestamp_ms: int
    relative_offset: int


def last_time(data: bytes) -> TimeEntry | None:
    """The newest timestamp of a closed segment by its time index; None if the index cannot be
    right.
    """
    if not data or len(data) % TIME_ENTRY.size:
        return None
    times, offsets = zip(*TIME_ENTRY.iter_unpack(data), strict=True)
    if not (_ascends(times, -1) and _ascends(offsets, -1)):
        return None
    return TimeEntry(timestamp_ms=times[-1], relative_offset=offsets[-1])


def offset_before(data: bytes, timestamp_ms: int) -> int:
    """The relative offset from which to look for the first record at or after a time; 0 if none is
    known.
    """
    found = 0
    for newest_ms, offset in TIME_ENTRY.iter_unpack(
        data[: len(data) - len(data) % TIME_ENTRY.size]
    ):
        if newest_ms >= timestamp_ms:
            break
        found = offset
    return found
