"""Topic aliases towards one 5.0 client (3.3.2.3.4), which has said that it takes some.

Owns which topics have one. It stands last before the transport and sees whole packets in the order
in which the client gets them, so an alias is never used before it was introduced, whatever was
queued, dropped or put off before; and fan-out shares packets with this client as with others.

The first topics keep theirs until the connection ends, and no other takes one over: where a fleet
has more topics than there are aliases and they come in turns, a least recently used one would
always have gone when its topic comes, and every packet would be longer by an introduction. What
is sent with RETAIN introduces none: retained messages come once, all at the start. What is sent
again (DUP) has its topic, so it can be understood alone.
"""

from collections.abc import Callable

from gateway.mqtt.wire import encode_varint

_TOPIC_ALIAS = b"\x23"
_ALIAS_BYTES = 3


class TopicAliases:
    """`packet_bytes_max`: the client's Maximum Packet Size; None: it has said none."""

    __slots__ = ("_aliases", "_count_max", "_packet_bytes_max", "_write")

    def __init__(
        self, write: Callable[[bytes], None], *, count_max: int, packet_bytes_max: int | None
    ) -> None:
        self._write = write
        self._count_max = count_max
        self._packet_bytes_max = packet_bytes_max
        self._aliases: dict[bytes, bytes] = {}
        """Topic -> the property."""

    def write(self, data: bytes) -> None:
        """`data`: whole packets of ours. What is no PUBLISH passes as it is."""
        aliases = self._aliases
        parts: list[bytes] = []
        copied = at = 0
        end = len(data)
        while at < end:
            first_byte = data[at]
            size, body = data[at + 1], at + 2
            if size & 0x80:
                size, body = _varint(data, at + 1)
            if first_byte & 0xF8 == 0x30:  # PUBLISH without DUP
                name_end = body + 2 + (data[body] << 8 | data[body + 1])
                alias = aliases.get(data[body + 2 : name_end])
                if alias is not None or self._takes(first_byte, name_end - body - 2):
                    head, rest = self._head(data, first_byte, body, size, name_end, alias)
                    if head:
                        parts += (data[copied:at], head)
                        copied = rest
            at = body + size
        if parts:
            parts.append(data[copied:])
            data = b"".join(parts)
        self._write(data)

    def _takes(self, first_byte: int, topic_bytes: int) -> bool:
        """A topic that has no alias is to get one: it is longer than the property."""
        return (
            topic_bytes > _ALIAS_BYTES
            and len(self._aliases) < self._count_max  # [MQTT-3.1.2-26], [MQTT-3.3.2-11]
            and not first_byte & 1
        )

    def _head(
        self, data: bytes, first_byte: int, body: int, size: int, name_end: int, alias: bytes | None
    ) -> tuple[bytes, int]:
        """A packet, of `size` bytes from `body` on, up to its first other property, and where that
        is in `data`; b"" when the introduction of an alias would be more than the client takes."""
        name = b"\0\0"
        known = alias is not None
        if alias is None:
            name = data[body:name_end]
            alias = _TOPIC_ALIAS + (len(self._aliases) + 1).to_bytes(2)  # [MQTT-3.3.2-8]
        properties = name_end + (2 if first_byte & 0x06 else 0)
        properties_size, rest = data[properties], properties + 1
        if properties_size & 0x80:
            properties_size, rest = _varint(data, properties)
        inner = b"".join(
            (
                name,
                data[name_end:properties],
                encode_varint(properties_size + _ALIAS_BYTES),
                alias,
            )
        )
        head = bytes((first_byte,)) + encode_varint(len(inner) + body + size - rest) + inner
        if not known:
            limit = self._packet_bytes_max
            if limit is not None and len(head) + body + size - rest > limit:
                return b"", rest  # [MQTT-3.1.2-24]
            self._aliases[name[2:]] = alias
        return head, rest


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Its value, and where it ends."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1
