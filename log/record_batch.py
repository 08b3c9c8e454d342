"""Kafka's RecordBatch v2: what a batch is, byte for byte, and nothing about where it is stored.

Source: Apache Kafka, clients/src/main/java/org/apache/kafka/common/record (DefaultRecordBatch,
DefaultRecord) and the protocol guide, "Record Batch". All integers are big-endian.

    0   base offset            i64   offset of the first record; 0 when produced
    8   batch length           i32   bytes that follow this field
    12  partition leader epoch i32   the broker's; not under the CRC
    16  magic                  i8    2
    17  crc                    u32   CRC-32C of everything from attributes on
    21  attributes             i16   bits 0-2: compression (0 none, 4 zstd); bit 3: timestamp type
    23  last offset delta      i32
    27  base timestamp         i64   ms
    35  max timestamp          i64   ms
    43  producer id            i64   -1 as stored
    51  producer epoch         i16   -1 as stored
    53  base sequence          i32   -1 as stored
    57  record count           i32
    61  records                      compressed as one block, if at all

    record:  length varint, attributes i8 (0), timestamp delta varint, offset delta varint,
             key length varint (-1: none), key, value length varint (-1: none), value,
             header count varint, then each: key length varint, key, value length varint, value
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import google_crc32c
import msgspec
import zstandard

from log.errors import CorruptBatch
from log.varint import decode_varint, varint

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = HEADER.size
BODY_POSITION: Final = 21
"""Where the CRC's coverage begins: the attributes field."""

LENGTH_POSITION: Final = 12
"""Bytes before and with the batch length field: a batch takes LENGTH_POSITION + batch length."""

INDEXED_HEADER: Final = b"mqtt.topic"
"""The header that names a record's topic: UTF-8, not empty."""
MAGIC: Final = 2
COMPRESSION_MASK: Final = 0x07
NONE: Final = 0
ZSTD: Final = 4
BATCH_BYTES_MAX: Final = 64 * 1024 * 1024
"""No batch of ours comes near it; a length field above it is damage, not data."""

_BODY: Final = struct.Struct(">hiqqqhii")
_FRONT: Final = struct.Struct(">qiibI")

Header = tuple[bytes, bytes]
KnownHeaders = dict[bytes, tuple[Header, ...]]


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record as a consumer sees it. `timestamp_ms` is the gateway's clock at ingest."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """The 61 bytes before a batch's records, decoded. `size_bytes` is the whole batch, header
    included.
    """

    base_offset: int
    size_bytes: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def compressed(self) -> bool:
        return self.attributes & COMPRESSION_MASK != NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A whole batch as it is on disk, or as it would be: `data` is header and records."""

    base_offset: int
    record_count: int
    last_offset: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    compressed: bool
    data: bytes


class RecordTemplate:
    """The parts of a record that repeat from message to message, encoded once.

    `head` is key length and key, `tail` is the headers; between them stands the value. One per
    (client, topic) makes encoding a record a join of cached pieces. `topic_key` is the value of the
    indexed header with its length before it; b"" without one.
    """

    __slots__ = (
        "body_bytes",
        "fixed_bytes",
        "head",
        "key",
        "middle",
        "tail",
        "topic_key",
        "value_bytes",
    )

    def __init__(self, key: bytes | None, headers: Sequence[Header] = ()) -> None:
        self.key = key
        self.head = varint(-1) if key is None else varint(len(key)) + key
        pieces = [varint(len(headers))]
        self.topic_key = b""
        for name, value in headers:
            pieces += (varint(len(name)), name, varint(len(value)), value)
            if name == INDEXED_HEADER:
                self.topic_key = varint(len(value)) + value
        self.tail = b"".join(pieces)
        self.fixed_bytes = len(self.head) + len(self.tail)
        self.fit(0)

    def fit(self, value_bytes: int) -> None:
        """Makes `middle` (head and value length) and `body_bytes` (all but timestamp and offset
        delta) fit a value of this size: devices send values of one size again and again.
        """
        size_field = varint(value_bytes)
        self.value_bytes = value_bytes
        self.middle = self.head + size_field
        self.body_bytes = self.fixed_bytes + len(size_field) + value_bytes


def parse_header(data: bytes, position: int = 0) -> BatchHeader:
    """The batch header at `position`. CorruptBatch if it is cut short or cannot be one."""
    if len(data) - position < HEADER_BYTES:
        raise CorruptBatch(
            f"batch header cut short: {len(data) - position} of {HEADER_BYTES} bytes"
        )
    (
        base,
        length,
        _,
        magic,
        crc,
        attributes,
        last_delta,
        base_ts,
        max_ts,
        pid,
        epoch,
        seq,
        count,
    ) = HEADER.unpack_from(data, position)
    if magic != MAGIC:
        raise CorruptBatch(f"magic {magic}, not {MAGIC}")
    if not HEADER_BYTES - LENGTH_POSITION <= length <= BATCH_BYTES_MAX:
        raise CorruptBatch(f"batch length {length} is not possible")
    if base < 0 or count < 1 or last_delta < count - 1:
        raise CorruptBatch(f"base offset {base}, {count} records, last delta {last_delta}")
    return BatchHeader(
        base_offset=base,
        size_bytes=length + LENGTH_POSITION,
        crc=crc,
        attributes=attributes,
        last_offset_delta=last_delta,
        base_timestamp_ms=base_ts,
        max_timestamp_ms=max_ts,
        producer_id=pid,
        producer_epoch=epoch,
        base_sequence=seq,
        record_count=count,
    )


def verify(data: bytes, header: BatchHeader) -> None:
    """CorruptBatch unless `data` is exactly the batch of `header` and its CRC-32C holds."""
    if len(data) != header.size_bytes:
        raise CorruptBatch(f"batch cut short: {len(data)} of {header.size_bytes} bytes")
    crc = google_crc32c.value(data[BODY_POSITION:])
    if crc != header.crc:
        raise CorruptBatch(f"CRC-32C {crc:08x}, stored {header.crc:08x}")


def stored_batch(data: bytes, header: BatchHeader | None = None) -> StoredBatch:
    """`data`, one whole batch, with the header fields a reader needs."""
    header = header or parse_header(data)
    return StoredBatch(
        base_offset=header.base_offset,
        record_count=header.record_count,
        last_offset=header.last_offset,
        base_timestamp_ms=header.base_timestamp_ms,
        max_timestamp_ms=header.max_timestamp_ms,
        compressed=header.compressed,
        data=data,
    )


def frame_batch(
    records: bytes,
    *,
    base_offset: int,
    record_count: int,
    base_timestamp_ms: int,
    max_timestamp_ms: int,
    compression_level: int | None,
    last_offset_delta: int | None = None,
) -> bytes:
    """A whole batch around encoded `records`, whose deltas count from the base offset and
    timestamp given.

    `compression_level`: zstd's, or None for none. The time goes into zstd, which releases the GIL.
    """
    attributes = NONE
    if compression_level is not None:
        records = zstandard.ZstdCompressor(level=compression_level).compress(records)
        attributes = ZSTD
    last_delta = record_count - 1 if last_offset_delta is None else last_offset_delta
    body = _BODY.pack(
        attributes, last_delta, base_timestamp_ms, max_timestamp_ms, -1, -1, -1, record_count
    )
    crc = google_crc32c.extend(google_crc32c.value(body), records)
    length = HEADER_BYTES - LENGTH_POSITION + len(records)
    return b"".join((_FRONT.pack(base_offset, length, 0, MAGIC, crc), body, records))


def encode_record(record: Record, *, base_offset: int, base_timestamp_ms: int) -> bytes:
    """One record, its deltas counted from the bases given."""
    template = RecordTemplate(record.key, record.headers)
    value = varint(-1) if record.value is None else varint(len(record.value)) + record.value
    body = b"".join(
        (
            b"\0",
            varint(record.timestamp_ms - base_timestamp_ms),
            varint(record.offset - base_offset),
            template.head,
            value,
            template.tail,
        )
    )
    return varint(len(body)) + body


def encode_batch(records: Sequence[Record], *, compression_level: int | None = None) -> bytes:
    """One whole batch of `records` (at least one, offsets ascending)."""
    base, base_ts = records[0].offset, records[0].timestamp_ms
    encoded = b"".join(
        encode_record(record, base_offset=base, base_timestamp_ms=base_ts) for record in records
    )
    return frame_batch(
        encoded,
        base_offset=base,
        record_count=len(records),
        base_timestamp_ms=base_ts,
        max_timestamp_ms=max(record.timestamp_ms for record in records),
        compression_level=compression_level,
        last_offset_delta=records[-1].offset - base,
    )


def batch_records(data: bytes, header: BatchHeader) -> bytes:
    """The encoded records of a whole batch, decompressed."""
    records = data[HEADER_BYTES:]
    codec = header.attributes & COMPRESSION_MASK
    if codec == NONE:
        return records
    if codec != ZSTD:
        raise CorruptBatch(f"compression codec {codec}: the log writes only zstd (4) or none (0)")
    try:
        return zstandard.ZstdDecompressor().decompress(records, max_output_size=BATCH_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise CorruptBatch(f"zstd: {error}") from error


def decode_records(
    records: bytes,
    *,
    base_offset: int,
    base_timestamp_ms: int,
    record_count: int,
    known: KnownHeaders | None = None,
) -> Iterator[Record]:
    """The records of an uncompressed block, in order; `known` as for `decode_record`. CorruptBatch
    where the block breaks its format.
    """
    position = 0
    known = {} if known is None else known
    for _ in range(record_count):
        start, end = record_at(records, position)
        yield decode_record(records, start, end, base_offset, base_timestamp_ms, known)
        position = end
    if position != len(records):
        raise CorruptBatch(f"{len(records) - position} bytes behind the last record")


def decode_batch(data: bytes) -> list[Record]:
    """All records of a whole stored batch, checked against its CRC."""
    header = parse_header(data)
    verify(data, header)
    return list(
        decode_records(
            batch_records(data, header),
            base_offset=header.base_offset,
            base_timestamp_ms=header.base_timestamp_ms,
            record_count=header.record_count,
        )
    )


def record_at(data: bytes, position: int) -> tuple[int, int]:
    """Where the record at `position` begins, behind its length, and where it ends. CorruptBatch."""
    try:
        length, start = decode_varint(data, position)
    except (IndexError, ValueError) as error:
        raise CorruptBatch(f"record at byte {position} breaks off: {error}") from error
    if length < 0 or start + length > len(data):
        raise CorruptBatch(f"record at byte {position} breaks off: {length} bytes wanted")
    return start, start + length


def decode_record(
    data: bytes, start: int, end: int, base_offset: int, base_ts: int, known: KnownHeaders
) -> Record:
    """The record between two positions. CorruptBatch unless it takes exactly these bytes.

    `known`: the headers of records before it, by their bytes. In a hot loop (STYLE.md point 6).
    """
    try:
        at = start + 1
        ts_delta, at = decode_varint(data, at)
        offset_delta, at = decode_varint(data, at)
        key, at = _decode_bytes(data, at)
        value, at = _decode_bytes(data, at)
        tail = data[at:end]
        headers = known.get(tail)
        if headers is None:
            headers, at = _decode_headers(data, at)
            if at != end:
                raise CorruptBatch(f"record of {end - start} bytes takes {at - start}")
            known[tail] = headers
    except (IndexError, ValueError) as error:
        raise CorruptBatch(f"record at byte {start} breaks off: {error}") from error
    return Record(
        offset=base_offset + offset_delta,
        timestamp_ms=base_ts + ts_delta,
        key=key,
        value=value,
        headers=headers,
    )


def _decode_headers(data: bytes, position: int) -> tuple[tuple[Header, ...], int]:
    count, position = decode_varint(data, position)
    headers: list[Header] = []
    for _ in range(count):
        name, position = _decode_bytes(data, position)
        content, position = _decode_bytes(data, position)
        headers.append((name or b"", content or b""))
    return tuple(headers), position


def _decode_bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    byte = data[position]
    if byte < 0x80:
        length, position = (byte >> 1) ^ -(byte & 1), position + 1
    else:
        length, position = decode_varint(data, position)
    if length < 0:
        return None, position
    end = position + length
    if end > len(data):
        raise IndexError(f"{length} bytes wanted, {len(data) - position} there")
    return data[position:end], end
