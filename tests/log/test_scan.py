"""Records of some topics, found in segments and tail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from log import (
    INDEXED_HEADER,
    CorruptBatch,
    Log,
    LogLimits,
    OffsetOutOfRange,
    Partition,
    RecordTemplate,
    Retention,
    Scan,
    Selection,
    decode_batch,
)
from log.rebatch import frame_block
from log.tail import Tail
from tests.log.helpers import NOW_MS, SMALL, TEMPLATE, Clock, commit, put, seal, spec
from tests.log.strategies import searched

A = RecordTemplate(b"device-1", ((b"mqtt.topic", b"a"),))
B = RecordTemplate(b"device-1", ((b"mqtt.topic", b"b"), (b"mqtt.dup", b"1")))
OTHER = RecordTemplate(b"", ((b"mqtt.topic", b"other"),))
BARE = RecordTemplate(None, ())


def is_a(topic: bytes) -> bool:
    return topic == b"a"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[Log]:
    opened = Log.open(
        tmp_path / "data",
        [spec(retention=Retention(age_ms_max=1000))],
        limits=SMALL,
        now_ms=clock,
    )
    yield opened
    opened.close()


def put_as(log: Log, partition: Partition, template: RecordTemplate, *values: bytes) -> None:
    log.append(partition, template, values)
    commit(log)


def offsets(scan: Scan) -> list[int]:
    return [record.offset for record in scan.records]


def test_only_wanted_topics_are_found_in_segments_and_tail(log: Log) -> None:
    partition = log.partition("mqtt", 0)
    for _ in range(2):
        put_as(log, partition, A, b"0", b"1")
        put_as(log, partition, B, b"2")
        put_as(log, partition, BARE, b"3")
        seal(log, partition)
    put_as(log, partition, B, b"8")
    put_as(log, partition, A, b"9")
    scan = partition.scan(0, is_a, bytes_max=1 << 20)
    assert offsets(scan) == [0, 1, 4, 5, 9]
    assert scan.next_offset == partition.durable_end == 10
    assert scan.records == [
        r for r in partition.records(0, count_max=10) if r.offset in {0, 1, 4, 5, 9}
    ]


def test_a_scan_begins_at_its_offset_and_goes_on_where_it_ended(log: Log) -> None:
    partition = log.partition("mqtt", 0)
    for number in range(40):
        put_as(log, partition, A if number % 3 else B, b"%d" % number)
        if number % 7 == 6:
            seal(log, partition)
    expected = [number for number in range(5, 40) if number % 3]
    found: list[int] = []
    offset = 5
    while offset != partition.durable_end:
        scan = partition.scan(offset, is_a, bytes_max=1)
        assert scan.next_offset > offset
        found += offsets(scan)
        offset = scan.next_offset
    assert found == expected


def test_what_is_not_durable_is_not_found(log: Log) -> None:
    partition = log.partition("mqtt", 0)
    put_as(log, partition, A, b"0")
    log.append(partition, A, [b"1"])
    assert partition.scan(0, is_a, bytes_max=1 << 20) == (partition.records(0, count_max=1), 1)
    assert partition.scan(1, is_a, bytes_max=1 << 20) == ([], 1)


def test_a_scan_that_has_found_enough_takes_no_batch_more(log: Log) -> None:
    partition = log.partition("mqtt", 0)
    for number in range(12):
        put_as(log, partition, A, b"%d" % number, b"and")
        if number < 6:
            seal(log, partition)
        else:
            partition.close_open_chunk()
    found: list[int] = []
    offset = 0
    while offset != partition.durable_end:
        scan = partition.scan(offset, is_a, bytes_max=1 << 20, records_max=3)
        assert 0 < len(scan.records) <= 4
        found += offsets(scan)
        offset = scan.next_offset
    assert found == list(range(24))


def test_an_offset_that_retention_removed_is_out_of_range(log: Log, clock: Clock) -> None:
    partition = log.partition("mqtt", 0)
    while len(partition.segments) < 3:
        put(log, partition, bytes(4000))
        seal(log, partition)
    clock.now_ms += 10_000
    put(log, partition, b"new")
    seal(log, partition)
    assert log.expire()
    with pytest.raises(OffsetOutOfRange):
        partition.scan(0, is_a, bytes_max=1)
    start = partition.start_offset
    assert partition.scan(start, is_a, bytes_max=1 << 20).next_offset == partition.durable_end


def test_the_topic_is_the_first_header_of_that_name(log: Log) -> None:
    """A user property may have the name too; it comes behind."""
    partition = log.partition("mqtt", 0)
    twice = RecordTemplate(None, ((b"x", b"y"), (b"mqtt.topic", b"b"), (b"mqtt.topic", b"a")))
    put_as(log, partition, twice, b"0")
    put_as(log, partition, TEMPLATE, b"1")
    assert offsets(partition.scan(0, is_a, bytes_max=1 << 20)) == []
    assert offsets(partition.scan(0, lambda topic: topic == b"b", bytes_max=1 << 20)) == [0]


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[RecordTemplate, bytes]]:
    """Records whose keys, values and other headers may hold the header's name, and parts of it."""
    topics = st.sampled_from([b"a", b"b", b"c/" + b"d" * 61, b"e" * 64, b"f" * 300])
    tricky = st.sampled_from(
        [
            b"",
            b"x",
            b"\x14mqtt.topic",
            b"\x14mqtt.topic\x02a",
            b"\x14mqtt.topic\x02\xff",
            b"\x14mqtt.topic\x14mqtt.topic\x02b",
            b"\x14mqtt.topi",
            b"\x14mqtt.topic\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ]
    )
    text = st.one_of(tricky, st.binary(max_size=200))
    named = st.tuples(st.just(INDEXED_HEADER), topics)
    header = st.one_of(named, st.tuples(text, text))
    headers = st.one_of(st.tuples(named), st.lists(header, max_size=3).map(tuple))
    template = st.builds(RecordTemplate, st.one_of(st.none(), text), headers)
    return draw(st.lists(st.tuples(template, text), min_size=1, max_size=60))


TWICE = RecordTemplate(b"\x14mqtt.topic\x02b", ((b"mqtt.topic", b"a"), (b"mqtt.topic", b"a")))


@searched
@example(life=[(TWICE, b"\x14mqtt.topic\x02a")], wanted={b"a", b"b"}, first=0, others=400)
@given(
    life=lives(),
    wanted=st.sets(st.sampled_from([b"a", b"b", b"c/" + b"d" * 61, b"e" * 64, b"f" * 300])),
    first=st.integers(0, 60),
    others=st.sampled_from([0, 400]),
)
def test_a_block_gives_what_decoding_all_of_it_gives(
    life: list[tuple[RecordTemplate, bytes]], wanted: set[bytes], first: int, others: int
) -> None:
    """`others`: records that nobody wants; among many, the few are looked for another way."""
    tail = Tail(LogLimits(), 1, 0)
    for number, (template, value) in enumerate(life):
        tail.append(template, [value], NOW_MS + number)
    tail.append(OTHER, [b"%d" % number for number in range(others)], NOW_MS)
    for run in tail.cut():
        tail.place(run, 1)
    for chunk in tail.chunks:
        block = chunk.block()
        records = decode_batch(frame_block(block, compression_level=None))
        expected = [
            record
            for record in records
            if record.offset >= first
            and next((v for n, v in record.headers if n == INDEXED_HEADER), None) in wanted
        ]
        assert Selection(wanted.__contains__).records(block, first) == expected


def test_a_selection_asks_once_for_a_topic(log: Log) -> None:
    partition = log.partition("mqtt", 0)
    asked: list[bytes] = []

    def wanted(topic: bytes) -> bool:
        asked.append(topic)
        return topic == b"a"

    selection = Selection(wanted)
    for _ in range(3):
        put_as(log, partition, A, b"0", b"1")
        put_as(log, partition, B, b"2")
        seal(log, partition)
    offset = 0
    while offset != partition.durable_end:
        offset = partition.scan(offset, selection, bytes_max=1).next_offset
    assert sorted(asked) == [b"a", b"b"]


def test_a_damaged_batch_is_not_passed_off_as_one_without_wanted_records(log: Log) -> None:
    partition = log.partition("mqtt", 0)
    put_as(log, partition, B, b"0", b"1")
    seal(log, partition)
    path = partition.segments[0].path(".log")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptBatch):
        partition.scan(0, lambda topic: topic == b"b", bytes_max=1)
