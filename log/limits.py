"""Every limit of the log, in one place, with its reason."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Sizes in bytes and times in ms that bound the log's memory, files and batches."""

    journal_bytes: int = 64 * MIB
    """Size of the journal file. Bounds what recovery replays (64 MiB: 0.2 s) and how often a
    checkpoint must be written at full ingest (some 3 a second at 100 MB/s).
    """

    journal_reserve_bytes: int = 8 * MIB
    """Room in the journal that records may not take while the disk is full, so that cursors and
    session changes can always be written."""

    frame_bytes_max: int = 1 * MIB
    """A round is closed into a frame at this size even if the loop iteration is not over: it bounds
    what one fdatasync carries and what is lost time when it fails."""

    unawaited_ms: int = 5
    """A round of records that nobody waits for (QoS 0) is closed after this. A power cut can take
    them anyway until then; a frame a turn of the loop would cost the flash 50 times the writes."""

    pending_bytes_max: int = 1536 * KIB
    """Appended but not yet durable. Above it publishers are not read: fdatasync sets the pace. In
    memory it is about three times as much: pieces of records, then their frame."""

    tail_bytes_max: int = 2 * MIB
    """Records in memory that are durable but not sealed, over all partitions. Above it publishers
    are not read until sealing has caught up; at half of it the fullest partitions are sealed
    first. With 24 MiB a flood at QoS 0 took 25 MiB more memory and was not faster.
    """

    chunk_bytes_max: int = 256 * KIB
    """Uncompressed records of one batch. zstd gains nothing measurable above it, and a batch must
    stay under Kafka's message.max.bytes (1,048,588) even when nothing compresses."""

    chunk_records_max: int = 8_000
    """Records of one batch: offset deltas stay within two varint bytes, and decoding one batch for
    a reader that wants one record stays under 10 ms.
    """

    record_bytes_max: int = 960 * KIB
    """Key, value and headers of one record. With framing it stays below message.max.bytes, so that
    whatever was accepted can be shipped."""

    seal_bytes: int = 1 * MIB
    """A partition's tail is sealed at this size: four full batches for one fdatasync of the
    segment.
    """

    seal_age_ms: int = 300_000
    """A partition's tail is sealed when its oldest record is this old, however small it is. It is
    durable in the journal all the while; waiting makes batches big (18 bytes a record at 1,000 a
    batch, 41 at 10), and five minutes bounds the chunks kept in memory."""

    segment_bytes_max: int = 64 * MIB
    """A segment is closed at this size. Retention removes whole segments, so it is also the grain
    of deletion on a small disk.
    """

    index_interval_bytes: int = 4 * KIB
    """Bytes of log between two entries of an index: Kafka's default (index.interval.bytes)."""

    topic_index_bytes: int = 8 * MIB
    """Memory for the topics of the chapters in the making, over all partitions: 10,000 topics take
    2 MiB. Where it does not hold those of 256 batches, chapters are smaller, and the names of
    topics are repeated more often on disk."""

    checkpoint_age_ms: int = 60_000
    """A checkpoint is written when something changed and the last is this old: bounds replay at
    start.
    """

    zstd_level: int = 3
    """zstd's own default. Level 9 saves 4 % on CBOR readings for 5 times the CPU."""
