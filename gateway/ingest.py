"""From a client and a topic to records in the log.

Owns what a record of an MQTT message looks like: key and partition from the routing table, value
= payload, headers:

    mqtt.topic             always
    mqtt.dup               "1" when the PUBLISH had DUP set: its device may have sent it before
    mqtt.qos               "0" or "2"; without it: 1
    mqtt.retain            "1" when the PUBLISH had RETAIN set
    mqtt.client            the client id, where it is not the record's key, and known
    mqtt.message-expiry    5.0, where given: seconds from the record's timestamp on
    mqtt.payload-format    5.0, where given: "0" or "1"
    mqtt.content-type      5.0, where given
    mqtt.response-topic    5.0, where given
    mqtt.correlation-data  5.0, where given
    (others)               5.0 user properties, under their own names; those that begin with
                           "mqtt." under "mqtt.user." and their name, so that none of the above
                           can be forged

So a record says all that a delivery needs; gateway/mqtt/stored.py reads it back.

Never waits and never commits: what was appended is in the log's current round, and durable when
the committer says so. It keeps no table of clients; a connection keeps the routes it uses.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.mqtt.properties import Properties
from gateway.routing import Router
from log import Log, Partition, RecordTemplate

if TYPE_CHECKING:
    from gateway.mqtt.session import Target

TOPIC_HEADER = b"mqtt.topic"
DUP_HEADER = (b"mqtt.dup", b"1")
RETAIN_HEADER = (b"mqtt.retain", b"1")
QOS_HEADER = b"mqtt.qos"
CLIENT_HEADER = b"mqtt.client"
EXPIRY_HEADER = b"mqtt.message-expiry"
USER_PREFIX = b"mqtt.user."
_RESERVED_PREFIX = b"mqtt."


class Route:
    """Where one client's messages on one topic go.

    `matched_version` and `targets` are the broker's: the subscribers of this topic, as found at
    that version of its subscription tree.
    """

    __slots__ = (
        "client_id",
        "headers",
        "key",
        "matched_version",
        "partition",
        "targets",
        "template",
        "topic",
    )

    def __init__(self, client_id: str, topic: str, partition: Partition, key: bytes) -> None:
        self.client_id = client_id
        self.topic = topic
        self.partition = partition
        self.key = key
        headers = [(TOPIC_HEADER, topic.encode())]
        if client_id and key != client_id.encode():
            headers.append((CLIENT_HEADER, client_id.encode()))
        self.headers = tuple(headers)
        self.template = RecordTemplate(key, self.headers)
        self.matched_version = -1
        self.targets: Sequence[Target] = ()


class Ingest:
    """Appends to `log` by way of `router`, which may be replaced when the configuration changes."""

    def __init__(self, log: Log, router: Router) -> None:
        self._log = log
        self._router = router
        self.record_bytes_max = log.limits.record_bytes_max
        """Of a template's `fixed_bytes` and a value together."""
        self.append = log.append
        """`append(partition, template, values)`: the log's own method, without a layer."""
        self.append_runs = log.append_runs
        """`append_runs(partition, [(template, values), ...])`, likewise."""

    def replace_router(self, router: Router) -> None:
        """New routes use it; the caller makes connections drop the routes they hold."""
        self._router = router

    def route(self, client_id: str, topic: str) -> Route:
        destination = self._router.destination(client_id, topic)
        partition = self._log.partition(destination.stream, destination.partition)
        return Route(client_id, topic, partition, destination.key)

    def route_of_source(self, topic: str) -> Route:
        """Of a message whose client nobody knows: its topic stands for the client id in the key.

        One key for all of a source would put all of it into one partition.
        """
        destination = self._router.destination(topic, topic)
        partition = self._log.partition(destination.stream, destination.partition)
        # No session has this client id, so No Local is nobody's [MQTT-3.8.3-3].
        return Route("", topic, partition, destination.key)

    def template(
        self, route: Route, *, qos: int, retain: bool, dup: bool, properties: Properties
    ) -> RecordTemplate:
        """The template for messages of `route` with these headers besides."""
        extra = [DUP_HEADER] if dup else []
        if qos != 1:
            extra.append((QOS_HEADER, b"%d" % qos))
        if retain:
            extra.append(RETAIN_HEADER)
        extra += property_headers(properties)
        if not extra:
            return route.template
        return RecordTemplate(route.key, (*route.headers, *extra))


def property_headers(properties: Properties) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    if properties.message_expiry_s is not None:
        headers.append((EXPIRY_HEADER, b"%d" % properties.message_expiry_s))
    if properties.payload_format is not None:
        headers.append((b"mqtt.payload-format", b"%d" % properties.payload_format))
    if properties.content_type is not None:
        headers.append((b"mqtt.content-type", properties.content_type.encode()))
    if properties.response_topic is not None:
        headers.append((b"mqtt.response-topic", properties.response_topic.encode()))
    if properties.correlation_data is not None:
        headers.append((b"mqtt.correlation-data", properties.correlation_data))
    for name, value in properties.user_properties:
        header = name.encode()
        if header.startswith(_RESERVED_PREFIX):
            header = USER_PREFIX + header
        headers.append((header, value.encode()))
    return headers
