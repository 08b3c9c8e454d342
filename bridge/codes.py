"""What an error code of Kafka means for the bridge, and what a person can do about it.

Only codes that Produce, DescribeProducers, ListOffsets, Metadata, CreateTopics and InitProducerId
can give. Tried against Apache Kafka; a code that is not here is `Meaning.BAD_BATCH` for Produce.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from kio.schema.errors import ErrorCode


class Meaning(Enum):
    """What follows from an error to a Produce."""

    ASK = auto()
    """Perhaps appended, perhaps not: ask Kafka where to go on."""
    MOVED = auto()
    """Not here, or not now: look for the leader, then ask."""
    WAIT = auto()
    """A person or the cluster must act; tried again with back-off, and shown."""
    FENCED = auto()
    """Our producer id is of no use any more: a new one is needed."""
    SPLIT = auto()
    """Too large as it is cut."""
    RESTAMP = auto()
    """A timestamp the broker does not take."""
    BAD_BATCH = auto()
    """The batch as it is was refused: framed anew, and then called stuck, never dropped."""


_MEANING: Final = {
    ErrorCode.corrupt_message: Meaning.BAD_BATCH,
    ErrorCode.unknown_topic_or_partition: Meaning.MOVED,
    ErrorCode.leader_not_available: Meaning.MOVED,
    ErrorCode.not_leader_or_follower: Meaning.MOVED,
    ErrorCode.request_timed_out: Meaning.ASK,
    ErrorCode.broker_not_available: Meaning.MOVED,
    ErrorCode.replica_not_available: Meaning.MOVED,
    ErrorCode.message_too_large: Meaning.SPLIT,
    ErrorCode.network_exception: Meaning.ASK,
    ErrorCode.coordinator_load_in_progress: Meaning.WAIT,
    ErrorCode.invalid_topic_exception: Meaning.WAIT,
    ErrorCode.record_list_too_large: Meaning.SPLIT,
    ErrorCode.not_enough_replicas: Meaning.WAIT,
    ErrorCode.not_enough_replicas_after_append: Meaning.ASK,
    ErrorCode.topic_authorization_failed: Meaning.WAIT,
    ErrorCode.cluster_authorization_failed: Meaning.WAIT,
    ErrorCode.invalid_timestamp: Meaning.RESTAMP,
    ErrorCode.policy_violation: Meaning.WAIT,
    ErrorCode.out_of_order_sequence_number: Meaning.ASK,
    ErrorCode.duplicate_sequence_number: Meaning.ASK,
    ErrorCode.invalid_producer_epoch: Meaning.FENCED,
    ErrorCode.kafka_storage_error: Meaning.MOVED,
    ErrorCode.unknown_producer_id: Meaning.ASK,
    ErrorCode.fenced_leader_epoch: Meaning.MOVED,
    ErrorCode.unknown_leader_epoch: Meaning.MOVED,
    ErrorCode.throttling_quota_exceeded: Meaning.WAIT,
    ErrorCode.producer_fenced: Meaning.FENCED,
    ErrorCode.unknown_topic_id: Meaning.MOVED,
    ErrorCode.inconsistent_topic_id: Meaning.MOVED,
}

_ADVICE: Final = {
    ErrorCode.corrupt_message: "the batch may be damaged on this disk or on the way; the log keeps"
    " it. A compacted topic also answers this to records without a key",
    ErrorCode.unknown_topic_or_partition: "the topic or this partition of it is not there: it is"
    " created where that is allowed; if it has fewer partitions than the stream, add them"
    " (kafka-topics --alter --partitions)",
    ErrorCode.message_too_large: "one record is bigger than the topic takes: raise its"
    " max.message.bytes",
    ErrorCode.not_enough_replicas: "fewer replicas are in sync than min.insync.replicas asks for:"
    " bring brokers back",
    ErrorCode.not_enough_replicas_after_append: "fewer replicas are in sync than"
    " min.insync.replicas asks for: bring brokers back",
    ErrorCode.request_timed_out: "the replicas did not follow in time: look at the brokers' load"
    " and their links",
    ErrorCode.topic_authorization_failed: "the upstream's ACLs must allow this user Write, Read and"
    " Describe on the topic (Read is for asking what arrived)",
    ErrorCode.cluster_authorization_failed: "the upstream's ACLs must allow this user"
    " IdempotentWrite, and Create if topics are to be made",
    ErrorCode.invalid_topic_exception: "Kafka does not take this topic name: change the"
    " topic template",
    ErrorCode.policy_violation: "a policy of the upstream refuses this: create the topic by hand",
    ErrorCode.invalid_timestamp: "this gateway's clock and the upstream's differ by more than"
    " message.timestamp.after.max.ms: check the clock",
    ErrorCode.out_of_order_sequence_number: "asking the upstream where to go on",
    ErrorCode.invalid_producer_epoch: "another process used this gateway's producer id; has its"
    " data directory been copied?",
    ErrorCode.invalid_record: "the topic does not take these records (a compacted topic needs"
    " keys)",
    ErrorCode.unsupported_compression_type: "the topic does not take zstd: set its compression.type"
    " to producer or zstd",
    ErrorCode.invalid_replication_factor: "fewer brokers than the replication factor: bring"
    " brokers up or set replication_factor",
}


def meaning(code: int) -> Meaning:
    """What follows from `code` (not 0) as the answer to a Produce."""
    try:
        return _MEANING.get(ErrorCode(code), Meaning.BAD_BATCH)
    except ValueError:
        return Meaning.BAD_BATCH


def name(code: int) -> str:
    """Kafka's name of an error code, as its documentation spells it."""
    try:
        return ErrorCode(code).name.upper()
    except ValueError:
        return f"ERROR_{code}"


def advice(code: int) -> str:
    """What a person can do about it, or what the bridge does."""
    try:
        return _ADVICE.get(ErrorCode(code), "tried again with back-off")
    except ValueError:
        return "tried again with back-off"


def explain(code: int, message: str | None = None) -> str:
    """Name, advice and what the broker said, in one line."""
    return f"{name(code)}: {advice(code)}" + (f" [{message}]" if message else "")
