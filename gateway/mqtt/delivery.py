"""Messages on their way to a subscriber, and the window of those it has not acknowledged.

Owns the sending half of QoS 1 and 2 (4.3, 4.4) for one session: packet identifiers, what is in
flight, what waits, what is sent again when the client comes back. Sans-I/O: every method returns
the bytes to send. Never blocks and never grows beyond its limits: what does not fit is dropped
and counted in `dropped_count`; the log still has the message.
"""

from collections import deque
from typing import NamedTuple

from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import LEVEL_5_0, PubRel
from gateway.mqtt.properties import NO_PROPERTIES, Properties, encode_properties
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.wire import encode_binary, encode_varint

PACKET_ID_MAX = 65_535
_MESSAGE_OVERHEAD_BYTES = 400
"""Memory of a message that waits, beside its payload: measured. Queues are bounded by memory."""


class Message(NamedTuple):
    """A message as it was published: `topic` as UTF-8, `properties` of a 5.0 publisher, which were
    `properties_bytes` on the wire."""

    topic: bytes
    payload: bytes
    retain: bool = False
    properties: Properties = NO_PROPERTIES
    expires_at_ms: int | None = None
    properties_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.payload) + self.properties_bytes + _MESSAGE_OVERHEAD_BYTES


class Delivery(NamedTuple):
    """A message for one subscriber."""

    message: Message
    qos: int
    retain: bool
    subscription_ids: tuple[int, ...]


def encode_delivery(
    delivery: Delivery, level: int, packet_id: int, now_ms: int, *, dup: bool = False
) -> bytes:
    """A PUBLISH to a subscriber; publisher's properties are passed on unaltered (3.3.2.3)."""
    message = delivery.message
    parts = [encode_binary(message.topic)]
    if delivery.qos:
        parts.append(packet_id.to_bytes(2))
    if level == LEVEL_5_0:
        parts.append(_delivery_properties(delivery, now_ms))
    parts.append(message.payload)
    first_byte = 0x30 | dup << 3 | delivery.qos << 1 | delivery.retain
    size = sum(map(len, parts))
    return b"".join((bytes((first_byte,)), encode_varint(size), *parts))


def _delivery_properties(delivery: Delivery, now_ms: int) -> bytes:
    given = delivery.message.properties
    if given is NO_PROPERTIES and not delivery.subscription_ids:
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
            user_properties=given.user_properties,
        )
    )


class Outbox:
    """What one session's client has still to get or to acknowledge.

    A packet identifier is in `_in_flight` with its delivery until PUBACK or PUBREC, then (QoS 2)
    with None until PUBCOMP. A dict keeps the order in which they were first sent [MQTT-4.6.0-1].
    """

    def __init__(self, *, in_flight_max: int, queue_bytes_max: int) -> None:
        self._in_flight_max = in_flight_max
        self._bytes_max = queue_bytes_max
        self._window = in_flight_max
        self._level = LEVEL_5_0
        self._packet_bytes_max: int | None = None
        self._in_flight: dict[int, Delivery | None] = {}
        self._queue: deque[Delivery] = deque()
        self._bytes = 0
        """Memory of the messages that wait or are in flight."""
        self._unsent: dict[int, None] = {}
        """In flight since an earlier connection, and not sent again on this one yet."""
        self._last_id = 0
        self.dropped_count = 0

    @property
    def waiting_count(self) -> int:
        return len(self._queue) + len(self._in_flight)

    def start_ids_after(self, packet_id: int) -> None:
        """After a restart: the client may hold identifiers of QoS 2 that are no longer known here,
        and would take a new message with one of them for the old one."""
        self._last_id = packet_id

    def attach(
        self, *, level: int, receive_maximum: int | None, packet_bytes_max: int | None, now_ms: int
    ) -> bytes:
        """A client is (again) there: what was in flight is sent again [MQTT-4.4.0-1]."""
        self._level = level
        self._window = min(self._in_flight_max, receive_maximum or PACKET_ID_MAX)
        self._packet_bytes_max = packet_bytes_max
        # PUBRELs at once; a message only where the new window has room for it.
        self._unsent = {key: None for key, value in self._in_flight.items() if value is not None}
        parts: list[bytes] = []
        for packet_id, delivery in list(self._in_flight.items()):
            if delivery is None:
                parts.append(encode_packet(PubRel(packet_id=packet_id), level))
            elif len(self._in_flight) - len(self._unsent) < self._window:
                parts.append(self._send_again(packet_id, now_ms))
        return b"".join(parts) + self._fill(now_ms)

    def push(self, delivery: Delivery, now_ms: int, *, can_send: bool) -> bytes:
        """One message of QoS 1 or 2; b"" when it has to wait (or was dropped)."""
        size = delivery.message.size_bytes
        sends = can_send and not self._queue and self._has_room()
        is_over = self._bytes + size > self._bytes_max
        if is_over and (self._bytes or not sends):
            self.dropped_count += 1
            return b""
        self._bytes += size
        if sends:
            return self._send(delivery, now_ms)
        self._queue.append(delivery)
        return b""

    def acknowledged(self, packet_id: int, now_ms: int) -> bytes:
        """PUBACK. Unknown identifiers are ignored: it may be a late answer to a sent-again one."""
        delivery = self._in_flight.get(packet_id)
        if delivery is not None and delivery.qos == 1:
            self._taken(packet_id)
            del self._in_flight[packet_id]
        return self._fill(now_ms)

    def received(self, packet_id: int, code: int, now_ms: int) -> bytes:
        """PUBREC: from here on only PUBREL is sent again [MQTT-4.3.3-6..9]."""
        if packet_id in self._in_flight:
            delivery = self._in_flight[packet_id]
            if delivery is not None and delivery.qos != 2:
                return b""
            self._taken(packet_id)
            if code >= ReasonCode.UNSPECIFIED_ERROR:
                del self._in_flight[packet_id]
                return self._fill(now_ms)
            return encode_packet(PubRel(packet_id=packet_id), self._level)
        return encode_packet(
            PubRel(packet_id=packet_id, code=ReasonCode.PACKET_IDENTIFIER_NOT_FOUND), self._level
        )

    def completed(self, packet_id: int, now_ms: int) -> bytes:
        """PUBCOMP."""
        if self._in_flight.get(packet_id, self) is None:
            del self._in_flight[packet_id]
        return self._fill(now_ms)

    def fill(self, now_ms: int) -> bytes:
        """What can be sent now that the connection takes bytes again."""
        return self._fill(now_ms)

    def _has_room(self) -> bool:
        return not self._unsent and len(self._in_flight) < self._window

    def _fill(self, now_ms: int) -> bytes:
        parts: list[bytes] = []
        while self._unsent and len(self._in_flight) - len(self._unsent) < self._window:
            parts.append(self._send_again(next(iter(self._unsent)), now_ms))
        while self._queue and self._has_room():
            parts.append(self._send(self._queue.popleft(), now_ms))
        return b"".join(parts)

    def _send_again(self, packet_id: int, now_ms: int) -> bytes:
        delivery = self._in_flight[packet_id]
        assert delivery is not None
        data = encode_delivery(delivery, self._level, packet_id, now_ms, dup=True)
        if self._packet_bytes_max is not None and len(data) > self._packet_bytes_max:
            self.dropped_count += 1  # [MQTT-3.1.2-25]
            self._taken(packet_id)
            del self._in_flight[packet_id]
            return b""
        del self._unsent[packet_id]
        return data

    def _taken(self, packet_id: int) -> None:
        """The client has the message: it takes no memory from here on, and is not sent again."""
        self._unsent.pop(packet_id, None)
        delivery = self._in_flight[packet_id]
        if delivery is not None:
            self._bytes -= delivery.message.size_bytes
            self._in_flight[packet_id] = None

    def _send(self, delivery: Delivery, now_ms: int) -> bytes:
        """A message that is counted in `_bytes`."""
        expires_at_ms = delivery.message.expires_at_ms
        if expires_at_ms is not None and expires_at_ms <= now_ms:
            self._bytes -= delivery.message.size_bytes
            return b""  # [MQTT-3.3.2-5]
        packet_id = self._next_id()
        data = encode_delivery(delivery, self._level, packet_id, now_ms)
        if self._packet_bytes_max is not None and len(data) > self._packet_bytes_max:
            self._bytes -= delivery.message.size_bytes
            self.dropped_count += 1  # [MQTT-3.1.2-25] as if it had been delivered
            return b""
        self._in_flight[packet_id] = delivery
        return data

    def _next_id(self) -> int:
        packet_id = self._last_id
        while True:
            packet_id = packet_id % PACKET_ID_MAX + 1
            if packet_id not in self._in_flight:
                self._last_id = packet_id
                return packet_id
