"""Which topics are in which batch of a segment: a file beside it that can always be built again.

    00000000000000000000.topics    chapters, each of consecutive batches, in any order

    0   magic           4s    "SGTX"
    4   format          u16   1
    6   zero            u16
    8   position        u64   of the first batch in the .log file
    16  end position    u64   behind the last batch
    24  base offset     i64   of the first batch
    32  end offset      i64   behind the last record
    40  last batch CRC  u32   as it stands in that batch: it tells which log this speaks of
    44  last batch size u32
    48  batch count     u32
    52  topic count     u32
    56  payload size    u32   bytes that follow this header; 0: not worth it, read the batches
    60  unpacked size   u32
    64  payload CRC     u32   CRC-32C
    68  header CRC      u32   CRC-32C of bytes 0 to 67
    72  payload, zstd:
        batch sizes     u32 each
        end offsets     u32 each, counted from the base offset
        topics          varint length and bytes each, in the order in which they appeared
        bit sets        for each batch, topic count / 8 bytes rounded up: bit n says topic n

All integers are little-endian. The file is never synced: it is derived from the log, and every
way in which it can be missing, torn, old or damaged ends in its batches being read instead. Old
means that the log was cut at a recovery and went on otherwise; the last batch then has another
CRC. Whoever finds it damaged says so (`TopicIndex.distrust`), and the housekeeper builds it again.

Owns the file and the chapter in the making, which is in memory until it is full, the segment is
closed, or the log is. One thread writes; any may read.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c
import zstandard

from log.errors import CorruptIndex
from log.files import Files
from log.record_batch import BatchHeader
from log.scan import NO_KEY, key_topic
from log.varint import decode_varint

_HEAD: Final = struct.Struct("<4sHHQQqqIIIIIII")
_HEAD_CRC: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _HEAD_CRC.size
_MAGIC: Final = b"SGTX"
FORMAT: Final = 1
UNPACKED_MAX: Final = 1 << 28

CHAPTER_BATCHES_MAX: Final = 256
"""Some 12 MiB of log. A chapter repeats the names of its topics: fewer batches would make them a
larger part, more would lose more of the index with a kill."""

WORTH: Final = 8
"""A chapter of more than an eighth of its batches' bytes is not kept: where nearly every record
has a topic of its own, reading the batches is as good."""

TOPIC_OVERHEAD_BYTES: Final = 120
"""Memory of a topic in an open chapter, beside its name."""

_BITS: Final = bytes.maketrans(b"\0\1", b"01")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapterHead:
    """The header of a chapter in the file; `at` is where its payload begins."""

    position: int
    end_position: int
    base_offset: int
    end_offset: int
    last_crc: int
    last_size_bytes: int
    batch_count: int
    topic_count: int
    payload_bytes: int
    unpacked_bytes: int
    payload_crc: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a chapter says: `keys` are topics with their lengths before them."""

    position: int
    base_offset: int
    end_offset: int
    sizes: Sequence[int]
    ends: Sequence[int]
    keys: list[bytes]
    topics: Sequence[int]
    """For each batch the bit set of its topics."""


class OpenChapter:
    """A chapter in the making."""

    def __init__(self, position: int, base_offset: int) -> None:
        self.position = self.end_position = position
        self.base_offset = self.end_offset = base_offset
        self.bytes = 0
        """Of memory, about."""
        self._ordinals: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._sizes: list[int] = []
        self._ends: list[int] = []
        self._topics: list[int] = []
        self._last_crc = 0

    @property
    def batch_count(self) -> int:
        return len(self._topics)

    def add(self, header: BatchHeader, keys: set[bytes]) -> None:
        """The next batch, and the keys of its topics."""
        ordinals = self._ordinals
        for key in keys.difference(ordinals):
            if key_topic(key) is None:
                keys = {*keys, NO_KEY}
                key = NO_KEY
            if key not in ordinals:
                ordinals[key] = len(ordinals)
                self._keys.append(key)
                self.bytes += len(key) + TOPIC_OVERHEAD_BYTES
        digits = bytearray(b"0" * max(1, len(ordinals)))
        for ordinal in map(ordinals.__getitem__, keys.intersection(ordinals)):
            digits[~ordinal] = 49
        self.bytes += len(digits) // 8 + 64
        self._sizes.append(header.size_bytes)
        self._ends.append(header.last_offset + 1 - self.base_offset)
        self.end_position += header.size_bytes
        self.end_offset = header.last_offset + 1
        self._last_crc = header.crc
        self._topics.append(int(digits, 2))  # last: a reader takes as many batches as there are

    def full(self, bytes_max: int) -> bool:
        """Whether it takes that much memory, or has batches enough."""
        return self.bytes >= bytes_max or self.batch_count >= CHAPTER_BATCHES_MAX

    def contents(self) -> Contents:
        """What it says so far, in any thread."""
        count = len(self._topics)
        ends = self._ends[:count]
        return Contents(
            position=self.position,
            base_offset=self.base_offset,
            end_offset=self.base_offset + ends[-1] if ends else self.base_offset,
            sizes=self._sizes[:count],
            ends=ends,
            keys=list(self._keys),
            topics=self._topics[:count],
        )

    def encode(self) -> bytes:
        """The chapter as it stands in the file. With at least one batch in it."""
        count, topic_count = len(self._topics), len(self._keys)
        width = (topic_count + 7) // 8
        unpacked = b"".join(
            (
                struct.pack(f"<{2 * count}I", *self._sizes, *self._ends),
                *self._keys,
                *(topics.to_bytes(width, "little") for topics in self._topics),
            )
        )
        payload = zstandard.ZstdCompressor(level=3).compress(unpacked)
        if len(payload) * WORTH > self.end_position - self.position or not topic_count:
            payload = unpacked = b""
            topic_count = 0
        head = _HEAD.pack(
            _MAGIC,
            FORMAT,
            0,
            self.position,
            self.end_position,
            self.base_offset,
            self.end_offset,
            self._last_crc,
            self._sizes[-1],
            count,
            topic_count,
            len(payload),
            len(unpacked),
            google_crc32c.value(payload),
        )
        return head + _HEAD_CRC.pack(google_crc32c.value(head)) + payload


class TopicIndex:
    """The topics of one segment."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._lock = threading.Lock()
        self._heads: list[ChapterHead] | None = None
        self._file_bytes = 0
        self._distrusted = False
        self.incomplete = True
        """Whether there may be batches that no chapter speaks of."""
        self.open: OpenChapter | None = None

    # -- reading

    def heads(self) -> list[ChapterHead]:
        """The chapters in the file, by position. OSError."""
        with self._lock:
            if self._heads is None:
                self._heads, self._file_bytes = self._read_heads()
            return [] if self._distrusted else self._heads

    def load(self, head: ChapterHead) -> Contents:
        """CorruptIndex; OSError."""
        handle = self._files.open(self._path)
        try:
            payload = self._files.read_at(handle, head.at, head.payload_bytes)
        finally:
            self._files.close(handle)
        if google_crc32c.value(payload) != head.payload_crc:
            raise CorruptIndex("CRC-32C of a chapter")
        return _unpack(head, payload)

    def distrust(self) -> None:
        """The file does without until the housekeeper has built it again."""
        self._distrusted = self.incomplete = True

    def _read_heads(self) -> tuple[list[ChapterHead], int]:
        try:
            handle = self._files.open(self._path)
        except FileNotFoundError:
            return [], 0
        heads: list[ChapterHead] = []
        end = 0
        try:
            size = self._files.size(handle)
            while head := _parse_head(self._files.read_at(handle, end, HEAD_BYTES), end):
                if head.at + head.payload_bytes > size:
                    break
                heads.append(head)
                end = head.at + head.payload_bytes
        finally:
            self._files.close(handle)
        return sorted(heads, key=lambda head: head.position), end

    # -- writing

    def add(self, position: int, header: BatchHeader, keys: set[bytes], bytes_max: int) -> None:
        """A batch was appended to the log at `position`, with these keys. `bytes_max`: of memory,
        for a chapter.
        """
        if self.open is None or self.open.end_position != position:
            self.close_chapter()
            self.open = OpenChapter(position, header.base_offset)
        self.open.add(header, keys)
        if self.open.full(bytes_max):
            self.close_chapter()

    def close_chapter(self) -> None:
        """Writes what is in memory. Where that fails, the housekeeper builds it again later."""
        if self.open and self.open.batch_count:
            try:
                self.append(self.open)
            except OSError:
                self.incomplete = True
        self.open = None  # last: a reader finds it here until it is in the file

    def append(self, chapter: OpenChapter) -> None:
        """Puts a chapter into the file. OSError."""
        self.heads()
        data = chapter.encode()
        with self._lock:
            at = self._file_bytes
            head = _parse_head(data, at)
            assert head is not None and self._heads is not None, "a chapter that was just made"
            handle = self._files.open(self._path, create=True)
            try:
                self._files.write_at(handle, at, (data,))
                # What is behind may be the rest of a chapter that a crash cut short.
                self._files.truncate(handle, at + len(data))
            finally:
                self._files.close(handle)
            self._file_bytes = at + len(data)
            self._heads = sorted([*self._heads, head], key=lambda head: head.position)

    def delete(self) -> None:
        """Removes the file. OSError."""
        with self._lock:
            self._heads, self._file_bytes, self._distrusted = None, 0, False
            with contextlib.suppress(FileNotFoundError):
                self._files.remove(self._path)

    def gap(self, end_position: int) -> tuple[int, int] | None:
        """The first stretch of the log below `end_position` that no chapter speaks of; None where
        there is none. Removes the file first if it is distrusted. OSError.
        """
        if self._distrusted:
            self.delete()
        if self.open:
            end_position = min(end_position, self.open.position)
        at = 0
        for head in self.heads():
            if head.position > at:
                break
            at = max(at, head.end_position)
        else:
            return (at, end_position) if at < end_position else None
        return at, min(head.position, end_position)


def wanted_bits(answers: Sequence[bool]) -> int:
    """Bit n is set where answer n is true."""
    return int(bytes(reversed(answers)).translate(_BITS) or b"0", 2)


def _parse_head(data: bytes, at: int) -> ChapterHead | None:
    if len(data) < HEAD_BYTES:
        return None
    (crc,) = _HEAD_CRC.unpack_from(data, _HEAD.size)
    if google_crc32c.value(data[: _HEAD.size]) != crc:
        return None
    magic, version, _, *fields = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != FORMAT:
        return None
    names = (
        "position",
        "end_position",
        "base_offset",
        "end_offset",
        "last_crc",
        "last_size_bytes",
        "batch_count",
        "topic_count",
        "payload_bytes",
        "unpacked_bytes",
        "payload_crc",
    )
    return ChapterHead(**dict(zip(names, fields, strict=True)), at=at + HEAD_BYTES)


def _unpack(head: ChapterHead, payload: bytes) -> Contents:
    """CorruptIndex where the payload does not hold what the header says."""
    if head.unpacked_bytes > UNPACKED_MAX:
        raise CorruptIndex(f"a chapter of {head.unpacked_bytes} bytes")
    try:
        data = zstandard.ZstdDecompressor().decompress(payload, max_output_size=head.unpacked_bytes)
        count = head.batch_count
        numbers = struct.unpack_from(f"<{2 * count}I", data)
        at = 8 * count
        keys = []
        for _ in range(head.topic_count):
            length, start = decode_varint(data, at)
            keys.append(data[at : start + length])
            at = start + length
    except (zstandard.ZstdError, struct.error, IndexError, ValueError) as error:
        raise CorruptIndex(str(error)) from error
    width = (head.topic_count + 7) // 8
    if at + count * width != len(data):
        raise CorruptIndex("a chapter of another size")
    return Contents(
        position=head.position,
        base_offset=head.base_offset,
        end_offset=head.end_offset,
        sizes=numbers[:count],
        ends=numbers[count:],
        keys=keys,
        topics=[
            int.from_bytes(data[place : place + width], "little")
            for place in range(at, len(data), width)
        ],
    )
