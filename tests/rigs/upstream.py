"""The judge's view of Apache Kafka: what a consumer gets, and where its own partitioner puts keys.

Both go through librdkafka, which shares no code with the bridge.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRecord:
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def header(self, name: str) -> bytes | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name), None)


def read_topic(bootstrap: str, topic: str, *, timeout: float = 60.0) -> list[UpstreamRecord]:
    """Every record of the topic up to its ends now, by partition and offset; read committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "judge",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "check.crcs": True,
        }
    )
    try:
        ends = _ends(consumer, topic, timeout)
        consumer.assign([TopicPartition(topic, each, low) for each, (low, _) in ends.items()])
        position = {each: low for each, (low, _) in ends.items()}
        found: list[UpstreamRecord] = []
        deadline = time.monotonic() + timeout
        while any(position[each] < high for each, (_, high) in ends.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic}: read up to {position} of {ends}")
            for message in consumer.consume(num_messages=5000, timeout=0.5):
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        continue
                    raise KafkaException(error)
                record = _record(message)
                position[record.partition] = record.offset + 1
                found.append(record)
    finally:
        consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


def _record(message: Any) -> UpstreamRecord:
    """Its stubs say that each field of a message may be None; of one without an error none is."""
    return UpstreamRecord(
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
    )


def end_offsets(bootstrap: str, topic: str, *, timeout: float = 30.0) -> dict[int, int]:
    """The high watermark of each partition; empty when there is no such topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "judge"})
    try:
        return {each: high for each, (_, high) in _ends(consumer, topic, timeout).items()}
    finally:
        consumer.close()


def _ends(consumer: Consumer, topic: str, timeout: float) -> dict[int, tuple[int, int]]:
    metadata = consumer.list_topics(topic, timeout=timeout).topics[topic]
    if metadata.error is not None:
        return {}
    return {
        each: _watermarks(consumer, TopicPartition(topic, each), timeout)
        for each in sorted(metadata.partitions)
    }


def _watermarks(consumer: Consumer, partition: TopicPartition, timeout: float) -> tuple[int, int]:
    """(low, high); asked again while a new leader is chosen or does not know its own yet."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = consumer.get_watermark_offsets(partition, timeout=5)
        except KafkaException:
            found = None
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{partition.topic}-{partition.partition}: no leader tells its end")
        time.sleep(0.1)


def default_partitions(
    bootstrap: str, keys: Iterable[bytes], partition_count: int
) -> dict[bytes, int]:
    """Where Kafka's default partitioner puts each key: tried by producing to a scratch topic."""
    topic = f"partitioner-{time.monotonic_ns()}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, partition_count, 1)]).values():
        future.result()
    placed: dict[bytes, int] = {}
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is not None:
            failures.append(error)
        else:
            placed[message.key()] = message.partition()

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "topic.metadata.refresh.interval.ms": 1000,
        }
    )
    for key in set(keys):
        producer.produce(topic, key=key, value=b"", on_delivery=delivered)
        producer.poll(0)
    producer.flush(60)
    for future in admin.delete_topics([topic]).values():
        future.result()
    if failures:
        raise KafkaException(failures[0])
    return placed
