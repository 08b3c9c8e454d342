"""Segments and their indexes: Kafka's formats, reading by offset and time, damaged files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from log.files import DiskFiles
from log.index import offset_before, position_before
from log.record_batch import Record, StoredBatch, encode_batch, stored_batch
from log.segment import Segment

INTERVAL = 300
COUNT = 40


def batch(offset: int, *, count: int = 3, time_ms: int | None = None) -> bytes:
    time_ms = offset * 10 if time_ms is None else time_ms
    return encode_batch(
        [
            Record(offset=offset + n, timestamp_ms=time_ms + n, key=b"k", value=b"%020d" % n)
            for n in range(count)
        ]
    )


def segment(directory: Path, base: int = 100) -> Segment:
    return Segment(DiskFiles(), directory, base, interval_bytes=INTERVAL)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Segment]:
    """Batches of three records at the offsets 100, 103, ...; the times are ten times the offset."""
    found = segment(tmp_path)
    found.create()
    for offset in range(100, 100 + 3 * COUNT, 3):
        found.append([batch(offset)])
    yield found
    found.close()


def reopened(filled: Segment) -> Segment:
    return segment(filled.path(".log").parent)


def size_of(path: Path) -> int:
    return path.stat().st_size


def read_offsets(found: list[StoredBatch]) -> list[int]:
    return [each.base_offset for each in found]


def test_golden_indexes(tmp_path: Path) -> None:
    """An entry for the first batch after every interval: OffsetIndex and TimeIndex of Kafka."""
    found = segment(tmp_path, 1000)
    found.create()
    for offset in range(1000, 1015, 3):
        data = batch(offset)
        assert len(data) == 145
        found.append([data])
    found.finish()
    # After 435 > 300 bytes: the batch at position 435, which ends at offset 1011.
    assert found.path(".index").read_bytes() == struct.pack(">ii", 11, 435)
    assert found.path(".timeindex").read_bytes() == (
        struct.pack(">qi", 10092, 11) + struct.pack(">qi", 10122, 14)
    )
    assert found.path(".log").name == "00000000000000001000.log"


def test_every_offset_leads_to_the_batch_that_holds_it(filled: Segment) -> None:
    for offset in range(100, 100 + 3 * COUNT):
        (first, *_) = filled.read(offset, bytes_max=1, end_offset=1 << 40)
        assert first.base_offset <= offset <= first.last_offset


def test_a_read_gives_whole_batches_up_to_its_size(filled: Segment) -> None:
    size = len(batch(100))
    assert len(filled.read(100, bytes_max=1, end_offset=1 << 40)) == 1
    assert len(filled.read(100, bytes_max=3 * size, end_offset=1 << 40)) == 3
    assert len(filled.read(100, bytes_max=3 * size - 1, end_offset=1 << 40)) == 2
    assert len(filled.read(101, bytes_max=1 << 20, end_offset=1 << 40)) == COUNT
    assert read_offsets(filled.read(101, bytes_max=1 << 20, end_offset=106)) == [100, 103]
    assert filled.read(100 + 3 * COUNT, bytes_max=1, end_offset=1 << 40) == []


def test_every_time_leads_to_the_first_batch_that_reaches_it(filled: Segment) -> None:
    for offset in range(100, 100 + 3 * COUNT, 3):
        for time_ms in (offset * 10 - 27, offset * 10, offset * 10 + 2):
            found = filled.batch_at_time(time_ms)
            assert found is not None
            assert found.base_offset == offset, time_ms
    assert filled.batch_at_time(0) is not None
    assert filled.batch_at_time(filled.newest_ms + 1) is None


def test_a_clock_that_went_back_still_gives_the_first_record_at_or_after(tmp_path: Path) -> None:
    found = segment(tmp_path)
    found.create()
    times = [5000, 9000, 1000, 1100, 1200, 1300, 9500]
    for number, time_ms in enumerate(times):
        found.append([batch(100 + number * 9, count=9, time_ms=time_ms)])
    at = {time_ms: found.batch_at_time(time_ms) for time_ms in (4000, 6000, 9001, 9400)}
    assert [each and each.base_offset for each in at.values()] == [100, 109, 109, 154]


def test_a_closed_segment_is_opened_by_its_indexes(filled: Segment) -> None:
    filled.finish()
    again = reopened(filled)
    assert again.open_closed() is None
    assert (again.end_offset, again.size_bytes) == (filled.end_offset, filled.size_bytes)
    assert again.newest_ms == filled.newest_ms
    assert read_offsets(again.read(150, bytes_max=1, end_offset=1 << 40)) == [148]


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("what", ["missing", "empty", "cut", "short", "zeros", "ones", "other"])
def test_an_index_that_is_wrong_is_built_again(filled: Segment, suffix: str, what: str) -> None:
    filled.finish()
    right = {each: filled.path(each).read_bytes() for each in (".index", ".timeindex")}
    path = filled.path(suffix)
    path.write_bytes(
        {
            "missing": b"",
            "empty": b"",
            "cut": right[suffix][:-1],
            "short": right[suffix][: -8 if suffix == ".index" else -12],
            "zeros": bytes(len(right[suffix])),
            "ones": b"\xff" * len(right[suffix]),
            "other": right[suffix][: len(right[suffix]) // 2] * 2,
        }[what]
    )
    if what == "missing":
        path.unlink()
    again = reopened(filled)
    scan = again.open_closed()
    assert scan is None or scan.truncated_bytes == 0
    assert again.newest_ms == filled.newest_ms
    assert again.end_offset == filled.end_offset
    for offset in range(100, 100 + 3 * COUNT):
        (first, *_) = again.read(offset, bytes_max=1, end_offset=1 << 40)
        assert first.base_offset <= offset <= first.last_offset
    if suffix == ".timeindex" or what not in ("empty", "missing", "short"):
        assert {each: filled.path(each).read_bytes() for each in right} == right


def test_any_flipped_bit_of_an_index_misleads_no_reader(filled: Segment) -> None:
    filled.finish()
    for suffix in (".index", ".timeindex"):
        path = filled.path(suffix)
        right = path.read_bytes()
        for bit in range(0, len(right) * 8, 7):
            wrong = bytearray(right)
            wrong[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(wrong))
            again = reopened(filled)
            scan = again.open_closed()
            assert scan is None or scan.truncated_bytes == 0
            assert again.newest_ms == filled.newest_ms
            for offset in (100, 131, 170, 219):
                (first, *_) = again.read(offset, bytes_max=1, end_offset=1 << 40)
                assert first.base_offset <= offset <= first.last_offset
        path.write_bytes(right)


def test_an_index_that_is_damaged_while_it_is_in_use_misleads_no_reader(filled: Segment) -> None:
    filled.finish()
    right = filled.path(".index").read_bytes()
    for wrong in (
        b"\xff" * len(right),
        b"\x00\x00\x00\x01\xff\xff\xff\xf0",
        b"\x00\x00\x00\x01\x7f\0\0\0",
    ):
        filled.path(".index").write_bytes(wrong)
        for offset in (100, 131, 170, 219):
            (first, *_) = filled.read(offset, bytes_max=1, end_offset=1 << 40)
            assert first.base_offset <= offset <= first.last_offset


def test_what_follows_a_broken_header_in_a_closed_segment_is_reported_not_cut(
    filled: Segment,
) -> None:
    filled.finish()
    size = len(batch(100))
    path = filled.path(".log")
    data = bytearray(path.read_bytes())
    data[5 * size + 16] = 9  # magic
    path.write_bytes(bytes(data))
    filled.path(".index").unlink()
    again = reopened(filled)
    scan = again.open_closed()
    assert scan is not None
    assert scan.reason == "magic 9, not 2"
    assert (scan.valid_bytes, scan.end_offset) == (5 * size, 115)
    assert scan.truncated_bytes == (COUNT - 5) * size
    assert size_of(path) == COUNT * size
    assert read_offsets(again.read(100, bytes_max=1 << 20, end_offset=1 << 40)) == [
        100,
        103,
        106,
        109,
        112,
    ]


@pytest.mark.parametrize("cut", [1, 60, 61, 100, 144])
def test_an_unfinished_batch_at_the_end_is_cut_on_recovery(filled: Segment, cut: int) -> None:
    path, size = filled.path(".log"), len(batch(100))
    path.write_bytes(path.read_bytes()[:-cut])
    again = reopened(filled)
    scan = again.recover(0, 100, known=True)
    assert scan.valid_bytes == again.size_bytes == size_of(path) == (COUNT - 1) * size
    assert scan.truncated_bytes == size - cut
    assert scan.end_offset == again.end_offset == 100 + 3 * (COUNT - 1)
    assert scan.reason is not None
    assert "cut short" in scan.reason
    assert reopened(filled).recover(0, 100, known=True).reason is None
    again.close()


def test_recovery_checks_only_what_the_checkpoint_does_not_know(filled: Segment) -> None:
    path, size = filled.path(".log"), len(batch(100))
    data = bytearray(path.read_bytes())
    data[2 * size + 100] ^= 1
    data[7 * size + 100] ^= 1
    path.write_bytes(bytes(data))
    again = reopened(filled)
    scan = again.recover(5 * size, 115, known=True)
    assert scan.valid_bytes == 7 * size
    assert scan.reason is not None
    assert scan.reason.startswith("CRC-32C")
    again.close()


def test_offsets_that_come_again_are_not_believed(filled: Segment) -> None:
    size = filled.size_bytes
    with filled.path(".log").open("ab") as file:
        file.write(batch(103))
    again = reopened(filled)
    scan = again.recover(0, 100, known=True)
    assert (scan.valid_bytes, scan.reason) == (size, "offset 103 again")
    again.close()


def test_a_segment_takes_no_offset_that_its_indexes_cannot_say(tmp_path: Path) -> None:
    found = segment(tmp_path, 0)
    assert found.has_room(10, 2**31 - 1, 1000, waiting_bytes=0)
    assert not found.has_room(10, 2**31, 1000, waiting_bytes=0)
    assert not found.has_room(10, 5, 1000, waiting_bytes=995)
    assert found.has_room(5000, 5, 1000, waiting_bytes=0)


class NoRoomForIndexes(DiskFiles):
    full = True

    def open(self, path: Path, *, create: bool = False) -> int:
        if self.full and path.suffix in (".index", ".timeindex"):
            raise OSError(28, "No space left on device")
        return super().open(path, create=create)


def test_an_index_that_cannot_be_written_fails_no_append_and_is_made_later(tmp_path: Path) -> None:
    files = NoRoomForIndexes()
    found = Segment(files, tmp_path, 100, interval_bytes=INTERVAL)
    found.create()
    for offset in range(100, 130, 3):
        found.append([batch(offset)])
    assert not found.path(".index").exists()
    files.full = False
    for offset in range(130, 160, 3):
        found.append([batch(offset)])
    right = Segment(files, tmp_path / "right", 100, interval_bytes=INTERVAL)
    (tmp_path / "right").mkdir()
    right.create()
    for offset in range(100, 160, 3):
        right.append([batch(offset)])
    for suffix in (".index", ".timeindex"):
        assert found.path(suffix).read_bytes() == right.path(suffix).read_bytes() != b""
    found.close()
    right.close()


def test_positions_and_times_of_empty_and_odd_indexes() -> None:
    assert position_before(b"", 5) == 0
    assert position_before(struct.pack(">ii", 8, 326) + b"\0\0\0", 9) == 326
    assert position_before(struct.pack(">ii", 8, 326), 8) == 0
    assert offset_before(b"\0\0\0", 5) == 0
    assert offset_before(struct.pack(">qi", 50, 8) + b"\0", 51) == 8


def test_a_batch_read_is_the_batch_written(filled: Segment) -> None:
    (first, *_) = filled.read(100, bytes_max=1, end_offset=1 << 40)
    assert first == stored_batch(batch(100))


class FailingSync(DiskFiles):
    fails = False

    def datasync(self, handle: int) -> None:
        if self.fails:
            raise OSError(5, "Input/output error")
        super().datasync(handle)


def test_what_a_failed_append_left_is_not_in_a_finished_segment(tmp_path: Path) -> None:
    """It would be found at a later start and said to be damage."""
    files = FailingSync()
    found = Segment(files, tmp_path, 100, interval_bytes=INTERVAL)
    found.create()
    found.append([batch(100)])
    files.fails = True
    with pytest.raises(OSError, match="Input/output"):
        found.append([batch(103), batch(106)])
    files.fails = False
    found.finish()
    assert size_of(found.path(".log")) == found.size_bytes == len(batch(100))
    again = reopened(found)
    assert again.open_closed() is None
    assert again.end_offset == 103


def test_a_damaged_closed_segment_is_not_touched(filled: Segment) -> None:
    filled.finish()
    path = filled.path(".log")
    with path.open("ab") as file:
        file.write(b"damage" * 20)
    before = path.read_bytes()
    again = reopened(filled)
    scan = again.open_closed()
    assert scan is not None
    assert scan.truncated_bytes == 120
    assert path.read_bytes() == before
