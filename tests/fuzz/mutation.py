"""The corpus, and the mutations. All of it follows from a seed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType

from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import PeerError
from gateway.mqtt.packets import (
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
    Will,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.wire import Reader
from tests.differential import malformed

LEVELS = (4, 5)
HANG_S = 1.0
_BYTES_MAX = 1 << 20
_FULL = Properties(
    payload_format=1,
    message_expiry_s=9,
    content_type="t",
    response_topic="r",
    correlation_data=b"c",
    user_properties=(("k", "v"), ("k", "w")),
)
_WILL = Will(topic="w", payload=b"bye", qos=1, properties=Properties(will_delay_s=1))
_PACKETS: tuple[Packet, ...] = (
    Publish(topic="a/b", payload=b"hello"),
    Publish(topic="a/b", payload=b"hello", qos=1, packet_id=1, properties=_FULL),
    Publish(topic="a/b", payload=b"", qos=2, packet_id=2, retain=True),
    Publish(topic="a", payload=b"x", properties=Properties(topic_alias=1)),
    PubAck(packet_id=1),
    PubRec(packet_id=2),
    PubRel(packet_id=2),
    PubComp(packet_id=2),
    Subscribe(
        packet_id=3,
        requests=(SubscriptionRequest(filter="a/+", qos=2), SubscriptionRequest(filter="#", qos=0)),
        properties=Properties(subscription_ids=(7,)),
    ),
    Unsubscribe(packet_id=4, filters=("a/+", "b")),
    PingReq(),
    Disconnect(),
)


def corpus(level: int) -> list[bytes]:
    """Whole packets: mostly right ones, for a mutation of them is nearly right."""
    connect = Connect(
        level=level, client_id="c", clean_start=True, keep_alive_s=9, will=_WILL, user_name="u"
    )
    packets = [encode_packet(packet, level) for packet in (connect, *_PACKETS)]
    wrong = [*malformed.CONNECTED.values(), *malformed.FIRST.values()]
    if level == 5:
        wrong += [*malformed.CONNECTED_5_0.values(), *malformed.FIRST_5_0.values()]
    return packets * 8 + [make(level) for make in wrong]


_NASTY = (
    b"\xff",
    b"\0",
    b"\x80",
    b"\xff\xff\xff\x7f",
    b"\xff\xff",
    b"\0\0",
    b"\x7f",
    b"\xed\xa0\x80",
)


def mutated(rng: Random, seeds: list[bytes]) -> bytes:
    """One to three packets with one to four things done to them."""
    data = bytearray(b"".join(rng.choices(seeds, k=1 + (rng.random() < 0.3))))
    for _ in range(1 + int(rng.random() * 4)):
        at = int(rng.random() * len(data)) if data else 0
        match int(rng.random() * 6):
            case 0 if data:
                data[at] ^= 1 << int(rng.random() * 8)
            case 1 if data:
                data[at] = int(rng.random() * 256)
            case 2:
                data[at:at] = rng.choice(_NASTY)
            case 3:
                del data[at : at + 1 + int(rng.random() * 4)]
            case 4:
                del data[at:]
            case _:
                other = rng.choice(seeds)
                data[at:] = other[int(rng.random() * len(other)) :]
    if len(data) > 1 and rng.random() < 0.6:
        data[1] = min(len(data) - 2, 0x7F)  # framed again, so that the body is looked at
    return bytes(data)


def decode_all(data: bytes, level: int) -> int:
    """Reads packets as long as there are; gives how many. Only a PeerError may end it, and it is
    caught here: whatever else comes out is a fault."""
    position = count = 0
    try:
        while position < len(data):
            frame = next_frame(data, position, len(data), _BYTES_MAX)
            if not isinstance(frame, Frame):
                break
            decode_packet(frame.first_byte, Reader(data, frame.start, frame.stop), level)
            position = frame.stop
            count += 1
    except PeerError:
        pass
    return count


class Hang(BaseException):
    """Not an Exception, so that nothing under test catches it."""


@contextmanager
def watched() -> Iterator[None]:
    """Raises Hang in the code within when that takes longer than HANG_S."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
