"""RecordBatch v2: byte for byte, round, and against the readers of others."""

from __future__ import annotations

import random

import google_crc32c
import msgspec
import pytest
import zstandard
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st
from kio.records.readers import read_batch

from log.errors import CorruptBatch
from log.record_batch import (
    BODY_POSITION,
    HEADER_BYTES,
    Record,
    RecordTemplate,
    decode_batch,
    decode_records,
    encode_batch,
    frame_batch,
    parse_header,
    stored_batch,
)
from tests.log.strategies import levels, records, searched

RECORDS = (
    Record(offset=1000, timestamp_ms=1_700_000_000_000, key=b"k", value=b"hello"),
    Record(
        offset=1001,
        timestamp_ms=1_700_000_000_005,
        key=None,
        value=b"",
        headers=((b"mqtt.topic", b"a/b"), (b"n", b"")),
    ),
    Record(offset=1002, timestamp_ms=1_699_999_999_999, key=b"", value=None),
)
# By hand from Kafka's protocol guide ("Record Batch" and "Record").
GOLDEN = bytes.fromhex(
    "00000000000003e8"  # base offset
    "0000005e"  # batch length
    "00000000"  # partition leader epoch
    "02"  # magic
    "f8846fff"  # CRC-32C from here on
    "0000"  # attributes
    "00000002"  # last offset delta
    "0000018bcfe56800"  # base timestamp
    "0000018bcfe56805"  # max timestamp
    "ffffffffffffffff"  # producer id
    "ffff"  # producer epoch
    "ffffffff"  # base sequence
    "00000003"  # record count
    # length, attributes, timestamp delta, offset delta, key, value, headers
    "18 00 00 00 02 6b 0a 68656c6c6f 00"
    "30 00 0a 02 01 00 04 14 6d7174742e746f706963 06 612f62 02 6e 00"
    "0c 00 01 04 00 01 00"
)


def test_golden_batch() -> None:
    assert encode_batch(RECORDS) == GOLDEN
    assert decode_batch(GOLDEN) == list(RECORDS)


def test_golden_header() -> None:
    header = parse_header(b"xyz" + GOLDEN, 3)
    assert (header.base_offset, header.last_offset, header.record_count) == (1000, 1002, 3)
    assert header.size_bytes == len(GOLDEN)
    assert header.base_timestamp_ms == 1_700_000_000_000
    assert header.max_timestamp_ms == 1_700_000_000_005
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (-1, -1, -1)
    assert not header.compressed


def test_the_checksum_is_castagnolis() -> None:
    """RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 8a9136aa."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA


@searched
@given(records(gaps=True), levels)
def test_what_was_encoded_is_decoded(found: list[Record], level: int | None) -> None:
    data = encode_batch(found, compression_level=level)
    assert decode_batch(data) == found
    stored = stored_batch(data)
    assert stored.base_offset == found[0].offset
    assert stored.last_offset == found[-1].offset
    assert stored.record_count == len(found)
    assert stored.max_timestamp_ms == max(record.timestamp_ms for record in found)
    assert stored.compressed == (level is not None)


@searched
@given(records())
def test_aiokafka_reads_it(found: list[Record]) -> None:
    """Plain only: its zstd needs another package. Kafka reads zstd in test_kafka_tools.py."""
    found = [_with_text_names(each) for each in found]
    batch = DefaultRecordBatch(encode_batch(found))
    assert batch.validate_crc()
    read = [
        Record(
            offset=each.offset,
            timestamp_ms=each.timestamp,
            key=each.key,
            value=each.value,
            headers=tuple((name.encode(), value) for name, value in each.headers),
        )
        for each in batch
    ]
    assert read == found


def _with_text_names(record: Record) -> Record:
    named = tuple((name.hex().encode(), value) for name, value in record.headers)
    return msgspec.structs.replace(record, headers=named)


@searched
@given(records())
def test_kio_reads_it(found: list[Record]) -> None:
    """Whole seconds only: that is what kio keeps of a timestamp."""
    data = encode_batch(found)
    batch, size = read_batch(data, 0)
    assert size == len(data)
    read = [
        (
            each.offset,
            int(each.timestamp.timestamp()),
            each.key,
            each.value,
            tuple((header.key, header.value) for header in each.headers),
        )
        for each in batch.records
    ]
    assert read == [
        (each.offset, each.timestamp_ms // 1000, each.key, each.value, each.headers)
        for each in found
    ]


def test_a_template_fits_values_of_any_size() -> None:
    template = RecordTemplate(b"key", ((b"name", b"value"),))
    for size in (0, 63, 64, 8191, 8192, 5):
        template.fit(size)
        assert template.value_bytes == size
        assert len(template.middle) + size + len(template.tail) == template.body_bytes


@searched
@given(records(), st.data())
def test_any_changed_bit_is_noticed(found: list[Record], data: st.DataObject) -> None:
    """All but the fields that are not under the checksum: base offset and leader epoch."""
    batch = bytearray(encode_batch(found, compression_level=data.draw(levels)))
    bit = data.draw(st.integers(0, len(batch) * 8 - 1))
    at = bit // 8
    if at < 8 or 12 <= at < 16:
        return
    batch[at] ^= 1 << bit % 8
    with pytest.raises(CorruptBatch):
        decode_batch(bytes(batch))


@searched
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_corrupt_batch_and_nothing_else(junk: bytes) -> None:
    with pytest.raises(CorruptBatch):
        decode_batch(junk)


@searched
@given(st.binary(max_size=300), st.integers(1, 5))
def test_arbitrary_records_under_a_good_checksum_are_a_corrupt_batch_or_records(
    junk: bytes, count: int
) -> None:
    for attributes in (0, 4):
        body = frame_batch(
            junk,
            base_offset=0,
            record_count=count,
            base_timestamp_ms=0,
            max_timestamp_ms=0,
            compression_level=None,
        )[BODY_POSITION:]
        body = attributes.to_bytes(2, "big") + body[2:]
        head = (0).to_bytes(8, "big") + (len(body) + 9).to_bytes(4, "big") + bytes(4) + b"\x02"
        data = head + google_crc32c.value(body).to_bytes(4, "big") + body
        try:
            assert len(decode_batch(data)) == count
        except CorruptBatch:
            pass


@pytest.mark.parametrize("codec", [1, 2, 3, 5])
def test_a_codec_that_is_not_ours_is_named(codec: int) -> None:
    body = codec.to_bytes(2, "big") + GOLDEN[BODY_POSITION + 2 :]
    data = GOLDEN[:17] + google_crc32c.value(body).to_bytes(4, "big") + body
    with pytest.raises(CorruptBatch, match=f"codec {codec}"):
        decode_batch(data)


def test_a_batch_that_would_fill_the_memory_is_corrupt() -> None:
    """A frame of zstd that says it is 16 GiB must not be believed."""
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(200 << 20))
    data = bytearray(
        frame_batch(
            bomb,
            base_offset=0,
            record_count=1,
            base_timestamp_ms=0,
            max_timestamp_ms=0,
            compression_level=None,
        )
    )
    data[22] = 4
    data[17:21] = google_crc32c.value(bytes(data[BODY_POSITION:])).to_bytes(4, "big")
    with pytest.raises(CorruptBatch):
        decode_batch(bytes(data))


def test_bytes_behind_the_last_record_are_corrupt() -> None:
    with pytest.raises(CorruptBatch, match="behind the last record"):
        list(
            decode_records(
                GOLDEN[HEADER_BYTES:], base_offset=0, base_timestamp_ms=0, record_count=2
            )
        )


def test_fuzzed_batches_allow_only_the_documented_error() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        data = bytearray(GOLDEN)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data[17:21] = google_crc32c.value(bytes(data[BODY_POSITION:])).to_bytes(4, "big")
        try:
            decode_batch(bytes(data))
        except CorruptBatch:
            pass
