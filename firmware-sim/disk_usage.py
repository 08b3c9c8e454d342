"""What the gateway's closed log holds, read from its files as any Kafka tool would.

Owns nothing. Reads only the 61-byte headers of RecordBatch v2 (records count at byte 57), so that
the figure does not come from the gateway's own counters.

    base offset 8 | batch length 4 | leader epoch 4 | magic 1 | crc 4 | attributes 2 | ... | count 4
"""

import struct
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 61
LENGTH_FROM = 12
COUNT_POSITION = 57


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """Records and bytes in the segments of a data directory; index files are in the bytes."""

    record_count: int
    size_bytes: int


def measure(data_directory: Path) -> DiskUsage:
    """Walk DATA/streams."""
    files = [path for path in (data_directory / "streams").glob("*/*") if path.is_file()]
    return DiskUsage(
        record_count=sum(_records(path) for path in files if path.suffix == ".log"),
        size_bytes=sum(path.stat().st_size for path in files),
    )


def _records(path: Path) -> int:
    count = 0
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position + HEADER_BYTES <= size_bytes:
            file.seek(position)
            header = file.read(HEADER_BYTES)
            (batch_bytes,) = struct.unpack_from(">i", header, 8)
            if batch_bytes < HEADER_BYTES - LENGTH_FROM:
                break
            count += struct.unpack_from(">i", header, COUNT_POSITION)[0]
            position += LENGTH_FROM + batch_bytes
    return count
