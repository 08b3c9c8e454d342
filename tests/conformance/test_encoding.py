"""Data representations and the parts that all packets have: chapters 1.5 and 2."""

from collections.abc import Callable

import pytest

from gateway.mqtt.packets import PubAck, PubComp, Publish, PubRec, PubRel, Subscribe, Unsubscribe
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import (
    LEVELS,
    assert_ended,
    publish,
    published,
    reason_of_end,
    subscribe,
    subscribed,
)
from tests.e2e.raw_mqtt import packet, text
from tests.mqtt.world import Client, World

# -- strings -----------------------------------------------------------------------------------


def _connect(level: int, flags: int, fields: bytes, properties: bytes = b"") -> bytes:
    listed = bytes((len(properties),)) + properties if level == 5 else b""
    return packet(0x10, text("MQTT") + bytes((level, flags, 0, 0)) + listed + fields)


def _publish(level: int, topic: bytes, properties: bytes = b"") -> bytes:
    listed = bytes((len(properties),)) + properties if level == 5 else b""
    return packet(0x30, text(topic) + listed)


def _filter(level: int, first_byte: int, name: bytes, options: bytes) -> bytes:
    listed = b"\0" if level == 5 else b""
    return packet(first_byte, b"\0\1" + listed + text(name) + options)


def _will(level: int, topic: bytes) -> bytes:
    return text("x") + (b"\0" if level == 5 else b"") + text(topic) + text("")


FIRST: dict[str, Callable[[int, bytes], bytes]] = {
    "client id": lambda level, bad: _connect(level, 2, text(bad)),
    "will topic": lambda level, bad: _connect(level, 6, _will(level, bad)),
    "user name": lambda level, bad: _connect(level, 0x82, text("x") + text(bad)),
}
LATER: dict[str, Callable[[int, bytes], bytes]] = {
    "topic": lambda level, bad: _publish(level, bad),
    "filter": lambda level, bad: _filter(level, 0x82, bad, b"\0"),
    "filter of UNSUBSCRIBE": lambda level, bad: _filter(level, 0xA2, bad, b""),
}
PROPERTIES: dict[str, Callable[[bytes], bytes]] = {
    "content type": lambda bad: _publish(5, b"a", b"\x03" + text(bad)),
    "response topic": lambda bad: _publish(5, b"a", b"\x08" + text(bad)),
    "user property name": lambda bad: _publish(5, b"a", b"\x26" + text(bad) + text("")),
    "user property value": lambda bad: _publish(5, b"a", b"\x26" + text("") + text(bad)),
}
BAD = {
    "broken": b"\xc3\x28",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "NUL": b"a\0b",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("field", FIRST)
@pytest.mark.parametrize("level", LEVELS)
def test_an_ill_formed_string_of_connect_is_refused(
    world: World, level: int, field: str, bad: bytes
) -> None:
    """3.1.1 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-3.1.3-4], [MQTT-3.1.3-10], [MQTT-3.1.3-11];
    5.0 [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12]"""
    client = world.client(level)
    client.send_bytes(FIRST[field](level, bad))
    assert_ended(client, ReasonCode.MALFORMED_PACKET)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("field", LATER)
@pytest.mark.parametrize("level", LEVELS)
def test_an_ill_formed_string_ends_the_connection(
    world: World, level: int, field: str, bad: bytes
) -> None:
    """3.1.1 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-3.3.2-1], [MQTT-3.8.3-1], [MQTT-3.10.3-1],
    [MQTT-4.7.3-2]; 5.0 [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-3.3.2-1], [MQTT-3.8.3-1],
    [MQTT-3.10.3-1], [MQTT-4.7.3-2]"""
    client = world.connected(level=level)
    client.send_bytes(LATER[field](level, bad))
    assert_ended(client, ReasonCode.MALFORMED_PACKET)
    assert world.values() == []


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("field", PROPERTIES)
def test_an_ill_formed_property_ends_the_connection(world: World, field: str, bad: bytes) -> None:
    """5.0 [MQTT-1.5.7-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19]"""
    client = world.connected()
    client.send_bytes(PROPERTIES[field](bad))
    assert_ended(client, ReasonCode.MALFORMED_PACKET)
    assert world.values() == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_byte_order_mark_is_a_character_like_others(world: World, level: int) -> None:
    """3.1.1 [MQTT-1.5.3-3], 5.0 [MQTT-1.5.4-3]"""
    client = world.connected(level=level)
    subscribed(client, "\ufeffa", qos=0)
    client.send(publish(b"with", "\ufeffa"), publish(b"without", "a"))
    assert published(client) == [publish(b"with", "\ufeffa")]
    assert (b"mqtt.topic", b"\xef\xbb\xbfa") in world.records()[0].headers


# -- variable byte integers --------------------------------------------------------------------


@pytest.mark.parametrize("data", ["C0 80 00", "30 84 00 0001 61 00", "30 05 0001 61 80 00"])
def test_a_variable_byte_integer_longer_than_needed_is_malformed_in_5_0(
    world: World, data: str
) -> None:
    """5.0 [MQTT-1.5.5-1], of Remaining Length and of Property Length."""
    client = world.connected()
    client.send_bytes(bytes.fromhex(data))
    assert_ended(client, ReasonCode.MALFORMED_PACKET)


def test_a_connect_with_a_longer_length_than_needed_is_malformed_in_5_0(world: World) -> None:
    """5.0 [MQTT-1.5.5-1]"""
    client = world.client(5)
    client.send_bytes(bytes.fromhex("10 8D 00 0004 4D515454 05 02 0000 00 0000"))
    assert_ended(client, ReasonCode.MALFORMED_PACKET)


def test_a_length_longer_than_needed_is_taken_in_3_1_1(world: World) -> None:
    """3.1.1 has no such rule, and there are devices that always send two bytes."""
    client = world.connected(level=4)
    client.send_bytes(bytes.fromhex("30 84 00 0001 61 78"))
    world.commit()
    assert world.values() == [b"x"]


# -- fixed header ------------------------------------------------------------------------------

BODIES = {
    "PUBACK": (0x40, b"\0\1"),
    "PUBREC": (0x50, b"\0\1"),
    "PUBREL": (0x62, b"\0\1"),
    "PUBCOMP": (0x70, b"\0\1"),
    "SUBSCRIBE": (0x82, b"\0\1" + text("a") + b"\0"),
    "UNSUBSCRIBE": (0xA2, b"\0\1" + text("a")),
    "PINGREQ": (0xC0, b""),
    "DISCONNECT": (0xE0, b""),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("level", LEVELS)
def test_reserved_flags_end_the_connection(world: World, level: int, kind: str) -> None:
    """3.1.1 [MQTT-2.2.2-1], [MQTT-2.2.2-2], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1],
    [MQTT-3.14.1-1]; 5.0 [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1],
    [MQTT-3.14.1-1]"""
    first_byte, body = BODIES[kind]
    if level == 5 and kind in ("SUBSCRIBE", "UNSUBSCRIBE"):
        body = body[:2] + b"\0" + body[2:]
    for flags in range(16):
        if flags == first_byte & 15:
            continue
        client = world.connected(f"flags-{flags}", level)
        client.send_bytes(packet(first_byte & 0xF0 | flags, body))
        assert_ended(client, ReasonCode.MALFORMED_PACKET)


def first_bytes(data: bytes) -> list[int]:
    found = []
    while data:
        found.append(data[0])
        assert data[1] < 0x80
        data = data[2 + data[1] :]
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_the_server_sets_flags_as_listed(world: World, level: int) -> None:
    """3.1.1 [MQTT-2.2.2-1], [MQTT-3.6.1-1]; 5.0 [MQTT-2.1.3-1]"""
    client = world.client(level)
    client.send_bytes(_connect(level, 2, text("device")))
    client.send(subscribe("#"), Unsubscribe(packet_id=3, filters=("x",)))
    client.send(publish(qos=1, packet_id=5))
    client.send(publish(qos=2, packet_id=6), PubRel(packet_id=6))
    client.send_bytes(b"\xc0\0")
    world.commit()
    data, client.output = client.output, b""
    assert set(first_bytes(data)) == {0x20, 0x90, 0xB0, 0xD0, 0x40, 0x50, 0x70, 0x32, 0x34}
    client.send(PubRec(packet_id=2))
    assert first_bytes(client.output) == [0x62]


# -- packet identifiers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        publish(qos=1, packet_id=0),
        publish(qos=2, packet_id=0),
        subscribe("a", packet_id=0),
        Unsubscribe(packet_id=0, filters=("a",)),
    ],
    ids=["QoS 1", "QoS 2", "SUBSCRIBE", "UNSUBSCRIBE"],
)
@pytest.mark.parametrize("level", LEVELS)
def test_packet_identifier_0_ends_the_connection(
    world: World, level: int, bad: Publish | Subscribe | Unsubscribe
) -> None:
    """3.1.1 [MQTT-2.3.1-1], 5.0 [MQTT-2.2.1-3]"""
    client = world.connected(level=level)
    client.send(bad)
    assert_ended(client, ReasonCode.PROTOCOL_ERROR)
    assert world.values() == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_message_of_qos_0_has_no_identifier(world: World, level: int) -> None:
    """3.1.1 [MQTT-2.3.1-5], 5.0 [MQTT-2.2.1-2], [MQTT-2.2.2-1]: no identifier, and in 5.0 a
    Property Length of 0 where there are no properties."""
    client = world.connected(level=level)
    subscribed(client, "a/b")
    client.send(publish(b"payload"))
    world.commit()
    properties = b"\0" if level == 5 else b""
    assert client.output == packet(0x30, text("a/b") + properties + b"payload")


@pytest.mark.parametrize("level", LEVELS)
def test_answers_have_the_identifier_of_what_they_answer(world: World, level: int) -> None:
    """3.1.1 [MQTT-2.3.1-6], [MQTT-2.3.1-7]; 5.0 [MQTT-2.2.1-5], [MQTT-2.2.1-6]"""
    client = world.connected(level=level)
    for packet_id in (1, 0x100, 0xFFFF):
        client.send(subscribe("x", packet_id=packet_id))
        client.send(Unsubscribe(packet_id=packet_id, filters=("x",)))
        client.send(publish(qos=1, packet_id=packet_id))
        client.send(publish(qos=2, packet_id=packet_id), PubRel(packet_id=packet_id))
        answers = client.committed()
        assert len(answers) == 5
        assert {answer.packet_id for answer in answers if hasattr(answer, "packet_id")} == {
            packet_id
        }


@pytest.mark.parametrize("level", LEVELS)
def test_the_server_gives_identifiers_that_are_unused(world: World, level: int) -> None:
    """3.1.1 [MQTT-2.3.1-4], [MQTT-2.3.1-1], [MQTT-4.3.2-1]; 5.0 [MQTT-2.2.1-4], [MQTT-4.3.2-1]:
    never 0, and never one that is in flight, all the way round."""
    reader, writer = world.connected("reader", level), world.connected("writer")
    subscribed(reader, "a/b", qos=1)
    first = 0
    seen: set[int] = set()
    for start in range(0, 66_000, 500):
        for number in range(start, start + 500, 10):
            ids = range(1, 11)
            writer.send(*[publish(b"%d" % number, qos=1, packet_id=one) for one in ids])
            for packet_ in published(reader):
                assert 0 < packet_.packet_id <= 0xFFFF
                assert packet_.packet_id != first, "an identifier in flight was given again"
                if not first:
                    first = packet_.packet_id
                else:
                    seen.add(packet_.packet_id)
                    reader.send(PubAck(packet_id=packet_.packet_id))
            writer.got()
    assert len(seen) == 65_534


@pytest.mark.parametrize("level", LEVELS)
def test_an_identifier_is_kept_until_its_message_is_completed(world: World, level: int) -> None:
    """3.1.1 [MQTT-2.3.1-4]; 5.0 [MQTT-4.3.3-1]: of QoS 2 until PUBCOMP, through a reconnect."""
    how = {"clean": False, "properties": Properties(session_expiry_s=100 if level == 5 else None)}
    reader, writer = world.connected("reader", level, **how), world.connected("writer")
    subscribed(reader, "a/b", qos=2)
    writer.send(publish(qos=2, packet_id=7))
    (sent,) = published(reader)
    reader.lose()
    back = world.connected("reader", level, **how)
    assert [(one.packet_id, one.dup) for one in published(back)] == [(sent.packet_id, True)]
    back.send(PubRec(packet_id=sent.packet_id))
    assert back.committed() == [PubRel(packet_id=sent.packet_id)]
    back.send(PubComp(packet_id=sent.packet_id))
    assert back.committed() == []


# -- properties --------------------------------------------------------------------------------


def test_a_packet_without_its_property_length_is_malformed(world: World) -> None:
    """5.0 [MQTT-2.2.2-1]"""
    client = world.connected()
    client.send_bytes(packet(0x30, text("a")))
    assert reason_of_end(client) == ReasonCode.MALFORMED_PACKET


def test_half_a_client_is_no_client(world: World) -> None:
    """Whatever the bytes, they may come one by one; nothing is answered before it is whole."""
    client: Client = world.client(4)
    for byte in _connect(4, 2, text("device"))[:-1]:
        client.send_bytes(bytes((byte,)))
    assert client.output == b""
