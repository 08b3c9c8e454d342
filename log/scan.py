"""Looking for the records of some topics: what `Partition.scan` gives.

The log knows one header by name, so that readers who want few topics of many need not decode all
records. A record's topic is the value of its first header of that name; a record without one is
in no topic, and no scan finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from log.record_batch import Record

INDEXED_HEADER: Final = b"mqtt.topic"
"""The header that names a record's topic."""

Wanted = Callable[[bytes], bool]
"""Whether records of that topic are wanted: the same answer whenever it is asked in one scan."""


class Scan(NamedTuple):
    """The wanted records of a stretch of the log, decoded, in order; go on at `next_offset`."""

    records: list[Record]
    next_offset: int


def topic_of(record: Record) -> bytes | None:
    """The record's topic; None if it has none."""
    return next((value for name, value in record.headers if name == INDEXED_HEADER), None)
