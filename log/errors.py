"""What can go wrong in the log, as one tree.

LogError
  LogUnusable            the data directory cannot be opened; the operator must act
    LogLocked            another process has it
    UnknownFormat        written by a newer release, or not ours
    PartitionsReduced    the configuration asks for fewer partitions than are stored
  DiskFault              the disk's doing
    LogFull              no room now; refuse the publisher, try again when there is room
    LogFailed            a write or fdatasync failed; nothing more may be acknowledged
  Corrupt                stored bytes are not what was written: in reports, from decoders
    CorruptBatch
    CorruptCheckpoint
    CorruptIndex         of topics; never leaves this package
  RequestError           the caller's doing
    OffsetOutOfRange
    RecordTooLarge
    UnknownPartition
"""

from __future__ import annotations


class LogError(Exception):
    """Root of everything the log raises on purpose."""


class LogUnusable(LogError):
    """The data directory cannot be opened as it is."""


class LogLocked(LogUnusable):
    """Another process holds the data directory's lock."""


class UnknownFormat(LogUnusable):
    """A file carries a magic or version this release does not know."""


class PartitionsReduced(LogUnusable):
    """A stream has more partitions on disk than the configuration asks for."""


class DiskFault(LogError):
    """The disk refused or failed a call."""


class LogFull(DiskFault):
    """There is no room for more records; readers go on, writers must be refused."""


class LogFailed(DiskFault):
    """The journal failed: what is in memory may not be on disk, and never will be assumed to be."""


class Corrupt(LogError):
    """Bytes read back are not bytes that were written."""


class CorruptIndex(Corrupt):
    """A chapter of a topic index is damaged, or speaks of another log."""


class CorruptBatch(Corrupt):
    """A record batch fails its checksum or its structure."""


class CorruptCheckpoint(Corrupt):
    """A checkpoint file fails its checksum or its structure."""


class RequestError(LogError):
    """The caller asked for something that cannot be."""


class OffsetOutOfRange(RequestError):
    """The offset asked for is not between the partition's start and its durable end."""

    def __init__(self, offset: int, start: int, end: int) -> None:
        super().__init__(f"offset {offset} is outside {start}..{end}: read from one of those")
        self.offset, self.start, self.end = offset, start, end


class RecordTooLarge(RequestError):
    """One record is bigger than a batch that every Kafka broker takes by default."""


class UnknownPartition(RequestError):
    """No such stream, or no such partition of it."""
