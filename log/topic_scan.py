"""From a segment only the batches that may hold a wanted topic: what the topic index is for.

A chapter of the index is opened once for a selection, which keeps the places of the batches to
read; names and bit sets are forgotten at once. Where no chapter speaks of an offset, or what it
says cannot be believed, all batches are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from log.errors import CorruptBatch, CorruptIndex
from log.rebatch import block_of
from log.record_batch import StoredBatch, parse_header, verify
from log.scan import Plan, Selection, block_keys
from log.segment import Segment
from log.topic_index import (
    ChapterHead,
    Contents,
    OpenChapter,
    TopicIndex,
    wanted_bits,
)

CHAPTER_TOPIC_BYTES = 32
"""Opening a chapter counts as reading so many bytes for each of its topics: it takes as long."""

STEP_BYTES = 512 * 1024
"""What the filler reads in one step: some 10 ms of work beside the loop."""


class Stretch(NamedTuple):
    """Batches that may hold something wanted; none is between them and `next_offset`."""

    batches: Sequence[StoredBatch]
    next_offset: int
    looked_bytes: int


def wanted_batches(
    segment: Segment, offset: int, selection: Selection, *, bytes_max: int, end_offset: int
) -> Stretch | None:
    """The next stretch of `segment` from `offset` on, below `end_offset`; None if nothing is there.
    Errors as `Segment.read`.
    """
    opened_bytes = 0
    found = _chapter_at(segment, offset)
    if found:
        plan, opened_bytes = _plan(segment, found, selection)
        if plan:
            return _planned(segment, plan, offset, bytes_max, end_offset, opened_bytes)
    batches = segment.read(offset, bytes_max=bytes_max, end_offset=end_offset)
    if not batches:
        return None
    looked = sum(len(batch.data) for batch in batches)
    return Stretch(batches, batches[-1].last_offset + 1, looked + opened_bytes)


def _planned(
    segment: Segment, plan: Plan, offset: int, bytes_max: int, end_offset: int, opened_bytes: int
) -> Stretch:
    first = last = bisect_right(plan.ends, offset)
    size = 0
    while last < len(plan.ends) and (last == first or size + plan.sizes[last] <= bytes_max):
        size += plan.sizes[last]
        last += 1
    batches: list[StoredBatch] = []
    place = first
    while place < last:
        start = plan.positions[place]
        end = start + plan.sizes[place]
        while (place := place + 1) < last and plan.positions[place] == end:
            end += plan.sizes[place]
        batches += segment.batches_from(start, end)
    batches = [batch for batch in batches if batch.base_offset < end_offset]
    next_offset = plan.ends[last - 1] if last < len(plan.ends) else plan.end_offset
    return Stretch(batches, min(next_offset, end_offset), size + opened_bytes)


def _chapter_at(segment: Segment, offset: int) -> ChapterHead | OpenChapter | None:
    chapter = segment.topics.open
    if chapter and chapter.base_offset <= offset < chapter.end_offset:
        return chapter
    try:
        heads = segment.topics.heads()
    except OSError:
        return None
    for head in heads:
        if head.base_offset <= offset < head.end_offset:
            return head if head.payload_bytes else None
    return None


def _plan(
    segment: Segment, chapter: ChapterHead | OpenChapter, selection: Selection
) -> tuple[Plan | None, int]:
    """Where the wanted batches are, and what finding that out counts for; None if the chapter is
    not to be believed.
    """
    name = (segment.topics, chapter.position, chapter.batch_count)
    plan = selection.plan(name)
    if plan:
        return plan, 0
    if isinstance(chapter, OpenChapter):
        contents = chapter.contents()
    else:
        try:
            _check_last(segment, chapter)
            contents = segment.topics.load(chapter)
        except (CorruptIndex, CorruptBatch, OSError):
            segment.topics.distrust()
            return None, 0
    plan = _plan_of(contents, selection)
    selection.keep(name, plan)
    return plan, CHAPTER_TOPIC_BYTES * len(contents.keys)


def _check_last(segment: Segment, chapter: ChapterHead) -> None:
    """CorruptIndex or CorruptBatch where its last batch is not the one of this log."""
    start = chapter.end_position - chapter.last_size_bytes
    if start < 0 or chapter.end_position > segment.size_bytes:
        raise CorruptIndex("beyond the log")
    for batch in segment.batches_from(start, chapter.end_position):
        header = parse_header(batch.data)
        found = header.size_bytes, header.crc, header.last_offset + 1
        if found != (chapter.last_size_bytes, chapter.last_crc, chapter.end_offset):
            raise CorruptIndex("the log went on otherwise")


def _plan_of(contents: Contents, selection: Selection) -> Plan:
    wanted = wanted_bits(selection.answers(contents.keys))
    plan = Plan([], [], [], contents.end_offset)
    position = contents.position
    for size, end, topics in zip(contents.sizes, contents.ends, contents.topics, strict=True):
        if topics & wanted:
            plan.positions.append(position)
            plan.sizes.append(size)
            plan.ends.append(contents.base_offset + end)
        position += size
    return plan


class Filler:
    """Builds what is missing of a partition's index, some batches at a time, in the thread that
    writes segments: of logs that are older than the index, of what a kill took, of damage.
    """

    def __init__(self) -> None:
        self._chapter: OpenChapter | None = None
        self._topics: TopicIndex | None = None

    def step(self, segments: Sequence[Segment], bytes_max: int) -> bool:
        """Reads on in the newest gap; False if there is none. `bytes_max`: of memory, for topics.
        OSError.
        """
        for segment in reversed(segments):
            topics = segment.topics
            if topics.incomplete:
                gap = topics.gap(segment.size_bytes)
                if gap:
                    self._fill(segment, gap, bytes_max)
                    return True
                topics.incomplete = False  # and what is appended from now on is added at once
        return False

    def _fill(self, segment: Segment, gap: tuple[int, int], bytes_max: int) -> None:
        start, end = gap
        topics, chapter = segment.topics, self._chapter
        if chapter is None or self._topics is not topics or chapter.position != start:
            chapter = None
        at = chapter.end_position if chapter else start
        try:
            for batch in segment.batches_from(at, min(end, at + STEP_BYTES)):
                header = parse_header(batch.data)
                verify(batch.data, header)
                chapter = chapter or OpenChapter(at, header.base_offset)
                chapter.add(header, block_keys(block_of(batch).records))
                at += header.size_bytes
                if chapter.full(bytes_max):
                    break
        except CorruptBatch:
            topics.incomplete = False  # nothing can be said of it: its batches are read
            end = at
        self._chapter, self._topics = chapter, topics
        if chapter and chapter.batch_count and (at >= end or chapter.full(bytes_max)):
            self._chapter = None
            topics.append(chapter)
