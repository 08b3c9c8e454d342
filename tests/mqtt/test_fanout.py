"""One run of messages to many subscribers: packets that they share, and those that they do not."""

from pathlib import Path

import pytest

from gateway.mqtt.delivery import Outbox
from gateway.mqtt.packets import (
    LEVEL_3_1_1,
    LEVEL_5_0,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.mqtt.properties import Properties
from tests.mqtt.world import Client, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def subscriber(world: World, name: str, level: int = 4, qos: int = 1, **how: Properties) -> Client:
    client = world.connected(name, level, **how)
    request = SubscriptionRequest(filter="a/+", qos=qos)
    client.send(Subscribe(packet_id=10, requests=(request,)))
    assert client.committed() == [SubAck(packet_id=10, codes=(qos,))]
    return client


def run_of(count: int, qos: int = 1, topic: str = "a/b", size: int = 3) -> list[Publish]:
    return [
        Publish(topic=topic, payload=b"%*d" % (size, number), qos=qos, packet_id=qos and number)
        for number in range(1, count + 1)
    ]


def outbox_of(client: Client) -> Outbox:
    assert client.connection.session is not None
    return client.connection.session.outbox


def delivered(client: Client) -> list[tuple[int, bytes]]:
    """Packet identifiers and payloads."""
    packets = client.got()
    assert all(isinstance(packet, Publish) for packet in packets)
    return [(packet.packet_id, packet.payload) for packet in packets]  # type: ignore[union-attr]


def test_subscribers_of_each_kind_get_the_same_run_in_their_own_form(world: World) -> None:
    old = subscriber(world, "old", LEVEL_3_1_1, qos=1)
    new = subscriber(world, "new", LEVEL_5_0, qos=1)
    simple = subscriber(world, "simple", LEVEL_5_0, qos=0)
    properties = Properties(content_type="text/plain", user_properties=(("unit", "C"),))
    publisher = world.connected("publisher", 5)
    # Sizes around the one at which the Remaining Length takes two bytes.
    sent = [
        Publish(topic="a/b", payload=b"x" * size, qos=1, packet_id=size, properties=properties)
        for size in range(80, 130)
    ]
    publisher.send(*sent)
    world.commit()
    for client, qos, given in (
        (old, 1, Properties()),
        (new, 1, properties),
        (simple, 0, properties),
    ):
        packets = client.got()
        assert [
            (packet.payload, packet.qos, packet.properties, packet.topic)  # type: ignore[union-attr]
            for packet in packets
        ] == [(packet.payload, qos, given, "a/b") for packet in sent]


def test_a_subscriber_with_one_of_the_identifiers_in_flight_takes_others(world: World) -> None:
    """[MQTT-2.2.1-4] (3.1.1: [MQTT-2.3.1-4]): an identifier in use is not used again."""
    slow = subscriber(world, "slow")
    publisher = world.connected("publisher")
    publisher.send(*run_of(1))
    world.commit()
    assert [packet_id for packet_id, _ in delivered(slow)] == [1]
    fast = subscriber(world, "fast")
    world.broker.sessions._next_packet_id = 65_534
    publisher.send(*run_of(2))
    world.commit()
    publisher.send(*run_of(3))  # begins at 1 again, for 65,536 is none
    world.commit()
    assert [packet_id for packet_id, _ in delivered(fast)] == [65_534, 65_535, 1, 2, 3]
    ids = [packet_id for packet_id, _ in delivered(slow)]
    assert ids[:2] == [65_534, 65_535]
    assert len(set(ids)) == 5
    assert 1 not in ids


@pytest.mark.parametrize("together", [1, 3, 300])
def test_what_does_not_fit_the_window_comes_with_the_acknowledgements(
    tmp_path: Path, together: int
) -> None:
    world = World(tmp_path, delivery_in_flight_max=7)
    client = subscriber(world, "subscriber")
    publisher = world.connected("publisher")
    for _ in range(3):
        publisher.send(*run_of(100))
    world.commit()
    got: list[bytes] = []
    owed: list[int] = []
    while packets := delivered(client):
        got += [payload for _, payload in packets]
        owed += [packet_id for packet_id, _ in packets]
        assert len(owed) <= 7
        while owed:
            now, owed = owed[:together], owed[together:]
            client.send(*[PubAck(packet_id=packet_id) for packet_id in now])
            packets = delivered(client)
            got += [payload for _, payload in packets]
            owed += [packet_id for packet_id, _ in packets]
    assert got == [packet.payload for packet in run_of(100)] * 3


def test_pubacks_between_other_packets_and_with_reasons_all_count(world: World) -> None:
    client = subscriber(world, "subscriber", LEVEL_5_0)
    world.connected("publisher").send(*run_of(6))
    world.commit()
    ids = [packet_id for packet_id, _ in delivered(client)]
    outbox = outbox_of(client)
    assert outbox.waiting_count == 6
    client.send(PubAck(packet_id=ids[0]), PubAck(packet_id=ids[1]), PingReq())
    client.send(PubAck(packet_id=ids[2], code=0x10), PubAck(packet_id=ids[3]))
    client.send(PubAck(packet_id=ids[4]), PubAck(packet_id=9_999), PubAck(packet_id=ids[4]))
    assert client.got() == [PingResp()]
    assert outbox.waiting_count == 1


def test_a_puback_of_identifier_0_among_others_is_a_protocol_error(world: World) -> None:
    """[MQTT-2.2.1-3] (3.1.1: [MQTT-2.3.1-1])"""
    client = subscriber(world, "subscriber")
    client.send_bytes(b"\x40\2\0\1\x40\2\0\0\x40\2\0\2")
    assert client.is_closed


def test_a_puback_that_contains_what_looks_like_another_is_malformed(world: World) -> None:
    """3.1.1: 3.4.1, its Remaining Length is 2."""
    client = subscriber(world, "subscriber")
    client.send_bytes(b"\x40\6\0\1\x40\2\0\2")
    assert client.is_closed


def test_pubacks_in_any_pieces_are_the_same(world: World) -> None:
    client = subscriber(world, "subscriber")
    world.connected("publisher").send(*run_of(9))
    world.commit()
    ids = [packet_id for packet_id, _ in delivered(client)]
    data = b"".join(b"\x40\2" + packet_id.to_bytes(2) for packet_id in ids)
    for at in range(0, len(data), 7):
        client.send_bytes(data[at : at + 7])
    assert outbox_of(client).waiting_count == 0


@pytest.mark.parametrize("qos", [0, 1])
def test_only_the_packets_that_are_too_large_are_left_out(world: World, qos: int) -> None:
    """[MQTT-3.1.2-24], [MQTT-3.1.2-25]"""
    properties = Properties(maximum_packet_bytes=60)
    small = subscriber(world, "small", LEVEL_5_0, qos, properties=properties)
    every = subscriber(world, "every", LEVEL_5_0, qos)
    publisher = world.connected("publisher")
    publisher.send(*run_of(1, size=3), *run_of(1, size=100), *run_of(1, size=4))
    world.commit()
    assert [len(payload) for _, payload in delivered(small)] == [3, 4]
    assert [len(payload) for _, payload in delivered(every)] == [3, 100, 4]
