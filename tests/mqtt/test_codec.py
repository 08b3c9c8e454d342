"""The codec: golden bytes, round trips, refusals, and what mutated packets may raise."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mqtt import packets as p
from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import (
    MalformedPacket,
    PacketTooLarge,
    PeerError,
    ProtocolError,
    UnsupportedProtocolVersion,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.wire import Reader, decode_utf8, encode_varint
from tests.mqtt.strategies import packets

GOLDEN: list[tuple[int, str, p.Packet]] = [
    (
        4,  # 3.1.1, figures 3.2 to 3.6: will QoS 1, user name, password
        (
            "10 26 0004 4D515454 04 CE 000A 0003 616263"
            " 0004 612F6262 0003 627965 0004 75736572 0004 70617373"
        ),
        p.Connect(
            level=4,
            client_id="abc",
            clean_start=True,
            keep_alive_s=10,
            will=p.Will(topic="a/bb", payload=b"bye", qos=1),
            user_name="user",
            password=b"pass",
        ),
    ),
    (
        5,  # 5.0, 3.1: session expiry 10 (3.1.2.11.2), no client id
        "10 12 0004 4D515454 05 02 003C 05 11 0000000A 0000",
        p.Connect(
            level=5,
            client_id="",
            clean_start=True,
            keep_alive_s=60,
            properties=Properties(session_expiry_s=10),
        ),
    ),
    (4, "20 02 01 00", p.ConnAck(session_present=True, code=0)),
    (
        5,
        "20 08 00 00 05 21 0014 25 00",
        p.ConnAck(
            session_present=False,
            code=0,
            properties=Properties(receive_maximum=20, retain_available=0),
        ),
    ),
    (4, "30 05 0003 612F62", p.Publish(topic="a/b", payload=b"")),  # 3.3.2.3: example
    (
        4,
        "3D 09 0003 612F62 000A 6869",
        p.Publish(topic="a/b", payload=b"hi", qos=2, packet_id=10, dup=True, retain=True),
    ),
    (
        5,
        "32 0D 0003 612F62 0007 03 23 0002 6869",
        p.Publish(
            topic="a/b",
            payload=b"hi",
            qos=1,
            packet_id=7,
            properties=Properties(topic_alias=2),
        ),
    ),
    (4, "40 02 0102", p.PubAck(packet_id=258)),
    (5, "40 02 0102", p.PubAck(packet_id=258)),  # 3.4.2.1: success may be left out
    (5, "40 03 0102 97", p.PubAck(packet_id=258, code=0x97)),
    (4, "50 02 0001", p.PubRec(packet_id=1)),
    (4, "62 02 0001", p.PubRel(packet_id=1)),
    (4, "70 02 0001", p.PubComp(packet_id=1)),
    (
        4,  # 3.1.1, figure 3.23
        "82 0E 000A 0003 612F62 01 0003 632F64 02",
        p.Subscribe(
            packet_id=10,
            requests=(
                p.SubscriptionRequest(filter="a/b", qos=1),
                p.SubscriptionRequest(filter="c/d", qos=2),
            ),
        ),
    ),
    (
        5,
        "82 0B 000A 02 0B 07 0003 612F62 2D",
        p.Subscribe(
            packet_id=10,
            requests=(
                p.SubscriptionRequest(
                    filter="a/b", qos=1, no_local=True, retain_as_published=True, retain_handling=2
                ),
            ),
            properties=Properties(subscription_ids=(7,)),
        ),
    ),
    (4, "90 05 000A 00 02 80", p.SubAck(packet_id=10, codes=(0, 2, 0x80))),
    (4, "A2 0C 000A 0003 612F62 0003 632F64", p.Unsubscribe(packet_id=10, filters=("a/b", "c/d"))),
    (4, "B0 02 000A", p.UnsubAck(packet_id=10)),
    (5, "B0 05 000A 00 00 11", p.UnsubAck(packet_id=10, codes=(0, 0x11))),
    (4, "C0 00", p.PingReq()),
    (4, "D0 00", p.PingResp()),
    (4, "E0 00", p.Disconnect()),
    (5, "E0 01 8E", p.Disconnect(code=0x8E)),
    (
        5,
        "E0 07 82 05 1F 0002 6E6F",
        p.Disconnect(code=0x82, properties=Properties(reason_string="no")),
    ),
    (5, "F0 00", p.Auth()),
]


def decode(data: bytes, level: int) -> p.Packet:
    frame = next_frame(data, 0, len(data), 1 << 20)
    assert isinstance(frame, Frame)
    assert frame.stop == len(data)
    return decode_packet(frame.first_byte, Reader(data, frame.start, frame.stop), level)


@pytest.mark.parametrize(("level", "text", "packet"), GOLDEN)
def test_golden_bytes_are_the_packet(level: int, text: str, packet: p.Packet) -> None:
    data = bytes.fromhex(text)
    assert decode(data, level) == packet
    assert encode_packet(packet, level) == data


@settings(deadline=None)
@given(packets(4))
def test_every_packet_of_3_1_1_survives_the_wire(packet: p.Packet) -> None:
    assert decode(encode_packet(packet, 4), 4) == packet


@settings(deadline=None)
@given(packets(5))
def test_every_packet_of_5_0_survives_the_wire(packet: p.Packet) -> None:
    assert decode(encode_packet(packet, 5), 5) == packet


N = "0004 4D515454"
"""The protocol name."""

REFUSED: list[tuple[str, int, str, type[PeerError]]] = [
    ("packet type 0", 4, "00 00", MalformedPacket),
    ("reserved flags of PUBACK", 4, "41 02 0001", MalformedPacket),
    ("PUBREL without its flags [MQTT-3.6.1-1]", 4, "60 02 0001", MalformedPacket),
    ("SUBSCRIBE without its flags [MQTT-3.8.1-1]", 4, "80 06 0001 0001 61 00", MalformedPacket),
    ("UNSUBSCRIBE without its flags [MQTT-3.10.1-1]", 4, "A0 05 0001 0001 61", MalformedPacket),
    ("DISCONNECT with flags [MQTT-3.14.1-1]", 4, "E1 00", MalformedPacket),
    ("PINGREQ with a body", 4, "C0 01 00", MalformedPacket),
    ("QoS 3 [MQTT-3.3.1-4]", 4, "36 05 0001 61 0001", MalformedPacket),
    ("DUP with QoS 0 [MQTT-3.3.1-2]", 4, "38 03 0001 61", MalformedPacket),
    ("packet identifier 0 [MQTT-2.3.1-1]", 4, "32 05 0001 61 0000", ProtocolError),
    ("topic longer than the packet", 4, "30 03 0004 61", MalformedPacket),
    ("topic that is no UTF-8 [MQTT-1.5.3-1]", 4, "30 04 0002 C328", MalformedPacket),
    ("topic with a surrogate [MQTT-1.5.3-1]", 4, "30 05 0003 EDA080", MalformedPacket),
    ("topic with NUL [MQTT-1.5.3-2]", 4, "30 05 0003 610062", MalformedPacket),
    ("SUBSCRIBE without filters [MQTT-3.8.3-3]", 4, "82 02 0001", ProtocolError),
    ("subscription QoS 3 [MQTT-3.8.3-4]", 4, "82 06 0001 0001 61 03", MalformedPacket),
    ("reserved subscription bits", 4, "82 06 0001 0001 61 04", MalformedPacket),
    ("reserved subscription bits, 5.0", 5, "82 07 0001 00 0001 61 40", MalformedPacket),
    ("Retain Handling 3", 5, "82 07 0001 00 0001 61 30", ProtocolError),
    ("UNSUBSCRIBE without filters [MQTT-3.10.3-2]", 4, "A2 02 0001", ProtocolError),
    ("AUTH in 3.1.1", 4, "F0 00", MalformedPacket),
    ("reserved CONNECT flag [MQTT-3.1.2-3]", 4, f"10 0C {N} 04 03 0000 0000", MalformedPacket),
    ("will QoS 3 [MQTT-3.1.2-14]", 4, f"10 0C {N} 04 1E 0000 0000", MalformedPacket),
    ("will QoS without will [MQTT-3.1.2-13]", 4, f"10 0C {N} 04 0A 0000 0000", MalformedPacket),
    ("password alone [MQTT-3.1.2-22]", 4, f"10 0E {N} 04 42 0000 0000 0000", MalformedPacket),
    ("no client id at all", 4, f"10 0A {N} 04 02 0000", MalformedPacket),
    ("level 3", 0, f"10 0C {N} 03 02 0000 0000", UnsupportedProtocolVersion),
    ("level 6", 0, f"10 0D {N} 06 02 0000 00 0000", UnsupportedProtocolVersion),
    ("name MQIsdp, level 4", 0, "10 0E 0006 4D5149736470 04 02 0000 0000",
     UnsupportedProtocolVersion),
    ("PUBACK with a code of its own", 5, "40 03 0001 01", ProtocolError),
    ("PUBREL with a code of PUBREC", 5, "62 03 0001 10", ProtocolError),
    ("DISCONNECT with 0x03", 5, "E0 01 03", ProtocolError),
    ("AUTH with 0x80", 5, "F0 01 80", ProtocolError),
    ("Authentication Data alone (3.1.2.11.10)", 5, f"10 11 {N} 05 02 0000 04 16 0001 61 0000",
     ProtocolError),
    ("unknown property", 5, "30 06 0001 61 02 7F 00", MalformedPacket),
    ("property out of place", 5, "30 07 0001 61 03 21 0001", MalformedPacket),
    ("property twice (3.3.2.3.2)", 5, "30 08 0001 61 04 01 00 01 00", ProtocolError),
    ("property list too long", 5, "30 06 0001 61 09 01 00", MalformedPacket),
    ("payload format 2", 5, "30 06 0001 61 02 01 02", ProtocolError),
    ("Receive Maximum 0 (3.1.2.11.3)", 5, f"10 10 {N} 05 02 0000 03 21 0000 0000", ProtocolError),
    ("Subscription Identifier 0 (3.8.2.1.2)", 5, "82 09 0001 02 0B 00 0001 61 00", ProtocolError),
    ("will property of a CONNECT (CVE-2023-3592)", 5,
     f"10 18 {N} 05 06 0000 00 0001 61 03 21 0001 0001 62 0001 63", MalformedPacket),
    ("varint longer than needed [MQTT-1.5.5-1]", 5, "30 05 0001 61 80 00", MalformedPacket),
]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "text", "error"),
    [pytest.param(*case[1:], id=case[0]) for case in REFUSED],
)
def test_what_the_standard_forbids_is_refused(
    level: int, text: str, error: type[PeerError]
) -> None:
    with pytest.raises(PeerError) as caught:
        decode(bytes.fromhex(text), level)
    assert type(caught.value) is error


def test_a_remaining_length_of_five_bytes_is_malformed() -> None:
    """2.2.3 / 5.0 1.5.5: at most four bytes."""
    with pytest.raises(MalformedPacket):
        next_frame(b"\x30\xff\xff\xff\xff\x01", 0, 6, 1 << 28)


def test_a_packet_over_the_limit_is_refused_before_its_body_comes() -> None:
    """CVE-2017-7651: an enormous Remaining Length must cost nothing."""
    with pytest.raises(PacketTooLarge):
        next_frame(b"\x10\xff\xff\xff\x7f", 0, 5, 16_384)


@settings(deadline=None)
@given(packets(4), st.integers(0, 40))
def test_a_packet_that_is_cut_short_asks_for_more(packet: p.Packet, kept: int) -> None:
    data = encode_packet(packet, 4)
    kept = min(kept, len(data) - 1)
    needed = next_frame(data, 0, kept, 1 << 20)
    assert isinstance(needed, int)
    assert kept < needed <= len(data)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "00"),
        (127, "7F"),
        (128, "8001"),
        (16_383, "FF7F"),
        (16_384, "808001"),
        (2_097_151, "FFFF7F"),
        (2_097_152, "80808001"),
        (268_435_455, "FFFFFF7F"),
    ],
)
def test_variable_byte_integers_are_those_of_table_1_1(value: int, text: str) -> None:
    assert encode_varint(value) == bytes.fromhex(text)
    assert Reader(bytes.fromhex(text)).varint() == value


def test_a_byte_order_mark_is_no_byte_order_mark() -> None:
    """[MQTT-1.5.4-3]: U+FEFF stays what it is."""
    assert decode_utf8(b"\xef\xbb\xbfa") == "\ufeffa"


@pytest.mark.parametrize("level", [4, 5])
@settings(deadline=None)
@given(data=st.data())
def test_a_mutated_packet_raises_only_peer_errors(level: int, data: st.DataObject) -> None:
    packet = bytearray(encode_packet(data.draw(packets(level)), level))
    rng = random.Random(data.draw(st.integers(0, 1 << 32)))
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(3):
            case 0:
                packet[rng.randrange(len(packet))] = rng.randrange(256)
            case 1:
                packet.insert(rng.randrange(len(packet) + 1), rng.randrange(256))
            case _:
                del packet[rng.randrange(len(packet)) :]
        if not packet:
            return
    mutated = bytes(packet)
    try:
        frame = next_frame(mutated, 0, len(mutated), 1 << 20)
        if isinstance(frame, Frame):
            decode_packet(frame.first_byte, Reader(mutated, frame.start, frame.stop), level)
    except PeerError:
        pass
