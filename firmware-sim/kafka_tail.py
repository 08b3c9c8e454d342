"""Reading a stream from Kafka, from its beginning: for the auditor and for the demo's clock.

Owns the consumer (confluent-kafka, assigned by hand: no group, no commits). A record that the
consumer delivers again after its own reconnect is dropped here by offset, so that what the
auditor calls a duplicate is one in the log.
"""

import time
from collections.abc import Callable

from audit import UpstreamRecord
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from errors import UpstreamError

POLL_S = 0.2
METADATA_TIMEOUT_S = 5.0
BATCH_COUNT_MAX = 500


class KafkaTail:
    """All partitions of a topic. Made when the topic exists; `poll` from one thread only."""

    def __init__(self, bootstrap: str, topic: str, partition_count: int) -> None:
        self._next_offset = dict.fromkeys(range(partition_count), 0)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "firmware-sim-audit",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "fetch.error.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(partition_count)])
        self._topic = topic

    def poll(self, timeout_s: float = POLL_S) -> list[UpstreamRecord]:
        """What has come, maybe nothing. Errors of the connection are waited out by the client."""
        seen: list[UpstreamRecord] = []
        for message in self._consumer.consume(BATCH_COUNT_MAX, timeout_s):
            if message.error() is None:
                record = _record(message, time.time_ns() // 1_000_000)
                if record.offset >= self._next_offset[record.partition]:
                    self._next_offset[record.partition] = record.offset + 1
                    seen.append(record)
        return seen

    def is_at_end(self) -> bool:
        """Whether everything below the high watermarks of this moment was delivered."""
        for partition, position in self._next_offset.items():
            place = TopicPartition(self._topic, partition)
            try:
                _, high = self._consumer.get_watermark_offsets(place, timeout=METADATA_TIMEOUT_S)
            except KafkaException as error:
                raise UpstreamError(f"{self._topic}-{partition}: {error}") from error
            if position < high:
                return False
        return True

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


def partition_count_of(bootstrap: str, topic: str) -> int | None:
    """How many partitions the topic has; None if there is no such topic. Raises UpstreamError."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        topics = admin.list_topics(timeout=METADATA_TIMEOUT_S).topics
    except KafkaException as error:
        raise UpstreamError(f"{bootstrap}: {error}") from error
    found = topics.get(topic)
    return len(found.partitions) if found is not None and found.partitions else None


def read_stream(
    bootstrap: str, topic: str, *, settle_s: float, feed: Callable[[UpstreamRecord], None]
) -> int:
    """Feed everything upstream until it is read to the end and has been quiet for `settle_s`.

    Returns the partition count. The quiet time is for brokers whose high watermark is not to be
    trusted, and for a bridge that is still busy. Raises UpstreamError.
    """
    count = partition_count_of(bootstrap, topic)
    if count is None:
        raise UpstreamError(f"{bootstrap}: no topic {topic!r}")
    tail = KafkaTail(bootstrap, topic, count)
    try:
        quiet_since_s = time.monotonic()
        while True:
            records = tail.poll()
            for record in records:
                feed(record)
            if records:
                quiet_since_s = time.monotonic()
            elif time.monotonic() - quiet_since_s > settle_s and tail.is_at_end():
                return count
    finally:
        tail.close()


def _record(message: Message, seen_ms: int) -> UpstreamRecord:
    key: str | bytes | None = message.key()
    return UpstreamRecord(
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        key=None if key is None else _bytes(key),
        value=_bytes(message.value()),
        headers=_headers(message),
        seen_ms=seen_ms,
    )


def _headers(message: Message) -> dict[str, bytes]:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {name: _bytes(value) for name, value in pairs}


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
