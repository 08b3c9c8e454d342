"""From messages that are durable to their local subscribers.

Owns the choice between sending, queueing and dropping, per subscriber: QoS 0 goes to who takes
bytes now, QoS 1 and 2 into the session's outbox, which sends or keeps them; whose outbox is full
reads from the log from there on. A connection gets one write for a round, unless the round is
big. A run of messages is encoded once for all who get the same bytes, packet identifiers included
(`messages.Batch`); only who cannot take all of it at once gets packets of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gateway.ingest import Route
from gateway.mqtt.messages import Batch, Delivery, Message, encode_delivery, messages_of_run
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
    publishes_sent: int = 0
    acknowledgements_sent: int = 0
    controls_received: int = 0
    """Packets of clients that are no PUBLISH."""
    bytes_received: int = 0
    """Of rounds that are in the log."""
    bytes_sent: int = 0
    """Of deliveries and acknowledgements, before topic aliases make them shorter."""
    connections_accepted: int = 0
    sockets_accepted: int = 0
    deliveries_missed: int = 0
    """Stored messages that retention removed before a subscriber had looked at them."""
    dead_letters: int = 0


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
        first = Message(
            route.topic.encode(),
            published.payloads[0],
            published.retain,
            published.properties,
            expires_at_ms,
            published.properties_bytes,
            route.partition.partition_id,
            published.first_offset,
            published.time_ms,
        )
        _deliver_run(_Run(first, published, sessions, now_ms), counters, now_ms, output)
    return output


class Output:
    """What is to be written to whom, and whose outboxes were used."""

    def __init__(self) -> None:
        self._parts: dict[Endpoint, list[bytes]] = {}
        self._size_bytes = 0
        """Of what is gathered, what many have in common once."""
        self.sessions: set[Session] = set()
        self.written_bytes = 0

    def add(self, connection: "Endpoint", data: bytes) -> None:
        self.add_shared(connection, data)
        self.made(len(data))

    def add_shared(self, connection: "Endpoint", data: bytes) -> None:
        parts = self._parts.get(connection)
        if parts is None:
            self._parts[connection] = [data]
        else:
            parts.append(data)

    def made(self, size_bytes: int) -> None:
        """Something to be written takes memory."""
        self._size_bytes += size_bytes
        if self._size_bytes > _GATHERED_BYTES_MAX:
            self.write()

    def write(self) -> None:
        """From here on the connections know whether their peers take it (`is_writable`)."""
        parts, self._parts = self._parts, {}
        self._size_bytes = 0
        for connection, pieces in parts.items():
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.written_bytes += len(data)
            connection.send(data)


class _Run:
    """A run that is handed out: each form of it is made when somebody needs it."""

    def __init__(
        self, first: Message, published: Published, sessions: "SessionTable", now_ms: int
    ) -> None:
        self.targets = published.route.targets
        self.qos = published.qos
        self.retain = published.retain
        self.count = len(published.payloads)
        self.is_expired = first.expires_at_ms is not None and first.expires_at_ms <= now_ms
        self._first = first
        self._payloads = published.payloads
        self._messages: list[Message] = []
        self._batches: dict[tuple[int, int, bool, tuple[int, ...]], Batch] = {}
        self._sessions = sessions
        self._now_ms = now_ms

    @property
    def messages(self) -> list[Message]:
        if not self._messages:
            self._messages = (
                [self._first] if self.count == 1 else messages_of_run(self._first, self._payloads)
            )
        return self._messages

    def batch(
        self, level: int, qos: int, retain: bool, subscription_ids: tuple[int, ...], output: Output
    ) -> Batch:
        key = (level, qos, retain, subscription_ids)
        found = self._batches.get(key)
        if found is None:
            first_id = self._sessions.take_packet_ids(self.count) if qos else 0
            found = self._batches[key] = Batch(
                self.messages, qos, retain, subscription_ids, level, self._now_ms, first_id
            )
            output.made(len(found.blob))
        return found


def _deliver_run(run: _Run, counters: Counters, now_ms: int, output: Output) -> None:
    sent_whole_count = 0
    for session, qos, retain_as_published, subscription_ids in run.targets:
        connection = session.connection
        if connection is None:
            continue  # it has gone in this round, and will read from the log
        qos = min(qos, run.qos)
        retain = run.retain and retain_as_published
        if session.is_shared:
            sent_count = 0  # its members take turns, message by message
        elif qos == 0:
            if not connection.is_writable:
                counters.deliveries_dropped += run.count
                continue
            batch = run.batch(connection.level, 0, retain, subscription_ids, output)
            if connection.accepts_size(batch.largest_bytes):
                output.add_shared(connection, batch.blob)
                sent_whole_count += 1
                continue
            sent_count = 0
        elif qos == 1 and connection.is_writable and not run.is_expired:
            output.sessions.add(session)
            batch = run.batch(connection.level, 1, retain, subscription_ids, output)
            sent_count = session.outbox.send_batch(batch)
            if sent_count == run.count:
                output.add_shared(connection, batch.blob)
                sent_whole_count += 1
                continue
            if sent_count:
                counters.publishes_sent += sent_count
                output.add(connection, batch.blob[: batch.ends[sent_count - 1]])
            if session.outbox.wait_batch(batch, sent_count):
                continue
        else:
            sent_count = 0
        for message in run.messages[sent_count:]:
            delivery = Delivery(message, qos, retain, subscription_ids)
            _deliver_one(session, connection, delivery, counters, now_ms, output)
    counters.publishes_sent += sent_whole_count * run.count


def _deliver_one(
    session: "Session",
    connection: "Endpoint",
    delivery: Delivery,
    counters: Counters,
    now_ms: int,
    output: Output,
) -> None:
    """To one who cannot take the run as it is."""
    if delivery.qos == 0 and not session.is_shared:
        data = encode_delivery(delivery, connection.level, 0, now_ms)
        if not connection.accepts_size(len(data)):
            counters.deliveries_dropped += 1
            return
    else:
        data = session.outbox.push(delivery, now_ms, can_send=connection.is_writable)
        output.sessions.add(session)
    if data:
        counters.publishes_sent += 1
        output.add(connection, data)
