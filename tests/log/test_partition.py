"""A partition read as one sequence of offsets: by time, beside writing, and while it is removed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log import Log, OffsetOutOfRange, Retention, decode_batch
from log.errors import CorruptBatch
from tests.log.helpers import (
    NOW_MS,
    SMALL,
    TEMPLATE,
    Clock,
    checkpoint,
    commit,
    put,
    seal,
    spec,
    values,
)
from tests.log.strategies import searched

Open = Callable[..., Log]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Open]:
    """Opens the log in the test's directory, with a retention and required cursors."""
    logs: list[Log] = []

    def make(retention: Retention | None = None, *, required: tuple[str, ...] = ()) -> Log:
        logs.append(
            Log.open(
                tmp_path / "data",
                [spec(retention=retention)],
                limits=SMALL,
                now_ms=clock,
                required_cursors=frozenset(required),
            )
        )
        return logs[-1]

    yield make
    logs[-1].close()


def test_readers_see_only_what_is_durable(opened: Open) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    log.append(partition, TEMPLATE, [b"1", b"2"])
    assert partition.read(0, bytes_max=1 << 20) == []
    assert (partition.end_offset, partition.durable_end) == (2, 0)
    frame = log.cut()
    assert frame is not None
    log.write([frame])
    assert partition.read(0, bytes_max=1 << 20) == []
    log.durable([frame])
    assert values(partition) == [b"1", b"2"]
    assert partition.read(2, bytes_max=1) == []


def test_appending_nothing_is_nothing(opened: Open) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    assert log.append(partition, TEMPLATE, []) == 0
    assert log.append(partition, TEMPLATE, []) == 0
    assert log.round_empty
    assert log.cut() is None
    put(log, partition, b"1")
    seal(log, partition)
    assert values(partition) == [b"1"]


def test_offsets_outside_are_out_of_range(opened: Open) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    put(log, partition, b"1")
    for offset in (-1, 2, 99):
        with pytest.raises(OffsetOutOfRange) as found:
            partition.read(offset, bytes_max=1)
        assert (found.value.start, found.value.end) == (0, 1)


def test_segments_then_the_tail_read_as_one(opened: Open) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    rng = random.Random(1)
    expected = [b"%03d" % number + rng.randbytes(200) for number in range(300)]
    for number, value in enumerate(expected):
        put(log, partition, value)
        if number % 40 == 39:
            seal(log, partition)
    assert len(partition.segments) > 1
    assert partition.sealed_end == 280
    for _ in range(100):
        offset, bytes_max = rng.randrange(300), rng.choice((1, 3000, 100_000))
        batches = partition.read(offset, bytes_max=bytes_max)
        assert batches[0].base_offset <= offset <= batches[0].last_offset
        following = batches[0].base_offset
        for batch in batches:
            assert batch.base_offset == following
            following = batch.last_offset + 1
            assert batch.compressed == (batch.last_offset < 280)
            assert [r.offset for r in decode_batch(batch.data)] == list(
                range(batch.base_offset, batch.last_offset + 1)
            )
        assert sum(len(b.data) for b in batches[:-1]) <= bytes_max or len(batches) == 1
    assert values(partition) == expected


@searched
@given(st.lists(st.integers(-2000, 3000), min_size=1, max_size=60), st.data())
def test_offset_at_is_the_first_record_at_or_after_the_time(
    tmp_path_factory: pytest.TempPathFactory, steps_ms: list[int], data: st.DataObject
) -> None:
    clock = Clock()
    directory = tmp_path_factory.mktemp("log")
    log = Log.open(directory, [spec()], limits=SMALL, now_ms=clock)
    partition = log.partition("mqtt", 0)
    times = []
    for step_ms in steps_ms:
        clock.now_ms += step_ms
        put(log, partition, bytes(1500))
        times.append(clock.now_ms)
        if data.draw(st.booleans()):
            seal(log, partition)
    for _ in range(8):
        wanted = data.draw(st.sampled_from(times)) + data.draw(st.sampled_from((-1, 0, 1)))
        first = next((n for n, time_ms in enumerate(times) if time_ms >= wanted), len(times))
        assert partition.offset_at(wanted) == first
    log.close()


# -- retention


def fill(log: Log, clock: Clock, count: int = 60) -> None:
    """A segment for each thirteen or so records, a second between them."""
    partition = log.partition("mqtt", 0)
    rng = random.Random(1)
    for _ in range(count):
        clock.now_ms += 1000
        put(log, partition, rng.randbytes(1400))
        seal(log, partition)


def remove(log: Log) -> int:
    return log.delete_expired() if log.expire() else 0


def test_by_bytes_whole_segments_go_oldest_first_and_the_last_stays(
    opened: Open, clock: Clock
) -> None:
    log = opened(Retention(bytes_max=40_000, keep_unreplicated=False))
    partition = log.partition("mqtt", 0)
    fill(log, clock)
    expected = values(partition)
    assert partition.stored_bytes > 40_000
    assert remove(log) > 0
    assert 24_000 < partition.stored_bytes <= 40_000
    start = partition.start_offset
    assert values(partition) == expected[start:]
    assert partition.read(start, bytes_max=1)[0].base_offset == start
    with pytest.raises(OffsetOutOfRange):
        partition.read(start - 1, bytes_max=1)
    assert remove(log) == 0
    log.close()
    log = opened(Retention(bytes_max=1, keep_unreplicated=False))
    assert values(log.partition("mqtt", 0)) == expected[start:]
    remove(log)
    assert len(log.partition("mqtt", 0).segments) == 1


def test_by_age_a_segment_goes_when_its_newest_record_is_too_old(
    opened: Open, clock: Clock
) -> None:
    log = opened(Retention(age_ms_max=30_000))
    partition = log.partition("mqtt", 0)
    fill(log, clock)
    newest = [segment.newest_ms for segment in partition.segments]
    assert remove(log) == sum(time_ms < clock.now_ms - 30_000 for time_ms in newest)
    clock.now_ms += 10**9
    remove(log)
    assert len(partition.segments) == 1


def test_age_is_known_after_a_restart(opened: Open, clock: Clock) -> None:
    log = opened(Retention(age_ms_max=30_000))
    fill(log, clock)
    newest = [segment.newest_ms for segment in log.partition("mqtt", 0).segments]
    log.close()
    log = opened(Retention(age_ms_max=30_000))
    assert [segment.newest_ms for segment in log.partition("mqtt", 0).segments] == newest
    assert remove(log) == sum(time_ms < clock.now_ms - 30_000 for time_ms in newest)


def test_what_is_not_replicated_stays_until_every_required_cursor_is_past_it(
    opened: Open, clock: Clock
) -> None:
    log = opened(Retention(bytes_max=1, age_ms_max=1), required=("a", "b"))
    partition = log.partition("mqtt", 0)
    fill(log, clock)
    clock.now_ms += 10**9
    assert remove(log) == 0
    log.set_cursor("a", partition, 60)
    commit(log)
    assert remove(log) == 0
    second = partition.segments[1]
    log.set_cursor("b", partition, second.end_offset - 1)
    commit(log)
    assert remove(log) == 1
    log.set_cursor("b", partition, second.end_offset)
    assert remove(log) == 0, "the cursor is not durable yet"
    commit(log)
    assert remove(log) == 1
    assert partition.start_offset == second.end_offset


def test_it_goes_all_the_same_where_the_stream_says_so(opened: Open, clock: Clock) -> None:
    log = opened(Retention(bytes_max=1, keep_unreplicated=False), required=("a",))
    fill(log, clock)
    assert remove(log) > 0


def test_a_removed_segment_that_is_there_again_is_removed_again(opened: Open, clock: Clock) -> None:
    log = opened(Retention(bytes_max=40_000, keep_unreplicated=False))
    fill(log, clock)
    partition = log.partition("mqtt", 0)
    path = partition.segments[0].path(".log")
    content = path.read_bytes()
    assert remove(log) > 1
    start = partition.start_offset
    log.close()
    path.write_bytes(content)
    log = opened(Retention(bytes_max=40_000, keep_unreplicated=False))
    assert log.recovery.lines() == []
    assert log.partition("mqtt", 0).start_offset == start
    assert not path.exists()


def test_a_deletion_that_fails_is_tried_again(
    opened: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(Retention(bytes_max=1, keep_unreplicated=False))
    fill(log, clock)
    segment = log.partition("mqtt", 0).segments[0]
    monkeypatch.setattr(type(segment), "delete", lambda *_: (_ for _ in ()).throw(OSError(5, "x")))
    count = log.expire()
    with pytest.raises(OSError, match="x"):
        log.delete_expired()
    monkeypatch.undo()
    assert log.expire() == count
    assert log.delete_expired() == count
    assert not segment.path(".log").exists()


# -- beside the loop


def test_a_reader_in_another_thread_misses_nothing_while_it_is_written_and_sealed(
    opened: Open,
) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    count = 1500
    read: list[bytes | None] = []
    failed: list[BaseException] = []

    def reader() -> None:
        offset = 0
        rng = random.Random(3)
        try:
            while offset < count:
                for batch in partition.read(offset, bytes_max=rng.choice((1, 5000, 1 << 20))):
                    records = [r for r in decode_batch(batch.data) if r.offset >= offset]
                    assert records[0].offset == offset, (records[0].offset, offset)
                    read.extend(r.value for r in records)
                    offset = batch.last_offset + 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    rng = random.Random(4)
    number = 0
    while number < count:
        new = [b"%d" % n for n in range(number, min(count, number + rng.randint(1, 9)))]
        put(log, partition, *new)
        number += len(new)
        if rng.random() < 0.1:
            seal(log, partition)
        if rng.random() < 0.02:
            checkpoint(log)
    thread.join(60)
    assert not failed, failed
    assert read == [b"%d" % n for n in range(count)]


def test_a_reader_is_never_ahead_of_the_durable_end_that_is_told(opened: Open) -> None:
    """A read in another thread, in the middle of `durable`."""
    log = opened()
    partition = log.partition("mqtt", 0)
    put(log, partition, b"1", b"2")
    log.append(partition, TEMPLATE, [b"3"])
    frame = log.cut()
    assert frame is not None
    ((_, run),) = frame.runs
    partition.tail.chunks[-1].add_durable(run)
    assert partition.durable_end == 2
    (batch,) = partition.read(0, bytes_max=1 << 20)
    assert batch.last_offset == 1
    assert partition.read(2, bytes_max=1 << 20) == []


def test_a_reader_of_a_segment_that_is_being_removed_is_told_its_range(
    opened: Open, clock: Clock
) -> None:
    log = opened(Retention(bytes_max=30_000, keep_unreplicated=False))
    partition = log.partition("mqtt", 0)
    stop = threading.Event()
    failed: list[BaseException] = []
    told = 0

    def reader() -> None:
        nonlocal told
        while not stop.is_set():
            offset = partition.start_offset
            try:
                for batch in partition.read(offset, bytes_max=1 << 20):
                    decode_batch(batch.data)
            except OffsetOutOfRange as error:
                assert error.start > offset
                told += 1
            except BaseException as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=reader, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = random.Random(1)
    for _ in range(400):
        put(log, partition, rng.randbytes(3000))
        seal(log, partition)
        remove(log)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failed, failed


def test_a_record_with_a_flipped_bit_is_never_given_to_a_reader(opened: Open, clock: Clock) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    fill(log, clock, 5)
    path = partition.segments[0].path(".log")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptBatch, match="CRC-32C"):
        partition.records(0, count_max=100)


def test_the_clock_of_a_record_is_the_logs(opened: Open, clock: Clock) -> None:
    log = opened()
    partition = log.partition("mqtt", 0)
    put(log, partition, b"1")
    assert partition.records(0, count_max=1)[0].timestamp_ms == NOW_MS
