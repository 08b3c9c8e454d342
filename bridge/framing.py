"""From what the log holds to what a Produce carries: stamped as stored, or cut, merged, marked.

Never reads the log and never sends: bytes in, bytes out, in whatever thread. A sealed batch goes as
it is: its CRC is checked, its producer fields are filled in, and the rest of its bytes is not
touched.

Framed anew (about 1 µs a record) is only what has to be: the batch that a resume falls into, small
ones together, records of the tail that are not sealed yet, and what the upstream refused as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import msgspec

from bridge.errors import LogHole
from bridge.limits import BridgeLimits
from bridge.position import Identity, Outgoing, ReadPlan, Restamp, Shape, sequence_of
from log.errors import CorruptBatch
from log.limits import LogLimits
from log.rebatch import (
    Block,
    block_of,
    frame_block,
    gather_blocks,
    merge_blocks,
    stamp_producer,
)
from log.record_batch import (
    Record,
    StoredBatch,
    decode_batch,
    encode_batch,
    parse_header,
    verify,
)
from log.varint import decode_varint

RESENT_HEADER: Final = b"sluicegate.resent"
TIMESTAMP_HEADER: Final = b"sluicegate.timestamp"
_NO_SEQUENCE: Final = -1
_NO_TIMESTAMP: Final = -1


class Framer:
    """Frames one partition's batches. It remembers where in the tail's growing batch the last cut
    was, so that sending the live end of a partition does not walk over what was sent.
    """

    def __init__(
        self, *, limits: BridgeLimits, log_limits: LogLimits, live_level: int | None
    ) -> None:
        self._limits = limits
        self._log_limits = log_limits
        self._live_level = live_level
        self._last_cut = (-1, -1, 0)
        """(base offset of the batch, offset, byte place of that offset in its records)"""

    def frame(
        self, plan: ReadPlan, stored: Sequence[StoredBatch], *, wall_ms: int
    ) -> list[Outgoing]:
        """`stored`, what the log has from `plan.offset` on, ready to be sent.

        LogHole if the first record wanted is missing; CorruptBatch if the first batch is damaged.
        What is in order before such a place is given, the rest is met by the next plan.
        """
        plan = _with_a_clock_that_helps(plan, stored, wall_ms)
        out: list[Outgoing] = []
        blocks: list[Block] = []
        offset = plan.offset
        try:
            for batch in stored:
                if batch.base_offset > offset:
                    raise LogHole(offset, batch.base_offset)
                if self._goes_as_stored(batch, offset, plan.shape):
                    self._flush(blocks, plan, out)
                    out.append(_stamp(batch, plan.identity))
                elif batch.base_offset < _special_until(plan.shape):
                    self._flush(blocks, plan, out)
                    records = [r for r in decode_batch(batch.data) if r.offset >= offset]
                    out += _reworked(records, plan, wall_ms)
                else:
                    verify(batch.data, parse_header(batch.data))
                    blocks.append(self._block(batch, offset))
                offset = batch.last_offset + 1
            self._flush(blocks, plan, out)
        except (LogHole, CorruptBatch):
            self._flush(blocks, plan, out)
            if not out:
                raise
        return out

    def _goes_as_stored(self, batch: StoredBatch, offset: int, shape: Shape) -> bool:
        if batch.base_offset < offset or batch.base_offset < _special_until(shape):
            return False
        size = len(batch.data)
        if batch.compressed:
            limits = self._limits
            worth = size >= limits.merge_bytes or batch.record_count >= limits.merge_records
            return worth and size <= shape.batch_bytes_max
        return self._live_level is None and size <= shape.batch_bytes_max

    def _block(self, batch: StoredBatch, offset: int) -> Block:
        block = block_of(batch)
        if block.base_offset >= offset:
            if not batch.compressed:
                self._last_cut = (block.base_offset, block.end_offset, len(block.records))
            return block
        base, cut_offset, position = self._last_cut
        if (base, cut_offset) != (block.base_offset, offset):
            position = _position_of(block, offset)
        if not batch.compressed:
            self._last_cut = (block.base_offset, block.end_offset, len(block.records))
        behind = dataclasses.replace(block, records=block.records[position:])
        return merge_blocks([behind])

    def _flush(self, blocks: list[Block], plan: ReadPlan, out: list[Outgoing]) -> None:
        limits = self._log_limits
        gathered = gather_blocks(
            blocks, bytes_max=limits.chunk_bytes_max, records_max=limits.chunk_records_max
        )
        blocks.clear()
        for block in gathered:
            self._frame_block(block, plan, out)

    def _frame_block(self, block: Block, plan: ReadPlan, out: list[Outgoing]) -> None:
        data = frame_block(block, compression_level=self._live_level)
        if len(data) > plan.shape.batch_bytes_max and block.record_count > 1:
            middle = block.base_offset + block.record_count // 2
            self._frame_block(merge_blocks([block], last_offset=middle - 1), plan, out)
            self._frame_block(merge_blocks([block], first_offset=middle), plan, out)
            return
        out.append(_outgoing(data, block.base_offset, block.end_offset, plan.identity))


def _special_until(shape: Shape) -> int:
    return max(shape.mark_until, shape.restamp_until, shape.reframe_until)


def _with_a_clock_that_helps(
    plan: ReadPlan, stored: Sequence[StoredBatch], wall_ms: int
) -> ReadPlan:
    """Our "now" replaces only timestamps that are ahead of it: a clock that was set right since.
    Where none is, the broker takes this very clock for wrong (or the records for too old), and
    would refuse its "now" as well: they go without a timestamp.
    """
    shape = plan.shape
    refused = [each for each in stored if each.base_offset < shape.restamp_until]
    if shape.restamp is not Restamp.NOW or any(e.max_timestamp_ms > wall_ms for e in refused):
        return plan
    return dataclasses.replace(plan, shape=dataclasses.replace(shape, restamp=Restamp.NONE))


def _position_of(block: Block, offset: int) -> int:
    """The byte place of a record in a block's records; offsets in it are contiguous."""
    position, data = 0, block.records
    for _ in range(offset - block.base_offset):
        length, start = decode_varint(data, position)
        position = start + length
    return position


def _reworked(records: Sequence[Record], plan: ReadPlan, wall_ms: int) -> list[Outgoing]:
    """Records with what the shape adds to them, encoded plainly, halved until each batch fits."""
    shape = plan.shape
    data = encode_batch([_rework(record, shape, wall_ms) for record in records])
    if len(data) > shape.batch_bytes_max and len(records) > 1:
        middle = len(records) // 2
        first = _reworked(records[:middle], plan, wall_ms)
        return first + _reworked(records[middle:], plan, wall_ms)
    first_offset, end_offset = records[0].offset, records[-1].offset + 1
    marked = min(max(0, shape.mark_until - first_offset), len(records))
    return [_outgoing(data, first_offset, end_offset, plan.identity, resent_count=marked)]


def _rework(record: Record, shape: Shape, wall_ms: int) -> Record:
    headers = record.headers
    timestamp = record.timestamp_ms
    if record.offset < shape.restamp_until:
        if shape.restamp is Restamp.NONE:
            timestamp = _NO_TIMESTAMP
        elif shape.restamp is Restamp.NOW:
            timestamp = min(timestamp, wall_ms)
    if timestamp != record.timestamp_ms:
        headers += ((TIMESTAMP_HEADER, str(record.timestamp_ms).encode()),)
    if record.offset < shape.mark_until:
        headers += ((RESENT_HEADER, b"1"),)
    return msgspec.structs.replace(record, headers=headers, timestamp_ms=timestamp)


def _stamp(batch: StoredBatch, identity: Identity) -> Outgoing:
    return _outgoing(batch.data, batch.base_offset, batch.last_offset + 1, identity)


def _outgoing(
    data: bytes, first_offset: int, end_offset: int, identity: Identity, *, resent_count: int = 0
) -> Outgoing:
    """A whole batch with the producer's fields and a CRC over them; CorruptBatch if its own is
    wrong.
    """
    pieces = stamp_producer(
        data,
        producer_id=identity.producer_id,
        producer_epoch=identity.epoch,
        base_sequence=sequence_of(first_offset) if identity.is_idempotent else _NO_SEQUENCE,
    )
    return Outgoing(
        first_offset=first_offset,
        end_offset=end_offset,
        size_bytes=len(data),
        pieces=pieces,
        resent_count=resent_count,
    )
