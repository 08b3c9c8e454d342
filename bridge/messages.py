"""The questions the bridge asks besides Produce, and what it takes from their answers.

kio has the schemas; here is only which version is spoken, which fields matter, and a name for each.
Sans-I/O. Versions are the highest that Kafka 4.0 has and this bridge has use for.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from kio.schema.create_topics.v7 import request as create_topics_request
from kio.schema.create_topics.v7.response import CreateTopicsResponse
from kio.schema.describe_producers.v0 import request as describe_producers_request
from kio.schema.describe_producers.v0.response import DescribeProducersResponse
from kio.schema.init_producer_id.v4.request import InitProducerIdRequest
from kio.schema.init_producer_id.v4.response import InitProducerIdResponse
from kio.schema.list_offsets.v7 import request as list_offsets_request
from kio.schema.list_offsets.v7.response import ListOffsetsResponse
from kio.schema.metadata.v12 import request as metadata_request
from kio.schema.metadata.v12.response import MetadataResponse
from kio.schema.types import BrokerId, TopicName
from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError
from kio.static.primitive import i8, i16, i32, i32Timedelta, i64

from bridge.errors import ProtocolMismatch

LATEST: Final = i64(-1)
_CONSUMER: Final = BrokerId(-1)
_DEBUGGER: Final = BrokerId(-2)
"""ListOffsets from this replica id gives the log's end where a consumer is given the high
watermark.
"""

_ZERO_ID: Final = bytes(16)

Partition = tuple[str, int]
"""(topic, index): the key of what is asked and answered about many partitions at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    id: int
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """`broker_id` is -1 while there is none."""

    broker_id: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """`code` is not 0 when the topic could not be described; then it has no partitions."""

    name: str
    id: bytes
    code: int
    leaders: Mapping[int, Leader]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    cluster_id: str
    brokers: Mapping[int, Broker]
    topics: Mapping[str, Topic]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerId:
    code: int
    id: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAppended:
    """What a leader has of one producer: `sequence` is None when it knows none of it."""

    code: int
    epoch: int
    sequence: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOffset:
    code: int
    offset: int


def encode(request: Any) -> bytes:
    """The body of a request that kio describes."""
    buffer = io.BytesIO()
    entity_writer(type(request))(buffer, request)
    return buffer.getvalue()


def _decode(kind: type[Any], body: bytes) -> Any:
    try:
        entity, _ = entity_reader(kind)(body, 0)
    except (SerialError, IndexError, ValueError, OverflowError) as error:
        raise ProtocolMismatch(f"{kind.__name__} of {len(body)} bytes: {error!r}") from error
    return entity


def metadata(topics: Sequence[str]) -> metadata_request.MetadataRequest:
    return metadata_request.MetadataRequest(
        topics=tuple(
            metadata_request.MetadataRequestTopic(topic_id=None, name=TopicName(name))
            for name in topics
        ),
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=False,
    )


def read_metadata(body: bytes) -> Metadata:
    answer: MetadataResponse = _decode(MetadataResponse, body)
    return Metadata(
        cluster_id=answer.cluster_id or "",
        brokers={
            int(each.node_id): Broker(id=int(each.node_id), host=each.host, port=int(each.port))
            for each in answer.brokers
        },
        topics={
            str(each.name): Topic(
                name=str(each.name),
                id=each.topic_id.bytes if isinstance(each.topic_id, UUID) else _ZERO_ID,
                code=int(each.error_code),
                leaders={
                    int(part.partition_index): Leader(
                        broker_id=int(part.leader_id), epoch=int(part.leader_epoch)
                    )
                    for part in each.partitions
                },
            )
            for each in answer.topics
        },
    )


def create_topics(
    partition_counts: Mapping[str, int], *, replication_factor: int | None, timeout_ms: int
) -> create_topics_request.CreateTopicsRequest:
    """Without a replication factor the broker's default holds."""
    factor = i16(-1 if replication_factor is None else replication_factor)
    return create_topics_request.CreateTopicsRequest(
        topics=tuple(
            create_topics_request.CreatableTopic(
                name=TopicName(name),
                num_partitions=i32(count),
                replication_factor=factor,
                assignments=(),
                configs=(),
            )
            for name, count in partition_counts.items()
        ),
        timeout=_milliseconds(timeout_ms),
        validate_only=False,
    )


def read_create_topics(body: bytes) -> dict[str, tuple[int, str | None]]:
    """(code, message) for each topic."""
    answer: CreateTopicsResponse = _decode(CreateTopicsResponse, body)
    return {str(each.name): (int(each.error_code), each.error_message) for each in answer.topics}


def init_producer_id() -> InitProducerIdRequest:
    return InitProducerIdRequest(transactional_id=None, transaction_timeout=_milliseconds(60_000))


def read_init_producer_id(body: bytes) -> ProducerId:
    answer: InitProducerIdResponse = _decode(InitProducerIdResponse, body)
    return ProducerId(
        code=int(answer.error_code), id=int(answer.producer_id), epoch=int(answer.producer_epoch)
    )


def describe_producers(
    partitions: Sequence[Partition],
) -> describe_producers_request.DescribeProducersRequest:
    return describe_producers_request.DescribeProducersRequest(
        topics=tuple(
            describe_producers_request.TopicRequest(
                name=TopicName(topic), partition_indexes=tuple(map(i32, indexes))
            )
            for topic, indexes in _by_topic(partitions).items()
        )
    )


def read_describe_producers(
    body: bytes, producer_ids: Mapping[Partition, int]
) -> dict[Partition, LastAppended]:
    """For each partition in the answer, what is known of its producer in `producer_ids`."""
    answer: DescribeProducersResponse = _decode(DescribeProducersResponse, body)
    found: dict[Partition, LastAppended] = {}
    for topic in answer.topics:
        for part in topic.partitions:
            where = (str(topic.name), int(part.partition_index))
            mine = next(
                (p for p in part.active_producers if p.producer_id == producer_ids.get(where)), None
            )
            known = mine is not None and mine.last_sequence >= 0
            found[where] = LastAppended(
                code=int(part.error_code),
                epoch=int(mine.producer_epoch) if mine is not None else -1,
                sequence=int(mine.last_sequence) if mine is not None and known else None,
            )
    return found


def list_offsets(
    leader_epochs: Mapping[Partition, int], *, log_end: bool
) -> list_offsets_request.ListOffsetsRequest:
    """The high watermark of each partition, or the end of the leader's own log; refused (74, 75) by
    a broker that does not lead it in the epoch given.
    """
    return list_offsets_request.ListOffsetsRequest(
        replica_id=_DEBUGGER if log_end else _CONSUMER,
        isolation_level=i8(0),
        topics=tuple(
            list_offsets_request.ListOffsetsTopic(
                name=TopicName(topic),
                partitions=tuple(
                    list_offsets_request.ListOffsetsPartition(
                        partition_index=i32(index),
                        current_leader_epoch=i32(leader_epochs[topic, index]),
                        timestamp=LATEST,
                    )
                    for index in indexes
                ),
            )
            for topic, indexes in _by_topic(list(leader_epochs)).items()
        ),
    )


def read_list_offsets(body: bytes) -> dict[Partition, EndOffset]:
    answer: ListOffsetsResponse = _decode(ListOffsetsResponse, body)
    return {
        (str(topic.name), int(part.partition_index)): EndOffset(
            code=int(part.error_code), offset=int(part.offset)
        )
        for topic in answer.topics
        for part in topic.partitions
    }


def _by_topic(partitions: Sequence[Partition]) -> dict[str, list[int]]:
    indexes: dict[str, list[int]] = {}
    for topic, index in partitions:
        indexes.setdefault(topic, []).append(index)
    return indexes


def _milliseconds(count: int) -> i32Timedelta:
    return i32Timedelta.parse(timedelta(milliseconds=count))
