"""A tail's chunks: what is encoded once is what readers, the journal and the segment get."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log.chunk import Chunk
from log.errors import RecordTooLarge
from log.frame import Run
from log.limits import LogLimits
from log.rebatch import frame_block
from log.record_batch import Record, RecordTemplate, decode_batch
from log.tail import CHUNK_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, Tail
from tests.log.strategies import NOW_MS, searched

LIMITS = LogLimits(chunk_bytes_max=2000, chunk_records_max=100, record_bytes_max=3000)
TEMPLATE = RecordTemplate(b"key", ((b"mqtt.topic", b"a/b"),))


def tail(end_offset: int = 0) -> Tail:
    return Tail(LIMITS, 7, end_offset)


def commit(tail: Tail, sequence: int = 1) -> list[Run]:
    runs = tail.cut()
    for run in runs:
        tail.place(run, sequence)
    return runs


def records(chunks: list[Chunk]) -> list[Record]:
    return [
        record
        for chunk in chunks
        for record in decode_batch(frame_block(chunk.block(), compression_level=None))
    ]


def test_records_are_encoded_with_consecutive_offsets_and_their_own_times() -> None:
    t = tail(500)
    t.append(TEMPLATE, [b"1", b"22"], NOW_MS)
    t.append(RecordTemplate(None), [b""], NOW_MS - 5)
    t.append(TEMPLATE, [b"3"], NOW_MS + 9)
    assert (t.end_offset, t.durable_end) == (504, 500)
    commit(t)
    assert t.durable_end == 504
    assert [(r.offset, r.timestamp_ms, r.key, r.value) for r in records(t.chunks)] == [
        (500, NOW_MS, b"key", b"1"),
        (501, NOW_MS, b"key", b"22"),
        (502, NOW_MS - 5, None, b""),
        (503, NOW_MS + 9, b"key", b"3"),
    ]


@searched
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 80), min_size=1, max_size=90),
            st.integers(-(2**41), 2**33),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_what_a_round_says_it_takes_is_never_less_than_what_it_takes(
    appends: list[tuple[list[int], int, bool]],
) -> None:
    t = tail()
    rng = random.Random(1)
    bound = 0
    values = []
    for sizes, shift_ms, cut in appends:
        new = [rng.randbytes(size) for size in sizes]
        values += new
        bound += t.append(TEMPLATE, new, NOW_MS + shift_ms)
        assert bound == t.round_bytes
        if cut:
            assert sum(len(run.records) for run in commit(t)) <= bound
            bound = 0
    commit(t)
    assert [r.value for r in records(t.chunks)] == values
    for chunk in t.chunks:
        assert chunk.durable_bytes <= LIMITS.chunk_bytes_max
        assert chunk.end_delta <= LIMITS.chunk_records_max


def test_offset_deltas_grow_by_a_byte_at_64() -> None:
    t = tail()
    t.append(TEMPLATE, [b"x"] * 63, NOW_MS)
    t.append(TEMPLATE, [b"x"] * 3, NOW_MS)
    t.append(TEMPLATE, [b"x"] * 2, NOW_MS)
    commit(t)
    assert [r.offset for r in records(t.chunks)] == list(range(68))


def test_a_chunk_is_closed_at_its_bounds() -> None:
    t = tail()
    t.append(TEMPLATE, [b"x" * 10] * 250, NOW_MS)
    commit(t)
    assert len(t.chunks) > 2
    assert [r.offset for r in records(t.chunks)] == list(range(250))
    assert t.sealable() == t.chunks[:-1]


def test_a_record_over_the_bound_is_refused_and_nothing_of_the_call_is_taken() -> None:
    t = tail()
    with pytest.raises(RecordTooLarge, match="at most 3000"):
        t.append(TEMPLATE, [b"x", b"y" * 3000], NOW_MS)
    assert (t.end_offset, t.round_chunks, t.round_bytes) == (0, [], 0)


def test_a_record_bigger_than_a_chunk_gets_a_chunk_of_its_own() -> None:
    t = tail()
    t.append(TEMPLATE, [b"a", b"x" * 2500, b"b"], NOW_MS)
    commit(t)
    assert [r.value for r in records(t.chunks)] == [b"a", b"x" * 2500, b"b"]
    assert [chunk.durable_count for chunk in t.chunks] == [1, 1, 1]


def test_only_whole_durable_chunks_are_sealable() -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"], NOW_MS)
    first = t.cut()
    t.close_open_chunk()
    t.append(TEMPLATE, [b"2"], NOW_MS)
    assert t.sealable() == []
    t.place(first[0], 1)
    assert [chunk.base_offset for chunk in t.sealable()] == [0]
    commit(t, 2)
    assert [chunk.base_offset for chunk in t.sealable()] == [0]


def test_memory_is_counted_when_it_becomes_durable_and_released_when_it_is_sealed() -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"], NOW_MS)
    assert t.bytes == 0
    (run,) = commit(t)
    assert t.bytes == len(run.records) + CHUNK_OVERHEAD_BYTES
    t.close_open_chunk()
    t.append(TEMPLATE, [b"2"], NOW_MS)
    t.drop_sealed(1)
    assert t.bytes == 0


def test_a_tail_needs_no_frame_before_something_is_durable() -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"], NOW_MS)
    assert t.first_sequence is None


def test_the_oldest_frame_that_is_needed_is_that_of_the_first_chunk() -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"], NOW_MS)
    commit(t, 5)
    t.append(TEMPLATE, [b"2"], NOW_MS)
    commit(t, 6)
    assert t.first_sequence == 5
    t.close_open_chunk()
    t.append(TEMPLATE, [b"3"], NOW_MS)
    commit(t, 7)
    t.drop_sealed(2)
    assert t.first_sequence == 7


def test_a_round_that_waits_is_split_from_older_records_of_its_chunk() -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"] * 30, NOW_MS)
    commit(t, 1)
    t.append(TEMPLATE, [b"22"], NOW_MS + 3)
    t.append(TEMPLATE, [b"3"], NOW_MS - 4)
    bound = t.round_bytes
    t.close_open_chunk()
    assert t.sealable() == []
    t.split_round()
    assert [chunk.base_offset for chunk in t.sealable()] == [0]
    assert t.round_bytes == bound
    t.drop_sealed(30)
    t.append(TEMPLATE, [b"4"], NOW_MS)
    commit(t, 2)
    assert [(r.offset, r.timestamp_ms, r.value) for r in records(t.chunks)] == [
        (30, NOW_MS + 3, b"22"),
        (31, NOW_MS - 4, b"3"),
        (32, NOW_MS, b"4"),
    ]
    assert t.first_sequence == 2


def test_runs_are_restored_to_what_they_were() -> None:
    t = tail()
    runs: list[Run] = []
    for value in (b"1", b"2" * 1500, b"3" * 1500, b"4"):
        t.append(TEMPLATE, [value], NOW_MS)
        runs += commit(t, 1)
    again = tail()
    for sequence, run in enumerate(runs, 1):
        again.restore(run, sequence)
    assert records(again.chunks) == records(t.chunks)
    assert again.bytes == t.bytes
    assert again.end_offset == again.durable_end == 4
    again.append(TEMPLATE, [b"5"], NOW_MS + 1)
    commit(again, 9)
    assert [r.value for r in records(again.chunks)][3:] == [b"4", b"5"]


def test_a_run_whose_chunk_lost_its_beginning_begins_another() -> None:
    t = tail()
    runs: list[Run] = []
    for value in (b"1", b"2", b"3"):
        t.append(TEMPLATE, [value], NOW_MS + len(runs))
        runs += commit(t, 1)
    again = tail(1)
    again.restore(runs[1], 4)
    again.restore(runs[2], 5)
    assert [(r.offset, r.timestamp_ms, r.value) for r in records(again.chunks)] == [
        (1, NOW_MS + 1, b"2"),
        (2, NOW_MS + 2, b"3"),
    ]
    assert again.first_sequence == 4


def test_offsets_that_were_skipped_are_not_given_again() -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"], NOW_MS)
    commit(t)
    t.skip_to(100)
    assert (t.end_offset, t.durable_end) == (100, 100)
    t.append(TEMPLATE, [b"2"], NOW_MS)
    commit(t)
    assert [r.offset for r in records(t.chunks)] == [0, 100]


@pytest.mark.parametrize("shift_ms", [2**41, -(2**41), 2**30, 0])
def test_the_overhead_bound_holds_for_a_clock_that_was_never_set(shift_ms: int) -> None:
    t = tail()
    t.append(TEMPLATE, [b"1"], NOW_MS)
    commit(t)
    t.append(TEMPLATE, [b"x" * 100], NOW_MS + shift_ms)
    (run,) = commit(t)
    assert len(run.records) <= 100 + TEMPLATE.fixed_bytes + RECORD_OVERHEAD_BYTES
