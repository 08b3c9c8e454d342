"""Every limit of the bridge, in one place, with its reason."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeLimits:
    """Sizes in bytes and times in ms that bound the bridge's memory, requests and patience."""

    in_flight_max: int = 5
    """Produce requests not yet answered on one connection. Kafka recognises a duplicate among the
    last five batches of a producer and partition, so more could not be sent again safely.
    """

    request_bytes_max: int = 1 * MIB
    """Batches of several partitions gathered in one Produce. A broker takes 100 MiB; on a link of
    1 Mbit/s this is already 8 s."""

    batch_bytes_max: int = 960 * KIB
    """A batch bigger than this is cut before it is sent: below message.max.bytes (1,048,588)."""

    read_bytes: int = 512 * KIB
    """One read of the log. Some 25 stored batches: the hop to the reading thread costs 0.1 ms."""

    loaded_bytes_max: int = 1 * MIB
    """Read and not yet sent, per partition: the next request is ready when an answer arrives."""

    memory_bytes_max: int = 12 * MIB
    """Read or in flight, over all partitions. Above it nothing more is read, whatever the backlog.
    """

    merge_bytes: int = 8 * KIB
    """Stored batches smaller than this are merged with their neighbours: a request of 10 records
    costs 50 times as much a record as one of 1,000.
    """

    merge_records: int = 200
    """And only those with fewer records: what compresses well is small and yet worth a request."""

    attempt_ahead: int = 262_144
    """Records. Before the first of them is sent, it is made durable that they may have been: one
    fdatasync for so many records, and the most that are marked when Kafka forgot what it had."""

    idle_alone_ms: int = 60_000
    """After this long without an answer one batch goes alone: if the broker expired our state
    meanwhile, it takes whatever comes first, and only the next offset may be that."""

    never_reached_ms: int = 3_600_000
    """A broker that knows nothing of an attempt younger than this never got it. Kafka forgets a
    producer after 24 h (producer.id.expiration.ms)."""

    connect_timeout_ms: int = 3_000
    """TCP's handshake, and TLS's. Short, for while a link is down, no one knows when it comes back;
    with `backoff_max_ms` a returned link is used again within 5 s."""

    backoff_min_ms: int = 100
    backoff_max_ms: int = 1_800
    """Between attempts, with jitter. See `connect_timeout_ms`."""

    stuck_backoff_max_ms: int = 30_000
    """Between attempts at a batch that the broker will not take."""

    stuck_after: int = 5
    """Refusals of one batch before its partition is called stuck."""

    split_recover_after: int = 1_000
    """Batches accepted in a row before one twice as big is tried again, after one was refused for
    its size: a topic whose max.message.bytes was raised is found out, at the price of one refusal
    in so many."""

    obstacle_backoff_max_ms: int = 15_000
    """Between two looks at a topic that is not there and cannot be made, or has too few partitions:
    only a person changes that."""

    throttle_ms_max: int = 30_000
    """What is believed of a broker that asks us to wait (throttle_time_ms)."""

    contradiction_after: int = 8
    """Refusals for sequence (45) in a row, each after asking Kafka where to go on, before a new
    producer id is taken for the partition."""

    cursor_commit_ms: int = 250
    """Cursors ride in the next frame of the journal; without traffic they ask for one this often.
    They may lag: after a crash Kafka is asked anyway."""

    probe_ms: int = 10_000
    """Without other requests the upstream is asked for metadata this often, so that `connected` is
    true, and a dropped NAT entry is found before the next reading needs the link."""

    metadata_age_ms: int = 60_000
    """Leaders are asked for again at this age even if nobody complained."""

    stop_ms: int = 5_000
    """How long `stop` waits for answers in flight."""
