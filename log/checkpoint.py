"""The checkpoint: from where recovery begins, and the durable state as of then.

Owns two small files, DATA/checkpoint and DATA/checkpoint.old.

    0   magic    8s   "SLGCKPT" and format version 1
    8   crc32c   u32  of magic and body
    12  size     u32  bytes of the body
    16  body          MessagePack of `Checkpoint`

A new one is written beside, synced, and renamed over the last, which is kept as `.old`: recovery
takes the newest that is whole. Journal space is used again only after the checkpoint that frees it
is durable, and segments are synced before it is written: so whatever a checkpoint does not cover
is in the journal.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec

from log.errors import CorruptCheckpoint, UnknownFormat
from log.files import Files

MAGIC: Final = b"SLGCKPT\x01"
_HEADER: Final = struct.Struct(">8sII")
NAME: Final = "checkpoint"
OLD_NAME: Final = "checkpoint.old"
_NEW_NAME: Final = "checkpoint.new"


class PartitionPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One partition as of the checkpoint. `valid_bytes` of the segment at `segment_base` are
    synced; what lies from `sealed_end` to `durable_end` is in the journal. What is `lost` was
    reported.
    """

    stream: str
    index: int
    partition_id: int
    start_offset: int
    segment_base: int
    valid_bytes: int
    sealed_end: int
    durable_end: int
    lost: list[tuple[int, int]] = []


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to begin. Frames from `sequence` on are read; state changes count from
    `state_sequence` on.
    """

    log_id: bytes
    sequence: int
    position: int
    state_sequence: int
    next_partition_id: int
    partitions: list[PartitionPoint]
    state: list[tuple[bytes, bytes]]


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    body = msgspec.msgpack.encode(checkpoint)
    return _HEADER.pack(MAGIC, google_crc32c.value(MAGIC + body), len(body)) + body


def decode_checkpoint(data: bytes) -> Checkpoint:
    """CorruptCheckpoint for damage, UnknownFormat for another release's."""
    if len(data) < _HEADER.size:
        raise CorruptCheckpoint(f"{len(data)} bytes")
    magic, crc, size = _HEADER.unpack_from(data)
    body = data[_HEADER.size : _HEADER.size + size]
    if len(body) != size or google_crc32c.value(magic + body) != crc:
        raise CorruptCheckpoint("checksum does not hold")
    if magic != MAGIC:
        raise UnknownFormat(
            f"checkpoint of format {magic!r}, this release reads {MAGIC!r}: run its writer"
        )
    return msgspec.msgpack.decode(body, type=Checkpoint)


def write_checkpoint(files: Files, directory: Path, checkpoint: Checkpoint) -> int:
    """Makes `checkpoint` the one recovery takes; durable when this returns. Gives the bytes
    written.
    """
    data = encode_checkpoint(checkpoint)
    handle = files.open(directory / _NEW_NAME, create=True)
    try:
        files.truncate(handle, 0)
        files.write_at(handle, 0, (data,))
        # If power fails before this, the new file may be empty, so it gets its name only
        # afterwards.
        files.datasync(handle)
    finally:
        files.close(handle)
    if files.exists(directory / NAME):
        # If power fails between the renames there is only the old one: it still covers the
        # journal, for nothing it needs is written over before both renames are durable.
        files.rename(directory / NAME, directory / OLD_NAME)
    files.rename(directory / _NEW_NAME, directory / NAME)
    files.sync_directory(directory)
    return len(data)


def read_checkpoint(files: Files, directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and what was wrong with newer ones."""
    problems: list[str] = []
    for name in (NAME, OLD_NAME):
        path = directory / name
        if not files.exists(path):
            continue
        handle = files.open(path)
        try:
            data = files.read_at(handle, 0, files.size(handle))
        finally:
            files.close(handle)
        try:
            return decode_checkpoint(data), problems
        except CorruptCheckpoint as error:
            problems.append(f"{name}: {error}")
    return None, problems
