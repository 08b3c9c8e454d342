"""The data representations of MQTT (sections 1.5 of both versions): integers, strings, varints.

Owns the reading and writing of single fields; knows no packet. A reader never reads past the
end it was given: what is missing is a `MalformedPacket`.
"""

from gateway.mqtt.errors import MalformedPacket

VARINT_MAX = 268_435_455
STRING_BYTES_MAX = 65_535


class Reader:
    """Reads fields from `data[position:end]`, front to back."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    def take(self, size: int) -> bytes:
        start = self.position
        if self.end - start < size:
            raise MalformedPacket(f"{size} bytes expected, {self.end - start} left")
        self.position = start + size
        return self.data[start : self.position]

    def rest(self) -> bytes:
        return self.take(self.end - self.position)

    @property
    def left(self) -> int:
        return self.end - self.position

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2))

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    # [MQTT-1.5.5-1] the encoded value uses the minimum number of bytes.
                    raise MalformedPacket("variable byte integer longer than needed")
                return value
            shift += 7
            if shift > 21:
                raise MalformedPacket("variable byte integer of more than 4 bytes")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def string(self) -> str:
        return decode_utf8(self.binary())

    def expect_end(self) -> None:
        if self.position != self.end:
            raise MalformedPacket(f"{self.left} bytes too many in the packet")


def decode_utf8(data: bytes) -> str:
    """A UTF-8 string as MQTT wants it: strict, no surrogates, no NUL [MQTT-1.5.4-1, -2]."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket(f"not UTF-8: {error.reason}") from None
    if "\0" in text:
        raise MalformedPacket("U+0000 in a string")
    return text


def encode_varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    assert value <= VARINT_MAX
    out = bytearray()
    while True:
        value, byte = divmod(value, 128)
        if not value:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def encode_binary(data: bytes) -> bytes:
    assert len(data) <= STRING_BYTES_MAX
    return len(data).to_bytes(2) + data


def encode_string(text: str) -> bytes:
    return encode_binary(text.encode())
