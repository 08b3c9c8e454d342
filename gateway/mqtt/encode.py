"""Control packets to bytes, both versions, both directions.

Owns the layout of what is sent. The values are taken as they are: who makes a packet has
checked its topics and sizes. PUBACK and PUBREC of the hot path are joined by the connection
from their packet identifiers and do not come through here.
"""

from gateway.mqtt.packets import (
    LEVEL_3_1,
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
    UnsubAck,
    Unsubscribe,
)
from gateway.mqtt.properties import NO_PROPERTIES, Properties, encode_properties
from gateway.mqtt.wire import encode_binary, encode_string, encode_varint

PINGRESP_BYTES = b"\xd0\x00"
_ACK_FIRST_BYTES: dict[type, int] = {PubAck: 0x40, PubRec: 0x50, PubRel: 0x62, PubComp: 0x70}


def encode_packet(packet: Packet, level: int) -> bytes:
    """The whole control packet, fixed header included."""
    match packet:
        case Publish():
            return _publish(packet, level)
        case PubAck() | PubRec() | PubRel() | PubComp():
            body = packet.packet_id.to_bytes(2) + _reason(packet.code, packet.properties, level)
            return _framed(_ACK_FIRST_BYTES[type(packet)], body)
        case Connect():
            return _framed(0x10, _connect(packet))
        case ConnAck():
            head = bytes((packet.session_present, packet.code))
            return _framed(0x20, head + _properties(packet.properties, level))
        case Subscribe():
            return _framed(0x82, _subscribe(packet, level))
        case SubAck():
            head = packet.packet_id.to_bytes(2) + _properties(packet.properties, level)
            return _framed(0x90, head + bytes(packet.codes))
        case Unsubscribe():
            head = packet.packet_id.to_bytes(2) + _properties(packet.properties, level)
            return _framed(0xA2, head + b"".join(map(encode_string, packet.filters)))
        case UnsubAck():
            head = packet.packet_id.to_bytes(2) + _properties(packet.properties, level)
            return _framed(0xB0, head + (bytes(packet.codes) if level == LEVEL_5_0 else b""))
        case PingReq():
            return b"\xc0\x00"
        case PingResp():
            return PINGRESP_BYTES
        case Disconnect():
            return _framed(0xE0, _reason(packet.code, packet.properties, level))
        case Auth():
            return _framed(0xF0, _reason(packet.code, packet.properties, level))


def _framed(first_byte: int, body: bytes) -> bytes:
    return bytes((first_byte,)) + encode_varint(len(body)) + body


def _properties(properties: Properties, level: int) -> bytes:
    return encode_properties(properties) if level == LEVEL_5_0 else b""


def _reason(code: int, properties: Properties, level: int) -> bytes:
    """Reason code and properties, left out where the standard lets them (3.4.2.1, 3.14.2.1)."""
    if level < LEVEL_5_0 or (code == 0 and properties == NO_PROPERTIES):
        return b""
    if properties == NO_PROPERTIES:
        return bytes((code,))
    return bytes((code,)) + encode_properties(properties)


def _connect(packet: Connect) -> bytes:
    will = packet.will
    flags = 0x02 if packet.clean_start else 0
    if will is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
    if packet.user_name is not None:
        flags |= 0x80
    if packet.password is not None:
        flags |= 0x40
    parts = [
        b"\0\6MQIsdp" if packet.level == LEVEL_3_1 else b"\0\4MQTT",
        bytes((packet.level, flags)),
        packet.keep_alive_s.to_bytes(2),
        _properties(packet.properties, packet.level),
        encode_string(packet.client_id),
    ]
    if will is not None:
        parts += [
            _properties(will.properties, packet.level),
            encode_string(will.topic),
            encode_binary(will.payload),
        ]
    if packet.user_name is not None:
        parts.append(encode_string(packet.user_name))
    if packet.password is not None:
        parts.append(encode_binary(packet.password))
    return b"".join(parts)


def _publish(packet: Publish, level: int) -> bytes:
    first_byte = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    topic = encode_string(packet.topic)
    packet_id = packet.packet_id.to_bytes(2) if packet.qos else b""
    properties = _properties(packet.properties, level)
    size = len(topic) + len(packet_id) + len(properties) + len(packet.payload)
    return b"".join(
        (bytes((first_byte,)), encode_varint(size), topic, packet_id, properties, packet.payload)
    )


def _subscribe(packet: Subscribe, level: int) -> bytes:
    parts = [packet.packet_id.to_bytes(2), _properties(packet.properties, level)]
    for request in packet.requests:
        options = request.qos
        if level == LEVEL_5_0:
            options |= request.no_local << 2 | request.retain_as_published << 3
            options |= request.retain_handling << 4
        parts += [encode_string(request.filter), bytes((options,))]
    return b"".join(parts)
