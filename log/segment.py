"""A segment: one `.log` file of RecordBatch v2 batches and its two indexes, named and laid out as
Kafka's.

    STREAM-PARTITION/00000000000000000000.log    batches, one behind the other (record_batch.py)
                     00000000000000000000.index  sparse (index.py), rebuildable
                     00000000000000000000.timeindex
                     00000000000000000000.topics  which topics are where (topic_index.py), likewise

The number is the base offset: the first offset that can be in it. Owns its files. Appending
is for one thread at a time; any thread may read what was appended before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from log.errors import CorruptBatch
from log.files import Files
from log.index import IndexBuilder, last_position, last_time, offset_before, position_before
from log.record_batch import (
    HEADER_BYTES,
    BatchHeader,
    StoredBatch,
    parse_header,
    stored_batch,
    verify,
)
from log.topic_index import TopicIndex

SUFFIXES = (".log", ".index", ".timeindex", ".topics")
"""Of the files of a segment, the log first."""

_RELATIVE_OFFSET_MAX = 0x7FFFFFFF
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentScan:
    """What recovery found from a position on: the valid prefix, and why it ended before the file
    did.
    """

    valid_bytes: int
    truncated_bytes: int
    end_offset: int
    reason: str | None


def segment_name(base_offset: int) -> str:
    return f"{base_offset:020d}"


class Segment:
    """One segment's files. `size_bytes` and `end_offset` speak of what is appended and synced."""

    def __init__(
        self, files: Files, directory: Path, base_offset: int, *, interval_bytes: int
    ) -> None:
        self._files = files
        self._directory = directory
        self._interval_bytes = interval_bytes
        self.base_offset = base_offset
        self.end_offset = base_offset
        self.size_bytes = 0
        self._log: int | None = None
        self._indexes_behind = False
        self._index = IndexBuilder(base_offset, interval_bytes)
        self.topics = TopicIndex(files, self.path(".topics"))

    def path(self, suffix: str) -> Path:
        return self._directory / f"{segment_name(self.base_offset)}{suffix}"

    @property
    def newest_ms(self) -> int:
        """Newest timestamp in it; -1 if it is empty."""
        return self._index.newest_ms

    # -- writing

    def create(self) -> None:
        """Makes the files, durably."""
        handle = self._files.open(self.path(".log"), create=True)
        try:
            # If power fails before this, the name may be gone although its data is there, so it
            # comes first.
            self._files.sync_directory(self._directory)
        except OSError:
            self._files.close(handle)
            raise
        self._log = handle

    def has_room(
        self, batch_bytes: int, last_offset: int, bytes_max: int, *, waiting_bytes: int
    ) -> bool:
        """Whether a batch fits behind what is stored and what waits. A first one always does."""
        if last_offset - self.base_offset > _RELATIVE_OFFSET_MAX:
            return False
        before = self.size_bytes + waiting_bytes
        return not before or before + batch_bytes <= bytes_max

    def append(self, batches: Sequence[bytes]) -> int:
        """Appends whole batches and syncs them; gives the bytes written.

        If power fails before the sync returns, any part of them may be there: recovery keeps the
        valid prefix, and their records are still in the journal. OSError leaves the segment as it
        was: what was written lies behind `size_bytes` and is written over by the next append.
        """
        handle = self._appending()
        written = self._files.write_at(handle, self.size_bytes, batches)
        self._files.datasync(handle)
        position = self.size_bytes
        for batch in batches:
            header = parse_header(batch)
            self._index.add(header, position)
            position += len(batch)
            self.end_offset = header.last_offset + 1
        self.size_bytes = position
        self._write_indexes()
        return written

    def finish(self) -> None:
        """Nothing will be appended: what an append that failed has left behind the end goes, and
        the indexes get their last entries. OSError, and it is not finished.
        """
        handle = self._appending()
        if self._files.size(handle) > self.size_bytes:
            self._files.truncate(handle, self.size_bytes)
            # If power failed later, the leftover might be there again, in a segment that nobody
            # checks any more but to say that it is damaged.
            self._files.datasync(handle)
        self._finish_indexes()

    def _finish_indexes(self) -> None:
        self._index.finish()
        self._write_indexes(sync=True)
        self.close()

    def _write_indexes(self, *, sync: bool = False) -> None:
        """An index that cannot be written fails nothing: the batches are there and are found
        without it. It is built again with the next append, or when the log is opened.
        """
        try:
            if self._indexes_behind:
                self._index = self._indexed(self.size_bytes)
                if sync:
                    self._index.finish()
            self._put_indexes(sync=sync)
            self._indexes_behind = False
        except OSError:
            self._indexes_behind = True

    def _put_indexes(self, *, sync: bool) -> None:
        sizes = (self._index.offset_bytes, self._index.time_bytes)
        for suffix, position, entries in zip(
            (".index", ".timeindex"), sizes, self._index.take(), strict=True
        ):
            handle = self._files.open(self.path(suffix), create=True)
            try:
                self._files.write_at(handle, position, (entries,))
                self._files.truncate(handle, position + len(entries))
                if sync:
                    # If power failed later, a closed segment's index might be short: its newest
                    # time would be too old, and retention would come too early.
                    self._files.datasync(handle)
            finally:
                self._files.close(handle)

    def _indexed(self, end: int) -> IndexBuilder:
        index = IndexBuilder(self.base_offset, self._interval_bytes)
        with self._reading() as handle:
            for header, position in self._walk(handle, 0, end):
                index.add(header, position)
        return index

    # -- recovery

    def holds(self, size_bytes: int) -> bool:
        """Whether the log file has at least that many bytes."""
        return self._files.size(self._appending()) >= size_bytes

    def open_closed(self) -> SegmentScan | None:
        """Takes an older segment as it is: it was synced before the one after it was made.

        Its indexes were not: they are built again where they cannot be right. Where the batches do
        not follow each other to the end of the file, that is returned; the file is not touched.
        """
        with self._reading() as handle:
            self.size_bytes = self._files.size(handle)
            try:
                if self._take_indexes(handle):
                    return None
            except CorruptBatch:
                pass
            return self._check_closed(handle)

    def _take_indexes(self, handle: int) -> bool:
        """Whether the last entries of both indexes agree with the log; then they are taken."""
        newest = last_time(self._index_bytes(".timeindex"))
        position = last_position(self._index_bytes(".index"))
        if newest is None or position is None or position >= self.size_bytes:
            return False
        for header, _ in self._walk(handle, position, self.size_bytes):
            self.end_offset = header.last_offset + 1
            if header.max_timestamp_ms > newest.timestamp_ms:
                return False
        at = self._locate(handle, self.base_offset + newest.relative_offset)
        if at is None or at[0].max_timestamp_ms != newest.timestamp_ms:
            return False
        self._index.newest_ms = newest.timestamp_ms
        return True

    def _check_closed(self, handle: int) -> SegmentScan:
        file_bytes, valid, end, reason = self.size_bytes, 0, self.base_offset, None
        try:
            for header, at in self._walk(handle, 0, file_bytes):
                if header.base_offset < end:
                    raise CorruptBatch(f"offset {header.base_offset} again")
                valid, end = at + header.size_bytes, header.last_offset + 1
        except CorruptBatch as error:
            reason = str(error)
        self.size_bytes, self.end_offset = valid, end
        self._index = self._indexed(valid)
        self._finish_indexes()
        return SegmentScan(
            valid_bytes=valid, truncated_bytes=file_bytes - valid, end_offset=end, reason=reason
        )

    def recover(self, position: int, end_offset: int, *, known: bool) -> SegmentScan:
        """Checks every batch from `position` on, cuts the file behind the last valid one, rebuilds
        the indexes, and makes all of it durable.

        `end_offset` is the one behind the batches before `position`, which are durable. `known`:
        so is the segment's name.
        """
        handle = self._appending()
        file_bytes = self._files.size(handle)
        reason = None
        valid, end = position, end_offset
        try:
            for header, at in self._walk(handle, position, file_bytes, check=True):
                if header.base_offset < end:
                    raise CorruptBatch(f"offset {header.base_offset} again")
                valid, end = at + header.size_bytes, header.last_offset + 1
        except CorruptBatch as error:
            reason = str(error)
        if valid < file_bytes:
            # If power fails here the tail is there again at the next start, and is cut again.
            self._files.truncate(handle, valid)
            self.topics.delete()
        self._settle(handle, position, valid, cut=valid < file_bytes)
        if not known:
            self._files.sync_directory(self._directory)
        self.size_bytes, self.end_offset = valid, end
        self._index = self._indexed(valid)
        self._write_indexes()
        return SegmentScan(
            valid_bytes=valid, truncated_bytes=file_bytes - valid, end_offset=end, reason=reason
        )

    def _settle(self, handle: int, position: int, end: int, *, cut: bool) -> None:
        """A process that was killed, or whose sync failed, may have left what was just read in
        memory only, where not even a new sync would write it. If power failed later it would be
        gone, and with it the journal's copy: so it is written once more.
        """
        if position == end and not cut:
            return
        for at in range(position, end, _COPY_BYTES):
            data = self._files.read_at(handle, at, min(_COPY_BYTES, end - at))
            self._files.write_at(handle, at, (data,))
        self._files.datasync(handle)

    # -- reading

    def read(self, offset: int, *, bytes_max: int, end_offset: int) -> list[StoredBatch]:
        """Whole batches as stored, from the one that holds `offset` on, below `end_offset`.

        At least one, then as many as `bytes_max` holds. Checksums are not verified here: who
        decodes or ships a batch does. CorruptBatch where a header cannot be one; FileNotFoundError
        when the segment was removed.
        """
        with self._reading() as handle:
            start = self._locate(handle, offset)
            if start is None:
                return []
            first, position = start
            size = min(max(bytes_max, first.size_bytes), self.size_bytes - position)
            data = self._files.read_at(handle, position, size)
        batches: list[StoredBatch] = []
        at = 0
        while at + HEADER_BYTES <= len(data):
            header = parse_header(data, at)
            if at + header.size_bytes > len(data) or header.base_offset >= end_offset:
                break
            batches.append(stored_batch(data[at : at + header.size_bytes], header))
            at += header.size_bytes
        return batches

    def batches_from(self, position: int, end: int) -> Iterator[StoredBatch]:
        """The batches between two positions where batches begin. Errors as `read`."""
        with self._reading() as handle:
            for header, at in self._walk(handle, position, end):
                yield stored_batch(self._files.read_at(handle, at, header.size_bytes), header)

    def batch_at_time(self, timestamp_ms: int) -> StoredBatch | None:
        """The first batch with a record at or after the time; None if all are older."""
        if timestamp_ms > self.newest_ms:
            return None
        relative = offset_before(self._index_bytes(".timeindex"), timestamp_ms)
        with self._reading() as handle:
            start = self._locate(handle, self.base_offset + relative)
            position = start[1] if start else self.size_bytes
            for header, at in self._walk(handle, position, self.size_bytes):
                if header.max_timestamp_ms >= timestamp_ms:
                    data = self._files.read_at(handle, at, header.size_bytes)
                    return stored_batch(data, header)
        return None

    def _locate(self, handle: int, offset: int) -> tuple[BatchHeader, int] | None:
        """Header and position of the first batch that ends at or behind `offset`."""
        position = position_before(self._index_bytes(".index"), offset - self.base_offset)
        if position and not self._plausible(handle, position, offset):
            position = 0
        for header, at in self._walk(handle, position, self.size_bytes):
            if header.last_offset >= offset:
                return header, at
        return None

    def _plausible(self, handle: int, position: int, offset: int) -> bool:
        """Whether an index entry leads to a batch at or before `offset`: the index may be torn."""
        if not 0 <= position < self.size_bytes:
            return False
        try:
            header = parse_header(self._files.read_at(handle, position, HEADER_BYTES))
        except CorruptBatch:
            return False
        return self.base_offset <= header.base_offset <= offset

    def _index_bytes(self, suffix: str) -> bytes:
        try:
            handle = self._files.open(self.path(suffix))
        except FileNotFoundError:
            return b""
        try:
            return self._files.read_at(handle, 0, self._files.size(handle))
        finally:
            self._files.close(handle)

    def _walk(
        self, handle: int, position: int, end: int, *, check: bool = False
    ) -> Iterator[tuple[BatchHeader, int]]:
        """The batches between two positions; with `check` their checksums too. CorruptBatch."""
        while position < end:
            header = parse_header(self._files.read_at(handle, position, HEADER_BYTES))
            if position + header.size_bytes > end:
                raise CorruptBatch(f"batch at {position} of {header.size_bytes} bytes is cut short")
            if check:
                verify(self._files.read_at(handle, position, header.size_bytes), header)
            yield header, position
            position += header.size_bytes

    def _appending(self) -> int:
        """The handle that appending and recovery keep open, on a partition's last segment only: a
        gateway has many segments and few descriptors.
        """
        if self._log is None:
            self._log = self._files.open(self.path(".log"))
        return self._log

    @contextlib.contextmanager
    def _reading(self) -> Iterator[int]:
        """A handle for one call of one thread: nobody else can close it under the reader."""
        handle = self._files.open(self.path(".log"))
        try:
            yield handle
        finally:
            self._files.close(handle)

    # -- ending

    def close(self) -> None:
        """Writes the topics' open chapter, and closes the log file."""
        self.topics.close_chapter()
        if self._log is not None:
            self._files.close(self._log)
            self._log = None

    def delete(self) -> None:
        """Removes the files, the log first: indexes without a log are removed at the next start."""
        self.topics.open = None
        self.close()
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                self._files.remove(self.path(suffix))
            # If power fails after the next segment was removed, this one must not be there again:
            # there would be a hole between it and the rest.
            if suffix == ".log":
                self._files.sync_directory(self._directory)
