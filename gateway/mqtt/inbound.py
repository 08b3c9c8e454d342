"""What a PUBLISH from one client means: its topic, where it goes, what its records look like.

Owns topic aliases (3.3.2.3.4), and the cache of runs. A run is what consecutive PUBLISHes of a
device have in common: first byte, topic and 5.0 properties, all as bytes. The connection's parser
compares those bytes; only where they differ from the message before does it ask here.
"""

from gateway.ingest import Ingest, Route
from gateway.limits import MqttLimits
from gateway.mqtt.errors import (
    MalformedPacket,
    ProtocolError,
    QuotaExceeded,
    TopicAliasInvalid,
)
from gateway.mqtt.packets import LEVEL_5_0, Will
from gateway.mqtt.properties import NO_PROPERTIES, PacketType, Properties, read_properties
from gateway.mqtt.sys_topics import is_reserved
from gateway.mqtt.topics import check_topic_name
from gateway.mqtt.wire import Reader, decode_utf8

_RUNS_MAX = 64
"""Runs kept for one connection: a device has a handful of topics, and a run takes some 1 KiB."""

_RUN_KEY_BYTES_MAX = 1024
"""A run with more topic and properties than this is not kept beyond its messages."""

_ROUTES_MAX = 64


class Run:
    """`topic` and `properties` are as on the wire, with their lengths; the latter b"" in 3.1.1."""

    __slots__ = (
        "first_byte",
        "is_denied",
        "message_properties",
        "overhead",
        "partition",
        "properties",
        "qos",
        "retain",
        "route",
        "template",
        "topic",
    )

    def __init__(
        self,
        first_byte: int,
        topic: bytes,
        properties: bytes,
        route: Route,
        message_properties: Properties,
        ingest: Ingest,
    ) -> None:
        self.first_byte = first_byte
        self.topic = topic
        self.properties = properties
        self.qos = first_byte >> 1 & 3
        self.retain = bool(first_byte & 1)
        self.is_denied = is_reserved(route.topic)
        """Answered and not taken: the client may not publish there."""
        self.overhead = len(properties) + (2 if self.qos else 0)
        self.route = route
        self.partition = route.partition
        self.message_properties = message_properties
        self.template = ingest.template(
            route,
            qos=self.qos,
            retain=self.retain,
            dup=bool(first_byte & 8),
            properties=message_properties,
        )


class Inbound:
    """The runs, routes and topic aliases of one connection."""

    def __init__(self, ingest: Ingest, client_id: str, level: int, limits: MqttLimits) -> None:
        self._ingest = ingest
        self._client_id = client_id
        self._level = level
        self._limits = limits
        self._aliases: dict[int, str] = {}
        self._runs: dict[bytes, Run] = {}
        self._routes: dict[str, Route] = {}

    def forget_routes(self) -> None:
        self._runs.clear()
        self._routes.clear()

    @staticmethod
    def takes_will(will: Will | None) -> bool:
        """A will that may not be published is forgotten: nobody would be there to be told."""
        return will is None or not is_reserved(will.topic)

    def find(self, first_byte: int, data: bytes, start: int, stop: int) -> Run:
        """The run of the PUBLISH whose body is data[start:stop]; raises a PeerError for a bad one.

        It checks all of the packet but the packet identifier being 0.
        """
        reader = Reader(data, start, stop)
        topic = reader.take(2)
        topic += reader.take(int.from_bytes(topic))
        qos = first_byte >> 1 & 3
        if qos == 3:
            raise MalformedPacket("QoS 3")  # [MQTT-3.3.1-4]
        if qos:
            reader.take(2)
        elif first_byte & 8:
            raise MalformedPacket("DUP with QoS 0")  # [MQTT-3.3.1-2]
        properties = b""
        if self._level == LEVEL_5_0:
            at = reader.position
            size = reader.varint()
            reader.take(size)
            properties = data[at : reader.position]
        key = b"%c%b%b" % (first_byte, topic, properties)
        run = self._runs.get(key)
        if run is None:
            run = self._resolve(first_byte, topic, properties, key)
        return run

    def _resolve(self, first_byte: int, topic: bytes, properties: bytes, key: bytes) -> Run:
        given = NO_PROPERTIES
        if len(properties) > 1:
            given = read_properties(Reader(properties), PacketType.PUBLISH)
            check_response_topic(given)
            if given.subscription_ids:
                raise ProtocolError("Subscription Identifier from a client")  # [MQTT-3.3.4-6]
            if len(given.user_properties) > self._limits.user_properties_max:
                raise QuotaExceeded(f"more than {self._limits.user_properties_max} user properties")
        name = decode_utf8(topic[2:])
        if not name and self._level == LEVEL_5_0 and given.topic_alias is None:
            raise ProtocolError("neither a topic nor an alias")  # 3.3.2.1
        if given.topic_alias is not None:
            name = self._aliased(name, given.topic_alias)
        route = self._routes.get(name)
        if route is None:
            check_topic_name(
                name,
                bytes_max=self._limits.topic_bytes_max,
                levels_max=self._limits.topic_levels_max,
            )
            if len(self._routes) >= _ROUTES_MAX:
                self._routes.clear()
            route = self._ingest.route(self._client_id, name)
            self._routes[name] = route
        run = Run(first_byte, topic, properties, route, given, self._ingest)
        # What an alias stands for may change, so a run with one is only valid while it is current.
        if given.topic_alias is None and len(key) <= _RUN_KEY_BYTES_MAX:
            if len(self._runs) >= _RUNS_MAX:
                self._runs.clear()
            self._runs[key] = run
        return run

    def _aliased(self, name: str, alias: int) -> str:
        if not 0 < alias <= self._limits.topic_alias_max:
            raise TopicAliasInvalid(f"topic alias {alias}")  # [MQTT-3.3.2-8, -9]
        if name:
            check_topic_name(
                name,
                bytes_max=self._limits.topic_bytes_max,
                levels_max=self._limits.topic_levels_max,
            )
            self._aliases[alias] = name
            return name
        known = self._aliases.get(alias)
        if known is None:
            # 3.3.2.3.4: an alias that was never set.
            raise ProtocolError(f"topic alias {alias} is not set")
        return known


def check_response_topic(properties: Properties) -> None:
    """[MQTT-3.3.2-14] it is a topic name, without wildcards."""
    topic = properties.response_topic
    if topic is not None and ("+" in topic or "#" in topic):
        raise ProtocolError("wildcard in a Response Topic")
