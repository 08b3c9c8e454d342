"""What is put into a Produce: whatever way it was cut, the records are those of the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import google_crc32c
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import LogHole
from bridge.framing import RESENT_HEADER, TIMESTAMP_HEADER, Framer
from bridge.limits import BridgeLimits
from bridge.position import SEQUENCES, Identity, Outgoing, ReadPlan, Restamp, Shape
from log import (
    CorruptBatch,
    LogLimits,
    Record,
    StoredBatch,
    decode_batch,
    encode_batch,
    parse_header,
)
from log.record_batch import stored_batch

_IDENTITY = Identity(producer_id=4711, epoch=3)
_NOW_MS = 1_800_000_000_000


def _records(first: int, count: int, *, size: int = 20) -> list[Record]:
    return [
        Record(
            offset=offset,
            timestamp_ms=_NOW_MS + offset,
            key=b"k%d" % (offset % 3),
            value=b"%d" % offset + bytes(size),
            headers=((b"mqtt.topic", b"a/b"),),
        )
        for offset in range(first, first + count)
    ]


def _stored(first: int, count: int, *, level: int | None = 3, size: int = 20) -> StoredBatch:
    return stored_batch(encode_batch(_records(first, count, size=size), compression_level=level))


def _plan(offset: int, **shape: object) -> ReadPlan:
    settings: dict[str, object] = {"batch_bytes_max": 1_000_000, **shape}
    return ReadPlan(
        number=1,
        offset=offset,
        bytes_max=1 << 20,
        is_live=False,
        identity=_IDENTITY,
        shape=Shape(**settings),  # type: ignore[arg-type]
    )


def _framer(*, live_level: int | None = 1, **limits: int) -> Framer:
    return Framer(limits=BridgeLimits(**limits), log_limits=LogLimits(), live_level=live_level)


def _sent(out: Sequence[Outgoing]) -> list[Record]:
    """The records as Kafka would give them, with the offsets that their batches stand for."""
    records: list[Record] = []
    for batch in out:
        data = b"".join(batch.pieces)
        header = parse_header(data)
        assert len(data) == batch.size_bytes
        assert (header.base_offset, header.producer_id, header.producer_epoch) == (0, 4711, 3)
        assert header.base_sequence == batch.first_offset % SEQUENCES
        assert header.crc == google_crc32c.value(data[21:])
        assert header.last_offset_delta + 1 == header.record_count
        assert header.record_count == batch.end_offset - batch.first_offset
        for number, record in enumerate(decode_batch(data)):
            assert record.offset == number
            records.append(msgspec.structs.replace(record, offset=batch.first_offset + number))
    return records


def test_a_big_sealed_batch_shares_its_bytes_from_the_record_count_on() -> None:
    batch = _stored(100, 300)
    (out,) = _framer().frame(_plan(100), [batch], wall_ms=_NOW_MS)
    data = b"".join(out.pieces)
    assert data[21:43] == batch.data[21:43]
    assert data[57:] == batch.data[57:]
    assert _sent([out]) == _records(100, 300)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    skip=st.integers(0, 250),
    level=st.sampled_from([None, 3]),
    live_level=st.sampled_from([None, 1]),
    batch_bytes_max=st.sampled_from([300, 3000, 1_000_000]),
)
def test_records_are_those_of_the_log_however_they_are_cut(
    counts: list[int], skip: int, level: int | None, live_level: int | None, batch_bytes_max: int
) -> None:
    batches, first = [], 50
    for count in counts:
        batches.append(_stored(first, count, level=level))
        first += count
    offset = 50 + min(skip, counts[0] - 1)
    plan = _plan(offset, batch_bytes_max=batch_bytes_max)
    out = _framer(live_level=live_level).frame(plan, batches, wall_ms=_NOW_MS)
    assert _sent(out) == _records(offset, first - offset)
    assert all(
        each.size_bytes <= batch_bytes_max
        for each in out
        if each.end_offset - each.first_offset > 1
    )


def test_small_sealed_batches_go_together() -> None:
    batches = [_stored(n * 10, 10) for n in range(50)]
    out = _framer().frame(_plan(0), batches, wall_ms=_NOW_MS)
    assert len(out) == 1
    assert _sent(out) == _records(0, 500)


def test_the_growing_end_of_the_tail_is_cut_where_the_last_cut_ended() -> None:
    framer = _framer()
    seen: list[Record] = []
    for end in (3, 10, 11, 200):
        growing = _stored(0, end, level=None)
        seen += _sent(framer.frame(_plan(len(seen)), [growing], wall_ms=_NOW_MS))
    assert seen == _records(0, 200)


def test_sequences_begin_again_after_2_to_31() -> None:
    near = SEQUENCES - 5
    (out,) = _framer().frame(_plan(near), [_stored(near, 300)], wall_ms=_NOW_MS)
    assert parse_header(b"".join(out.pieces)).base_sequence == near
    (out,) = _framer().frame(_plan(near + 10), [_stored(near + 10, 300)], wall_ms=_NOW_MS)
    assert parse_header(b"".join(out.pieces)).base_sequence == 5


def test_records_that_may_be_upstream_are_marked_and_no_others() -> None:
    out = _framer().frame(_plan(100, mark_until=150), [_stored(100, 300)], wall_ms=_NOW_MS)
    marked = [each.offset for each in _sent(out) if (RESENT_HEADER, b"1") in each.headers]
    assert marked == list(range(100, 150))
    assert sum(each.resent_count for each in out) == 50


@pytest.mark.parametrize(("restamp", "expected_ms"), [(Restamp.NOW, _NOW_MS), (Restamp.NONE, -1)])
def test_a_refused_timestamp_is_replaced_and_kept(restamp: Restamp, expected_ms: int) -> None:
    plan = _plan(100, restamp=restamp, restamp_until=200)
    out = _framer().frame(plan, [_stored(100, 100)], wall_ms=_NOW_MS)
    for before, after in zip(_records(100, 100), _sent(out), strict=True):
        assert after.timestamp_ms == expected_ms
        kept = (TIMESTAMP_HEADER, str(before.timestamp_ms).encode())
        assert after.headers == (*before.headers, kept)


def test_where_our_own_clock_is_what_is_refused_its_now_is_not_tried() -> None:
    """The records are not ahead of it: "now" would be as far ahead of the broker as they are."""
    plan = _plan(100, restamp=Restamp.NOW, restamp_until=200)
    newest = max(each.timestamp_ms for each in _records(100, 100))
    out = _framer().frame(plan, [_stored(100, 100)], wall_ms=newest)
    for before, after in zip(_records(100, 100), _sent(out), strict=True):
        assert after.timestamp_ms == -1
        assert after.headers[-1] == (TIMESTAMP_HEADER, str(before.timestamp_ms).encode())


@pytest.mark.parametrize("position", [22, 58, 70])
def test_a_damaged_batch_is_never_given_a_crc_that_holds(position: int) -> None:
    batch = _stored(0, 300)
    damaged = bytearray(batch.data)
    damaged[position] ^= 1
    bad = dataclasses.replace(batch, data=bytes(damaged))
    with pytest.raises(CorruptBatch):
        _framer().frame(_plan(0), [bad], wall_ms=_NOW_MS)
    good, after = _stored(0, 300), dataclasses.replace(bad, base_offset=300, last_offset=599)
    assert _sent(_framer().frame(_plan(0), [good, after], wall_ms=_NOW_MS)) == _records(0, 300)


def test_offsets_that_are_missing_are_said_and_not_passed_over() -> None:
    with pytest.raises(LogHole) as caught:
        _framer().frame(_plan(5), [_stored(20, 300)], wall_ms=_NOW_MS)
    assert (caught.value.start, caught.value.end) == (5, 20)
