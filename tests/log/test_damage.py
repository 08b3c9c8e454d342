"""Bytes on the disk that are not what was written: always noticed and said, never a reason not to
start, unless only the operator can know what to do.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from log import CorruptBatch, Log, LogError, LogUnusable, PartitionsReduced, UnknownFormat
from log.journal import BLOCK_BYTES
from tests.log.helpers import (
    SMALL,
    TEMPLATE,
    Clock,
    checkpoint,
    commit,
    log_files,
    put,
    seal,
    spec,
    values,
)

LIMITS = dataclasses.replace(SMALL, journal_bytes=2 << 20)
STREAMS = [spec("mqtt", 2), spec("other", 1)]


def opened(directory: Path) -> Log:
    return Log.open(directory, STREAMS, limits=LIMITS, now_ms=Clock())


def killed(log: Log) -> None:
    """As SIGKILL leaves it: nothing is sealed or saved, the lock is gone."""
    for partition in log.partitions.values():
        partition.close()
    log.journal.close()
    log._files.close(log._lock)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """200 records in partition 0, of which 150 are sealed in several segments, and 50 in the other;
    state, and a checkpoint in the middle.
    """
    directory = tmp_path / "data"
    log = opened(directory)
    first, second = log.partition("mqtt", 0), log.partition("mqtt", 1)
    rng = random.Random(1)
    for number in range(200):
        put(log, first, b"%d:" % number + rng.randbytes(400))
        if number % 4 == 3:
            log.put_state(b"state", b"%d" % number)
            put(log, second, b"%d:" % number + rng.randbytes(100))
        if number in (60, 120, 149):
            seal(log, first)
            checkpoint(log)
    killed(log)
    return directory


@pytest.fixture
def whole(data: Path) -> dict[str, list[bytes | None]]:
    """What is in it, by partition."""
    copy = data.with_name("copy")
    shutil.copytree(data, copy)
    log = opened(copy)
    found = {f"{p.stream}-{p.index}": values(p) for p in log.partitions.values()}
    assert log.recovery.lines() == []
    assert len(found["mqtt-0"]) == 200
    log.close()
    shutil.rmtree(copy)
    return found


def edit(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))


def flip(path: Path, position: int, mask: int = 1) -> None:
    def change(content: bytearray) -> None:
        content[position] ^= mask

    edit(path, change)


def frames(path: Path) -> list[int]:
    """Positions of the frames in a journal."""
    content = path.read_bytes()
    return [
        at
        for at in range(BLOCK_BYTES, len(content), BLOCK_BYTES)
        if content[at : at + 4] == b"SLGF"
    ]


def test_a_damaged_frame_is_reported_and_only_its_records_are_lost(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    flip(data / "journal", frames(data / "journal")[-20] + 200)
    log = opened(data)
    (damage,) = log.recovery.journal_damage
    assert damage.next_sequence == damage.first_sequence + 1
    assert any("journal damaged" in line for line in log.recovery.lines())
    lost = {
        (f"{x.stream}-{x.partition}", n)
        for x in log.recovery.lost
        for n in range(x.first_offset, x.last_offset + 1)
    }
    for name, expected in whole.items():
        stream, index = name.rsplit("-", 1)
        partition = log.partition(stream, int(index))
        found = {r.offset: r.value for r in partition.records(0, count_max=10_000)}
        missing = {(name, n) for n in range(len(expected)) if n not in found}
        assert missing <= lost
        assert len(missing) <= 2
        assert all(expected[offset] == value for offset, value in found.items())
        assert partition.end_offset >= len(expected), "an offset would be given twice"
    log.close()
    assert opened(data).recovery.lines() == []


def test_the_last_acknowledged_frames_are_missed_when_the_checkpoint_knows_them(
    tmp_path: Path,
) -> None:
    log = opened(tmp_path / "data")
    partition = log.partition("mqtt", 0)
    put(log, partition, b"1")
    put(log, partition, b"2")
    checkpoint(log)  # names frame 2; nothing is sealed
    killed(log)
    flip(tmp_path / "data" / "journal", frames(tmp_path / "data" / "journal")[1] + 60)
    log = opened(tmp_path / "data")
    assert log.recovery.journal_damage != []
    assert [(x.partition, x.first_offset) for x in log.recovery.lost if x.stream == "mqtt"] == [
        (0, 1),
        (1, 0),
    ]
    partition = log.partition("mqtt", 0)
    assert values(partition) == [b"1"]
    assert log.append(partition, TEMPLATE, [b"3"]) >= 2
    commit(log)
    assert values(partition) == [b"1", b"3"]
    log.close()
    log = opened(tmp_path / "data")
    assert log.recovery.lines() == []
    assert values(log.partition("mqtt", 0)) == [b"1", b"3"]
    log.close()


def test_a_damaged_journal_header_is_written_again(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    flip(data / "journal", 20)
    log = opened(data)
    assert {f"{p.stream}-{p.index}": values(p) for p in log.partitions.values()} == whole
    killed(log)
    assert opened(data).recovery.lines() == []


def test_a_missing_journal_stops_the_start_and_says_what_to_do(data: Path) -> None:
    (data / "journal").unlink()
    with pytest.raises(LogUnusable, match="put it back; or remove .*checkpoint"):
        opened(data)
    for path in data.glob("checkpoint*"):
        path.unlink()
    assert len(values(opened(data).partition("mqtt", 0))) == 150


def test_the_journal_of_another_data_directory_is_refused(data: Path, tmp_path: Path) -> None:
    opened(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "journal", data / "journal")
    with pytest.raises(LogUnusable, match="belongs to another"):
        opened(data)


def test_a_journal_nobody_can_read_is_not_thrown_away_in_silence(data: Path) -> None:
    flip(data / "journal", 20)
    for path in data.glob("checkpoint*"):
        flip(path, 30)
    with pytest.raises(LogUnusable, match="move the journal away"):
        opened(data)
    (data / "journal").unlink()
    log = opened(data)
    assert len(log.recovery.checkpoint_problems) == 3
    assert log.recovery.state_lost
    assert len(values(log.partition("mqtt", 0))) == 150
    log.close()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    flip(data / "checkpoint", 40)
    log = opened(data)
    assert log.recovery.checkpoint_problems[0] == "checkpoint: checksum does not hold"
    assert {f"{p.stream}-{p.index}": values(p) for p in log.partitions.values()} == whole
    assert log.get_state(b"state") == b"199"
    log.close()


def test_state_that_only_the_damaged_checkpoint_and_freed_frames_had_is_said_to_be_lost(
    tmp_path: Path,
) -> None:
    log = Log.open(tmp_path / "data", STREAMS, limits=SMALL, now_ms=Clock())
    partition = log.partition("mqtt", 0)
    expected: list[bytes | None] = []

    def write(count: int) -> None:
        for _ in range(count):
            value = b"%d" % len(expected)
            log.put_state(b"state", value)
            put(log, partition, value)
            expected.append(value)

    for _ in range(2):
        write(20)
        seal(log, partition)
        checkpoint(log)
    write(50)  # over the frames that the last checkpoint has freed
    killed(log)
    flip(tmp_path / "data" / "checkpoint", 40)
    log = Log.open(tmp_path / "data", STREAMS, limits=SMALL, now_ms=Clock())
    assert "were used again since" in log.recovery.lines()[1]
    assert log.recovery.lost == []
    assert values(log.partition("mqtt", 0)) == expected
    log.close()


def test_with_no_checkpoint_left_the_files_say_what_is_there(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    for path in data.glob("checkpoint*"):
        flip(path, 40)
    log = opened(data)
    assert len(log.recovery.checkpoint_problems) == 2
    assert log.recovery.lost == []
    assert {f"{p.stream}-{p.index}": values(p) for p in log.partitions.values()} == whole
    assert log.get_state(b"state") == b"199"
    log.close()


def test_checkpoints_that_are_gone_are_said_and_what_state_they_had_is_known_to_be_lost(
    tmp_path: Path,
) -> None:
    """It was clean in silence, and all of it was sent upstream again, unmarked."""
    data = tmp_path / "data"
    log = Log.open(data, STREAMS, limits=SMALL, now_ms=Clock())
    partition = log.partition("mqtt", 0)
    for number in range(90):  # more than the journal holds, so that frames are used again
        if number < 5:
            log.set_cursor("central", partition, number)
        put(log, partition, b"%d" % number * 200)
        if number % 10 == 9:
            seal(log, partition)
            checkpoint(log)
    killed(log)
    for path in data.glob("checkpoint*"):
        path.unlink()
    log = Log.open(data, STREAMS, limits=SMALL, now_ms=Clock())
    partition = log.partition("mqtt", 0)
    assert log.cursor("central", partition) is None
    assert not log.recovery.clean
    assert log.recovery.lines()[0] == "checkpoint damaged or missing: there is none"
    assert log.recovery.state_lost
    assert log.get_state(partition.state_lost_key) == partition.end_offset.to_bytes(8, "big")
    killed(log)
    log = Log.open(data, STREAMS, limits=SMALL, now_ms=Clock())
    assert log.recovery.clean  # said once, and kept for who has to know
    assert log.get_state(partition.state_lost_key) == (90).to_bytes(8, "big")
    log.close()


def test_checkpoints_that_are_gone_while_the_journal_holds_all_lose_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    log = opened(data)
    log.set_cursor("central", log.partition("mqtt", 0), 7)
    put(log, log.partition("mqtt", 0), b"x")
    killed(log)
    for path in data.glob("checkpoint*"):
        path.unlink()
    log = opened(data)
    assert log.recovery.lines() == ["checkpoint damaged or missing: there is none"]
    assert not log.recovery.state_lost
    assert log.cursor("central", log.partition("mqtt", 0)) == 7
    log.close()


@pytest.mark.parametrize("position", [0, 7, 8, 12, 16, 40])
def test_any_byte_of_a_checkpoint_is_under_its_checksum(data: Path, position: int) -> None:
    flip(data / "checkpoint", position)
    assert opened(data).recovery.checkpoint_problems != []


def test_a_checkpoint_of_a_newer_release_is_refused_by_name(data: Path) -> None:
    import google_crc32c

    def change(content: bytearray) -> None:
        content[7] = 2
        crc = google_crc32c.value(bytes(content[:8] + content[16:]))
        content[8:12] = crc.to_bytes(4, "big")

    edit(data / "checkpoint", change)
    with pytest.raises(UnknownFormat, match="this release reads"):
        opened(data)


def test_a_truncated_segment_is_filled_from_the_journal_where_it_still_holds_it(
    tmp_path: Path,
) -> None:
    log = opened(tmp_path / "data")
    partition = log.partition("mqtt", 0)
    for number in range(20):
        put(log, partition, b"%d" % number)
    seal(log, partition)
    checkpoint(log)
    expected = values(partition)
    killed(log)
    (path,) = [each for each in log_files(tmp_path / "data") if each.stat().st_size]
    path.write_bytes(path.read_bytes()[:-7])
    for _ in range(3):  # it stays brought back
        log = opened(tmp_path / "data")
        assert log.recovery.lost == []
        assert values(log.partition("mqtt", 0)) == expected
        killed(log)
    log = opened(tmp_path / "data")
    partition = log.partition("mqtt", 0)
    assert partition.sealed_end == 20, "the journal may be written over at any time"
    put(log, partition, b"20")
    assert values(partition) == [*expected, b"20"]
    log.close()


def test_what_the_journal_does_not_hold_any_more_is_lost_and_its_offsets_are_not_given_again(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    log = opened(data)
    log.close()  # seals all
    log = opened(data)
    for number in range(300):  # goes over the whole circle
        put(log, log.partition("other", 0), bytes(5000))
        if number % 20 == 19:
            seal(log, log.partition("other", 0))
            checkpoint(log)
    log.close()
    path = log_files(data / "streams" / "mqtt-0")[-1]
    path.write_bytes(path.read_bytes()[:-7])
    log = opened(data)
    partition = log.partition("mqtt", 0)
    (lost,) = log.recovery.lost
    assert (lost.stream, lost.partition, lost.last_offset) == ("mqtt", 0, 199)
    assert any("segment cut: mqtt-0" in line for line in log.recovery.lines())
    assert any(line.startswith("lost: mqtt-0 offsets") for line in log.recovery.lines())
    assert values(partition) == whole["mqtt-0"][: lost.first_offset]
    assert log.append(partition, TEMPLATE, [b"new"]) == 200
    commit(log)
    assert values(partition)[-1] == b"new"
    log.close()
    log = opened(data)
    assert log.recovery.lines() == []
    assert values(log.partition("mqtt", 0)) == [*whole["mqtt-0"][: lost.first_offset], b"new"]
    log.close()


def test_a_missing_segment_between_others_is_lost_and_read_over(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    files = log_files(data / "streams" / "mqtt-0")
    first, last = int(files[1].stem), int(files[2].stem) - 1
    files[1].unlink()
    log = opened(data)
    assert [(x.first_offset, x.last_offset) for x in log.recovery.lost] == [(first, last)]
    partition = log.partition("mqtt", 0)
    expected = whole["mqtt-0"]
    assert values(partition) == expected[:first] + expected[last + 1 :]
    assert partition.read(first, bytes_max=1)[0].base_offset == last + 1
    log.close()


def test_all_segments_missing_are_lost(data: Path) -> None:
    for path in log_files(data / "streams" / "mqtt-0"):
        path.unlink()
    log = opened(data)
    assert [(x.first_offset, x.last_offset) for x in log.recovery.lost] == [(0, 149)]
    assert log.partition("mqtt", 0).start_offset == 150
    assert log.partition("mqtt", 0).end_offset == 200
    log.close()


def test_a_damaged_batch_in_the_middle_takes_no_other_with_it(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    path = log_files(data / "streams" / "mqtt-0")[1]
    flip(path, 100)
    for index in path.parent.glob("*index"):
        index.unlink()
    log = opened(data)
    partition = log.partition("mqtt", 0)
    with pytest.raises(CorruptBatch):
        partition.records(0, count_max=1000)
    (bad, *_) = partition.read(int(path.stem), bytes_max=1)
    after = partition.records(bad.last_offset + 1, count_max=1000)
    assert [r.value for r in after] == whole["mqtt-0"][bad.last_offset + 1 :]
    log.close()


@pytest.mark.parametrize("content", [b"", b"{", b'{"format":1}', b"\xff\xfe", None])
def test_a_damaged_partition_file_is_written_again_from_the_checkpoint(
    data: Path, whole: dict[str, list[bytes | None]], content: bytes | None
) -> None:
    path = data / "streams" / "mqtt-0" / "partition.json"
    right = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    log = opened(data)
    assert any("partition.json of mqtt-0" in line for line in log.recovery.lines())
    assert values(log.partition("mqtt", 0)) == whole["mqtt-0"]
    assert path.read_bytes() == right
    log.close()


def test_without_a_checkpoint_a_damaged_partition_file_stops_the_start(data: Path) -> None:
    (data / "streams" / "mqtt-0" / "partition.json").write_bytes(b"")
    for path in data.glob("checkpoint*"):
        path.unlink()
    with pytest.raises(LogUnusable, match="write it again as"):
        opened(data)


def test_files_that_are_not_the_logs_are_left_alone(data: Path) -> None:
    other = [
        data / "streams" / "mqtt-0" / "notes.index",
        data / "streams" / "mqtt-0" / "x.log",
        data / "streams" / "README",
    ]
    for path in other:
        path.write_bytes(b"hello")
    (data / "streams" / "empty-0").mkdir()
    log = opened(data)
    assert log.recovery.lines() == []
    log.close()
    assert all(path.exists() for path in other)


def test_fewer_partitions_than_stored_are_refused(data: Path) -> None:
    with pytest.raises(PartitionsReduced, match="give at least as many"):
        Log.open(data, [spec("mqtt", 1)], limits=LIMITS)


def test_a_stream_that_is_configured_no_more_is_kept(data: Path) -> None:
    log = Log.open(data, [spec("new", 1)], limits=LIMITS)
    assert set(log.streams) == {"new"}
    log.close()
    assert len(values(opened(data).partition("mqtt", 0))) == 200


def test_flipped_bits_anywhere_end_in_a_report_or_a_named_error_and_never_in_other_records(
    data: Path, whole: dict[str, list[bytes | None]]
) -> None:
    rng = random.Random(11)
    files = sorted(path for path in data.rglob("*") if path.is_file() and path.stat().st_size)
    noticed = 0
    for number in range(len(files) * 6):
        path = files[number % len(files)]
        copy = data.with_name("flipped")
        shutil.copytree(data, copy)
        target = copy / path.relative_to(data)
        for _ in range(rng.choice((1, 1, 5))):
            flip(target, rng.randrange(target.stat().st_size), 1 << rng.randrange(8))
        noticed += look(copy, whole)
        shutil.rmtree(copy)
    assert noticed > len(files)


def look(directory: Path, whole: dict[str, list[bytes | None]]) -> bool:
    """Whether something was said. Reads all there is."""
    try:
        log = opened(directory)
    except LogUnusable:
        return True
    said = log.recovery.lines() != []
    for name, expected in whole.items():
        stream, index = name.rsplit("-", 1)
        partition = log.partition(stream, int(index))
        offset, met = partition.start_offset, 0
        while offset < partition.durable_end:
            try:
                (batch, *_) = partition.read(offset, bytes_max=1)
                found = partition.records(offset, count_max=batch.last_offset + 1 - offset)
            except LogError:
                said = True
                break
            for record in found:
                assert record.value == expected[record.offset], "another record's bytes"
                met += 1
            offset = batch.last_offset + 1
        missing = len(expected) - met
        # The journal's last frame may have been torn by a power cut for all that is known.
        assert said or missing <= 1 or log.recovery.torn_frame, name
    log.close()
    return said
