"""The journal's circle, what a reader finds in it, and how it tells torn from damaged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from log.errors import UnknownFormat
from log.journal import BLOCK_BYTES, FRAME_HEADER_BYTES, Damage, FoundFrame, FrameWrite, Journal
from log.journal_file import create_journal, open_journal, repair_journal
from tests.log.simulated_disk import SimulatedDisk
from tests.log.strategies import searched

PATH = Path("/disk/journal")
LOG_ID = bytes(range(16))
BLOCK_ENTRIES = BLOCK_BYTES - FRAME_HEADER_BYTES
"""Entries of a frame that fills one block to its last byte."""


def made(blocks: int) -> tuple[SimulatedDisk, Journal]:
    """A journal with so many blocks for frames."""
    disk = SimulatedDisk(random.Random(1))
    return disk, create_journal(disk, PATH, size_bytes=(blocks + 1) * BLOCK_BYTES, log_id=LOG_ID)


def put(journal: Journal, *contents: bytes, synced: bool = True) -> list[FrameWrite]:
    frames = [journal.place((content,)) for content in contents]
    journal.write(frames)
    if synced:
        journal.synced(frames[-1].sequence)
    return frames


def reopened(disk: SimulatedDisk) -> Journal:
    journal = open_journal(disk, PATH)
    assert journal is not None
    return journal


def found(journal: Journal, sequence: int = 1, position: int = BLOCK_BYTES) -> list[object]:
    """Entries of the frames, and damages, in the order of reading."""
    return [
        each.entries if isinstance(each, FoundFrame) else each
        for each in journal.read(sequence, position)
    ]


def overwrite(disk: SimulatedDisk, position: int, data: bytes) -> None:
    handle = disk.open(PATH)
    disk.write_at(handle, position, (data,))
    disk.close(handle)


def test_golden_header_and_frame() -> None:
    disk, journal = made(2)
    put(journal, b"entries")
    handle = disk.open(PATH)
    header = disk.read_at(handle, 0, 36)
    assert (
        header.hex()
        == (
            "534c474a524e4c01"  # SLGJRNL, 1
            "00001000"  # block
            "00000003"  # blocks
            "000102030405060708090a0b0c0d0e0f"  # log id
        )
        + google_crc32c.value(header[:32]).to_bytes(4, "big").hex()
    )
    frame = disk.read_at(handle, BLOCK_BYTES, BLOCK_BYTES)
    covered = frame[8:35]
    assert (
        covered.hex()
        == (
            "0000000000000001"  # sequence
            "0000000000000000"  # synced
            "00000007"  # size
        )
        + b"entries".hex()
    )
    assert frame[:8] == b"SLGF" + google_crc32c.value(LOG_ID + covered).to_bytes(4, "big")
    assert frame[35:] == bytes(BLOCK_BYTES - 35)


def test_frames_are_read_back_in_order() -> None:
    disk, journal = made(8)
    put(journal, b"one")
    put(journal, b"two" * 2000, b"three")
    again = reopened(disk)
    assert found(again) == [b"one", b"two" * 2000, b"three"]
    assert (again.next_sequence, again.synced_sequence) == (4, 3)
    assert again.next_position == journal.next_position
    assert again.used_bytes == journal.used_bytes == 4 * BLOCK_BYTES


def test_a_frame_may_end_with_the_file() -> None:
    disk, journal = made(3)
    put(journal, bytes(BLOCK_ENTRIES + 2 * BLOCK_BYTES))
    assert journal.free_bytes == 0
    assert journal.next_position == journal.size_bytes
    assert not journal.fits(0)
    journal.free_before(2)
    put(journal, b"next")
    again = reopened(disk)
    assert found(again, 2, journal.size_bytes) == [b"next"]


def test_a_frame_of_one_byte_more_takes_another_block() -> None:
    _, journal = made(3)
    put(journal, bytes(BLOCK_ENTRIES))
    assert journal.used_bytes == BLOCK_BYTES
    put(journal, bytes(BLOCK_ENTRIES + 1))
    assert journal.used_bytes == 3 * BLOCK_BYTES


def test_a_frame_larger_than_the_rest_begins_at_the_first_block() -> None:
    disk, journal = made(5)
    put(journal, b"1")
    put(journal, bytes(2 * BLOCK_BYTES))
    journal.free_before(2)
    assert not journal.fits(2 * BLOCK_BYTES)  # 1 block left, 1 free at the front
    journal.free_before(3)
    (frame,) = put(journal, b"x" * 2 * BLOCK_BYTES)
    assert frame.position == BLOCK_BYTES
    assert found(reopened(disk), 3, 5 * BLOCK_BYTES) == [b"x" * 2 * BLOCK_BYTES]


@pytest.mark.parametrize("at", range(1, 5))
def test_an_empty_journal_takes_a_frame_of_its_whole_size_wherever_it_stands(at: int) -> None:
    disk, journal = made(4)
    put(journal, *[b"x"] * at)
    journal.free_before(at + 1)
    sequence, position = journal.start(at + 1)
    whole = b"w" * (BLOCK_ENTRIES + 3 * BLOCK_BYTES)
    assert journal.fits(len(whole))
    put(journal, whole)
    assert not journal.fits(0)
    assert found(reopened(disk), sequence, position) == [whole]
    journal.free_before(at + 2)
    assert journal.used_bytes == 0


def test_no_frame_is_placed_over_one_that_is_held() -> None:
    _, journal = made(3)
    put(journal, b"1", b"2", b"3")
    assert not journal.fits(0)
    with pytest.raises(AssertionError):
        journal.place((b"4",))
    journal.free_before(2)
    assert journal.fits(BLOCK_ENTRIES)
    assert not journal.fits(BLOCK_ENTRIES + 1)


@searched
@given(st.lists(st.integers(0, 3 * BLOCK_BYTES), min_size=1, max_size=60), st.integers(0, 2**32))
def test_round_and_round_the_newest_frames_are_found_from_the_oldest_held(
    sizes: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    disk, journal = made(9)
    contents: dict[int, bytes] = {}
    for size in sizes:
        while not journal.fits(size):
            oldest = min(contents)
            del contents[oldest]
            journal.free_before(oldest + 1)
        content = rng.randbytes(size)
        (frame,) = put(journal, content)
        contents[frame.sequence] = content
        assert 0 <= journal.free_bytes == journal.capacity_bytes - journal.used_bytes
    sequence, position = journal.start(min(contents))
    again = reopened(disk)
    assert found(again, sequence, position) == list(contents.values())
    assert again.used_bytes <= journal.used_bytes


def torn(disk: SimulatedDisk, frame: FrameWrite) -> None:
    overwrite(disk, frame.position + FRAME_HEADER_BYTES, b"\xff\xff")


def test_a_torn_frame_at_the_end_is_as_if_never_written_and_told_once() -> None:
    disk, journal = made(8)
    put(journal, b"one")
    (frame,) = put(journal, b"two", synced=False)
    torn(disk, frame)
    again = reopened(disk)
    assert found(again) == [b"one"]
    assert again.torn
    third = reopened(disk)
    assert found(third) == [b"one"]
    assert not third.torn


@pytest.mark.parametrize("missing", [0, 1])
def test_of_a_group_under_one_sync_what_follows_a_missing_frame_is_wiped(missing: int) -> None:
    disk, journal = made(12)
    put(journal, b"before")
    group = put(journal, b"a" * 5000, b"b", b"c", synced=False)
    torn(disk, group[missing])
    again = reopened(disk)
    assert found(again) == [b"before", b"a" * 5000, b"b"][: missing + 1]
    # Frames of the same size as those that were lost: what followed them must not come back.
    instead = [b"A" * 5000, b"B"][missing]
    put(again, instead)
    assert found(reopened(disk)) == [*[b"before", b"a" * 5000][: missing + 1], instead]


def test_damage_among_acknowledged_frames_is_reported_and_the_rest_is_read() -> None:
    disk, journal = made(12)
    frames = [put(journal, content)[0] for content in (b"1", b"2", b"3" * 9000, b"4", b"5")]
    torn(disk, frames[1])
    torn(disk, frames[2])
    again = reopened(disk)
    damage = Damage(
        first_sequence=2, next_sequence=4, position=2 * BLOCK_BYTES, size_bytes=4 * BLOCK_BYTES
    )
    assert found(again) == [b"1", damage, b"4", b"5"]
    assert again.next_sequence == 6
    assert again.used_bytes == 7 * BLOCK_BYTES


def test_damage_of_a_group_is_told_by_a_later_frame_only_if_that_says_it_was_synced() -> None:
    disk, journal = made(12)
    group = put(journal, b"1", b"2", b"3")
    put(journal, b"4")
    torn(disk, group[0])
    read = found(reopened(disk))
    assert isinstance(read[0], Damage)
    assert read[1:] == [b"2", b"3", b"4"]


def test_the_checkpoint_knows_that_the_last_frames_were_synced() -> None:
    disk, journal = made(12)
    group = put(journal, b"1", b"2", b"3")
    torn(disk, group[1])
    again = reopened(disk)
    read = list(again.read(1, BLOCK_BYTES, synced_sequence=3))
    assert [type(each) for each in read] == [FoundFrame, Damage, FoundFrame]
    torn(disk, group[2])
    again = reopened(disk)
    read = list(again.read(1, BLOCK_BYTES, synced_sequence=3))
    assert [type(each) for each in read] == [FoundFrame, Damage]
    assert again.next_sequence == 4


def test_a_payload_that_looks_like_a_frame_is_none() -> None:
    """Forged by a publisher who knows everything but the log id."""
    disk, journal = made(12)

    def forged(sequence: int, synced: int) -> bytes:
        rest = sequence.to_bytes(8, "big") + synced.to_bytes(8, "big") + (0).to_bytes(4, "big")
        crc: int = google_crc32c.value(rest)
        return b"SLGF" + crc.to_bytes(4, "big") + rest

    aligned = bytes(BLOCK_ENTRIES) + forged(2, 1) + bytes(100) + forged(2**40, 2**40)
    (frame,) = put(journal, aligned)
    read = found(reopened(disk))
    assert read == [aligned]
    torn(disk, frame)
    assert found(reopened(disk)) == []


@pytest.mark.parametrize("field", [0, 4, 8, 16, 24, 28])
def test_a_flip_in_any_field_of_a_frame_is_noticed(field: int) -> None:
    disk, journal = made(4)
    put(journal, b"entries")
    handle = disk.open(PATH)
    byte = disk.read_at(handle, BLOCK_BYTES + field, 1)
    overwrite(disk, BLOCK_BYTES + field, bytes((byte[0] ^ 1,)))
    assert found(reopened(disk)) == []


def test_frames_nobody_acknowledged_are_durable_once_they_were_read() -> None:
    disk, journal = made(4)
    frame = journal.place((b"in memory only",))
    journal._files.write_at(journal._handle, frame.position, frame.pieces)
    disk.kill()
    disk.turn_on()
    assert found(reopened(disk)) == [b"in memory only"]
    disk.cut_power()
    disk.turn_on()
    assert found(reopened(disk)) == [b"in memory only"]


def test_every_frame_is_what_was_written_whether_needed_or_not() -> None:
    disk, journal = made(6)
    put(journal, b"1", b"2", b"3")
    journal.free_before(4)
    put(journal, b"4" * 2 * BLOCK_BYTES)  # the last three blocks
    put(journal, b"5")
    again = reopened(disk)
    every = again.every_frame()
    assert [frame.sequence for frame in every] == [2, 3, 4, 5]
    oldest = again.oldest(every, 1)
    assert oldest is not None
    assert oldest.sequence == 2
    oldest = again.oldest(every, 3)
    assert oldest is not None
    assert oldest.sequence == 3
    assert again.oldest([], 1) is None


def test_what_an_earlier_lap_left_at_the_end_is_not_taken_for_the_oldest() -> None:
    disk, journal = made(6)
    for content in (b"1", b"2", b"3", b"4", b"5", b"6"):
        put(journal, content)
    journal.free_before(7)
    put(journal, b"7" * 3 * BLOCK_BYTES)  # four blocks from the first on
    journal.free_before(8)
    put(journal, b"8" * 2 * BLOCK_BYTES)  # three: skips the two where 5 and 6 are
    again = reopened(disk)
    every = again.every_frame()
    assert [frame.sequence for frame in every] == [5, 6, 8]
    oldest = again.oldest(every, 7)
    assert oldest is not None
    assert oldest.sequence == 8


@pytest.mark.parametrize("damage", [b"", b"XXXX"])
def test_a_header_that_does_not_hold_is_no_journal_until_it_is_repaired(damage: bytes) -> None:
    disk, journal = made(4)
    put(journal, b"kept")
    overwrite(disk, 12, b"\xff\xff\xff\xff")
    assert open_journal(disk, PATH) is None
    repaired = repair_journal(disk, PATH, size_bytes=BLOCK_BYTES, log_id=LOG_ID)
    assert found(repaired) == [b"kept"]
    assert found(reopened(disk)) == [b"kept"]


def test_a_journal_of_another_format_is_refused_by_name() -> None:
    disk, _ = made(4)
    header = b"SLGJRNL\x02" + (4096).to_bytes(4, "big") + (5).to_bytes(4, "big") + LOG_ID
    overwrite(disk, 0, header + google_crc32c.value(header).to_bytes(4, "big"))
    with pytest.raises(UnknownFormat, match="this release reads"):
        open_journal(disk, PATH)


def test_a_journal_that_is_shorter_than_it_says_gets_its_size_back() -> None:
    disk, journal = made(6)
    put(journal, b"1", b"2")
    handle = disk.open(PATH)
    disk.truncate(handle, 2 * BLOCK_BYTES)
    again = reopened(disk)
    assert disk.size(handle) == journal.size_bytes
    assert found(again) == [b"1"]


def test_there_is_no_journal_where_there_is_no_file() -> None:
    assert open_journal(SimulatedDisk(random.Random(1)), PATH) is None


def positions(frames: Sequence[FrameWrite]) -> list[int]:
    return [frame.position for frame in frames]


def test_a_missing_frame_at_the_wrap_is_found_at_the_first_block() -> None:
    disk, journal = made(4)
    put(journal, b"1", b"2", b"3")
    journal.free_before(4)
    frames = put(journal, b"4" * BLOCK_BYTES, b"5")
    assert positions(frames) == [BLOCK_BYTES, 3 * BLOCK_BYTES]
    torn(disk, frames[0])
    again = reopened(disk)
    read = list(again.read(4, 4 * BLOCK_BYTES, synced_sequence=5))
    assert [type(each) for each in read] == [Damage, FoundFrame]
