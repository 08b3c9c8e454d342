"""What the log tells about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStats:
    """Counts since the start, sizes now."""

    record_count: int
    frame_count: int
    fsync_count: int
    journal_written_bytes: int
    segment_written_bytes: int
    checkpoint_written_bytes: int
    journal_used_bytes: int
    journal_bytes: int
    tail_bytes: int
    stored_bytes: int
    removed_segment_count: int
