"""CONNACK: section 3.2."""

from pathlib import Path

import pytest

from gateway.mqtt.packets import ConnAck, Connect, Disconnect, PubAck, Will
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import (
    LEVELS,
    assert_ended,
    kept,
    publish,
    published,
    subscribe,
    subscribed,
)
from tests.e2e.raw_mqtt import packet, text
from tests.mqtt.world import World


@pytest.mark.parametrize("level", LEVELS)
def test_connack_is_the_first_packet(world: World, level: int) -> None:
    """[MQTT-3.2.0-1]: before what waits for the session, and before answers to what came with
    CONNECT; also where CONNACK has to wait for the disk."""
    reader = world.connected("reader", level, **kept(level))
    subscribed(reader, "#", qos=1)
    reader.lose()
    world.connected("writer").send(publish(b"waits", qos=1))
    world.commit()
    for clean in (False, True):
        client = world.client(level)
        how = kept(level, clean=clean)
        client.send(
            Connect(
                level=level,
                client_id="reader",
                clean_start=clean,
                keep_alive_s=0,
                properties=how["properties"],
            ),
            subscribe("#"),
            publish(b"own", qos=1, packet_id=9),
        )
        packets = client.committed()
        assert isinstance(packets[0], ConnAck)
        assert PubAck(packet_id=9) in packets
        client.lose()


@pytest.mark.parametrize("level", LEVELS)
def test_a_client_that_errs_before_its_connack_is_told_so_by_connack(
    world: World, level: int
) -> None:
    """3.1.1 [MQTT-3.2.0-1]; 5.0 [MQTT-3.2.0-1], [MQTT-3.14.0-1]: while CONNACK waits for the disk
    there must be no DISCONNECT."""
    first = world.connected(level=level, **kept(level))
    subscribed(first, "a")
    first.lose()
    client = world.client(level)
    client.send(
        Connect(level=level, client_id="device", clean_start=True, keep_alive_s=0),
        publish(qos=1, packet_id=0),
    )
    packets = client.committed()
    assert client.is_closed
    assert not any(isinstance(packet, Disconnect) for packet in packets)
    if level == 5:
        assert [type(packet) for packet in packets] == [ConnAck]


@pytest.mark.parametrize("level", LEVELS)
def test_there_is_one_connack(world: World, level: int) -> None:
    """5.0 [MQTT-3.2.0-2]"""
    client = world.client(level)
    connect = Connect(level=level, client_id="device", clean_start=True, keep_alive_s=0)
    client.send(connect, connect)
    assert [type(packet) for packet in client.committed()].count(ConnAck) == 1


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("had_session", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_session_present_says_what_is_so(
    world: World, level: int, had_session: bool, clean: bool
) -> None:
    """3.1.1 [MQTT-3.2.2-1], [MQTT-3.2.2-2], [MQTT-3.2.2-3]; 5.0 [MQTT-3.2.2-1], [MQTT-3.2.2-2],
    [MQTT-3.2.2-3]: and nothing else is in that byte."""
    if had_session:
        world.connected(level=level, **kept(level)).lose()
    client = world.client(level)
    how = kept(level, clean=clean)
    client.send(
        Connect(
            level=level,
            client_id="device",
            clean_start=clean,
            keep_alive_s=0,
            properties=how["properties"],
        )
    )
    world.commit()
    assert client.output[2] == (had_session and not clean)
    (answer,) = client.got()
    assert isinstance(answer, ConnAck) and answer.code == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_refusal_has_no_session_and_is_the_end(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.2.2-4], [MQTT-3.2.2-5]; 5.0 [MQTT-3.2.2-6], [MQTT-3.2.2-7], [MQTT-4.13.2-1]:
    though there is a session."""
    world.connected(level=level, **kept(level)).lose()
    world.committer.fail()
    client = world.client(level)
    answer = client.connect(**kept(level))
    assert answer.code == (3 if level == 4 else ReasonCode.SERVER_UNAVAILABLE)
    assert not answer.session_present and client.is_closed


def test_where_no_return_code_fits_3_1_1_is_closed_without(world: World) -> None:
    """3.1.1 [MQTT-3.2.2-6]"""
    client = world.client(4)
    client.send(
        Connect(
            level=4,
            client_id="device",
            clean_start=True,
            keep_alive_s=0,
            will=Will(topic="a/+", payload=b""),
        )
    )
    assert client.is_closed and client.output == b""


def test_every_reason_of_a_refusal_is_one_of_connack(world: World) -> None:
    """5.0 [MQTT-3.2.2-8]: of the errors that can end a connection before it is connected."""
    of_connack = {0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C}
    of_connack |= {0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
    cases = [
        (Properties(authentication_method="X"), "device", None, 0x8C),
        (Properties(maximum_packet_bytes=20), "device", None, 0x95),
        (Properties(), "x" * 999, None, 0x85),
        (Properties(), "device", Will(topic="a/#", payload=b""), 0x90),
    ]
    for properties, client_id, will, code in cases:
        answer = world.client(5).connect(client_id, properties=properties, will=will)
        assert answer.code == code and code in of_connack
    waiting = world.client(5)
    world.connected(**kept(5)).lose()
    waiting.send(Connect(level=5, client_id="device", clean_start=True, keep_alive_s=0))
    world.connected("device")  # takes over one whose CONNACK waits for the disk
    (refusal,) = waiting.committed()
    assert isinstance(refusal, ConnAck) and refusal.code in of_connack
    world.broker.is_draining = True
    assert world.client(5).connect().code == ReasonCode.SERVER_UNAVAILABLE


def test_a_packet_larger_than_the_server_takes_ends_the_connection(tmp_path: Path) -> None:
    """5.0 [MQTT-3.2.2-15]: the limit was told in CONNACK."""
    world = World(tmp_path, packet_bytes_max=100_000)
    client = world.client(5)
    limit = client.connect().properties.maximum_packet_bytes
    assert limit is not None
    body_bytes = limit - 4  # four bytes of fixed header
    largest = text("a") + b"\0" + b"x" * (body_bytes - 4)
    client.send_bytes(packet(0x30, largest))
    assert not client.is_closed
    client.send_bytes(packet(0x30, largest + b"x"))
    assert_ended(client, ReasonCode.PACKET_TOO_LARGE)


@pytest.mark.parametrize("alias", [0, 1])
def test_a_topic_alias_beyond_the_maximum_ends_the_connection(world: World, alias: int) -> None:
    """5.0 [MQTT-3.2.2-17], [MQTT-3.2.2-18], [MQTT-3.3.2-8], [MQTT-3.3.2-9]"""
    client = world.client(5)
    maximum = client.connect().properties.topic_alias_maximum
    assert maximum
    properties = Properties(topic_alias=alias and maximum + 1)
    client.send(publish(properties=properties))
    assert_ended(client, ReasonCode.TOPIC_ALIAS_INVALID)


def test_a_reason_string_is_left_out_where_connack_would_be_too_large(world: World) -> None:
    """5.0 [MQTT-3.2.2-19]; [MQTT-3.2.2-20]: user properties are never sent with it."""
    for bytes_max, has_text in ((30, False), (1000, True)):
        client = world.client(5)
        properties = Properties(maximum_packet_bytes=bytes_max)
        answer = client.connect("x" * 999, properties=properties)
        assert answer.code == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
        assert bool(answer.properties.reason_string) == has_text
        assert answer.properties.user_properties == ()


def test_every_qos_is_supported(world: World) -> None:
    """5.0 [MQTT-3.2.2-9], [MQTT-3.2.2-10], [MQTT-3.2.2-12]: so there is no Maximum QoS, and wills
    of every QoS are taken."""
    reader = world.connected("reader")
    subscribed(reader, "will", qos=2)
    for qos in (0, 1, 2):
        client = world.client(5)
        will = Will(topic="will", payload=b"%d" % qos, qos=qos)
        assert client.connect(will=will).properties.maximum_qos is None
        client.lose()
        (message,) = published(reader)
        assert message.qos == qos
