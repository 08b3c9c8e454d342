"""A partition's tail: records that are in the journal, or about to be, and not yet in a segment.

Owns the chunks in memory. A chunk is what will be one batch: its records are encoded once, when
they are appended, with deltas from the chunk's base, and the same bytes go to the journal, to
readers and into the segment. It never touches a file.

    offsets:   sealed end <= durable end <= end
               |-- durable chunks --|-- round --|

Appending is the hot loop of the gateway (STYLE.md point 6): one call a run of messages that share
a template, local variables and one list extended in place.
"""

from __future__ import annotations

from collections.abc import Sequence

from log.chunk import Chunk
from log.errors import RecordTooLarge
from log.frame import Run
from log.limits import LogLimits
from log.rebatch import Block, merge_blocks
from log.record_batch import RecordTemplate
from log.varint import TABLE_SIZE, VARINT, varint

RECORD_OVERHEAD_BYTES = 16
"""At most: length (3), attributes (1), timestamp delta (5 for 12 days), offset delta (2), value
size (3).
"""

CHUNK_OVERHEAD_BYTES = 600
"""Memory of a chunk beside its records, measured; counted against tail_bytes_max."""


class Tail:
    """The chunks of one partition, oldest first."""

    def __init__(self, limits: LogLimits, partition_id: int, end_offset: int) -> None:
        assert limits.chunk_records_max <= TABLE_SIZE, "offset deltas are looked up in the table"
        self._limits = limits
        self._partition_id = partition_id
        self.chunks: list[Chunk] = []
        self.end_offset = end_offset
        self.durable_end = end_offset
        self.bytes = 0
        """Memory taken by durable chunks, overhead included."""
        self.round_chunks: list[Chunk] = []
        """Chunks with records in the current round."""

    def append(self, template: RecordTemplate, values: Sequence[bytes], now_ms: int) -> int:
        """Encodes `values` as consecutive records of the current round; gives the bytes they take.

        RecordTooLarge, and nothing is appended, if one of them is over record_bytes_max.
        """
        limits = self._limits
        count = len(values)
        total = sum(map(len, values)) + (template.fixed_bytes + RECORD_OVERHEAD_BYTES) * count
        if total > limits.chunk_bytes_max or count > limits.chunk_records_max:
            largest = max(map(len, values)) + template.fixed_bytes
            if largest > limits.record_bytes_max:
                raise RecordTooLarge(
                    f"a record of {largest} bytes: at most {limits.record_bytes_max} are taken"
                )
            if count > 1:
                half = count // 2
                taken = self.append(template, values[:half], now_ms)
                return taken + self.append(template, values[half:], now_ms)
        chunk = self._chunk_for(total, count, now_ms)
        if not chunk.pending_pieces:
            self.round_chunks.append(chunk)
        if now_ms != chunk.stamp_ms:
            chunk.set_stamp(now_ms)
        _encode(chunk, template, values)
        if chunk.topic_keys is not None:
            chunk.topic_keys.add(template.topic_key)
        chunk.pending_bytes += total
        self.end_offset += count
        return total

    def append_runs(
        self, runs: Sequence[tuple[RecordTemplate, Sequence[bytes]]], now_ms: int
    ) -> int:
        """As `append` for each of `runs`, in order, but fast where a run is one record.

        RecordTooLarge, with the runs before it appended.
        """
        bytes_max = self._limits.chunk_bytes_max
        records_max = self._limits.chunk_records_max
        taken = room = delta = 0
        chunk: Chunk | None = None
        extend = [b""].extend
        add_key = set[bytes]().add
        stamp = b""
        for template, values in runs:
            value = values[0]
            size = len(value)
            if size != template.value_bytes:
                template.fit(size)
            total = template.body_bytes + RECORD_OVERHEAD_BYTES
            if len(values) > 1 or total > bytes_max:
                taken += self._close_run(chunk, delta, room)
                chunk, room = None, 0
                taken += self.append(template, values, now_ms)
                continue
            if total > room or delta >= records_max:
                taken += self._close_run(chunk, delta, room)
                chunk = self._chunk_for(total, 1, now_ms)
                if not chunk.pending_pieces:
                    self.round_chunks.append(chunk)
                if now_ms != chunk.stamp_ms:
                    chunk.set_stamp(now_ms)
                delta = chunk.end_delta
                room = bytes_max - chunk.cut_bytes - chunk.pending_bytes
                extend = chunk.pending_pieces.extend
                add_key = (set() if chunk.topic_keys is None else chunk.topic_keys).add
                stamp = chunk.stamp
            add_key(template.topic_key)
            room -= total
            field = VARINT[delta]
            front = varint(template.body_bytes + len(stamp) + len(field))
            extend((front, stamp, field, template.middle, value, template.tail))
            delta += 1
        return taken + self._close_run(chunk, delta, room)

    def _close_run(self, chunk: Chunk | None, end_delta: int, room_bytes: int) -> int:
        """Books what `append_runs` has put into `chunk`; gives the bytes."""
        if chunk is None:
            return 0
        before = chunk.pending_bytes
        chunk.pending_bytes = self._limits.chunk_bytes_max - chunk.cut_bytes - room_bytes
        self.end_offset += end_delta - chunk.end_delta
        chunk.end_delta = end_delta
        return chunk.pending_bytes - before

    def close_open_chunk(self) -> None:
        """What is appended from now on goes to another chunk, so that what is there can be shipped
        whole.
        """
        if self.chunks and self.chunks[-1].end_delta:
            self.chunks[-1].closed = True

    def split_round(self) -> None:
        """Records of the current round get chunks of their own where theirs has older ones.

        A round that waits for room in the journal would otherwise keep those from being sealed, and
        with them the room.
        """
        for place, chunk in enumerate(self.round_chunks):
            if chunk.cut_delta:
                rest = chunk.split_off()
                self.chunks.insert(self.chunks.index(chunk) + 1, rest)
                self.round_chunks[place] = rest

    @property
    def round_bytes(self) -> int:
        """Upper bound of what the current round's records take."""
        return sum(chunk.pending_bytes for chunk in self.round_chunks)

    def cut(self) -> list[Run]:
        """The current round's records as journal runs; their chunks keep their places."""
        runs = [chunk.cut_run(self._partition_id) for chunk in self.round_chunks]
        self.round_chunks = []
        return runs

    def place(self, run: Run, sequence: int) -> Chunk:
        """Takes back a run: one just made durable by frame `sequence`, or one that recovery read.

        Runs come in the order of their offsets. Gives the chunk that holds it now.
        """
        chunk = self._chunk_of(run)
        if not chunk.first_sequence:
            chunk.first_sequence = sequence
            self.bytes += CHUNK_OVERHEAD_BYTES
        chunk.add_durable(run)
        self.bytes += len(run.records)
        self.durable_end = chunk.durable_end
        chunk.join_runs()
        return chunk

    def restore(self, run: Run, sequence: int) -> None:
        """As `place`, for a run read back from the journal: its chunk may not be there yet."""
        last = self.chunks[-1] if self.chunks else None
        if (
            last is None
            or last.base_offset != run.chunk_base_offset
            or last.end_delta != run.first_delta
        ):
            if run.first_delta:
                run = _rebased(run)
            if last:
                last.closed = True
            self._add_chunk(run.chunk_base_offset, run.chunk_base_timestamp_ms).topic_keys = None
        chunk = self.place(run, sequence)
        chunk.end_delta = chunk.cut_delta = chunk.durable_count
        chunk.cut_bytes = chunk.durable_bytes
        self.end_offset = chunk.durable_end

    def skip_to(self, offset: int) -> None:
        """Offsets below `offset` that the tail does not hold are lost and are not given again."""
        if self.chunks:
            self.chunks[-1].closed = True
        self.end_offset = self.durable_end = offset

    def sealable(self) -> list[Chunk]:
        """The longest prefix of complete chunks."""
        for index, chunk in enumerate(self.chunks):
            if not chunk.complete:
                return self.chunks[:index]
        return list(self.chunks)

    def drop_sealed(self, end_offset: int) -> None:
        """Forgets the chunks below `end_offset`: they are in a synced segment."""
        while self.chunks and self.chunks[0].complete and self.chunks[0].durable_end <= end_offset:
            chunk = self.chunks.pop(0)
            self.bytes -= chunk.durable_bytes + CHUNK_OVERHEAD_BYTES

    @property
    def first_sequence(self) -> int | None:
        """The oldest journal frame that the tail still needs; None if it needs none."""
        return next((chunk.first_sequence for chunk in self.chunks if chunk.first_sequence), None)

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest record in the tail was appended, by the gateway's clock."""
        return self.chunks[0].base_timestamp_ms if self.chunks else None

    def _chunk_for(self, size_bytes: int, count: int, now_ms: int) -> Chunk:
        limits = self._limits
        if self.chunks:
            chunk = self.chunks[-1]
            bytes_after = chunk.cut_bytes + chunk.pending_bytes + size_bytes
            if (
                not chunk.closed
                and bytes_after <= limits.chunk_bytes_max
                and chunk.end_delta + count <= limits.chunk_records_max
            ):
                return chunk
            chunk.closed = True
        return self._add_chunk(self.end_offset, now_ms)

    def _add_chunk(self, base_offset: int, base_timestamp_ms: int) -> Chunk:
        chunk = Chunk(base_offset, base_timestamp_ms)
        self.chunks.append(chunk)
        return chunk

    def _chunk_of(self, run: Run) -> Chunk:
        for chunk in reversed(self.chunks):
            if chunk.base_offset == run.chunk_base_offset:
                return chunk
        raise AssertionError(f"no chunk at {run.chunk_base_offset} for a run of this tail")


def _rebased(run: Run) -> Run:
    """A run whose chunk has lost its beginning, as the beginning of another chunk."""
    block = Block(
        base_offset=run.chunk_base_offset,
        base_timestamp_ms=run.chunk_base_timestamp_ms,
        max_timestamp_ms=run.max_timestamp_ms,
        record_count=run.record_count,
        records=run.records,
    )
    moved = merge_blocks([block])
    return Run(
        partition_id=run.partition_id,
        chunk_base_offset=moved.base_offset,
        chunk_base_timestamp_ms=moved.base_timestamp_ms,
        max_timestamp_ms=moved.max_timestamp_ms,
        first_delta=0,
        record_count=moved.record_count,
        records=moved.records,
    )


def _encode(chunk: Chunk, template: RecordTemplate, values: Sequence[bytes]) -> None:
    """The hot loop: 0.17 µs a record. Pieces that depend on sizes alone are made again only when a
    size changes, or when the offset delta takes a byte more.
    """
    extend = chunk.pending_pieces.extend
    head, tail, stamp = template.head, template.tail, chunk.stamp
    fixed = template.fixed_bytes + len(stamp)
    delta = chunk.end_delta
    last_size = -1
    for value in values:
        size = len(value)
        if size != last_size or delta == 64:
            last_size = size
            size_field = varint(size)
            body = fixed + len(VARINT[delta]) + len(size_field) + size
            front = varint(body) + stamp
            middle = head + size_field
        extend((front, VARINT[delta], middle, value, tail))
        delta += 1
    chunk.end_delta = delta
