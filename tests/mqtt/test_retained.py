"""What a new subscriber is sent of retained messages (3.3.1.3, 3.8.4)."""

from pathlib import Path
from typing import Any

import pytest

from gateway.mqtt.packets import (
    Disconnect,
    Packet,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.session import Session
from tests.mqtt.world import Client, World

STAYS = Properties(session_expiry_s=3600)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def retain(topic: str, payload: bytes = b"x", qos: int = 0, **more: Any) -> Publish:
    return Publish(
        topic=topic,
        payload=payload,
        qos=qos,
        packet_id=1 if qos else 0,
        **{"retain": True, **more},
    )


def kept(world: World, *packets: Publish, client_id: str = "publisher") -> Client:
    client = world.connected(client_id)
    client.send(*packets)
    world.commit()
    return client


def subscribe(*filters: str, qos: int = 0, number: int = 0, **options: Any) -> Subscribe:
    requests = [SubscriptionRequest(filter=item, qos=qos, **options) for item in filters]
    properties = Properties(subscription_ids=(number,) if number else ())
    return Subscribe(packet_id=10, requests=tuple(requests), properties=properties)


def session(world: World) -> Session:
    return world.broker.sessions._sessions["s"]


def settled(world: World, client: Client) -> list[Packet]:
    """What the client is sent once everything is durable, looked up and read."""
    packets: list[Packet] = []
    for _ in range(5):
        world.commit()
        world.worker.work()
        packets += client.got()
    return packets


def asked(world: World, client: Client, packet: Subscribe) -> list[Publish]:
    """SUBSCRIBE; what comes behind its SUBACK."""
    client.send(packet)
    first, *rest = settled(world, client)
    assert isinstance(first, SubAck), "SUBACK comes first"
    return [each for each in rest if isinstance(each, Publish)]


@pytest.mark.parametrize("level", [4, 5])
def test_a_new_subscriber_is_sent_what_matches_with_retain(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-8]; 5.0 3.3.1.3. Its publisher has left
    3.1.1 [MQTT-3.1.2-7]."""
    publisher = kept(
        world, retain("a/1", b"1"), retain("a/2", b"2"), retain("b"), retain("a/2", b"3")
    )
    publisher.send(Disconnect())
    got = asked(world, world.connected("s", level), subscribe("a/+"))
    assert [(each.topic, each.payload, each.retain) for each in got] == [
        ("a/1", b"1", True),
        ("a/2", b"3", True),
    ]


def test_the_same_is_sent_after_kill_9(world: World) -> None:
    kept(world, retain("a", b"1"))
    world.restart()
    assert [each.payload for each in asked(world, world.connected("s"), subscribe("#"))] == [b"1"]


@pytest.mark.parametrize("kept_qos", [0, 1, 2])
@pytest.mark.parametrize("granted_qos", [0, 1, 2])
def test_the_lower_qos_counts(world: World, kept_qos: int, granted_qos: int) -> None:
    """[MQTT-3.8.4-8]"""
    kept(world, retain("a", qos=kept_qos))
    (got,) = asked(world, world.connected("s"), subscribe("a", qos=granted_qos))
    assert got.qos == min(kept_qos, granted_qos)
    assert bool(got.packet_id) == bool(got.qos)


def test_properties_are_sent_as_they_were_published(world: World) -> None:
    """3.3.2.3, and the subscription's identifier [MQTT-3.3.4-3]."""
    given = Properties(
        payload_format=1,
        content_type="text/plain",
        response_topic="r",
        correlation_data=b"c",
        user_properties=(("mqtt.a", "1"), ("b", "2")),
    )
    kept(world, retain("a", properties=given))
    (got,) = asked(world, world.connected("s"), subscribe("a", number=7))
    assert got.properties == Properties(
        payload_format=1,
        content_type="text/plain",
        response_topic="r",
        correlation_data=b"c",
        user_properties=(("mqtt.a", "1"), ("b", "2")),
        subscription_ids=(7,),
    )


def test_expiry_is_reduced_by_the_time_it_waited(world: World) -> None:
    """[MQTT-3.3.2-5], [MQTT-3.3.2-6]"""
    clock = [5_000_000]
    world.log.now_ms = lambda: clock[0]
    kept(world, retain("a", properties=Properties(message_expiry_s=10)), retain("b"))
    clock[0] += 4_000
    first, second = asked(world, world.connected("s"), subscribe("#"))
    assert first.properties.message_expiry_s == 6
    assert second.properties.message_expiry_s is None
    clock[0] += 6_000
    assert [each.topic for each in asked(world, world.connected("t"), subscribe("#"))] == ["b"]


def test_retain_handling(world: World) -> None:
    """5.0 [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]"""
    kept(world, retain("a"))
    client = world.connected("s")
    assert len(asked(world, client, subscribe("a", retain_handling=2))) == 0
    assert len(asked(world, client, subscribe("a", retain_handling=1))) == 0, "it is not new"
    assert len(asked(world, client, subscribe("a", retain_handling=0))) == 1
    assert len(asked(world, client, subscribe("a", retain_handling=0))) == 1
    client.send(Unsubscribe(packet_id=3, filters=("a",)))
    settled(world, client)
    assert len(asked(world, client, subscribe("a", retain_handling=1))) == 1


def test_a_retained_message_is_not_sent_to_its_publisher_who_wants_none_of_its_own(
    world: World,
) -> None:
    """[MQTT-3.8.3-3]"""
    client = kept(world, retain("a"))
    settled(world, client)
    assert asked(world, client, subscribe("a", no_local=True)) == []


@pytest.mark.parametrize(("published", "flag"), [(True, True), (False, False)])
def test_the_flag_of_what_is_published_later_follows_retain_as_published(
    world: World, published: bool, flag: bool
) -> None:
    """5.0 [MQTT-3.3.1-12], [MQTT-3.3.1-13]"""
    as_published, plain = world.connected("s"), world.connected("t", 4)
    asked(world, as_published, subscribe("a", retain_as_published=True))
    asked(world, plain, subscribe("a"))
    kept(world, retain("a", retain=published))
    (got,) = settled(world, as_published)
    assert isinstance(got, Publish)
    assert got.retain is flag
    (got,) = settled(world, plain)
    assert isinstance(got, Publish)
    assert got.retain is False


def test_an_empty_message_is_delivered_and_then_nothing_is_kept(world: World) -> None:
    """5.0 [MQTT-3.3.1-6], [MQTT-3.3.1-7]; 3.1.1 [MQTT-3.3.1-10], [MQTT-3.3.1-11]"""
    kept(world, retain("a"))
    client = world.connected("s")
    asked(world, client, subscribe("a"))
    kept(world, retain("a", b""))
    (got,) = settled(world, client)
    assert isinstance(got, Publish)
    assert (got.payload, got.retain) == (b"", False)
    assert asked(world, world.connected("t"), subscribe("a")) == []


def test_what_is_published_just_before_the_subscription_is_retained(world: World) -> None:
    """Even what is not durable yet; once, and with RETAIN."""
    client = world.connected("s")
    client.send(retain("a", b"1"), subscribe("a"))
    got = [each for each in settled(world, client) if isinstance(each, Publish)]
    assert [(each.payload, each.retain) for each in got] == [(b"1", True)]


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_during_the_search_comes_behind_it(world: World, qos: int) -> None:
    kept(world, retain("a", b"old", qos), retain("b", b"old", qos))
    client = world.connected("s")
    world.worker.is_slow = True
    client.send(subscribe("#", qos=qos))
    world.commit()
    other = kept(world, retain("a", b"new", qos), Publish(topic="c", payload=b"new"), client_id="o")
    other.send(Publish(topic="b", payload=b"newer", qos=1, packet_id=5))
    world.commit()
    got = [each for each in settled(world, client) if isinstance(each, Publish)]
    flags = [each.retain for each in got]
    assert flags == sorted(flags, reverse=True), "retained ones first"
    last = {each.topic: each.payload for each in got}
    assert last == {"a": b"new", "b": b"newer", "c": b"new"}
    assert len(set(got)) == len(got) == 5
    kept(world, Publish(topic="a", payload=b"live"), client_id="p")
    (live,) = settled(world, client)
    assert isinstance(live, Publish)
    assert live.payload == b"live"


def test_what_is_published_behind_the_subscription_is_not_retained_too(world: World) -> None:
    """In one round: the search finds it, but it comes from the log."""
    kept(world, retain("a", b"old"), retain("b"))
    other = world.connected("o")
    client = world.connected("s", properties=STAYS)
    client.send(subscribe("#"))
    other.send(retain("a", b"new"))
    got = [each for each in settled(world, client) if isinstance(each, Publish)]
    assert [(each.topic, each.payload, each.retain) for each in got] == [
        ("b", b"x", True),
        ("a", b"new", False),
    ]


def test_other_subscriptions_of_the_session_miss_nothing(world: World) -> None:
    """They wait too, and then go on where they were."""
    kept(world, retain("a"))
    client = world.connected("s")
    asked(world, client, subscribe("live", qos=1))
    world.worker.is_slow = True
    publisher = world.connected("p")
    publisher.send(Publish(topic="live", payload=b"1", qos=1, packet_id=1))
    world.broker.store()
    client.send(subscribe("a"))
    publisher.send(Publish(topic="live", payload=b"2", qos=1, packet_id=2))
    world.commit()
    publisher.send(Publish(topic="live", payload=b"3", qos=1, packet_id=3))
    got = [each for each in settled(world, client) if isinstance(each, Publish)]
    assert sorted(each.payload for each in got) == [b"1", b"2", b"3", b"x"]


def test_many_go_through_the_window_in_slices(world: World) -> None:
    """[MQTT-3.3.4-9]: never more than the client's Receive Maximum in flight; and never more than
    a slice in memory."""
    kept(world, *(retain(f"t/{number:04}", bytes(100), 1) for number in range(1000)))
    client = world.connected("s", properties=Properties(receive_maximum=30))
    client.send(subscribe("#", qos=1))
    topics: list[str] = []
    while got := [each for each in settled(world, client) if isinstance(each, Publish)]:
        assert len(got) <= 30
        feed = session(world).feed
        assert feed is None or len(feed._found) <= 100
        assert not session(world).outbox._queue, "a place in its queue is where it would read on"
        topics += [each.topic for each in got]
        client.send(*(PubAck(packet_id=each.packet_id) for each in got))
    assert topics == [f"t/{number:04}" for number in range(1000)]
    assert session(world).feed is None
    assert session(world).reading is None, "live again"


def test_a_client_that_does_not_read_is_not_sent_more(world: World) -> None:
    kept(world, *(retain(f"t/{number:03}", bytes(1000)) for number in range(500)))
    client = world.connected("s")
    client.connection.writing_paused()
    client.send(subscribe("#"))
    assert [each for each in settled(world, client) if isinstance(each, Publish)] == []
    client.connection.writing_resumed()
    assert len([each for each in settled(world, client) if isinstance(each, Publish)]) == 500


def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(world: World) -> None:
    kept(world, *(retain(f"t/{number:03}", b"x", 1) for number in range(300)))
    client = world.connected("s", properties=STAYS)
    world.worker.is_slow = True
    client.send(subscribe("#", qos=1))
    world.commit()
    client.lose()
    world.worker.work()
    again = world.connected("s", clean=False, properties=STAYS)
    assert settled(world, again) == []
    assert len(asked(world, again, subscribe("#", qos=0))) == 300


def test_with_nothing_retained_a_subscriber_is_live_at_once(world: World) -> None:
    client = world.connected("s")
    client.send(subscribe("#"))
    assert session(world).reading is None
