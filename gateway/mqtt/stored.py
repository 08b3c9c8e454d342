"""From a record in the log back to the message that it was.

Owns the reading of the headers that gateway/ingest.py writes. Never fails for a header that is
odd: a record may have been written by another version, and its payload is worth delivering.
"""

from typing import NamedTuple

from gateway.ingest import (
    CLIENT_HEADER,
    EXPIRY_HEADER,
    QOS_HEADER,
    RETAIN_HEADER,
    TOPIC_HEADER,
    USER_PREFIX,
)
from gateway.mqtt.messages import Message
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from log import Log, Record

_OURS = b"mqtt."


class StoredMessage(NamedTuple):
    """`topic` as UTF-8; `client_id` of the publisher; `properties_bytes`: about what they take."""

    topic: bytes
    client_id: str
    qos: int
    retain: bool
    properties: Properties
    properties_bytes: int


def topic_of(record: Record) -> bytes:
    """Its topic as UTF-8: the first header of what a gateway stores."""
    name, value = record.headers[0]
    if name == TOPIC_HEADER:
        return value
    return next(value for name, value in record.headers if name == TOPIC_HEADER)


def stored_message(record: Record) -> StoredMessage:
    headers = record.headers
    key = record.key or b""
    if len(headers) == 1:  # QoS 1 without properties
        return StoredMessage(
            headers[0][1], key.decode(errors="replace"), 1, False, NO_PROPERTIES, 0
        )
    found: dict[bytes, bytes] = {}
    user: list[tuple[str, str]] = []
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name.startswith(USER_PREFIX):
            name = name[len(USER_PREFIX) :]
        elif name.startswith(_OURS):
            found[name] = value
            continue
        user.append((name.decode(errors="replace"), value.decode(errors="replace")))
    expiry = found.get(EXPIRY_HEADER)
    content_type = found.get(b"mqtt.content-type")
    response_topic = found.get(b"mqtt.response-topic")
    payload_format = found.get(b"mqtt.payload-format")
    properties = Properties(
        payload_format=None if payload_format is None else int(payload_format == b"1"),
        message_expiry_s=int(expiry) if expiry and expiry.isdigit() else None,
        content_type=None if content_type is None else content_type.decode(errors="replace"),
        response_topic=None if response_topic is None else response_topic.decode(errors="replace"),
        correlation_data=found.get(b"mqtt.correlation-data"),
        user_properties=tuple(user),
    )
    topic = found.get(TOPIC_HEADER, b"")
    return StoredMessage(
        topic,
        found.get(CLIENT_HEADER, key).decode(errors="replace"),
        {b"0": 0, b"2": 2}.get(found.get(QOS_HEADER, b"1"), 1),
        RETAIN_HEADER in headers,
        NO_PROPERTIES if properties == NO_PROPERTIES else properties,
        size - len(topic),
    )


def message_of(
    record: Record, stored: StoredMessage, partition_id: int, wall_ms: int, now_ms: int
) -> Message:
    """As it is delivered. `wall_ms` and `now_ms`: the log's clock and the broker's, now."""
    expires_at_ms = None
    if stored.properties.message_expiry_s is not None:
        age_ms = wall_ms - record.timestamp_ms
        expires_at_ms = now_ms + stored.properties.message_expiry_s * 1000 - age_ms
    return Message(
        stored.topic,
        record.value or b"",
        stored.retain,
        stored.properties,
        expires_at_ms,
        stored.properties_bytes,
        partition_id,
        record.offset,
        record.timestamp_ms,
    )


def told_positions(log: Log, message: Message) -> tuple[tuple[str, str], ...]:
    """User properties that say where in the log a message is, and since when (ms since 1970)."""
    partition = log.partitions[message.partition_id]
    return (
        ("sluicegate.stream", partition.stream),
        ("sluicegate.partition", str(partition.index)),
        ("sluicegate.offset", str(message.offset)),
        ("sluicegate.time", str(message.time_ms)),
    )
