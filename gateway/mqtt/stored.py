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
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from log import Record

_OURS = b"mqtt."


class StoredMessage(NamedTuple):
    """`topic` as UTF-8; `client_id` of the publisher; `properties_bytes`: about what they take."""

    topic: bytes
    client_id: str
    qos: int
    retain: bool
    properties: Properties
    properties_bytes: int


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
