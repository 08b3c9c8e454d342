"""Cutting and merging keep key, value, headers, offset and timestamp of every record."""

from __future__ import annotations

import itertools

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from log.errors import CorruptBatch
from log.rebatch import (
    block_of,
    frame_block,
    gather_blocks,
    merge_blocks,
    rebatch,
    stamp_producer,
)
from log.record_batch import (
    HEADER_BYTES,
    Record,
    StoredBatch,
    decode_batch,
    encode_batch,
    parse_header,
    stored_batch,
)
from tests.log.strategies import levels, records, searched


@st.composite
def cut_into_batches(draw: st.DrawFn) -> tuple[list[Record], list[StoredBatch]]:
    """Records, and the same records in batches that follow each other."""
    found = draw(records(max_size=20))
    cuts = sorted(draw(st.sets(st.integers(1, len(found)), max_size=4)) | {0, len(found)})
    batches = [
        stored_batch(encode_batch(found[first:end], compression_level=draw(levels)))
        for first, end in itertools.pairwise(cuts)
        if first < end
    ]
    return found, batches


@searched
@given(cut_into_batches(), levels, st.data())
def test_a_range_of_batches_is_one_batch_with_the_same_records(
    given_batches: tuple[list[Record], list[StoredBatch]], level: int | None, data: st.DataObject
) -> None:
    found, batches = given_batches
    first = data.draw(st.integers(0, len(found) - 1))
    last = data.draw(st.integers(first, len(found) - 1))
    merged = rebatch(
        batches,
        first_offset=found[first].offset,
        last_offset=found[last].offset,
        compression_level=level,
    )
    assert decode_batch(merged.data) == found[first : last + 1]
    assert merged.base_offset == found[first].offset
    assert merged.last_offset == found[last].offset
    assert merged.record_count == last - first + 1
    assert merged.base_timestamp_ms == found[first].timestamp_ms
    assert merged.max_timestamp_ms == max(r.timestamp_ms for r in found[first : last + 1])


@searched
@given(cut_into_batches())
def test_without_a_last_offset_all_of_the_rest_is_taken(
    given_batches: tuple[list[Record], list[StoredBatch]],
) -> None:
    found, batches = given_batches
    merged = rebatch(batches, first_offset=found[-1].offset, compression_level=None)
    assert decode_batch(merged.data) == found[-1:]


def test_a_clock_that_was_set_back_gives_negative_deltas_that_survive() -> None:
    found = [
        Record(offset=offset, timestamp_ms=stamp, key=None, value=b"v")
        for offset, stamp in enumerate((5_000, 4_000, 3_000, 9_000))
    ]
    batch = stored_batch(encode_batch(found))
    merged = rebatch([batch], first_offset=1, last_offset=2, compression_level=None)
    assert decode_batch(merged.data) == found[1:3]
    assert merged.base_timestamp_ms == merged.max_timestamp_ms == 4_000


def test_no_record_in_the_range_is_an_error() -> None:
    batch = stored_batch(encode_batch([Record(offset=5, timestamp_ms=0, key=None, value=b"")]))
    with pytest.raises(CorruptBatch, match="no record between 6 and 9"):
        rebatch([batch], first_offset=6, last_offset=9)


@searched
@given(cut_into_batches(), st.integers(1, 800), st.integers(1, 20))
def test_gathered_blocks_hold_the_same_records_within_the_bounds(
    given_batches: tuple[list[Record], list[StoredBatch]], bytes_max: int, records_max: int
) -> None:
    found, batches = given_batches
    blocks = [block_of(batch) for batch in batches]
    gathered = gather_blocks(blocks, bytes_max=bytes_max, records_max=records_max)
    assert [
        record
        for block in gathered
        for record in decode_batch(frame_block(block, compression_level=None))
    ] == found
    largest = max(len(block.records) for block in blocks)
    assert len(gathered) <= len(blocks)
    for block in gathered:
        # Deltas from another base may take a few bytes more or less.
        assert len(block.records) <= max(bytes_max, largest) + 10 * block.record_count
        assert block.record_count <= max(records_max, max(b.record_count for b in blocks))


def test_blocks_with_offsets_missing_between_them_are_not_merged() -> None:
    blocks = [
        block_of(
            stored_batch(encode_batch([Record(offset=n, timestamp_ms=0, key=None, value=b"")]))
        )
        for n in (1, 2, 4)
    ]
    gathered = gather_blocks(blocks, bytes_max=1000, records_max=1000)
    assert [(block.base_offset, block.record_count) for block in gathered] == [(1, 2), (4, 1)]


def test_merging_one_block_changes_nothing_but_its_base() -> None:
    found = [Record(offset=7, timestamp_ms=9, key=b"k", value=b"v", headers=((b"a", b"b"),))]
    block = block_of(stored_batch(encode_batch(found)))
    assert merge_blocks([block]) == block


@searched
@given(
    records(),
    st.integers(0, 2**40),
    st.integers(0, 2**15 - 1),
    st.integers(0, 2**31 - 1),
)
def test_a_stamped_batch_is_a_producers(
    found: list[Record], producer_id: int, epoch: int, sequence: int
) -> None:
    data = encode_batch(found, compression_level=3)
    pieces = stamp_producer(
        data, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence
    )
    stamped = b"".join(pieces)
    header = parse_header(stamped)
    assert header.base_offset == 0
    assert (header.producer_id, header.producer_epoch) == (producer_id, epoch)
    assert header.base_sequence == sequence
    assert stamped[HEADER_BYTES:] == data[HEADER_BYTES:]
    assert [(r.timestamp_ms, r.key, r.value, r.headers) for r in decode_batch(stamped)] == [
        (r.timestamp_ms, r.key, r.value, r.headers) for r in found
    ]
    batch = DefaultRecordBatch(stamped)
    assert batch.validate_crc()
    assert batch.producer_id == producer_id
