"""The checkpoint's two files: which one is taken, and what a crash between them leaves."""

from __future__ import annotations

import random
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from log.checkpoint import (
    Checkpoint,
    PartitionPoint,
    decode_checkpoint,
    encode_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from log.errors import CorruptCheckpoint
from tests.log.simulated_disk import PowerCut, SimulatedDisk
from tests.log.strategies import searched

DIRECTORY = Path("/disk")


def checkpoint(sequence: int = 1, state: list[tuple[bytes, bytes]] | None = None) -> Checkpoint:
    point = PartitionPoint(
        stream="mqtt",
        index=0,
        partition_id=1,
        start_offset=0,
        segment_base=0,
        valid_bytes=10,
        sealed_end=5,
        durable_end=7,
    )
    return Checkpoint(
        log_id=bytes(16),
        sequence=sequence,
        position=4096,
        state_sequence=sequence + 1,
        next_partition_id=2,
        partitions=[point],
        state=state or [],
    )


def test_golden_head() -> None:
    data = encode_checkpoint(checkpoint())
    body = data[16:]
    crc: int = google_crc32c.value(b"SLGCKPT\x01" + body)
    assert data[:16] == (b"SLGCKPT\x01" + crc.to_bytes(4, "big") + len(body).to_bytes(4, "big"))


@searched
@given(
    st.integers(0, 2**63),
    st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=300)), max_size=20),
)
def test_what_was_encoded_is_decoded(sequence: int, state: list[tuple[bytes, bytes]]) -> None:
    written = checkpoint(sequence, state)
    assert decode_checkpoint(encode_checkpoint(written)) == written


def test_any_flipped_bit_and_any_missing_byte_is_corruption() -> None:
    data = encode_checkpoint(checkpoint())
    for bit in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptCheckpoint):
            decode_checkpoint(bytes(wrong))
    for size in range(len(data)):
        with pytest.raises(CorruptCheckpoint):
            decode_checkpoint(data[:size])


def test_a_crash_at_any_call_leaves_the_last_or_the_new_one_whole() -> None:
    taken = set()
    for seed in range(400):
        disk = SimulatedDisk(random.Random(seed))
        for sequence in (1, 2):
            write_checkpoint(disk, DIRECTORY, checkpoint(sequence))
        disk.cut_in = seed % 10 + 1
        sequence = 2
        try:
            write_checkpoint(disk, DIRECTORY, checkpoint(3))
            sequence = 3
            disk.cut_power()
        except PowerCut:
            pass
        disk.turn_on()
        found, problems = read_checkpoint(disk, DIRECTORY)
        assert problems == []
        assert found is not None
        assert sequence <= found.sequence <= 3, (seed, found.sequence)
        taken.add((sequence, found.sequence))
        write_checkpoint(disk, DIRECTORY, checkpoint(4))
        disk.cut_power()
        disk.turn_on()
        found, problems = read_checkpoint(disk, DIRECTORY)
        assert problems == []
        assert found is not None
        assert found.sequence == 4
    assert taken == {(2, 2), (2, 3), (3, 3)}


def test_none_is_found_where_none_is() -> None:
    assert read_checkpoint(SimulatedDisk(random.Random(1)), DIRECTORY) == (None, [])
