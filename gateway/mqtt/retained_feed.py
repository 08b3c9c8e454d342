"""Sends a session the retained messages of its new subscriptions, before anything newer.

Owns the order: while a feed is at work its session is *reading* and held (catchup.py), so that
what is published meanwhile comes from the log when the feed is done, and no older retained message
overtakes a newer one. A subscription begins at the ends of the log's round at its SUBSCRIBE:
what was stored before is the table's, what was stored later is the log's.

Owns the amount too: what matches is searched a slice at a time, and the next slice only when the
client has taken the last one. QoS 1 and 2 go out only while the window is open, so that none
waits in the session's queue, whose places in the log say where a session goes on reading.

A client that leaves before the end of it is sent the rest when it subscribes again.
"""

from collections import deque
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from gateway.mqtt.fanout import Output
from gateway.mqtt.messages import Delivery, Message, encode_delivery
from gateway.mqtt.packets import SubscriptionRequest
from gateway.mqtt.positions import Positions
from gateway.mqtt.properties import NO_PROPERTIES, PacketType, read_properties
from gateway.mqtt.retained_store import Lookup, Retained, Slice
from gateway.mqtt.topics import is_shared
from gateway.mqtt.wire import Reader

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.session import Session, Subscription

_ALWAYS = 0
_IF_NEW = 1
"""Retain Handling (3.8.3.1); 2 is never."""

_SLICE_COUNT_MAX = 100
_SLICE_BYTES_MAX = 64 * 1024
"""One message at least: the largest may have more."""


def send_retained(
    broker: "Broker",
    session: "Session",
    requests: Sequence[SubscriptionRequest],
    known: Container[str],
) -> None:
    """After a SUBSCRIBE and its SUBACK; `known`: the filters there were before it."""
    wanted = [
        request.filter
        for request in requests
        if request.filter in session.subscriptions
        and not is_shared(request.filter)  # 4.8.2
        and (
            request.retain_handling == _ALWAYS  # [MQTT-3.3.1-9]
            or (request.retain_handling == _IF_NEW and request.filter not in known)  # -10, -11
        )
    ]
    if not wanted or session.connection is None:
        return
    session.connection.write_answers()
    for topic_filter in wanted:
        if topic_filter.startswith("$") and broker.sys is not None:
            broker.sys.greet(session, session.subscriptions[topic_filter])
    if broker.retained.is_empty:
        return
    ends = broker.retained.ends()
    feed = session.feed
    if feed is None:
        feed = session.feed = RetainedFeed(broker, session)
    if session.reading is None:
        positions = session.positions(broker.sessions.ends)
        session.outbox.clear_queue()
        broker.catchup.begin(session, positions)
    for topic_filter in dict.fromkeys(wanted):
        if topic_filter not in known:
            broker.sessions.start_at(session, topic_filter, ends)
        feed.add(session.subscriptions[topic_filter], ends)
    feed.advance()


class RetainedFeed:
    """`advance` when the session's client has acknowledged something or takes bytes again."""

    __slots__ = ("_broker", "_found", "_from_key", "_is_searching", "_session", "_wanted")

    def __init__(self, broker: "Broker", session: "Session") -> None:
        self._broker = broker
        self._session = session
        self._wanted: deque[tuple[Subscription, Positions]] = deque()
        self._from_key = b""
        self._is_searching = False
        self._found: deque[Delivery] = deque()

    def add(self, subscription: "Subscription", ends: Positions) -> None:
        """`ends`: from there on, what matches comes from the log."""
        self._wanted.append((subscription, ends))

    def advance(self) -> None:
        """Sends what the client takes now, and asks for more when it has taken all."""
        session = self._session
        if session.connection is None or session.feed is not self:
            return
        if self._found:
            output = Output()
            while self._found and self._hand(self._found[0], output):
                self._found.popleft()
            output.write()
            self._broker.deliveries.settle(output)
        if self._found or self._is_searching:
            return
        if self._wanted:
            self._is_searching = True
            lookup = Lookup(
                self._wanted[0][0].filter,
                self._from_key,
                _SLICE_COUNT_MAX,
                _SLICE_BYTES_MAX,
                self._came,
            )
            # Its SUBACK may wait for the round, and is to be first.
            self._broker.retained.lookup(lookup, after_round=session.is_stored)
        else:
            session.feed = None
            self._broker.catchup.wake(session)

    def _came(self, piece: Slice) -> None:
        self._is_searching = False
        subscription, ends = self._wanted[0]
        if subscription.filter not in self._session.subscriptions:
            piece = Slice([], None)
        self._found.extend(
            self._delivery(message, subscription)
            for message in piece.found
            if message.offset < ends.get(message.partition_id, 0)
            and not (subscription.no_local and message.client_id == self._session.client_id)
        )
        if piece.next_key is None:
            self._wanted.popleft()
            self._from_key = b""
        else:
            self._from_key = piece.next_key
        self.advance()

    def _hand(self, delivery: Delivery, output: Output) -> bool:
        """False: the client takes no more now."""
        session, broker = self._session, self._broker
        connection = session.connection
        if connection is None or not connection.is_writable:
            return False
        now_ms = broker.now_ms()
        expires_at_ms = delivery.message.expires_at_ms
        if expires_at_ms is not None and expires_at_ms <= now_ms:
            return True  # [MQTT-3.3.2-5]
        if delivery.qos:
            outbox = session.outbox
            if not outbox.has_room or not outbox.takes(delivery.message.size_bytes, 1):
                return False
            data = outbox.push(delivery, now_ms, can_send=True)
            output.sessions.add(session)
        else:
            data = encode_delivery(delivery, connection.level, 0, now_ms)
            if not connection.accepts_size(len(data)):
                broker.counters.deliveries_dropped += 1  # [MQTT-3.1.2-25]
                return True
        if data:
            broker.counters.publishes_sent += 1
            output.add(connection, data)
        return True

    def _delivery(self, kept: Retained, subscription: "Subscription") -> Delivery:
        expires_at_ms = None
        if kept.expires_ms is not None:
            # From the log's clock to the broker's.
            left_ms = kept.expires_ms - self._broker.retained.now_ms()
            expires_at_ms = self._broker.now_ms() + left_ms
        properties = NO_PROPERTIES
        if kept.properties:
            properties = read_properties(Reader(kept.properties), PacketType.PUBLISH)
        message = Message(
            kept.topic,
            kept.payload,
            True,
            properties,
            expires_at_ms,
            len(kept.properties),
            kept.partition_id,
            kept.offset,
            kept.stored_ms,
        )
        ids = (subscription.subscription_id,) if subscription.subscription_id else ()
        # [MQTT-3.3.1-8] with RETAIN, whatever Retain As Published says.
        return Delivery(message, min(kept.qos, subscription.qos), True, ids)
