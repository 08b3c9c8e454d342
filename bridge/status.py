"""What the bridge says about itself: frozen values for the CLI, the metrics and the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """One partition's replication. Counts are records since the process started; ages are ms."""

    stream: str
    index: int
    topic: str
    state: str
    leader: int | None
    """Broker id; None while there is none, or no connection to it."""
    cursor: int
    """Everything below is replicated upstream."""
    lag_count: int
    in_flight_count: int
    """Batches."""
    last_ack_age_ms: int | None
    error: str | None
    """What was last in the way, and what can be done about it; None once an answer was good again.
    """
    sent_count: int
    resent_count: int
    """Sent with the header `sluicegate.resent`: perhaps upstream twice."""
    dropped_count: int
    """Removed here before they were replicated."""
    upstream_lost_count: int
    """Acknowledged by the upstream and then not there any more."""
    renewed_count: int
    """Producer ids that this partition needed beyond the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeStatus:
    """The bridge to one upstream as a whole."""

    name: str
    connected: bool
    """A broker answered lately (see `last_answer_age_ms`); an open socket is not enough."""
    last_answer_age_ms: int | None
    is_exactly_once: bool
    """False for an upstream that cannot be asked what it has (not Apache Kafka): at least once."""
    cluster_id: str | None
    broker_count: int
    """Brokers that a connection is open to and that lead a partition."""
    lag_count: int
    held_bytes: int
    """Memory taken by what is read and not yet answered."""
    request_count: int
    sent_bytes: int
    error: str | None
    partitions: tuple[PartitionStatus, ...]
