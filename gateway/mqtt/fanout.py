"""From messages that are durable to their local subscribers.

Owns the choice between sending, queueing and dropping, per subscriber: QoS 0 goes to who takes
bytes now, QoS 1 and 2 into the session's outbox, which sends or keeps them. A connection gets one
write for a round, unless the round is big. A message of QoS 0 is encoded once for all who get the
same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gateway.ingest import Route
from gateway.mqtt.delivery import Delivery, Message, encode_delivery
from gateway.mqtt.properties import Properties
from gateway.mqtt.session import Target

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint


_GATHERED_BYTES_MAX = 256 * 1024
"""What is gathered before it is written: a round of 4 MiB may have a thousand subscribers."""


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    connections_refused: int = 0
    messages_refused: int = 0
    deliveries_dropped: int = 0


class Published(NamedTuple):
    """A run of messages of one route, for the local subscribers in `targets`."""

    route: Route
    targets: Sequence[Target]
    qos: int
    retain: bool
    properties: Properties
    properties_bytes: int
    received_at_ms: int
    payloads: Sequence[bytes]


def deliver(round_published: Sequence[Published], counters: Counters, now_ms: int) -> None:
    """Hands out a round, in the order it was read."""
    output = _Output()
    for published in round_published:
        expiry_s = published.properties.message_expiry_s
        expires_at_ms = None if expiry_s is None else published.received_at_ms + expiry_s * 1000
        topic = published.route.topic.encode()
        for payload in published.payloads:
            message = Message(
                topic,
                payload,
                published.retain,
                published.properties,
                expires_at_ms,
                published.properties_bytes,
            )
            _deliver_one(message, published, counters, now_ms, output)
    output.write()


class _Output:
    """What is to be written to whom."""

    def __init__(self) -> None:
        self._parts: dict[Endpoint, list[bytes]] = {}
        self._size_bytes = 0

    def add(self, connection: "Endpoint", data: bytes) -> None:
        self._parts.setdefault(connection, []).append(data)
        self._size_bytes += len(data)
        if self._size_bytes > _GATHERED_BYTES_MAX:
            self.write()

    def write(self) -> None:
        """From here on the connections know whether their peers take it (`is_writable`)."""
        parts, self._parts = self._parts, {}
        self._size_bytes = 0
        for connection, pieces in parts.items():
            connection.send(b"".join(pieces))


def _deliver_one(
    message: Message,
    published: Published,
    counters: Counters,
    now_ms: int,
    output: _Output,
) -> None:
    encoded: dict[tuple[int, bool, tuple[int, ...]], bytes] = {}
    for session, qos, retain_as_published, subscription_ids in published.targets:
        delivery = Delivery(
            message,
            min(qos, published.qos),
            message.retain and retain_as_published,
            subscription_ids,
        )
        connection = session.connection
        if delivery.qos == 0:
            if connection is None:
                continue
            if not connection.is_writable:
                counters.deliveries_dropped += 1
                continue
            variant = (connection.level, delivery.retain, subscription_ids)
            data = encoded.get(variant)
            if data is None:
                data = encode_delivery(delivery, connection.level, 0, now_ms)
                encoded[variant] = data
            if not connection.accepts_size(len(data)):
                counters.deliveries_dropped += 1
                continue
        else:
            can_send = connection is not None and connection.is_writable
            dropped_count = session.outbox.dropped_count
            data = session.outbox.push(delivery, now_ms, can_send=can_send)
            counters.deliveries_dropped += session.outbox.dropped_count - dropped_count
        if data and connection is not None:
            output.add(connection, data)
