"""Control packets as values: what the codec decodes to and encodes from.

Owns the shapes only. Texts are checked UTF-8; topics and filters are not yet validated.
`level` is 3 for MQTT 3.1, 4 for 3.1.1 and 5 for 5.0.
"""

import msgspec

from gateway.mqtt.properties import NO_PROPERTIES, Properties

LEVEL_3_1 = 3
LEVEL_3_1_1 = 4
LEVEL_5_0 = 5


class Will(msgspec.Struct, frozen=True, kw_only=True):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    level: int
    client_id: str
    clean_start: bool
    keep_alive_s: int
    will: Will | None = None
    user_name: str | None = None
    password: bytes | None = None
    properties: Properties = NO_PROPERTIES


class ConnAck(msgspec.Struct, frozen=True, kw_only=True):
    """`code` is the reason code in 5.0, the return code in 3.1.1."""

    session_present: bool
    code: int
    properties: Properties = NO_PROPERTIES


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    dup: bool = False
    retain: bool = False
    properties: Properties = NO_PROPERTIES


class PubAck(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    code: int = 0
    properties: Properties = NO_PROPERTIES


class PubRec(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    code: int = 0
    properties: Properties = NO_PROPERTIES


class PubRel(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    code: int = 0
    properties: Properties = NO_PROPERTIES


class PubComp(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    code: int = 0
    properties: Properties = NO_PROPERTIES


class SubscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    requests: tuple[SubscriptionRequest, ...]
    properties: Properties = NO_PROPERTIES


class SubAck(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = NO_PROPERTIES


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True):
    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NO_PROPERTIES


class UnsubAck(msgspec.Struct, frozen=True, kw_only=True):
    """`codes` is empty in 3.1.1."""

    packet_id: int
    codes: tuple[int, ...] = ()
    properties: Properties = NO_PROPERTIES


class PingReq(msgspec.Struct, frozen=True, kw_only=True):
    pass


class PingResp(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Disconnect(msgspec.Struct, frozen=True, kw_only=True):
    code: int = 0
    properties: Properties = NO_PROPERTIES


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    code: int = 0
    properties: Properties = NO_PROPERTIES


Packet = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
