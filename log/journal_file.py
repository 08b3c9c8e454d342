"""The journal's file: making it, and taking one that is there by its header.

    header: 0   magic     8s   "SLGJRNL" and format version 1
            8   block     u32  4096
            12  blocks    u32  in the file, header included
            16  log id    16s  random; the checkpoint repeats it, so that no other log's is taken
            32  crc32c    u32  of the 32 bytes before

The header is written once. One that is damaged is written again from the checkpoint, which knows
the log id: the frames do not need it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import google_crc32c

from log.errors import UnknownFormat
from log.files import Files
from log.journal import BLOCK_BYTES, FRAME_MAGIC, Journal, whole_blocks

MAGIC: Final = b"SLGJRNL\x01"
_HEADER: Final = struct.Struct(">8sII16s")
_HEADER_CRC: Final = struct.Struct(">I")


def create_journal(files: Files, path: Path, *, size_bytes: int, log_id: bytes) -> Journal:
    """A new journal of `size_bytes` (rounded to blocks) at `path`, durable when this returns."""
    size_bytes = whole_blocks(size_bytes)
    handle = files.open(path, create=True)
    files.truncate(handle, 0)
    files.allocate(handle, size_bytes)
    _write_header(files, handle, size_bytes, log_id)
    # If power fails before these, there is a journal of zeros or none: it holds nothing and is
    # made again.
    files.datasync(handle)
    files.sync_directory(path.parent)
    return Journal(files, handle, size_bytes=size_bytes, log_id=log_id)


def repair_journal(files: Files, path: Path, *, size_bytes: int, log_id: bytes) -> Journal:
    """A journal whose header is damaged, with the header written again; its frames are as they
    were. `size_bytes` is what it is to have at least.
    """
    handle = files.open(path)
    size_bytes = max(whole_blocks(size_bytes), files.size(handle) // BLOCK_BYTES * BLOCK_BYTES)
    files.allocate(handle, size_bytes)
    _write_header(files, handle, size_bytes, log_id)
    files.datasync(handle)
    return Journal(files, handle, size_bytes=size_bytes, log_id=log_id)


def holds_frames(files: Files, path: Path) -> bool:
    """Whether the file looks as if there were frames in it, readable or not; or is not ours."""
    if not files.exists(path):
        return False
    handle = files.open(path)
    try:
        head = files.read_at(handle, 0, len(MAGIC))
        return (head != MAGIC and any(head)) or any(
            files.read_at(handle, position, len(FRAME_MAGIC)) == FRAME_MAGIC
            for position in range(BLOCK_BYTES, files.size(handle), BLOCK_BYTES)
        )
    finally:
        files.close(handle)


def _write_header(files: Files, handle: int, size_bytes: int, log_id: bytes) -> None:
    header = _HEADER.pack(MAGIC, BLOCK_BYTES, size_bytes // BLOCK_BYTES, log_id)
    files.write_at(handle, 0, (header, _HEADER_CRC.pack(google_crc32c.value(header))))


def open_journal(files: Files, path: Path) -> Journal | None:
    """The journal at `path`; None if there is none or its header was never completed.
    UnknownFormat.
    """
    if not files.exists(path):
        return None
    handle = files.open(path)
    head = files.read_at(handle, 0, _HEADER.size + _HEADER_CRC.size)
    header, crc = head[: _HEADER.size], head[_HEADER.size :]
    if len(crc) < _HEADER_CRC.size or _HEADER_CRC.pack(google_crc32c.value(header)) != crc:
        files.close(handle)
        return None
    magic, block, blocks, log_id = _HEADER.unpack(header)
    if magic != MAGIC or block != BLOCK_BYTES:
        files.close(handle)
        raise UnknownFormat(
            f"{path} is of format {magic!r}, this release reads {MAGIC!r}: run its writer"
        )
    # If power failed while it was made, or somebody cut it, it is shorter than it says.
    files.allocate(handle, blocks * block)
    return Journal(files, handle, size_bytes=blocks * block, log_id=log_id)
