"""STREAM-PARTITION/partition.json: what the directory is, should every checkpoint be lost.

Written once, when the partition is made. The checkpoint knows the same: one writes the other again
when it is damaged.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from log.errors import UnknownFormat
from log.files import Files

NAME = "partition.json"
FORMAT = 1


class PartitionFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content. The partition id is what journal frames call it."""

    format: int
    stream: str
    index: int
    partition_id: int

    @property
    def directory_name(self) -> str:
        return f"{self.stream}-{self.index}"


def read_partition_file(files: Files, directory: Path) -> PartitionFile | None:
    """None where there is none, or it is damaged. UnknownFormat."""
    path = directory / NAME
    if not files.exists(path):
        return None
    handle = files.open(path)
    try:
        found = msgspec.json.decode(files.read_at(handle, 0, 4096), type=PartitionFile)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return None
    finally:
        files.close(handle)
    if found.directory_name != directory.name:
        return None
    if found.format > FORMAT:
        raise UnknownFormat(
            f"{path} is of format {found.format}, this release reads {FORMAT}: run its writer"
        )
    return found


def write_partition_file(files: Files, directory: Path, content: PartitionFile) -> None:
    """Durable when this returns, and so are the names of the directory and of what is in it."""
    handle = files.open(directory / NAME, create=True)
    try:
        data = msgspec.json.encode(content)
        files.truncate(handle, len(data))
        files.write_at(handle, 0, (data,))
        files.datasync(handle)
    finally:
        files.close(handle)
    files.sync_directory(directory)
    files.sync_directory(directory.parent)
