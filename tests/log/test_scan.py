"""Records of some topics, found in segments and tail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from log import Log, OffsetOutOfRange, Partition, RecordTemplate, Retention, Scan
from tests.log.helpers import SMALL, TEMPLATE, Clock, commit, put, seal, spec

A = RecordTemplate(b"device-1", ((b"mqtt.topic", b"a"),))
B = RecordTemplate(b"device-1", ((b"mqtt.topic", b"b"), (b"mqtt.dup", b"1")))
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
