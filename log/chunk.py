"""A chunk: records in memory that will be one batch, and how far they are on their way to the disk.

Owns the encoded records. tail.py decides which chunk a record goes to and when one is closed.
"""

from __future__ import annotations

from collections.abc import Sequence

from log.frame import Run
from log.rebatch import Block, merge_blocks
from log.varint import varint


class Chunk:
    """Records that will be one batch.

    Of `end_delta` records appended the first `cut_delta` have been put into a frame, and the first
    `durable_count` of those are synced.
    """

    __slots__ = (
        "base_offset",
        "base_timestamp_ms",
        "closed",
        "cut_bytes",
        "cut_delta",
        "durable_bytes",
        "durable_count",
        "durable_runs",
        "end_delta",
        "first_sequence",
        "max_timestamp_ms",
        "pending_bytes",
        "pending_pieces",
        "stamp",
        "stamp_ms",
        "topic_keys",
    )

    def __init__(self, base_offset: int, base_timestamp_ms: int) -> None:
        self.base_offset = base_offset
        self.base_timestamp_ms = base_timestamp_ms
        self.max_timestamp_ms = base_timestamp_ms
        self.stamp_ms = base_timestamp_ms
        self.stamp = b"\0\0"
        self.end_delta = 0
        self.cut_delta = 0
        self.cut_bytes = 0
        self.pending_pieces: list[bytes] = []
        self.pending_bytes = 0
        self.durable_runs: list[tuple[bytes, int, int]] = []
        """Records, count and newest timestamp of each durable run. Readers in other threads take a
        copy of the list, so it only ever grows or is replaced.
        """
        self.durable_bytes = 0
        self.durable_count = 0
        self.first_sequence = 0
        """Of the first journal frame that holds records of this chunk; 0 before there is one."""
        self.closed = False
        self.topic_keys: set[bytes] | None = set()
        """Of all its records (`RecordTemplate.topic_key`); None of those that recovery read."""

    @property
    def durable_end(self) -> int:
        return self.base_offset + self.durable_count

    @property
    def complete(self) -> bool:
        """Nothing will be added, and all of it is durable."""
        return self.closed and self.durable_count == self.end_delta

    def set_stamp(self, now_ms: int) -> None:
        """Records encoded from now on carry `now_ms`: attributes byte and timestamp delta."""
        self.stamp_ms = now_ms
        self.stamp = b"\0" + varint(now_ms - self.base_timestamp_ms)
        self.max_timestamp_ms = max(self.max_timestamp_ms, now_ms)

    def cut_run(self, partition_id: int) -> Run:
        """The records of the current round."""
        records = b"".join(self.pending_pieces)
        run = Run(
            partition_id=partition_id,
            chunk_base_offset=self.base_offset,
            chunk_base_timestamp_ms=self.base_timestamp_ms,
            max_timestamp_ms=self.max_timestamp_ms,
            first_delta=self.cut_delta,
            record_count=self.end_delta - self.cut_delta,
            records=records,
        )
        self.cut_delta = self.end_delta
        self.pending_pieces = []
        self.pending_bytes = 0
        self.cut_bytes += len(records)
        return run

    def split_off(self) -> Chunk:
        """Another chunk, with the records of the current round; this one is closed without them."""
        moved = merge_blocks(
            [
                Block(
                    base_offset=self.base_offset,
                    base_timestamp_ms=self.base_timestamp_ms,
                    max_timestamp_ms=self.max_timestamp_ms,
                    record_count=self.end_delta - self.cut_delta,
                    records=b"".join(self.pending_pieces),
                )
            ]
        )
        rest = Chunk(moved.base_offset, moved.base_timestamp_ms)
        rest.max_timestamp_ms = moved.max_timestamp_ms
        rest.end_delta = moved.record_count
        rest.pending_pieces, rest.pending_bytes = [moved.records], self.pending_bytes
        rest.closed = self.closed
        rest.topic_keys = None if self.topic_keys is None else set(self.topic_keys)
        self.end_delta = self.cut_delta
        self.pending_pieces, self.pending_bytes = [], 0
        self.closed = True
        return rest

    def add_durable(self, run: Run) -> None:
        """A frame with this run was synced."""
        self.durable_runs.append((run.records, run.record_count, run.max_timestamp_ms))
        self.durable_bytes += len(run.records)
        self.durable_count += run.record_count

    def join_runs(self) -> None:
        """Once it is complete, and readers may see all of it: one piece of memory."""
        if self.complete and len(self.durable_runs) > 1:
            self.durable_runs = [_joined(self.durable_runs)]

    def block(self, end_offset: int | None = None) -> Block:
        """The durable records, of which there is at least one. Any thread may ask.

        Of runs that are just becoming durable only those that begin below `end_offset`: a reader in
        another thread must not be ahead of the durable end that everybody is told.
        """
        runs = list(self.durable_runs)
        if end_offset is not None:
            at = self.base_offset
            for index, run in enumerate(runs):
                if at >= end_offset:
                    runs = runs[:index]
                    break
                at += run[1]
        records, count, newest_ms = _joined(runs)
        return Block(
            base_offset=self.base_offset,
            base_timestamp_ms=self.base_timestamp_ms,
            max_timestamp_ms=newest_ms,
            record_count=count,
            records=records,
            topic_keys=self.topic_keys,
        )


def _joined(runs: Sequence[tuple[bytes, int, int]]) -> tuple[bytes, int, int]:
    if len(runs) == 1:
        return runs[0]
    records = b"".join([run[0] for run in runs])
    return records, sum(run[1] for run in runs), max(run[2] for run in runs)
