"""From messages that are durable to their local subscribers.

Owns the choice between sending, queueing and dropping, per subscriber: QoS 0 goes to who takes
bytes now, QoS 1 and 2 into the session's outbox, which sends or keeps them; whose outbox is full
reads from the log from there on. A connection gets one write for a round, unless the round is
big. A message of QoS 0 is encoded once for all who get the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gateway.ingest import Route
from gateway.mqtt.delivery import Delivery, Message, encode_delivery
from gateway.mqtt.properties import Properties

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint
    from gateway.mqtt.session import Session
    from gateway.mqtt.sessions import SessionTable


_GATHERED_BYTES_MAX = 256 * 1024
"""What is gathered before it is written: a round of 4 MiB may have a thousand subscribers."""


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    connections_refused: int = 0
    messages_refused: int = 0
    deliveries_dropped: int = 0
    deliveries_missed: int = 0
    """Stored messages that retention removed before a subscriber had looked at them."""


class Published(NamedTuple):
    """A run of messages of one route, at consecutive offsets from `first_offset` on."""

    route: Route
    qos: int
    retain: bool
    properties: Properties
    properties_bytes: int
    received_at_ms: int
    payloads: Sequence[bytes]
    first_offset: int
    time_ms: int


def deliver(
    round_published: Sequence[Published],
    sessions: "SessionTable",
    counters: Counters,
    now_ms: int,
) -> "Output":
    """Hands out a round, in the order it was read. The caller calls `settle` on what it returns."""
    output = Output()
    version = sessions.tree.version
    for published in round_published:
        route = published.route
        if route.matched_version != version:
            sessions.match(route)
        if not route.targets:
            continue
        expiry_s = published.properties.message_expiry_s
        expires_at_ms = None if expiry_s is None else published.received_at_ms + expiry_s * 1000
        topic = route.topic.encode()
        partition_id = route.partition.partition_id
        offset = published.first_offset
        for payload in published.payloads:
            message = Message(
                topic,
                payload,
                published.retain,
                published.properties,
                expires_at_ms,
                published.properties_bytes,
                partition_id,
                offset,
                published.time_ms,
            )
            _deliver_one(message, published, counters, now_ms, output)
            offset += 1
    return output


class Output:
    """What is to be written to whom, and whose outboxes were used."""

    def __init__(self) -> None:
        self._parts: dict[Endpoint, list[bytes]] = {}
        self._size_bytes = 0
        self.sessions: set[Session] = set()

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
    output: Output,
) -> None:
    encoded: dict[tuple[int, bool, tuple[int, ...]], bytes] = {}
    for session, qos, retain_as_published, subscription_ids in published.route.targets:
        delivery = Delivery(
            message,
            min(qos, published.qos),
            message.retain and retain_as_published,
            subscription_ids,
        )
        connection = session.connection
        if connection is None:
            continue  # it has gone in this round, and will read from the log
        if delivery.qos == 0:
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
            outbox = session.outbox
            data = outbox.push(delivery, now_ms, can_send=connection.is_writable)
            output.sessions.add(session)
        if data:
            output.add(connection, data)
