"""What a journal frame carries: entries, one behind the other.

    run:    kind u8 = 1, partition id u32, chunk base offset i64, chunk base timestamp i64,
            max timestamp i64, first delta u32, record count u32, size u32, records
    state:  kind u8 = 2, key size u16, value size i32 (-1: deleted), key, value

A run is consecutive records of one partition in one chunk (see tail.py), encoded as in a
RecordBatch whose base is the chunk's: they are written here, kept in memory and later sealed
without being encoded again. The partition id is given by the checkpoint that names it, and never
used for another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from log.errors import UnknownFormat

RUN: Final = 1
STATE: Final = 2
_RUN: Final = struct.Struct(">BIqqqIII")
_STATE: Final = struct.Struct(">BHi")
STATE_KEY_BYTES_MAX: Final = 0xFFFF
RUN_HEADER_BYTES: Final = _RUN.size
STATE_HEADER_BYTES: Final = _STATE.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive records of one chunk."""

    partition_id: int
    chunk_base_offset: int
    chunk_base_timestamp_ms: int
    max_timestamp_ms: int
    first_delta: int
    record_count: int
    records: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A key of the durable state and its new value; None deletes it."""

    key: bytes
    value: bytes | None


def run_header(run: Run) -> bytes:
    """What stands before a run's records."""
    return _RUN.pack(
        RUN,
        run.partition_id,
        run.chunk_base_offset,
        run.chunk_base_timestamp_ms,
        run.max_timestamp_ms,
        run.first_delta,
        run.record_count,
        len(run.records),
    )


def state_entry(change: StateChange) -> bytes:
    """A whole state entry."""
    value = change.value
    head = _STATE.pack(STATE, len(change.key), -1 if value is None else len(value))
    return head + change.key + (value or b"")


def parse_entries(entries: bytes) -> Iterator[Run | StateChange]:
    """The entries of a frame whose checksum held, in order. UnknownFormat for one of a kind that
    this release does not know: damage would not have its checksum.
    """
    position = 0
    while position < len(entries):
        if entries[position] == RUN:
            (_, partition_id, base, base_ts, max_ts, first, count, size) = _RUN.unpack_from(
                entries, position
            )
            position += _RUN.size
            yield Run(
                partition_id=partition_id,
                chunk_base_offset=base,
                chunk_base_timestamp_ms=base_ts,
                max_timestamp_ms=max_ts,
                first_delta=first,
                record_count=count,
                records=entries[position : position + size],
            )
            position += size
        elif entries[position] != STATE:
            raise UnknownFormat(
                f"a journal frame has an entry of kind {entries[position]}, which this release does"
                " not know: start the release that wrote it"
            )
        else:
            _, key_size, value_size = _STATE.unpack_from(entries, position)
            position += _STATE.size
            key = entries[position : position + key_size]
            position += key_size
            if value_size < 0:
                yield StateChange(key=key, value=None)
            else:
                yield StateChange(key=key, value=entries[position : position + value_size])
                position += value_size
