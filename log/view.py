"""What a partition has at one moment, for readers in any thread: its segments, then its tail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from log.chunk import Chunk
from log.rebatch import Block
from log.scan import Selection
from log.segment import Segment
from log.topic_scan import Stretch, wanted_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a partition has at one moment, for a reader in any thread."""

    durable_end: int
    chunks: list[Chunk]
    segments: list[Segment]

    @property
    def tail_start(self) -> int:
        return self.chunks[0].base_offset if self.chunks else self.durable_end

    def segments_from(self, offset: int) -> list[Segment]:
        """Where to look for `offset`, if it is sealed, and what comes behind."""
        if offset >= self.tail_start:
            return []
        return [segment for segment in self.segments if offset < segment.end_offset]

    def stretch(self, offset: int, selection: Selection, bytes_max: int) -> Stretch | None:
        """The next stretch of sealed batches to look through; None at the tail."""
        for segment in self.segments_from(offset):
            found = wanted_batches(
                segment, offset, selection, bytes_max=bytes_max, end_offset=self.tail_start
            )
            if found:
                return found
        return None

    def blocks(self, offset: int) -> Iterator[Block]:
        """The tail's, from the one that holds `offset` on."""
        for chunk in self.chunks:
            if chunk.base_offset < self.durable_end and offset < min(
                chunk.durable_end, self.durable_end
            ):
                yield chunk.block(self.durable_end)
