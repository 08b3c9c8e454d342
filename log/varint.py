"""Kafka's zig-zag varints (protobuf's sint32/sint64), with tables for the small ones of the hot
path.
"""

from __future__ import annotations

from typing import Final

TABLE_SIZE: Final = 8192
"""Every non-negative number below it takes at most two bytes."""


def encode_varint(number: int) -> bytes:
    """`number` (signed, up to 64 bits) in 1 to 10 bytes."""
    rest = (number << 1) ^ (number >> 63)
    if rest < 0x80:
        return bytes((rest,))
    out = bytearray()
    while rest >= 0x80:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


VARINT: Final = tuple(encode_varint(number) for number in range(TABLE_SIZE))
"""VARINT[n] == encode_varint(n) for 0 <= n < TABLE_SIZE."""


def varint(number: int) -> bytes:
    """`encode_varint`, from the table where it can be."""
    return VARINT[number] if 0 <= number < TABLE_SIZE else encode_varint(number)


def decode_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position` and the position behind it.

    IndexError past the end of `data`, ValueError for more than 64 bits.
    """
    byte = data[position]
    position += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position
    result = byte & 0x7F
    shift = 7
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1), position
        shift += 7
        if shift > 63:
            raise ValueError("varint of more than 64 bits")
