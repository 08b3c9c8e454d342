"""Deliveries read from the log: without loss, repetition or reordering (4.4 to 4.6)."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.mqtt.packets import (
    LEVEL_5_0,
    Connect,
    Packet,
    PubAck,
    Publish,
    PubRel,
    Subscribe,
    SubscriptionRequest,
)
from gateway.mqtt.properties import Properties
from tests.mqtt.subscriber import Subscriber, is_in_order
from tests.mqtt.world import Client, World

STAYS: dict[str, Any] = {"clean": False, "properties": Properties(session_expiry_s=3600)}


def subscribe(topic_filter: str, qos: int, **options: Any) -> Subscribe:
    request = SubscriptionRequest(filter=topic_filter, qos=qos, **options)
    return Subscribe(packet_id=10, requests=(request,))


def message(number: int, topic: str = "a", qos: int = 1, size: int = 0) -> Publish:
    payload = b"%d " % number + bytes(size)
    return Publish(topic=topic, payload=payload, qos=qos, packet_id=number % 60_000 + 1)


def numbers(packets: list[Packet]) -> list[int]:
    return [int(each.payload.split()[0]) for each in packets if isinstance(each, Publish)]


def drain(client: Client, keeper: Subscriber | None = None) -> list[int]:
    """Acknowledges all there is until nothing more comes."""
    keeper = keeper or Subscriber()
    before = len(keeper.handed)
    while packets := client.committed():
        for packet in packets:
            client.send(*keeper.hear(packet))
    return numbers(list(keeper.handed[before:]))


def away(world: World, qos: int = 1, topic_filter: str = "#", name: str = "subscriber") -> None:
    """A session that was there, and is away now."""
    client = world.connected(name, **STAYS)
    client.send(subscribe(topic_filter, qos))
    world.commit()
    client.lose()
    world.commit()


def send(world: World, *packets: Publish, name: str = "publisher") -> None:
    client = world.connected(name)
    for at in range(0, len(packets), 500):
        client.send(*packets[at : at + 500])
        world.commit()
        client.send(*[PubRel(packet_id=each.packet_id) for each in packets if each.qos == 2])
    world.commit()
    client.lose()


@pytest.mark.parametrize("qos", [1, 2])
def test_what_came_while_away_comes_in_order_and_once(tmp_path: Path, qos: int) -> None:
    world = World(tmp_path)
    away(world, qos)
    send(world, *(message(number, qos=qos) for number in range(2_000)))
    assert drain(world.connected("subscriber", **STAYS)) == list(range(2_000))


def test_qos_0_from_before_the_connection_is_not_delivered(tmp_path: Path) -> None:
    world = World(tmp_path)
    away(world)
    send(world, message(0, qos=0), message(1))
    client = world.connected("subscriber", **STAYS)
    assert drain(client) == [1]
    send(world, message(2, qos=0))
    assert drain(client) == [2]


def test_a_session_of_qos_0_alone_reads_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    away(world, qos=0)
    send(world, message(0))
    client = world.connected("subscriber", **STAYS)
    session = client.connection.session
    assert session is not None and session.reading is None
    assert drain(client) == []


def test_what_is_stored_but_not_durable_when_a_session_returns_is_delivered(
    tmp_path: Path,
) -> None:
    """It was stored when nobody could want it, and becomes durable when somebody does."""
    world = World(tmp_path)
    away(world)
    world.connected("publisher").send(message(1))
    frame, token = world.committer.cut()
    client = world.client(LEVEL_5_0)
    client.connect("subscriber", **STAYS)
    world.committer.make_durable(frame, token)
    assert drain(client) == [1]


def test_a_round_with_nothing_for_subscribers_does_not_share_what_the_next_has(
    tmp_path: Path,
) -> None:
    """Else the next round's messages would be handed out twice, and before they are durable."""
    world = World(tmp_path)
    client = world.connected("subscriber")
    client.send(subscribe("wanted", 1))
    client.committed()
    publisher = world.connected("publisher")
    publisher.send(message(1, "unwanted"))
    first = world.committer.cut()
    publisher.send(message(2, "wanted"))
    second = world.committer.cut()
    world.committer.make_durable(*first)
    assert client.got() == []
    world.committer.make_durable(*second)
    assert numbers(client.got()) == [2]


def test_messages_come_while_a_session_reads(tmp_path: Path) -> None:
    world = World(tmp_path)
    away(world)
    send(world, *(message(number) for number in range(500)))
    client = world.connected("subscriber", **STAYS)
    publisher = world.connected("publisher")
    keeper = Subscriber()
    for number in range(500, 1_000):
        publisher.send(message(number))
        for packet in client.committed():
            client.send(*keeper.hear(packet))
    drain(client, keeper)
    assert numbers(list(keeper.handed)) == list(range(1_000))
    session = client.connection.session
    assert session is not None and session.reading is None, "it is live again"


@pytest.mark.parametrize("qos", [1, 2])
def test_a_slow_subscriber_loses_nothing(tmp_path: Path, qos: int) -> None:
    world = World(tmp_path, delivery_queue_bytes_max=5_000, delivery_in_flight_max=3)
    client = world.connected("subscriber", **STAYS)
    client.send(subscribe("#", qos))
    world.commit()
    client.got()
    client.connection.writing_paused()
    send(world, *(message(number, qos=qos) for number in range(300)))
    session = client.connection.session
    assert session is not None and session.outbox.waiting_count < 20
    client.connection.writing_resumed()
    assert drain(client) == list(range(300))
    assert world.broker.counters.deliveries_dropped == 0
    send(world, message(300))
    assert drain(client) == [300]


def test_sessions_at_the_same_place_share_a_pass(tmp_path: Path) -> None:
    world = World(tmp_path, partition_count=1)
    for number in range(50):
        away(world, topic_filter=f"t/{number}", name=f"s{number}")
    send(world, *(message(number, f"t/{number % 50}") for number in range(5_000)))
    (partition,) = world.log.streams["mqtt"].partitions
    scans: list[int] = []
    scan = partition.scan

    def counted(offset: int, wanted: Any, **limits: int) -> Any:
        scans.append(offset)
        return scan(offset, wanted, **limits)

    partition.scan = counted  # type: ignore[method-assign,assignment]
    clients = returned(world, *(f"s{number}" for number in range(50)))
    world.commit()
    for number, client in enumerate(clients):
        assert drain(client) == list(range(number, 5_000, 50))
    assert len(scans) < 50, "less than one for each"


def test_those_who_begin_while_others_read_get_their_own_topics(tmp_path: Path) -> None:
    """What is looked for in the log is found out for all at once, and anew for who comes later."""
    world = World(tmp_path, partition_count=1)
    count = 12
    for number in range(count):
        away(world, topic_filter=f"t/{number}", name=f"s{number}")
    send(world, *(message(number, f"t/{number % count}") for number in range(6_000)))
    clients = []
    for number in range(count):
        clients += returned(world, f"s{number}")
        world.committer.commit()
        turns, world.turns = world.turns, []
        world.broker.catchup.pace.call_later = lambda _, turn: world.turns.append(turn)
        for turn in turns:  # one slice, and the next one is there
            turn()
        world.now_ms += number * 40
    for number, client in enumerate(clients):
        assert drain(client) == list(range(number, 6_000, count))


def returned(world: World, *names: str) -> list[Client]:
    """They all connect in one turn of the loop."""
    clients = [world.client(LEVEL_5_0) for _ in names]
    for name, client in zip(names, clients, strict=True):
        client.send(
            Connect(
                level=5,
                client_id=name,
                clean_start=False,
                keep_alive_s=0,
                properties=STAYS["properties"],
            )
        )
    return clients


def test_a_session_that_comes_into_the_pass_of_another_gets_nothing_twice(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, partition_count=1)
    away(world, name="early")
    send(world, *(message(number) for number in range(50)))
    away(world, name="late")
    send(world, *(message(number) for number in range(50, 100)))
    early, late = returned(world, "early", "late")
    assert drain(late) == list(range(50, 100))
    assert drain(early) == list(range(100))


def test_a_filter_made_while_reading_gets_nothing_older(tmp_path: Path) -> None:
    world = World(tmp_path, delivery_in_flight_max=1, delivery_queue_bytes_max=1_000)
    away(world, topic_filter="old/#")
    packets = [message(number, ("old/x", "new/x")[number % 2]) for number in range(40)]
    send(world, *packets)
    client = world.connected("subscriber", **STAYS)
    session = client.connection.session
    assert session is not None and session.reading is not None
    client.send(subscribe("new/#", 1))
    send(world, message(40, "new/x"), message(41, "old/x"))
    assert drain(client) == [*range(0, 40, 2), 40, 41]


def test_no_local_holds_for_what_is_read(tmp_path: Path) -> None:
    """[MQTT-3.8.3-3]"""
    world = World(tmp_path)
    client = world.connected("subscriber", **STAYS)
    client.send(subscribe("#", 1, no_local=True), message(1))
    client.committed()
    client.send(message(2))
    client.lose()
    send(world, message(3))
    assert drain(world.connected("subscriber", **STAYS)) == [3]


def test_what_retention_removed_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, partition_count=1)
    away(world)
    send(world, *(message(number, size=100) for number in range(50)))
    (partition,) = world.log.streams["mqtt"].partitions
    # As when an old segment goes: a new one begins, and the first is let go.
    job = partition.seal_job(close_open=True)
    assert job is not None
    world.log.sealed(partition, partition.write_sealed(job))
    partition._roll(partition.end_offset)
    partition.remove(partition.segments[:1])
    send(world, message(50))
    client = world.connected("subscriber", **STAYS)
    (packet,) = [each for each in client.committed() if isinstance(each, Publish)]
    assert numbers([packet]) == [50]
    assert packet.properties.user_properties == (("sluicegate.missed", "50"),)
    assert world.broker.counters.deliveries_missed == 50
    client.send(PubAck(packet_id=packet.packet_id))
    send(world, message(51))
    (packet,) = [each for each in client.committed() if isinstance(each, Publish)]
    assert packet.properties.user_properties == (), "told once"


# -- all of it at random, with kills


class Sender:
    """A publisher that numbers its messages of each QoS."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next_number = 0
        self.sent: dict[int, int] = {}
        """Number -> QoS, of what is in the log for sure."""
        self.unsure: dict[int, int] = {}

    def send(self, client: Client, rng: Random) -> None:
        for _ in range(rng.randrange(1, 30)):
            qos = rng.randrange(3)
            number = self.next_number
            self.next_number += 1
            client.send(message(number, f"{self.name}/{qos}", qos, size=rng.randrange(200)))
            if qos == 2:
                client.send(PubRel(packet_id=number % 60_000 + 1))
            self.unsure[number] = qos

    def committed(self) -> None:
        self.sent.update(self.unsure)
        self.unsure.clear()


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_or_reordered_and_qos_2_comes_once_whatever_happens(
    tmp_path: Path, seed: int
) -> None:
    """[MQTT-4.3.2-1], [MQTT-4.3.3-1], [MQTT-4.4.0-1], [MQTT-4.6.0-6]; a restart is a kill -9: what
    was not committed is gone."""
    rng = Random(seed)
    limits = {
        "delivery_queue_bytes_max": rng.choice([2_000, 20_000, 1 << 20]),
        "delivery_in_flight_max": rng.choice([1, 5, 100]),
    }
    world = World(tmp_path, **limits)
    keeper = Subscriber()
    away(world, qos=2, topic_filter="#")
    senders = [Sender(name) for name in ("one", "two", "three", "four")]
    publishers = [world.connected(sender.name) for sender in senders]
    client: Client | None = None
    for _ in range(150):
        action = rng.randrange(10)
        if action < 4:
            which = rng.randrange(4)
            senders[which].send(publishers[which], rng)
        elif action < 6:
            world.commit()
            for sender in senders:
                sender.committed()
        elif action == 6 and client is None:
            client = world.connected("subscriber", **STAYS)  # which commits
            for sender in senders:
                sender.committed()
        elif action == 7 and client is not None and rng.random() < 0.5:
            client.lose()
            client = None
        elif action == 8 and rng.random() < 0.3:
            world.restart()
            client = None
            publishers = [world.connected(sender.name) for sender in senders]
            for sender in senders:
                sender.unsure.clear()
        elif client is not None:
            for packet in client.got():
                if rng.random() < 0.9:
                    client.send(*keeper.hear(packet))
                else:  # it has it, but its answer is lost with the connection
                    keeper.hear(packet)
                    client.lose()
                    client = None
                    break
    world.commit()
    for sender in senders:
        sender.committed()
    if client is not None:
        client.lose()
    drain(world.connected("subscriber", **STAYS), keeper)
    for sender in senders:
        for qos in (1, 2):
            handed = [each for each in keeper.handed if each.topic == f"{sender.name}/{qos}"]
            got = numbers(list(handed))
            wanted = [number for number, sent_qos in sender.sent.items() if sent_qos == qos]
            assert set(wanted) <= set(got)
            assert is_in_order(handed, lambda packet: int(packet.payload.split()[0]))
            if qos == 2:
                assert len(got) == len(set(got)), "twice"
    assert world.broker.counters.deliveries_missed == 0
