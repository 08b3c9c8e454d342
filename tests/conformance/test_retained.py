"""Retained messages: sections 3.3.1.3, 3.8.4, 3.1.2.7. More: tests/mqtt/test_retained.py."""

import pytest

from gateway.mqtt.packets import Packet, Publish, SubAck, Unsubscribe, Will
from gateway.mqtt.properties import Properties
from tests.conformance.acts import LEVELS, kept, publish, subscribe
from tests.mqtt.world import Client, World


def settled(client: Client) -> list[Packet]:
    """What it is sent once all is durable and looked up."""
    packets: list[Packet] = []
    for _ in range(5):
        client.world.commit()
        client.world.worker.work()
        packets += client.got()
    return packets


def messages(client: Client) -> list[Publish]:
    return [packet for packet in settled(client) if isinstance(packet, Publish)]


def sent_for(client: Client, name: str, **options: int) -> list[tuple[bytes, bool]]:
    """Subscribes: payload and RETAIN of what comes."""
    client.send(subscribe(name, **options))
    packets = settled(client)
    assert isinstance(packets[0], SubAck)
    return [(one.payload, one.retain) for one in packets if isinstance(one, Publish)]


@pytest.fixture(params=LEVELS)
def writer(world: World, request: pytest.FixtureRequest) -> Client:
    return world.connected("writer", request.param)


def retain(payload: bytes, *, topic: str = "a/b", qos: int = 0, packet_id: int = 1) -> Publish:
    return publish(payload, topic, qos=qos, retain=True, packet_id=packet_id if qos else 0)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_last_retained_message_is_for_who_subscribes_later(
    world: World, writer: Client, qos: int
) -> None:
    """3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8]; 5.0 [MQTT-3.3.1-5],
    [MQTT-3.3.1-9]: with RETAIN, once for each subscription, new or not."""
    writer.send(retain(b"1", qos=1), retain(b"other", topic="c"), retain(b"2", qos=qos))
    settled(writer)
    reader = world.connected("reader", writer.level)
    assert sent_for(reader, "a/+") == [(b"2", True)]
    assert sent_for(reader, "a/+") == [(b"2", True)]


def test_an_empty_message_removes_the_retained_one(world: World, writer: Client) -> None:
    """3.1.1 [MQTT-3.3.1-10], [MQTT-3.3.1-11]; 5.0 [MQTT-3.3.1-6], [MQTT-3.3.1-7]: it is delivered
    like others, and not stored itself."""
    reader = world.connected("reader", writer.level)
    sent_for(reader, "#")
    writer.send(retain(b"1", qos=1), retain(b"", qos=1, packet_id=2))
    assert [one.payload for one in messages(reader)] == [b"1", b""]
    assert sent_for(world.connected("late", writer.level), "#") == []


def test_without_retain_what_is_stored_stays(world: World, writer: Client) -> None:
    """3.1.1 [MQTT-3.3.1-12], 5.0 [MQTT-3.3.1-8]"""
    writer.send(retain(b"kept"), publish(b"live"), publish(b"", qos=1), publish(b"x", "c"))
    settled(writer)
    assert sent_for(world.connected("reader", writer.level), "#") == [(b"kept", True)]


def test_retained_messages_outlive_sessions(world: World, writer: Client) -> None:
    """3.1.1 [MQTT-3.1.2-7]"""
    level = writer.level
    writer = world.connected("writer", level, **kept(level))
    writer.send(retain(b"kept", qos=1))
    settled(writer)
    writer.lose()
    world.connected("writer", level, clean=True).lose()
    assert sent_for(world.connected("reader", level), "#") == [(b"kept", True)]


def test_a_will_with_retain_is_a_retained_message(world: World, writer: Client) -> None:
    """3.1.1 [MQTT-3.1.2-17], 5.0 [MQTT-3.1.2-15]"""
    will = Will(topic="will", payload=b"gone", qos=1, retain=True)
    world.connected("device", writer.level, will=will).lose()
    settled(writer)
    assert sent_for(world.connected("reader", writer.level), "will") == [(b"gone", True)]


def test_retain_handling_says_when_they_are_sent(world: World) -> None:
    """5.0 [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11], [MQTT-3.8.4-4]"""
    writer = world.connected("writer")
    writer.send(retain(b"x"))
    settled(writer)
    kept_one = [(b"x", True)]
    reader = world.connected("reader")
    assert sent_for(reader, "a/b", retain_handling=1) == kept_one
    assert sent_for(reader, "a/b", retain_handling=1) == []
    assert sent_for(reader, "a/b", retain_handling=2) == []
    assert sent_for(reader, "a/b", retain_handling=0) == kept_one
    reader.send(Unsubscribe(packet_id=1, filters=("a/b",)))
    settled(reader)
    assert sent_for(reader, "a/b", retain_handling=2) == []
    assert sent_for(reader, "a/b", retain_handling=1) == []


def test_subscribing_again_sends_them_again(world: World) -> None:
    """3.1.1 [MQTT-3.8.4-3], 5.0 [MQTT-3.8.4-4]"""
    writer = world.connected("writer", 4)
    writer.send(retain(b"x"))
    settled(writer)
    reader = world.connected("reader", 4)
    for qos in (0, 2, 1):
        assert sent_for(reader, "a/b", qos=qos) == [(b"x", True)]


def test_a_retained_message_keeps_its_properties(world: World) -> None:
    """5.0 [MQTT-3.3.2-17], [MQTT-3.3.2-20]"""
    writer = world.connected("writer")
    given = Properties(content_type="text/plain", user_properties=(("b", "1"), ("a", "2")))
    writer.send(publish(b"x", retain=True, properties=given))
    settled(writer)
    reader = world.connected("reader")
    reader.send(subscribe("a/b"))
    (message,) = messages(reader)
    assert message.properties == given
