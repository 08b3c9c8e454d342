"""Packets that a server must refuse, or that look as if it must: by name, for the reports.

Each is whole (its Remaining Length is that of its body), so that a server that takes it can go on.
`UNFRAMED` are those that cannot be whole.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.mqtt.packets import LEVEL_5_0
from gateway.mqtt.wire import encode_binary, encode_string, encode_varint


def packet(first_byte: int, body: bytes) -> bytes:
    return bytes((first_byte,)) + encode_varint(len(body)) + body


def _none(level: int) -> bytes:
    """An empty property list, where the level has any."""
    return b"\0" if level == LEVEL_5_0 else b""


def _publish(
    first_byte: int, topic: bytes = b"\0\1a", rest: bytes = b"m", packet_id: bytes = b"\0\x0b"
) -> Callable[[int], bytes]:
    identifier = packet_id if first_byte & 6 else b""
    return lambda level: packet(first_byte, topic + identifier + _none(level) + rest)


def _subscribe(
    first_byte: int, rest: bytes, packet_id: bytes = b"\0\x0c"
) -> Callable[[int], bytes]:
    return lambda level: packet(first_byte, packet_id + _none(level) + rest)


def _bare(first_byte: int, body: bytes = b"") -> Callable[[int], bytes]:
    return lambda _level: packet(first_byte, body)


def _with_properties(
    first_byte: int, before: bytes, properties: bytes, after: bytes = b""
) -> bytes:
    return packet(first_byte, before + encode_varint(len(properties)) + properties + after)


def _connect(
    level: int,
    *,
    name: bytes = b"MQTT",
    flags: int = 2,
    said_level: int | None = None,
    properties: bytes = b"",
    client_id: bytes = b"\0\1x",
    rest: bytes = b"",
) -> bytes:
    head = encode_binary(name) + bytes((level if said_level is None else said_level, flags, 0, 60))
    listed = encode_varint(len(properties)) + properties if level == LEVEL_5_0 else b""
    return packet(0x10, head + listed + client_id + rest)


CONNECTED: dict[str, Callable[[int], bytes]] = {
    "publish qos 3": _publish(0x36),
    "publish dup qos 0": _publish(0x38),
    "publish no topic": _publish(0x30, topic=b"\0\0"),
    "publish + in topic": _publish(0x30, topic=encode_string("a/+")),
    "publish # in topic": _publish(0x32, topic=encode_string("#")),
    "publish NUL in topic": _publish(0x30, topic=encode_string("a\0b")),
    "publish surrogate in topic": _publish(0x30, topic=b"\0\3\xed\xa0\x80"),
    "publish bad utf-8 in topic": _publish(0x30, topic=b"\0\2\xff\xfe"),
    "publish packet id 0": _publish(0x32, packet_id=b"\0\0"),
    "publish topic longer than packet": lambda _level: packet(0x30, b"\0\x09a"),
    "publish without packet id": lambda _level: packet(0x32, b"\0\1a"),
    "publish empty body": _bare(0x30),
    "subscribe flags 0": _subscribe(0x80, b"\0\1a\0"),
    "subscribe no filter": _subscribe(0x82, b""),
    "subscribe empty filter": _subscribe(0x82, b"\0\0\0"),
    "subscribe qos 3": _subscribe(0x82, b"\0\1a\3"),
    "subscribe reserved bits": _subscribe(0x82, b"\0\1a\xc1"),
    "subscribe packet id 0": _subscribe(0x82, b"\0\1a\0", packet_id=b"\0\0"),
    "subscribe without options": _subscribe(0x82, b"\0\1a"),
    "subscribe a+": _subscribe(0x82, b"\0\2a+\0"),
    "subscribe #/a": _subscribe(0x82, b"\0\3#/a\0"),
    "subscribe NUL": _subscribe(0x82, b"\0\2a\0\0"),
    "unsubscribe flags 0": _subscribe(0xA0, b"\0\1a"),
    "unsubscribe no filter": _subscribe(0xA2, b""),
    "unsubscribe empty filter": _subscribe(0xA2, b"\0\0"),
    "unsubscribe packet id 0": _subscribe(0xA2, b"\0\1a", packet_id=b"\0\0"),
    "unsubscribe a+": _subscribe(0xA2, b"\0\2a+"),
    "puback packet id 0": _bare(0x40, b"\0\0"),
    "puback one byte": _bare(0x40, b"\0"),
    "puback flags": _bare(0x41, b"\0\x0d"),
    "puback too long": _bare(0x40, b"\0\x0d\0\0\0"),
    "pubrec packet id 0": _bare(0x50, b"\0\0"),
    "pubrel flags 0": _bare(0x60, b"\0\x0d"),
    "pubrel packet id 0": _bare(0x62, b"\0\0"),
    "pubcomp flags": _bare(0x72, b"\0\x0d"),
    "pingreq flags": _bare(0xC1),
    "pingreq with body": _bare(0xC0, b"x"),
    "disconnect flags": _bare(0xE1),
    "type 0": _bare(0x00),
    "auth": _bare(0xF0),
    "connack": _bare(0x20, b"\0\0"),
    "suback": _bare(0x90, b"\0\1\0"),
    "unsuback": _bare(0xB0, b"\0\1"),
    "pingresp": _bare(0xD0),
    "second connect": lambda level: _connect(level),
}
"""For a connected client of either level."""

CONNECTED_5_0: dict[str, Callable[[int], bytes]] = {
    "publish unknown property": lambda _: _with_properties(0x30, b"\0\1a", b"\x7f\0"),
    "publish property of CONNECT": lambda _: _with_properties(0x30, b"\0\1a", b"\x11\0\0\0\1"),
    "publish property twice": lambda _: _with_properties(0x30, b"\0\1a", b"\1\0\1\0"),
    "publish payload format 2": lambda _: _with_properties(0x30, b"\0\1a", b"\1\2"),
    "publish subscription id": lambda _: _with_properties(0x30, b"\0\1a", b"\x0b\1"),
    "publish topic alias 0": lambda _: _with_properties(0x30, b"\0\1a", b"\x23\0\0"),
    "publish topic alias unset": lambda _: _with_properties(0x30, b"\0\0", b"\x23\0\1"),
    "publish topic alias too high": lambda _: _with_properties(0x30, b"\0\1a", b"\x23\xff\xff"),
    "publish response topic #": lambda _: _with_properties(0x30, b"\0\1a", b"\x08\0\1#"),
    "publish properties too long": lambda _: packet(0x30, b"\0\1a\x20\1"),
    "subscribe id 0": lambda _: _with_properties(0x82, b"\0\x0c", b"\x0b\0", b"\0\1a\0"),
    "subscribe id twice": lambda _: _with_properties(0x82, b"\0\x0c", b"\x0b\1\x0b\2", b"\0\1a\0"),
    "subscribe retain handling 3": _subscribe(0x82, b"\0\1a\x30"),
    "disconnect prolongs": lambda _: _with_properties(0xE0, b"\0", b"\x11\0\0\0\x63"),
    "disconnect unknown property": lambda _: _with_properties(0xE0, b"\0", b"\x7f\0"),
    "auth with method": lambda _: _with_properties(0xF0, b"\x18", b"\x15\0\1m"),
}

FIRST: dict[str, Callable[[int], bytes]] = {
    "pingreq first": _bare(0xC0),
    "publish first": _publish(0x30),
    "subscribe first": _subscribe(0x82, b"\0\1a\0"),
    "disconnect first": _bare(0xE0),
    "connack first": _bare(0x20, b"\0\0"),
    "connect reserved flag": lambda level: _connect(level, flags=3),
    "connect header flags": lambda level: b"\x11" + _connect(level)[1:],
    "connect will qos without will": lambda level: _connect(level, flags=0x0A),
    "connect will retain without will": lambda level: _connect(level, flags=0x22),
    "connect will qos 3": lambda level: _connect(
        level, flags=0x1E, rest=_none(level) + b"\0\1w\0\1m"
    ),
    "connect wrong name": lambda level: _connect(level, name=b"MQTX"),
    "connect level 9": lambda level: _connect(level, said_level=9),
    "connect level 0": lambda level: _connect(level, said_level=0),
    "connect password without user name": lambda level: _connect(level, flags=0x42, rest=b"\0\1p"),
    "connect user name missing": lambda level: _connect(level, flags=0x82),
    "connect too long": lambda level: _connect(level, rest=b"xyz"),
    "connect cut short": lambda level: packet(0x10, _connect(level)[2:-2]),
    "connect NUL in client id": lambda level: _connect(level, client_id=b"\0\3a\0b"),
    "connect bad utf-8 in client id": lambda level: _connect(level, client_id=b"\0\2\xff\xfe"),
    "connect will topic with #": lambda level: _connect(
        level, flags=6, rest=_none(level) + b"\0\1#\0\1m"
    ),
    "connect will topic empty": lambda level: _connect(
        level, flags=6, rest=_none(level) + b"\0\0\0\1m"
    ),
    "connect no client id, not clean": lambda level: _connect(level, flags=0, client_id=b"\0\0"),
    "connect empty": _bare(0x10),
}
"""The first bytes on a connection."""

FIRST_5_0: dict[str, Callable[[int], bytes]] = {
    "connect receive maximum 0": lambda level: _connect(level, properties=b"\x21\0\0"),
    "connect maximum packet size 0": lambda level: _connect(level, properties=b"\x27\0\0\0\0"),
    "connect property twice": lambda level: _connect(level, properties=b"\x21\0\1\x21\0\1"),
    "connect unknown property": lambda level: _connect(level, properties=b"\x7f\0"),
    "connect property of PUBLISH": lambda level: _connect(level, properties=b"\x23\0\1"),
    "connect auth data without method": lambda level: _connect(level, properties=b"\x16\0\1x"),
    "connect auth method": lambda level: _connect(level, properties=b"\x15\0\1m"),
    "connect problem information 2": lambda level: _connect(level, properties=b"\x17\2"),
    "connect will property of CONNECT": lambda level: _connect(
        level, flags=6, rest=b"\3\x21\0\1\0\1w\0\1m"
    ),
}

UNFRAMED: dict[str, bytes] = {
    "remaining length of 5 bytes": b"\x30\xff\xff\xff\xff\x01",
    "half a publish": b"\x30\x10\0\1a",
    "half a header": b"\x30",
}
"""The connection is closed behind them by the client."""
