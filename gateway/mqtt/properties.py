"""Properties of MQTT 5.0 (section 2.2.2): the table of identifiers, decoding and encoding.

Owns which property has which type and in which packets it may stand. Decoding refuses an
identifier that is unknown or out of place, a property given twice, and values the standard
forbids. The PUBLISH path of the server calls it only for property bytes it has not just seen.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgspec

from gateway.mqtt.errors import MalformedPacket, ProtocolError
from gateway.mqtt.wire import Reader, encode_binary, encode_string, encode_varint


class PacketType(IntEnum):
    """Control packet types (2.1.2); WILL is no packet but has a property list of its own."""

    WILL = 0
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of one packet; None or empty: not given. Intervals are in seconds."""

    payload_format: int | None = None
    message_expiry_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_ids: tuple[int, ...] = ()
    session_expiry_s: int | None = None
    assigned_client_id: str | None = None
    server_keep_alive_s: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_s: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    maximum_packet_bytes: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifiers_available: int | None = None
    shared_subscription_available: int | None = None


NO_PROPERTIES = Properties()


class _Kind:
    """How a value is read and written, and which values are refused."""

    __slots__ = ("forbid_zero", "one_bit", "read", "write")

    def __init__(
        self,
        read: Callable[[Reader], Any],
        write: Callable[[Any], bytes],
        *,
        forbid_zero: bool = False,
        one_bit: bool = False,
    ) -> None:
        self.read = read
        self.write = write
        self.forbid_zero = forbid_zero
        self.one_bit = one_bit


def _write_pair(pair: tuple[str, str]) -> bytes:
    return encode_string(pair[0]) + encode_string(pair[1])


def _write_u8(value: int) -> bytes:
    return bytes((value,))


def _write_u16(value: int) -> bytes:
    return value.to_bytes(2)


def _write_u32(value: int) -> bytes:
    return value.to_bytes(4)


_BIT = _Kind(Reader.u8, _write_u8, one_bit=True)
_U16 = _Kind(Reader.u16, _write_u16)
_U16_NOT_0 = _Kind(Reader.u16, _write_u16, forbid_zero=True)
_U32 = _Kind(Reader.u32, _write_u32)
_U32_NOT_0 = _Kind(Reader.u32, _write_u32, forbid_zero=True)
_VARINT_NOT_0 = _Kind(Reader.varint, encode_varint, forbid_zero=True)
_TEXT = _Kind(Reader.string, encode_string)
_DATA = _Kind(Reader.binary, encode_binary)
_PAIR = _Kind(lambda reader: (reader.string(), reader.string()), _write_pair)

_P = PacketType
_ACKS = (_P.PUBACK, _P.PUBREC, _P.PUBREL, _P.PUBCOMP, _P.SUBACK, _P.UNSUBACK)
_MESSAGE = frozenset({_P.PUBLISH, _P.WILL})

# identifier -> (field of Properties, kind, packets it may stand in); 5.0 table 2-4.
_TABLE: dict[int, tuple[str, _Kind, frozenset[PacketType]]] = {
    0x01: ("payload_format", _BIT, _MESSAGE),
    0x02: ("message_expiry_s", _U32, _MESSAGE),
    0x03: ("content_type", _TEXT, _MESSAGE),
    0x08: ("response_topic", _TEXT, _MESSAGE),
    0x09: ("correlation_data", _DATA, _MESSAGE),
    0x0B: ("subscription_ids", _VARINT_NOT_0, frozenset({_P.PUBLISH, _P.SUBSCRIBE})),
    0x11: ("session_expiry_s", _U32, frozenset({_P.CONNECT, _P.CONNACK, _P.DISCONNECT})),
    0x12: ("assigned_client_id", _TEXT, frozenset({_P.CONNACK})),
    0x13: ("server_keep_alive_s", _U16, frozenset({_P.CONNACK})),
    0x15: ("authentication_method", _TEXT, frozenset({_P.CONNECT, _P.CONNACK, _P.AUTH})),
    0x16: ("authentication_data", _DATA, frozenset({_P.CONNECT, _P.CONNACK, _P.AUTH})),
    0x17: ("request_problem_information", _BIT, frozenset({_P.CONNECT})),
    0x18: ("will_delay_s", _U32, frozenset({_P.WILL})),
    0x19: ("request_response_information", _BIT, frozenset({_P.CONNECT})),
    0x1A: ("response_information", _TEXT, frozenset({_P.CONNACK})),
    0x1C: ("server_reference", _TEXT, frozenset({_P.CONNACK, _P.DISCONNECT})),
    0x1F: ("reason_string", _TEXT, frozenset({_P.CONNACK, _P.DISCONNECT, _P.AUTH, *_ACKS})),
    0x21: ("receive_maximum", _U16_NOT_0, frozenset({_P.CONNECT, _P.CONNACK})),
    0x22: ("topic_alias_maximum", _U16, frozenset({_P.CONNECT, _P.CONNACK})),
    0x23: ("topic_alias", _U16, frozenset({_P.PUBLISH})),
    0x24: ("maximum_qos", _BIT, frozenset({_P.CONNACK})),
    0x25: ("retain_available", _BIT, frozenset({_P.CONNACK})),
    0x26: ("user_properties", _PAIR, frozenset(_P) - {_P.PINGREQ, _P.PINGRESP}),
    0x27: ("maximum_packet_bytes", _U32_NOT_0, frozenset({_P.CONNECT, _P.CONNACK})),
    0x28: ("wildcard_subscription_available", _BIT, frozenset({_P.CONNACK})),
    0x29: ("subscription_identifiers_available", _BIT, frozenset({_P.CONNACK})),
    0x2A: ("shared_subscription_available", _BIT, frozenset({_P.CONNACK})),
}
_REPEATABLE = ("user_properties", "subscription_ids")
_IDENTIFIER_OF = {field: identifier for identifier, (field, _, _) in _TABLE.items()}


def read_properties(reader: Reader, packet_type: PacketType) -> Properties:
    """Reads a property list with its length; leaves the reader behind it."""
    size = reader.varint()
    if size == 0:
        return NO_PROPERTIES
    if size > reader.left:
        raise MalformedPacket("property list longer than the packet")
    inner = Reader(reader.data, reader.position, reader.position + size)
    reader.position += size
    found: dict[str, Any] = {}
    while inner.left:
        identifier = inner.varint()
        entry = _TABLE.get(identifier)
        if entry is None:
            raise MalformedPacket(f"unknown property 0x{identifier:02x}")
        field, kind, packet_types = entry
        if packet_type not in packet_types:
            raise MalformedPacket(f"property {field} in {packet_type.name}")
        value = kind.read(inner)
        if (kind.one_bit and value > 1) or (kind.forbid_zero and value == 0):
            raise ProtocolError(f"property {field} is {value}")
        if field in _REPEATABLE and not (
            field == "subscription_ids" and packet_type is PacketType.SUBSCRIBE and field in found
        ):
            found[field] = (*found.get(field, ()), value)
        elif field in found:
            raise ProtocolError(f"property {field} given twice")
        else:
            found[field] = value
    return Properties(**found)


def encode_properties(properties: Properties) -> bytes:
    """A property list with its length in front."""
    if properties == NO_PROPERTIES:
        return b"\0"
    parts: list[bytes] = []
    for field in Properties.__struct_fields__:
        value = getattr(properties, field)
        if value is None or value == ():
            continue
        identifier = _IDENTIFIER_OF[field]
        write = _TABLE[identifier][1].write
        items = value if field in _REPEATABLE else (value,)
        parts.extend(bytes((identifier,)) + write(item) for item in items)
    body = b"".join(parts)
    return encode_varint(len(body)) + body
