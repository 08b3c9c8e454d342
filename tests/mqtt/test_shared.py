"""Shared subscriptions (4.8.2), and for 3.1.1 clients as Mosquitto has them."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.mqtt.packets import (
    PubAck,
    Publish,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
)
from gateway.mqtt.properties import Properties
from tests.mqtt.subscriber import Subscriber
from tests.mqtt.test_catchup import STAYS, drain, message, numbers, send
from tests.mqtt.world import Client, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def member(
    world: World,
    name: str,
    *,
    qos: int = 1,
    topic_filter: str = "$share/g/#",
    level: int = 5,
    **how: Any,
) -> Client:
    client = world.connected(name, level, **how)
    join(client, qos, topic_filter)
    return client


def join(client: Client, qos: int = 1, topic_filter: str = "$share/g/#") -> None:
    request = SubscriptionRequest(filter=topic_filter, qos=qos)
    client.send(Subscribe(packet_id=10, requests=(request,)))
    assert SubAck(packet_id=10, codes=(qos,)) in client.committed()


@pytest.mark.parametrize("level", [4, 5])
def test_each_message_goes_to_one_member_by_turns(world: World, level: int) -> None:
    """4.8.2"""
    members = [member(world, f"m{number}", level=level) for number in range(3)]
    whole = member(world, "all", topic_filter="#")
    send(world, *(message(number) for number in range(9)))
    assert drain(whole) == list(range(9))
    assert [drain(each) for each in members] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_no_retained_message_is_sent_for_a_shared_subscription(world: World) -> None:
    """3.8.4, 4.8.2"""
    world.connected("publisher").send(
        Publish(topic="a", payload=b"1", qos=1, packet_id=1, retain=True)
    )
    world.commit()
    for topic_filter, count in (("#", 1), ("$share/g/#", 0)):
        client = world.connected(topic_filter)
        request = SubscriptionRequest(filter=topic_filter, qos=1)
        client.send(Subscribe(packet_id=10, requests=(request,)))
        assert len([each for each in client.committed() if isinstance(each, Publish)]) == count


def test_groups_and_filters_are_apart(world: World) -> None:
    first = member(world, "first", topic_filter="$share/one/a")
    second = member(world, "second", topic_filter="$share/two/a")
    third = member(world, "third", topic_filter="$share/one/b")
    send(world, message(1, "a"))
    assert [drain(each) for each in (first, second, third)] == [[1], [1], []]


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_a_member_gets_no_more_than_its_qos(world: World, granted: int) -> None:
    """[MQTT-4.8.2-3]"""
    low = member(world, "low", qos=granted)
    send(world, message(1, qos=2))
    (packet,) = low.got()
    assert isinstance(packet, Publish) and packet.qos == granted


def test_a_member_without_room_is_passed_over_and_nothing_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path)
    narrow = member(world, "narrow", properties=Properties(receive_maximum=1))
    wide = member(world, "wide", properties=Properties(receive_maximum=3))
    send(world, *(message(number) for number in range(10)))
    held, sent = narrow.got(), wide.got()
    assert (len(held), len(sent)) == (1, 3)
    keeper = Subscriber()
    for packet in sent:
        wide.send(*keeper.hear(packet))
    rest = drain(wide, keeper)
    assert sorted(numbers(held) + numbers(list(keeper.handed))) == list(range(10))
    assert rest == sorted(rest)


def test_qos_1_of_a_session_that_ends_goes_to_another_and_qos_2_does_not(world: World) -> None:
    """[MQTT-4.8.2-5], and 4.8.2 for QoS 1"""
    ends = member(world, "ends", qos=2)
    send(world, message(1, qos=1), message(2, qos=2), message(3, qos=1))
    assert len(ends.got()) == 3
    other = member(world, "other", qos=2)
    ends.lose()
    assert sorted(drain(other)) == [1, 3]


@pytest.mark.parametrize("qos", [1, 2])
def test_a_kept_session_gets_its_own_again_and_no_other_does(world: World, qos: int) -> None:
    """[MQTT-4.8.2-4]; the standard leaves it open for QoS 1."""
    stays = member(world, "stays", qos=qos, **STAYS)
    send(world, message(1, qos=qos))
    (packet,) = stays.got()
    other = member(world, "other")
    stays.lose()
    assert drain(other) == []
    again = world.connected("stays", **STAYS)
    (repeated,) = again.committed()
    assert isinstance(packet, Publish) and isinstance(repeated, Publish)
    assert (repeated.dup, repeated.packet_id, numbers([repeated])) == (True, 1, [1])


def test_a_kept_session_that_expires_gives_its_qos_1_back(world: World) -> None:
    stays = member(world, "stays", clean=False, properties=Properties(session_expiry_s=10))
    send(world, message(1))
    stays.lose()
    other = member(world, "other")
    world.pass_seconds(12)
    assert drain(other) == [1]


def test_a_refused_message_is_given_to_nobody_else(world: World) -> None:
    """[MQTT-4.8.2-6]"""
    refuses = member(world, "refuses")
    other = member(world, "other")
    send(world, message(1))
    (packet,) = refuses.got()
    assert isinstance(packet, Publish)
    refuses.send(PubAck(packet_id=packet.packet_id, code=0x80))
    refuses.lose()
    assert drain(other) == []


def test_what_comes_while_all_members_are_away_waits_for_the_first_to_return(
    world: World,
) -> None:
    member(world, "one", **STAYS).lose()
    world.commit()
    send(world, *(message(number) for number in range(20)))
    world.restart()
    send(world, message(20))
    back = world.connected("one", **STAYS)
    assert drain(back) == list(range(21))


def test_a_group_ends_with_its_last_member(world: World) -> None:
    client = member(world, "one", **STAYS)
    client.send(Unsubscribe(packet_id=3, filters=("$share/g/#",)))
    assert client.committed() == [UnsubAck(packet_id=3, codes=(0,))]
    send(world, message(1))
    join(client)
    assert drain(client) == []
    client.send(Unsubscribe(packet_id=3, filters=("$share/g/#",)))
    client.committed()
    assert world.broker.deliveries.groups.by_name == {}
    assert world.log.scan_state(b"mqtt/group/") == []


def test_the_identifier_of_the_member_comes_with_the_message(world: World) -> None:
    client = world.connected("one", **STAYS)
    request = SubscriptionRequest(filter="$share/g/#", qos=1)
    properties = Properties(subscription_ids=(7,))
    client.send(Subscribe(packet_id=10, requests=(request,), properties=properties))
    client.committed()
    send(world, message(1))
    (packet,) = client.got()
    assert isinstance(packet, Publish) and packet.properties.subscription_ids == (7,)
    client.lose()
    (packet,) = world.connected("one", **STAYS).committed()
    assert isinstance(packet, Publish) and packet.properties.subscription_ids == (7,)


@pytest.mark.parametrize("seed", range(8))
def test_a_group_gets_everything_and_qos_2_once_whatever_happens(tmp_path: Path, seed: int) -> None:
    """A restart is a kill -9. Kept members only: QoS 2 of a session that ends is lost with it."""
    rng = Random(seed)
    world = World(tmp_path, delivery_in_flight_max=rng.choice([1, 4, 50]))
    names = ["m0", "m1", "m2"]
    keepers = {name: Subscriber() for name in names}
    clients: dict[str, Client] = {}
    for name in names:
        clients[name] = member(world, name, qos=2, **STAYS)
    publisher = world.connected("publisher")
    number = 0
    unsure: list[tuple[int, int]] = []
    sure: list[tuple[int, int]] = []
    for _ in range(120):
        action = rng.randrange(8)
        if action < 3:
            for _ in range(rng.randrange(1, 10)):
                qos = rng.randrange(1, 3)
                publisher.send(message(number, f"t/{qos}", qos))
                if qos == 2:
                    publisher.send(PubRel(packet_id=number % 60_000 + 1))
                unsure.append((number, qos))
                number += 1
        elif action == 3:
            world.commit()
            sure += unsure
            unsure = []
        elif action == 4:
            name = rng.choice(names)
            if name in clients:
                clients.pop(name).lose()
            else:
                clients[name] = world.connected(name, **STAYS)
                sure += unsure
                unsure = []
        elif action == 5 and rng.random() < 0.2:
            world.restart()
            clients.clear()
            publisher = world.connected("publisher")
            unsure = []
        else:
            for name, client in list(clients.items()):
                for packet in client.got():
                    client.send(*keepers[name].hear(packet))
    world.commit()
    sure += unsure
    for name in names:
        if name in clients:
            clients[name].lose()
        clients[name] = world.connected(name, **STAYS)
    for _ in range(3):
        for name in names:
            drain(clients[name], keepers[name])
    handed = [packet for keeper in keepers.values() for packet in keeper.handed]
    for qos in (1, 2):
        got = numbers([each for each in handed if each.topic == f"t/{qos}"])
        assert {value for value, of_qos in sure if of_qos == qos} <= set(got)
        if qos == 2:
            assert len(got) == len(set(got)), "twice"
