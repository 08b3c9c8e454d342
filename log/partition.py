"""A partition: its segments, then its tail, read as one sequence of offsets.

Owns the list of segments and the tail. Everything but `read`, `records`, `scan`, `offset_at` and
`write_sealed` is called in the thread of the event loop; those may run in any, beside it.

    start offset <= sealed end <= durable end <= end offset
    |-- segments --|-- tail, durable --|-- tail, this round and frames in flight --|

A batch is sealed whole: the sealed end never falls inside a chunk.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from log.checkpoint import PartitionPoint
from log.errors import OffsetOutOfRange
from log.files import Files
from log.limits import LogLimits
from log.rebatch import Block, block_of, frame_block, gather_blocks
from log.record_batch import (
    Record,
    StoredBatch,
    decode_batch,
    parse_header,
    stored_batch,
    verify,
)
from log.scan import Scan, Selection, Wanted, block_keys
from log.segment import Segment
from log.state import cursor_key, state_lost_key
from log.streams import StreamSpec
from log.tail import Tail
from log.topic_scan import Filler
from log.view import View

READ_BYTES = 1 << 20
"""What one look for records reads: a handful of full batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealJob:
    """Blocks of a partition to put into its segments, taken in the loop and written elsewhere."""

    partition: Partition
    blocks: Sequence[Block]
    end_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What `write_sealed` did: everything below `end_offset` is in synced segments."""

    end_offset: int
    written_bytes: int
    fsync_count: int


class Partition:
    """One partition of a stream."""

    def __init__(
        self,
        files: Files,
        directory: Path,
        spec: StreamSpec,
        index: int,
        *,
        partition_id: int,
        limits: LogLimits,
        segments: list[Segment],
    ) -> None:
        self._files = files
        self._directory = directory
        self._limits = limits
        self.spec = spec
        self.stream = spec.name
        self.index = index
        self.partition_id = partition_id
        self.segments = segments
        self.sealed_end = segments[-1].end_offset
        self.tail = Tail(limits, partition_id, self.sealed_end)
        self._filler = Filler()
        self.topic_bytes_max = limits.topic_index_bytes
        """Memory for the open chapter of its topic index; less where there are many partitions."""
        self.lost: list[tuple[int, int]] = []
        """Ranges of offsets, both included, that recovery reported as lost, now or earlier."""

    def __repr__(self) -> str:
        return f"<Partition {self.stream}-{self.index} {self.start_offset}..{self.durable_end}>"

    @property
    def state_lost_key(self) -> bytes:
        """Where the durable state keeps the offset (i64, big-endian) below which it may have
        forgotten cursors, and what their owners knew: a checkpoint or journal frames were lost.
        """
        return state_lost_key(self.partition_id)

    def cursor_key(self, name: str) -> bytes:
        """Where the durable state keeps the cursor of that name."""
        return cursor_key(name, self.stream, self.index)

    @property
    def start_offset(self) -> int:
        return self.segments[0].base_offset

    @property
    def end_offset(self) -> int:
        """The next offset to give, durable or not."""
        return self.tail.end_offset

    @property
    def durable_end(self) -> int:
        """Readers see offsets below it."""
        return self.tail.durable_end

    @property
    def stored_bytes(self) -> int:
        """Bytes of log files."""
        return sum(segment.size_bytes for segment in self.segments)

    def close_open_chunk(self) -> None:
        """What is appended from now on begins another batch: a reader can take all before it
        whole.
        """
        self.tail.close_open_chunk()

    def point(self) -> PartitionPoint:
        """What a checkpoint says of it. With no seal job under way."""
        segment = self.segments[-1]
        return PartitionPoint(
            stream=self.stream,
            index=self.index,
            partition_id=self.partition_id,
            start_offset=self.start_offset,
            segment_base=segment.base_offset,
            valid_bytes=segment.size_bytes,
            sealed_end=segment.end_offset,
            durable_end=self.durable_end,
            lost=self.lost,
        )

    # -- reading

    def read(self, offset: int, *, bytes_max: int) -> list[StoredBatch]:
        """Whole batches, durable ones only, from the one that holds `offset` on; the first may
        begin before it.

        Sealed ones as stored, and from one segment a call; when those are at an end, the tail's,
        plain. At least one unless `offset` is the durable end, then as many as `bytes_max` holds.
        Where offsets are missing, the next batch there is. OffsetOutOfRange; OSError; CorruptBatch
        for a header that is none.
        """
        view = self._view(offset)
        for segment in view.segments_from(offset):
            with self._unless_removed(offset):
                found = segment.read(offset, bytes_max=bytes_max, end_offset=view.tail_start)
            if found:
                return found
        batches: list[StoredBatch] = []
        size = 0
        for block in view.blocks(offset):
            batch = stored_batch(frame_block(block, compression_level=None))
            size += len(batch.data)
            if batches and size > bytes_max:
                break
            batches.append(batch)
        return batches

    def _view(self, offset: int) -> View:
        """OffsetOutOfRange."""
        durable_end = self.durable_end
        chunks = list(self.tail.chunks)  # before the segments: what is not in it by now is sealed
        segments = list(self.segments)
        if not segments[0].base_offset <= offset <= durable_end:
            raise OffsetOutOfRange(offset, segments[0].base_offset, durable_end)
        return View(durable_end=durable_end, chunks=chunks, segments=segments)

    @contextlib.contextmanager
    def _unless_removed(self, offset: int) -> Iterator[None]:
        """OffsetOutOfRange where retention has removed a segment since the view was taken."""
        try:
            yield
        except FileNotFoundError:
            if self.start_offset <= offset:
                raise
            raise OffsetOutOfRange(offset, self.start_offset, self.durable_end) from None

    def records(self, offset: int, *, count_max: int) -> list[Record]:
        """Up to `count_max` records from `offset` on, decoded. Errors as `read`; CorruptBatch."""
        found: list[Record] = []
        while len(found) < count_max:
            batches = self.read(offset, bytes_max=READ_BYTES)
            for batch in batches:
                found += [record for record in decode_batch(batch.data) if record.offset >= offset]
                offset = max(offset, batch.last_offset + 1)
                if len(found) >= count_max:
                    break
            if not batches:
                break
        return found[:count_max]

    def scan(
        self, offset: int, wanted: Wanted, *, bytes_max: int, records_max: int | None = None
    ) -> Scan:
        """The durable records from `offset` on whose topic satisfies `wanted`, having looked
        through about `bytes_max` of stored bytes, one batch at least; and no batch more once
        `records_max` were found.

        There is no more when `next_offset` is the durable end. Where several calls ask the same,
        give them one `Selection`. Errors as `read`; CorruptBatch.
        """
        selection = wanted if isinstance(wanted, Selection) else Selection(wanted)
        found: list[Record] = []
        looked = 0
        enough = sys.maxsize if records_max is None else records_max
        while looked < bytes_max and len(found) < enough:
            view = self._view(offset)
            with self._unless_removed(offset):
                stretch = view.stretch(offset, selection, min(READ_BYTES, bytes_max - looked))
            if stretch:
                looked += max(1, stretch.looked_bytes)
                for batch in stretch.batches:
                    verify(batch.data, parse_header(batch.data))
                    found += selection.records(block_of(batch), offset)
                    if len(found) >= enough:
                        return Scan(found, batch.last_offset + 1)
                offset = max(offset, stretch.next_offset)
                continue
            for block in view.blocks(offset):
                if looked >= bytes_max or len(found) >= enough:
                    return Scan(found, offset)
                looked += len(block.records)
                found += selection.records(block, offset)
                offset = block.end_offset
            return Scan(found, max(offset, view.durable_end))
        return Scan(found, offset)

    def offset_at(self, timestamp_ms: int) -> int:
        """The first offset whose record is at or after the time; else the durable end."""
        end = self.durable_end
        for segment in list(self.segments):
            batch = segment.batch_at_time(timestamp_ms)
            if batch:
                return next(
                    r.offset for r in decode_batch(batch.data) if r.timestamp_ms >= timestamp_ms
                )
        for record in self.records(self.sealed_end, count_max=end - self.sealed_end):
            if record.timestamp_ms >= timestamp_ms:
                return record.offset
        return end

    # -- sealing

    def seal_full(self) -> bool:
        """Whether the tail is big enough to be sealed."""
        return self.tail.bytes >= self._limits.seal_bytes

    def seal_overdue(self, now_ms: int) -> bool:
        """Whether the tail's oldest record is old enough to be sealed, however few there are."""
        oldest_ms = self.tail.oldest_ms
        return oldest_ms is not None and now_ms - oldest_ms >= self._limits.seal_age_ms

    def seal_job(self, *, close_open: bool) -> SealJob | None:
        """What can be sealed now; None if nothing. `close_open`: the open chunk too, however
        small.
        """
        if close_open:
            self.tail.close_open_chunk()
            self.tail.split_round()
        chunks = self.tail.sealable()
        if not chunks:
            return None
        return SealJob(
            partition=self,
            blocks=[chunk.block() for chunk in chunks],
            end_offset=chunks[-1].durable_end,
        )

    def write_sealed(self, job: SealJob) -> Sealed:
        """Merges, compresses and appends a job's blocks, and syncs them. For a worker thread.
        OSError.
        """
        limits = self._limits
        done = self.segments[-1].end_offset  # an attempt before this one may have failed half-way
        merged = gather_blocks(
            [block for block in job.blocks if block.base_offset >= done],
            bytes_max=limits.chunk_bytes_max,
            records_max=limits.chunk_records_max,
        )
        written = fsyncs = 0
        group: list[bytes] = []
        keys: list[set[bytes]] = []
        group_bytes = 0
        for block in merged:
            batch = frame_block(block, compression_level=limits.zstd_level)
            segment = self.segments[-1]
            if not segment.has_room(
                len(batch),
                block.end_offset,
                limits.segment_bytes_max,
                waiting_bytes=group_bytes,
            ):
                if group:
                    written += self._append(group, keys)
                    fsyncs += 1
                self._roll(block.base_offset)
                group, keys, group_bytes = [], [], 0
            group.append(batch)
            known = block.topic_keys
            keys.append(block_keys(block.records) if known is None else set(known) - {b""})
            group_bytes += len(batch)
        written += self._append(group, keys)
        return Sealed(end_offset=job.end_offset, written_bytes=written, fsync_count=fsyncs + 1)

    def _append(self, batches: Sequence[bytes], keys: Sequence[set[bytes]]) -> int:
        """Appends to the last segment, and then to its topic index."""
        segment = self.segments[-1]
        position = segment.size_bytes
        written = segment.append(batches)
        for batch, topics in zip(batches, keys, strict=True):
            segment.topics.add(position, parse_header(batch), topics, self.topic_bytes_max)
            position += len(batch)
        return written

    def index_topics(self) -> bool:
        """A step towards a whole topic index; False if it is whole. For the thread that seals.
        OSError.
        """
        return self._filler.step(list(self.segments), self.topic_bytes_max)

    def sealed(self, result: Sealed) -> None:
        """The job is on disk: the tail forgets its records, readers find them in the segments."""
        self.sealed_end = result.end_offset
        self.tail.drop_sealed(result.end_offset)

    def _roll(self, base_offset: int) -> None:
        """Closes the last segment and begins one at `base_offset`; an empty one stays."""
        if self.segments[-1].base_offset == base_offset:
            return
        self.segments[-1].finish()
        segment = Segment(
            self._files,
            self._directory,
            base_offset,
            interval_bytes=self._limits.index_interval_bytes,
        )
        segment.create()
        self.segments.append(segment)

    # -- retention

    def removable(self, *, now_ms: int, replicated_to: int | None) -> list[Segment]:
        """Closed segments that may go now, oldest first; `replicated_to` is the least required
        cursor.
        """
        retention = self.spec.retention
        excess = None if retention.bytes_max is None else self.stored_bytes - retention.bytes_max
        found = []
        for segment in self.segments[:-1]:
            if (
                retention.keep_unreplicated
                and replicated_to is not None
                and segment.end_offset > replicated_to
            ):
                break
            too_much = excess is not None and excess > 0
            newest_ms = segment.newest_ms if retention.age_ms_max is not None else -1
            too_old = (
                retention.age_ms_max is not None and 0 <= newest_ms < now_ms - retention.age_ms_max
            )
            if not too_much and not too_old:
                break
            found.append(segment)
            if excess is not None:
                excess -= segment.size_bytes
        return found

    def remove(self, segments: Sequence[Segment]) -> None:
        """Readers do not find `segments` any more. Their files are then deleted, oldest first."""
        gone = set(map(id, segments))
        self.segments = [segment for segment in self.segments if id(segment) not in gone]

    def close(self) -> None:
        for segment in self.segments:
            segment.close()
