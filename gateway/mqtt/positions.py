"""What of a subscriber's deliveries outlives its connection, as bytes.

Owns the layout of the durable window of a session or of a shared subscription's group. All
integers are big-endian:

    0   version          u8    1
    1   position count   u16
    3   positions        12 bytes each: partition id u32, offset u64
        in flight        20 bytes each, in the order of sending:
                         packet id u16, flags u8 (bits 0-1 QoS; 4: PUBREC came), times sent u8,
                         partition id u32, offset u64, group u32 (0: its own subscription)

Everything in a partition below its position was handed to the client, or is in flight, or was
none of its business. A position that is missing is 0: the partition is younger than the window.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_VERSION = 1
_HEAD = struct.Struct(">BH")
_POSITION = struct.Struct(">IQ")
_IN_FLIGHT = struct.Struct(">HBBIQI")
_PUBREC_CAME = 4
_SENT_COUNT_MAX = 255

Positions = dict[int, int]
"""Partition id -> offset."""


class InFlight(NamedTuple):
    """A message sent and not acknowledged, by its place in the log. `is_received`: PUBREC came, so
    that only its identifier counts."""

    packet_id: int
    qos: int
    is_received: bool
    sent_count: int
    partition_id: int
    offset: int
    group: int


class Window(NamedTuple):
    positions: Positions
    in_flight: list[InFlight]


def encode_positions(positions: Mapping[int, int]) -> bytes:
    return b"".join([_POSITION.pack(*pair) for pair in positions.items()])


def decode_positions(data: bytes) -> Positions:
    return dict(_POSITION.iter_unpack(data))


def encode_window(positions: Mapping[int, int], in_flight: Sequence[InFlight]) -> bytes:
    parts = [_HEAD.pack(_VERSION, len(positions)), encode_positions(positions)]
    for packet_id, qos, is_received, sent_count, partition_id, offset, group in in_flight:
        flags = qos | (_PUBREC_CAME if is_received else 0)
        count = min(sent_count, _SENT_COUNT_MAX)
        parts.append(_IN_FLIGHT.pack(packet_id, flags, count, partition_id, offset, group))
    return b"".join(parts)


def decode_window(data: bytes) -> Window:
    _, count = _HEAD.unpack_from(data)
    end = _HEAD.size + count * _POSITION.size
    in_flight = [
        InFlight(packet_id, flags & 3, bool(flags & _PUBREC_CAME), sent_count, *place)
        for packet_id, flags, sent_count, *place in _IN_FLIGHT.iter_unpack(data[end:])
    ]
    return Window(decode_positions(data[_HEAD.size : end]), in_flight)
