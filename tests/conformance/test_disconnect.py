"""PINGREQ, DISCONNECT, wills: sections 3.12, 3.14 and 3.1.2.5."""

from collections.abc import Callable

import pytest

from gateway.mqtt.packets import Disconnect, PingReq, PingResp, Will
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import (
    LEVELS,
    assert_ended,
    kept,
    publish,
    published,
    reason_of_end,
    subscribed,
)
from tests.mqtt.world import Client, World

WILL = Will(topic="will", payload=b"gone", qos=1)


@pytest.fixture
def reader(world: World) -> Client:
    reader = world.connected("reader")
    subscribed(reader, "will", qos=2)
    return reader


def wills(reader: Client) -> list[bytes]:
    return [message.payload for message in published(reader)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_ping_is_answered(world: World, level: int) -> None:
    """[MQTT-3.12.4-1]"""
    client = world.connected(level=level)
    client.send(PingReq(), PingReq())
    assert client.got() == [PingResp(), PingResp()]


ENDINGS: dict[str, Callable[[World, Client], None]] = {
    "network": lambda world, client: client.lose(),
    "protocol error": lambda world, client: client.send(publish(qos=1, packet_id=0)),
    "keep-alive": lambda world, client: world.pass_seconds(20),
    "taken over": lambda world, client: _take_over(world, client),
    "server stops": lambda world, client: world.broker.end_all(),
}


def _take_over(world: World, client: Client) -> None:
    world.connected("device", client.level)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_will_is_published_when_the_connection_ends(
    world: World, reader: Client, level: int, ending: str
) -> None:
    """[MQTT-3.1.2-8], [MQTT-3.1.2-10]: once; 5.0 [MQTT-3.1.2-7]"""
    client = world.connected("device", level, will=WILL, keep_alive_s=10)
    ENDINGS[ending](world, client)
    world.commit()
    assert world.values() == [b"gone"]
    if ending != "server stops":
        assert wills(reader) == [b"gone"]
    again = world.connected("device", level)
    again.lose()
    world.commit()
    assert world.values() == [b"gone"]


@pytest.mark.parametrize("level", LEVELS)
def test_disconnect_discards_the_will(world: World, reader: Client, level: int) -> None:
    """[MQTT-3.14.4-3], [MQTT-3.1.2-8], [MQTT-3.1.2-10]"""
    client = world.connected("device", level, will=WILL, **kept(level))
    client.send(Disconnect())
    assert client.is_closed
    world.pass_seconds(2000)
    world.connected("device", level).lose()
    assert wills(reader) == []


@pytest.mark.parametrize("code", [0x04, 0x80, 0x81, 0x99])
def test_another_reason_publishes_the_will(world: World, reader: Client, code: int) -> None:
    """5.0 [MQTT-3.1.2-8], [MQTT-3.14.4-3]: only 0x00 discards it."""
    client = world.connected("device", will=WILL)
    client.send(Disconnect(code=code))
    assert wills(reader) == [b"gone"]


@pytest.mark.parametrize("level", LEVELS)
def test_without_a_will_none_is_published(world: World, reader: Client, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-12]"""
    world.connected("device", level).lose()
    world.commit()
    assert wills(reader) == [] and world.values() == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_has_its_qos(world: World, reader: Client, level: int, qos: int) -> None:
    """3.1.1 [MQTT-3.1.2-9], [MQTT-3.1.2-14]; 5.0 [MQTT-3.1.2-12]"""
    world.connected("device", level, will=Will(topic="will", payload=b"x", qos=qos)).lose()
    assert [(message.payload, message.qos) for message in published(reader)] == [(b"x", qos)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_will_without_retain_is_no_retained_message(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-16], 5.0 [MQTT-3.1.2-14]"""
    reader = world.connected("reader")
    subscribed(reader, "will", qos=1, retain_as_published=True)
    world.connected("device", level, will=WILL).lose()
    (message,) = published(reader)
    assert not message.retain
    late = world.connected("late")
    subscribed(late, "will", qos=1)
    assert published(late) == []


def test_a_delayed_will_waits(world: World, reader: Client) -> None:
    """5.0 [MQTT-3.1.2-8]"""
    will = Will(topic="will", payload=b"late", properties=Properties(will_delay_s=10))
    world.connected("device", will=will, **kept(5)).lose()
    world.pass_seconds(8)
    assert wills(reader) == []
    world.pass_seconds(3)
    assert wills(reader) == [b"late"]
    world.pass_seconds(3000)
    assert wills(reader) == []


@pytest.mark.parametrize("clean", [False, True])
def test_a_delayed_will_is_dropped_when_its_client_is_back(
    world: World, reader: Client, clean: bool
) -> None:
    """5.0 [MQTT-3.1.3-9]; a clean start ends the session, and with it the delay [MQTT-3.1.2-8]."""
    will = Will(topic="will", payload=b"late", properties=Properties(will_delay_s=10))
    world.connected("device", will=will, **kept(5)).lose()
    world.pass_seconds(5)
    back = world.connected("device", **kept(5, clean=clean))
    world.pass_seconds(20)
    assert wills(reader) == ([b"late"] if clean else [])
    assert not back.is_closed
    back.lose()  # without a will: the old one is not to come back
    world.pass_seconds(20)
    assert wills(reader) == []


def test_a_delayed_will_does_not_outlive_its_session(world: World, reader: Client) -> None:
    """5.0 [MQTT-3.1.2-8]"""
    will = Will(topic="will", payload=b"late", properties=Properties(will_delay_s=10_000))
    world.connected("device", will=will, **kept(5)).lose()
    world.pass_seconds(1002)
    assert wills(reader) == [b"late"]


@pytest.mark.parametrize("level", LEVELS)
def test_the_server_gives_its_reason_to_5_0_alone(world: World, level: int) -> None:
    """5.0 [MQTT-3.14.4-1], [MQTT-3.14.4-2], [MQTT-3.14.2-2], [MQTT-3.14.2-1], [MQTT-4.13.1-1],
    [MQTT-4.13.2-1]; 3.1.1 [MQTT-4.8.0-1]: nothing comes behind it, and the connection is closed.
    """
    client = world.connected(level=level)
    client.send(publish(qos=1), publish(qos=1, packet_id=0))
    assert client.is_closed
    packets = client.committed()
    if level == 5:
        (end,) = packets
        assert isinstance(end, Disconnect) and end.code == ReasonCode.PROTOCOL_ERROR
        assert end.properties.session_expiry_s is None
    else:
        assert packets == []


def test_a_reason_string_is_left_out_where_disconnect_would_be_too_large(world: World) -> None:
    """5.0 [MQTT-3.14.2-3]; [MQTT-3.14.2-4]: user properties are never sent with it."""
    for bytes_max, has_text in ((64, False), (1000, True)):
        client = world.connected(properties=Properties(maximum_packet_bytes=bytes_max))
        client.send(publish(topic=""))
        assert len(client.output) <= bytes_max
        (end,) = client.got()
        assert isinstance(end, Disconnect) and end.properties.user_properties == ()
        assert bool(end.properties.reason_string) == has_text


@pytest.mark.parametrize("code", [0x01, 0x03, 0x05, 0x10, 0x7F, 0x85, 0xFF])
def test_a_disconnect_with_a_reason_that_is_none_is_a_protocol_error(
    world: World, code: int
) -> None:
    """5.0 [MQTT-3.14.2-1]"""
    client = world.connected()
    client.send_bytes(bytes((0xE0, 1, code)))
    assert_ended(client, ReasonCode.PROTOCOL_ERROR)


def test_a_session_that_ends_cannot_be_prolonged_by_disconnect(world: World) -> None:
    """5.0 3.14.2.2.2, [MQTT-4.13.1-1]"""
    client = world.connected()
    client.send(Disconnect(properties=Properties(session_expiry_s=10)))
    assert reason_of_end(client) == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize("expiry_s", [0, 10])
def test_disconnect_may_shorten_the_session(world: World, expiry_s: int) -> None:
    """5.0 [MQTT-4.1.0-2], 3.14.2.2.2"""
    client = world.connected(**kept(5))
    client.send(Disconnect(properties=Properties(session_expiry_s=expiry_s)))
    world.pass_seconds(expiry_s + 2)
    assert not world.client(5).connect(**kept(5)).session_present
