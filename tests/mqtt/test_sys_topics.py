"""$SYS: what the gateway says of itself, and that nobody else says it."""

from pathlib import Path

import pytest

from gateway.mqtt.packets import (
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    Will,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.sys_publisher import SysPublisher
from gateway.mqtt.sys_topics import Figures, SysTopics
from tests.mqtt.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Source:
    """Figures that a test sets, and the topics made of them."""

    def __init__(self, interval_ms: int = 10_000) -> None:
        self.figures = Figures()
        self.now_ms = 5_000
        self.topics = SysTopics(
            "1.2", interval_ms=interval_ms, read=lambda: self.figures, now_ms=self.now_ms
        )

    def after(self, seconds: int, **figures: int) -> dict[str, str]:
        self.now_ms += seconds * 1000
        if figures:
            self.figures = Figures(**figures)
        return {
            topic.removeprefix("$SYS/broker/"): value.decode()
            for topic, value in self.topics.sweep(self.now_ms).items()
        }

    def load(self, span_min: int) -> float:
        name = f"$SYS/broker/load/messages/received/{span_min}min"
        return float(self.topics.find(name)[0][1])


def test_values_are_named_and_written_as_mosquitto_does() -> None:
    source = Source()
    values = source.after(
        0, clients_connected=3, clients_offline=2, retained=7, publishes_received=9
    )
    assert values["version"] == "sluicegate version 1.2"
    assert values["uptime"] == "0 seconds"
    assert (values["clients/connected"], values["clients/total"]) == ("3", "5")
    assert values["clients/disconnected"] == values["clients/inactive"] == "2"
    assert values["retained messages/count"] == "7"
    assert values["publish/messages/received"] == "9"
    assert values["load/messages/received/1min"] == "0.00"


def test_at_each_interval_what_has_changed_is_said() -> None:
    source = Source()
    source.after(0)
    assert source.after(9) == {}
    assert source.after(1, retained=1) == {"uptime": "10 seconds", "retained messages/count": "1"}
    assert source.after(9, retained=2) == {}
    assert set(source.after(1)) == {"uptime", "retained messages/count"}


def test_loads_move_towards_the_rate_a_minute_by_how_far_they_reach() -> None:
    source = Source()
    source.after(0)
    for seconds in range(10, 610, 10):
        source.after(10, messages_received=seconds * 2)
    assert source.load(1) == pytest.approx(120, abs=0.1)
    assert source.load(5) == pytest.approx(120 * (1 - 0.1353), abs=1)  # e ** -2
    assert source.load(15) == pytest.approx(120 * (1 - 0.5134), abs=1)  # e ** -2/3
    for _ in range(6):
        source.after(10)
    assert source.load(1) == pytest.approx(120 * 0.3679, abs=0.5)  # e ** -1


def test_with_an_interval_of_0_there_are_none() -> None:
    source = Source(interval_ms=0)
    assert source.after(100) == {}
    assert source.topics.find("$SYS/#") == []


@pytest.mark.parametrize(
    ("topic_filter", "count"),
    [("#", 0), ("+/broker/uptime", 0), ("$SYS/broker/uptime", 1), ("$SYS/+/clients/+", 6)],
)
def test_only_a_filter_that_names_it_matches(topic_filter: str, count: int) -> None:
    """[MQTT-4.7.2-1]"""
    source = Source()
    source.after(0)
    assert len(source.topics.find(topic_filter)) == count


@pytest.mark.parametrize("level", [4, 5])
def test_what_a_client_publishes_there_is_answered_and_not_taken(world: World, level: int) -> None:
    """5.0 4.7.2; the client is told with 0x87 as by Mosquitto, one of 3.1.1 cannot be told."""
    client = world.connected("device", level)
    for _ in range(3):  # the third takes the short way of a lone message, were it one
        for topic in ("$SYS/broker/uptime", "$SYS"):
            client.send(Publish(topic=topic, payload=b"x", qos=0))
            client.send(Publish(topic=topic, payload=b"x", qos=1, packet_id=7))
            client.send(Publish(topic=topic, payload=b"x", qos=2, packet_id=8, retain=True))
            code = ReasonCode.NOT_AUTHORIZED if level == 5 else 0
            assert client.committed() == [
                PubAck(packet_id=7, code=code),
                PubRec(packet_id=8, code=code),
            ]
            if level == 4:
                client.send(PubRel(packet_id=8))
                assert client.committed() == [PubComp(packet_id=8)]
    client.send(
        Publish(topic="$SYSTEM", payload=b"mine", qos=1, packet_id=1),
        Publish(topic="$SYS/a", payload=b"x", qos=1, packet_id=2),
        Publish(topic="a", payload=b"mine", qos=1, packet_id=3),
    )
    assert [packet.packet_id for packet in client.committed() if isinstance(packet, PubAck)] == [
        1,
        2,
        3,
    ]
    assert world.values() == [b"mine", b"mine"]
    assert world.broker.counters.messages_refused == 19
    assert world.retained.counters.message_count == 0


def subscribe(topic_filter: str, number: int = 0) -> Subscribe:
    return Subscribe(
        packet_id=10,
        requests=(SubscriptionRequest(filter=topic_filter, qos=2),),
        properties=Properties(subscription_ids=(number,) if number else ()),
    )


def values(packets: list[Packet]) -> dict[str, tuple[bytes, bool]]:
    return {
        each.topic.removeprefix("$SYS/broker/"): (each.payload, each.retain)
        for each in packets
        if isinstance(each, Publish)
    }


@pytest.mark.parametrize("stays", [False, True])
def test_a_new_subscriber_is_sent_the_values_and_then_what_changes(
    world: World, stays: bool
) -> None:
    world.pass_seconds(10)
    properties = Properties(session_expiry_s=100 if stays else 0)
    client = world.connected("s", properties=properties)
    client.send(subscribe("$SYS/broker/clients/#", 3))
    client.send(subscribe("#"))
    first, *rest = client.committed()
    assert isinstance(first, SubAck)
    found = values(rest)
    assert found["clients/connected"] == (b"0", True), "of when they were made"
    assert len(found) == 6
    assert {each.properties.subscription_ids for each in rest if isinstance(each, Publish)} == {
        (3,)
    }
    world.connected("other")
    world.pass_seconds(10)
    found = values(client.committed())
    assert found["clients/connected"] == (b"2", False)
    assert found["clients/maximum"] == (b"2", False)
    assert "clients/disconnected" not in found
    world.pass_seconds(9)
    assert values(client.committed()) == {}


def test_the_figures_are_of_what_was_done(world: World) -> None:
    client = world.connected("s")
    client.send(subscribe("a/#"))
    device = world.connected("d")
    for number in range(5):
        device.send(Publish(topic="a/b", payload=b"x", qos=1, packet_id=number + 1, retain=True))
    world.commit()
    publish = sys_of(world)
    assert publish.figures().publishes_received == 5
    assert publish.figures().publishes_sent == 5
    assert publish.figures().messages_sent == 10
    assert publish.figures().messages_received == 6
    assert publish.figures().subscriptions == 1
    assert publish.figures().stored_messages == 5
    assert (publish.figures().connections, publish.figures().sockets) == (2, 2)
    assert publish.figures().bytes_received >= 5 * 10
    assert publish.figures().bytes_sent >= 5 * 4 + 5 * 10
    world.pass_seconds(1)
    assert publish.figures().retained == 1


def sys_of(world: World) -> SysPublisher:
    assert world.broker.sys is not None
    return world.broker.sys


def test_a_will_there_is_not_published(world: World) -> None:
    world.connected("dying", will=Will(topic="$SYS/broker/uptime", payload=b"never")).lose()
    world.commit()
    assert world.values() == []
