"""Bytes to control packets, all versions, both directions.

Owns framing (fixed header, Remaining Length) and the layout of every packet. Never raises
anything but the errors of `gateway.mqtt.errors`. The server's hot path reads PUBLISH itself
(connection.py) and comes here for the rest.

A control packet is:

    +---------------+--------------------------+----------------------------+
    | type << 4 |   | Remaining Length:        | variable header, payload:  |
    | flags         | varint of 1 to 4 bytes   | Remaining Length bytes     |
    +---------------+--------------------------+----------------------------+
"""

from collections.abc import Callable
from typing import NamedTuple

from gateway.mqtt.errors import (
    MalformedPacket,
    PacketTooLarge,
    ProtocolError,
    UnsupportedProtocolVersion,
)
from gateway.mqtt.packets import (
    LEVEL_3_1,
    LEVEL_3_1_1,
    LEVEL_5_0,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
    Will,
)
from gateway.mqtt.properties import NO_PROPERTIES, PacketType, Properties, read_properties
from gateway.mqtt.topics import is_shared
from gateway.mqtt.wire import Reader

_FLAGS_0010 = frozenset({PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE})

_PROTOCOLS = {(b"MQIsdp", LEVEL_3_1), (b"MQTT", LEVEL_3_1_1), (b"MQTT", LEVEL_5_0)}

# The reason codes that 5.0 lets a packet have (3.4.2.1 to 3.7.2.1, 3.14.2.1, 3.15.2.1).
_TAKEN_OR_NOT = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_KNOWN_OR_NOT = frozenset({0x00, 0x92})
_REASONS: dict[PacketType, frozenset[int]] = {
    PacketType.PUBACK: _TAKEN_OR_NOT,
    PacketType.PUBREC: _TAKEN_OR_NOT,
    PacketType.PUBREL: _KNOWN_OR_NOT,
    PacketType.PUBCOMP: _KNOWN_OR_NOT,
    PacketType.DISCONNECT: frozenset(
        {0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3)}
    ),
    PacketType.AUTH: frozenset({0x00, 0x18, 0x19}),
}


class Frame(NamedTuple):
    """Where a control packet lies: its body is data[start:stop]."""

    first_byte: int
    start: int
    stop: int


def next_frame(data: bytes, position: int, end: int, packet_bytes_max: int) -> Frame | int:
    """The packet at `position`, or how many bytes from there are needed to go on.

    Raises PacketTooLarge as soon as the Remaining Length is known, MalformedPacket when that
    has more than 4 bytes.
    """
    value = shift = 0
    cursor = position + 1
    while True:
        if cursor >= end:
            return cursor + 1 - position
        byte = data[cursor]
        cursor += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 21:
            raise MalformedPacket("Remaining Length of more than 4 bytes")
    stop = cursor + value
    if stop - position > packet_bytes_max:
        raise PacketTooLarge(f"packet of {stop - position} bytes, at most {packet_bytes_max}")
    if stop > end:
        return stop - position
    return Frame(data[position], cursor, stop)


def decode_packet(first_byte: int, reader: Reader, level: int) -> Packet:
    """The packet whose body `reader` holds; the body must be used up exactly."""
    kind = first_byte >> 4
    flags = first_byte & 0x0F
    if kind == PacketType.PUBLISH:
        packet: Packet = _publish(flags, reader, level)
    else:
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise MalformedPacket("packet type 0 is reserved")
        if level == LEVEL_3_1 and kind in _FLAGS_0010:
            flags &= ~0x08  # 3.1 sets DUP when it sends these again
        if flags != (2 if kind in _FLAGS_0010 else 0):
            # [MQTT-2.2.2-2] / [MQTT-2.1.3-1]: reserved flags must be as listed.
            raise MalformedPacket(f"reserved flags 0x{flags:x} in {PacketType(kind).name}")
        packet = decoder(reader, level)
    reader.expect_end()
    return packet


def _packet_id(reader: Reader) -> int:
    packet_id = reader.u16()
    if packet_id == 0:
        # [MQTT-2.3.1-1] / [MQTT-2.2.1-3]
        raise ProtocolError("packet identifier 0")
    return packet_id


def _properties(reader: Reader, level: int, packet_type: PacketType) -> Properties:
    return read_properties(reader, packet_type) if level == LEVEL_5_0 else NO_PROPERTIES


def _connect(reader: Reader, _level: int) -> Connect:
    name = reader.binary()
    level = reader.u8()
    if (name, level) not in _PROTOCOLS:
        raise UnsupportedProtocolVersion(f"protocol {name[:8]!r} level {level}", level=level)
    flags = reader.u8()
    keep_alive_s = reader.u16()
    if flags & 1 and level > LEVEL_3_1:
        raise MalformedPacket("reserved CONNECT flag set")  # [MQTT-3.1.2-3]
    has_will = bool(flags & 0x04)
    will_qos = flags >> 3 & 3
    if will_qos == 3 or (not has_will and flags & 0x38):
        raise MalformedPacket("will flags contradict each other")  # [MQTT-3.1.2-11, -13, -14]
    has_user_name = bool(flags & 0x80)
    has_password = bool(flags & 0x40)
    if level < LEVEL_5_0 and has_password and not has_user_name:
        raise MalformedPacket("password without user name")  # 3.1.1 [MQTT-3.1.2-22]
    properties = _properties(reader, level, PacketType.CONNECT)
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise ProtocolError("Authentication Data without a method")  # 3.1.2.11.10
    client_id = reader.string()
    will = None
    if has_will:
        will_properties = _properties(reader, level, PacketType.WILL)
        will = Will(
            topic=reader.string(),
            payload=reader.binary(),
            qos=will_qos,
            retain=bool(flags & 0x20),
            properties=will_properties,
        )
    return Connect(
        level=level,
        client_id=client_id,
        clean_start=bool(flags & 0x02),
        keep_alive_s=keep_alive_s,
        will=will,
        user_name=reader.string() if has_user_name else None,
        password=reader.binary() if has_password else None,
        properties=properties,
    )


def _connack(reader: Reader, level: int) -> ConnAck:
    flags = reader.u8()
    if flags > 1:
        raise MalformedPacket("reserved CONNACK flags set")
    code = reader.u8()
    return ConnAck(
        session_present=bool(flags),
        code=code,
        properties=_properties(reader, level, PacketType.CONNACK),
    )


def _publish(flags: int, reader: Reader, level: int) -> Publish:
    qos = flags >> 1 & 3
    dup = bool(flags & 0x08)
    if qos == 3:
        raise MalformedPacket("QoS 3")  # [MQTT-3.3.1-4]
    if dup and qos == 0:
        raise MalformedPacket("DUP with QoS 0")  # [MQTT-3.3.1-2]
    topic = reader.string()
    packet_id = _packet_id(reader) if qos else 0
    properties = _properties(reader, level, PacketType.PUBLISH)
    return Publish(
        topic=topic,
        payload=reader.rest(),
        qos=qos,
        packet_id=packet_id,
        dup=dup,
        retain=bool(flags & 1),
        properties=properties,
    )


def _code(reader: Reader, kind: PacketType) -> int:
    code = reader.u8()
    if code not in _REASONS[kind]:
        # [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.14.2-1],
        # [MQTT-3.15.2-1]
        raise ProtocolError(f"reason code 0x{code:02x} in {kind.name}")
    return code


def _ack_fields(reader: Reader, level: int, kind: PacketType) -> tuple[int, int, Properties]:
    packet_id = _packet_id(reader)
    if level < LEVEL_5_0 or not reader.left:
        return packet_id, 0, NO_PROPERTIES
    code = _code(reader, kind)
    return packet_id, code, read_properties(reader, kind) if reader.left else NO_PROPERTIES


def _puback(reader: Reader, level: int) -> PubAck:
    packet_id, code, properties = _ack_fields(reader, level, PacketType.PUBACK)
    return PubAck(packet_id=packet_id, code=code, properties=properties)


def _pubrec(reader: Reader, level: int) -> PubRec:
    packet_id, code, properties = _ack_fields(reader, level, PacketType.PUBREC)
    return PubRec(packet_id=packet_id, code=code, properties=properties)


def _pubrel(reader: Reader, level: int) -> PubRel:
    packet_id, code, properties = _ack_fields(reader, level, PacketType.PUBREL)
    return PubRel(packet_id=packet_id, code=code, properties=properties)


def _pubcomp(reader: Reader, level: int) -> PubComp:
    packet_id, code, properties = _ack_fields(reader, level, PacketType.PUBCOMP)
    return PubComp(packet_id=packet_id, code=code, properties=properties)


def _subscription_request(reader: Reader, level: int) -> SubscriptionRequest:
    topic_filter = reader.string()
    options = reader.u8()
    qos = options & 3
    if qos == 3:
        raise MalformedPacket("subscription QoS 3")  # [MQTT-3.8.3-4]
    if options & (0xC0 if level == LEVEL_5_0 else 0xFC):
        raise MalformedPacket("reserved subscription option bits set")
    retain_handling = options >> 4 & 3
    if retain_handling == 3:
        raise ProtocolError("Retain Handling 3")
    no_local = bool(options & 4)
    if no_local and is_shared(topic_filter):
        raise ProtocolError("No Local on a shared subscription")  # [MQTT-3.8.3-4]
    return SubscriptionRequest(
        filter=topic_filter,
        qos=qos,
        no_local=no_local,
        retain_as_published=bool(options & 8),
        retain_handling=retain_handling,
    )


def _subscribe(reader: Reader, level: int) -> Subscribe:
    packet_id = _packet_id(reader)
    properties = _properties(reader, level, PacketType.SUBSCRIBE)
    requests: list[SubscriptionRequest] = []
    while reader.left:
        requests.append(_subscription_request(reader, level))
    if not requests:
        raise ProtocolError("SUBSCRIBE without a filter")  # [MQTT-3.8.3-2]
    return Subscribe(packet_id=packet_id, requests=tuple(requests), properties=properties)


def _suback(reader: Reader, level: int) -> SubAck:
    packet_id = _packet_id(reader)
    properties = _properties(reader, level, PacketType.SUBACK)
    return SubAck(packet_id=packet_id, codes=tuple(reader.rest()), properties=properties)


def _unsubscribe(reader: Reader, level: int) -> Unsubscribe:
    packet_id = _packet_id(reader)
    properties = _properties(reader, level, PacketType.UNSUBSCRIBE)
    filters: list[str] = []
    while reader.left:
        filters.append(reader.string())
    if not filters:
        raise ProtocolError("UNSUBSCRIBE without a filter")  # [MQTT-3.10.3-2]
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)


def _unsuback(reader: Reader, level: int) -> UnsubAck:
    packet_id = _packet_id(reader)
    properties = _properties(reader, level, PacketType.UNSUBACK)
    codes = tuple(reader.rest()) if level == LEVEL_5_0 else ()
    return UnsubAck(packet_id=packet_id, codes=codes, properties=properties)


def _disconnect(reader: Reader, level: int) -> Disconnect:
    if level < LEVEL_5_0 or not reader.left:
        return Disconnect()
    code = _code(reader, PacketType.DISCONNECT)
    if not reader.left:
        return Disconnect(code=code)
    return Disconnect(code=code, properties=read_properties(reader, PacketType.DISCONNECT))


def _auth(reader: Reader, level: int) -> Auth:
    if level < LEVEL_5_0:
        raise MalformedPacket("packet type 15 is reserved in 3.1.1")
    if not reader.left:
        return Auth()
    code = _code(reader, PacketType.AUTH)
    if not reader.left:
        return Auth(code=code)
    return Auth(code=code, properties=read_properties(reader, PacketType.AUTH))


_DECODERS: dict[int, Callable[[Reader, int], Packet]] = {
    PacketType.CONNECT: _connect,
    PacketType.CONNACK: _connack,
    PacketType.PUBACK: _puback,
    PacketType.PUBREC: _pubrec,
    PacketType.PUBREL: _pubrel,
    PacketType.PUBCOMP: _pubcomp,
    PacketType.SUBSCRIBE: _subscribe,
    PacketType.SUBACK: _suback,
    PacketType.UNSUBSCRIBE: _unsubscribe,
    PacketType.UNSUBACK: _unsuback,
    PacketType.PINGREQ: lambda _reader, _level: PingReq(),
    PacketType.PINGRESP: lambda _reader, _level: PingResp(),
    PacketType.DISCONNECT: _disconnect,
    PacketType.AUTH: _auth,
}
