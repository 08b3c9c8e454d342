"""Messages for subscribers, as bytes.

Owns what a delivery is and its PUBLISH packet. `Batch` is the hot path of fan-out: a run of
messages of one topic, encoded once for all subscribers whose packets are alike, packet
identifiers included: a session takes the batch's where it has none of them in flight. Style rules
bend here for speed: tuples are made without their constructors.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import count, repeat
from typing import NamedTuple

from gateway.mqtt.packets import LEVEL_5_0
from gateway.mqtt.properties import NO_PROPERTIES, Properties, encode_properties
from gateway.mqtt.wire import encode_binary, encode_varint

NOT_IN_THE_LOG = -1
_FIXED_HEADER_BYTES_MAX = 5
_HEADS_MAX = 1024
"""Beginnings of PUBLISH packets that are remembered: devices send what looks alike."""

_MESSAGE_OVERHEAD_BYTES = 400
"""Memory of a message that waits, beside its payload: measured. Queues are bounded by memory."""


class Message(NamedTuple):
    """A message as it was published: `topic` as UTF-8, `properties` of a 5.0 publisher, which were
    `properties_bytes` on the wire; where it is in the log, and since when (ms since 1970)."""

    topic: bytes
    payload: bytes
    retain: bool = False
    properties: Properties = NO_PROPERTIES
    expires_at_ms: int | None = None
    properties_bytes: int = 0
    partition_id: int = NOT_IN_THE_LOG
    offset: int = 0
    time_ms: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.payload) + self.properties_bytes + _MESSAGE_OVERHEAD_BYTES


class Delivery(NamedTuple):
    """A message for one subscriber; `extra` are user properties of ours; `group` is the number of
    the shared subscription it came by, 0 for the subscriber's own."""

    message: Message
    qos: int
    retain: bool
    subscription_ids: tuple[int, ...]
    extra: tuple[tuple[str, str], ...] = ()
    group: int = 0
    sent_count: int = 0


def encode_delivery(
    delivery: Delivery, level: int, packet_id: int, now_ms: int, *, dup: bool = False
) -> bytes:
    """A PUBLISH to a subscriber; publisher's properties are passed on unaltered (3.3.2.3)."""
    message = delivery.message
    properties = _delivery_properties(delivery, now_ms) if level == LEVEL_5_0 else b""
    first_byte = 0x30 | dup << 3 | delivery.qos << 1 | delivery.retain
    size = len(properties) + len(message.payload)
    if delivery.qos:
        head = _head(first_byte, message.topic, size + 2)
        return b"".join((head, packet_id.to_bytes(2), properties, message.payload))
    return b"".join((_head(first_byte, message.topic, size), properties, message.payload))


@lru_cache(_HEADS_MAX)
def _head(first_byte: int, topic: bytes, more_bytes: int) -> bytes:
    """A PUBLISH up to its topic, with so much behind that."""
    name = encode_binary(topic)
    return bytes((first_byte,)) + encode_varint(len(name) + more_bytes) + name


def _delivery_properties(delivery: Delivery, now_ms: int) -> bytes:
    given = delivery.message.properties
    if given is NO_PROPERTIES and not delivery.subscription_ids and not delivery.extra:
        return b"\0"
    expires_at_ms = delivery.message.expires_at_ms
    return encode_properties(
        Properties(
            payload_format=given.payload_format,
            # [MQTT-3.3.2-6] what is left of it, for the message has waited here.
            message_expiry_s=None
            if expires_at_ms is None
            else max(0, (expires_at_ms - now_ms) // 1000),
            content_type=given.content_type,
            response_topic=given.response_topic,
            correlation_data=given.correlation_data,
            subscription_ids=delivery.subscription_ids,
            user_properties=given.user_properties + delivery.extra,
        )
    )


_make_message = partial(tuple.__new__, Message)
_make_delivery = partial(tuple.__new__, Delivery)


def messages_of_run(first: Message, payloads: Sequence[bytes]) -> list[Message]:
    """`first` and its followers, at consecutive offsets of its partition."""
    topic, _, retain, properties, expires_at_ms, size, partition_id, offset, time_ms = first
    fields = zip(
        repeat(topic),
        payloads,
        repeat(retain),
        repeat(properties),
        repeat(expires_at_ms),
        repeat(size),
        repeat(partition_id),
        count(offset),
        repeat(time_ms),
        strict=False,
    )
    return list(map(_make_message, fields))


class Batch:
    """Deliveries of a run at QoS 0 or 1, to whoever takes the same packets.

    blob: their PUBLISH packets, with identifiers from `first_id` on at QoS 1. in_flight: at QoS 1,
    the deliveries by identifier, and `ends` where their packets end in the blob. largest_bytes: no
    packet is larger. size_bytes: memory.
    """

    __slots__ = ("blob", "ends", "first_id", "in_flight", "largest_bytes", "size_bytes")

    def __init__(
        self,
        messages: Sequence[Message],
        qos: int,
        retain: bool,
        subscription_ids: tuple[int, ...],
        level: int,
        now_ms: int,
        first_id: int,
    ) -> None:
        self.first_id = first_id
        first = messages[0]
        properties = b""
        if level == LEVEL_5_0:
            # All of a run have the publisher's same properties.
            of_all = Delivery(first, qos, retain, subscription_ids)
            properties = _delivery_properties(of_all, now_ms)
        first_byte = 0x30 | qos << 1 | retain
        more_bytes = len(properties) + (2 if qos else 0)
        sizes = [len(message[1]) for message in messages]
        parts: list[bytes] = []
        self.ends: list[int] = []
        end = 0
        packet_id = first_id
        for message, size in zip(messages, sizes, strict=True):
            head = _head(first_byte, first.topic, more_bytes + size)
            if qos:
                parts += (head, packet_id.to_bytes(2), properties, message[1])
                end += len(head) + more_bytes + size
                self.ends.append(end)
                packet_id += 1
            else:
                parts += (head, properties, message[1])
        self.blob = b"".join(parts)
        self.largest_bytes = (
            max(sizes) + more_bytes + len(first.topic) + 2 + _FIXED_HEADER_BYTES_MAX
        )
        self.size_bytes = sum(sizes) + len(messages) * (
            first.properties_bytes + _MESSAGE_OVERHEAD_BYTES
        )
        self.in_flight: dict[int, Delivery] = {}
        if qos:
            fields = zip(
                messages,
                repeat(qos),
                repeat(retain),
                repeat(subscription_ids),
                repeat(()),
                repeat(0),
                repeat(0),
                strict=False,
            )
            deliveries = map(_make_delivery, fields)
            self.in_flight = dict(zip(range(first_id, packet_id), deliveries, strict=True))
