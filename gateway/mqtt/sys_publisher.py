"""Gives the topics under $SYS to their subscribers.

Owns where the figures come from. Nothing is counted for a message alone: the log knows how many
records it took, a round how many it acknowledged, a run to how many it went. So QoS 0 messages
that were refused are not counted as received, nor are a source's told from a client's.

They go out at QoS 0, to who takes bytes now; a session that reads from the log gets them too.
"""

from typing import TYPE_CHECKING

from gateway.mqtt.messages import Delivery, Message, encode_delivery
from gateway.mqtt.sys_topics import Figures, SysTopics
from log import Log

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.session import Session, Subscription


class SysPublisher:
    """`sweep` once a second; `topics.interval_ms` may be changed at any time."""

    def __init__(self, broker: "Broker", log: Log, version: str, interval_ms: int) -> None:
        self._broker = broker
        self._log = log
        self._clients_maximum = 0
        self.topics = SysTopics(
            version, interval_ms=interval_ms, read=self.figures, now_ms=broker.now_ms()
        )

    def figures(self) -> Figures:
        broker = self._broker
        counters = broker.counters
        sessions = broker.sessions
        stats = self._log.stats()
        connected = self._connected_count()
        partitions = self._log.partitions.values()
        return Figures(
            clients_connected=connected,
            clients_offline=len(sessions) - connected,
            clients_maximum=self._clients_maximum,
            subscriptions=len(sessions.tree) + len(sessions.reading_tree),
            retained=broker.retained.counters.message_count,
            stored_messages=sum(each.durable_end - each.start_offset for each in partitions),
            stored_bytes=stats.stored_bytes,
            messages_received=stats.record_count + counters.controls_received,
            messages_sent=counters.publishes_sent + counters.acknowledgements_sent,
            publishes_received=stats.record_count,
            publishes_sent=counters.publishes_sent,
            publishes_dropped=counters.deliveries_dropped,
            bytes_received=counters.bytes_received + broker.inbox_bytes,
            bytes_sent=counters.bytes_sent,
            connections=counters.connections_accepted,
            sockets=counters.sockets_accepted,
        )

    def _connected_count(self) -> int:
        count = sum(connection.is_connected for connection in self._broker.connections)
        self._clients_maximum = max(self._clients_maximum, count)
        return count

    def sweep(self, now_ms: int) -> None:
        if not self.topics.interval_ms:
            return
        self._connected_count()
        sessions = self._broker.sessions
        for topic, value in self.topics.sweep(now_ms).items():
            for tree in (sessions.tree, sessions.reading_tree):
                for _, (session, subscription) in tree.match(topic):
                    retain = subscription.retain_as_published
                    self._send(session, subscription, topic, value, retain=retain)

    def greet(self, session: "Session", subscription: "Subscription") -> None:
        """The current values, to a new subscriber: behind its SUBACK."""
        for topic, value in self.topics.find(subscription.filter):
            self._send(session, subscription, topic, value, retain=True)

    def _send(
        self,
        session: "Session",
        subscription: "Subscription",
        topic: str,
        value: bytes,
        *,
        retain: bool,
    ) -> None:
        connection = session.connection
        if connection is None or not connection.is_writable:
            return
        number = subscription.subscription_id
        message = Message(topic.encode(), value)
        delivery = Delivery(message, 0, retain, (number,) if number else ())
        data = encode_delivery(delivery, connection.level, 0, self._broker.now_ms())
        if not connection.accepts_size(len(data)):
            return
        if connection.pending:
            connection.defer(data)
        else:
            connection.send(data)
        self._broker.counters.publishes_sent += 1
