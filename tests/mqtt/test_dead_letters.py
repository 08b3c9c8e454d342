"""What a subscriber would not have is stored apart, once, with the cause."""

import socket
import time
from pathlib import Path
from random import Random

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from gateway.config import GatewayConfig
from gateway.mqtt.dead_letters import DEAD_LETTERS
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import Packet, PubAck, Publish, PubRec
from gateway.mqtt.properties import Properties
from gateway.places import open_log
from log import LogFull, Record
from tests.mqtt.test_catchup import STAYS, drain, message, numbers, send, subscribe
from tests.mqtt.test_shared import member
from tests.mqtt.world import Client, World
from tests.rigs import GatewayProcess


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, delivery_attempts_max=3)


def letters(world: World) -> list[Record]:
    (partition,) = world.log.streams[DEAD_LETTERS].partitions
    return list(partition.records(0, count_max=1000))


def marks(letter: Record) -> dict[str, str]:
    head = "sluicegate.dead."
    named = {name.decode(): value.decode() for name, value in letter.headers}
    return {name[len(head) :]: value for name, value in named.items() if name.startswith(head)}


def reader(world: World, name: str = "reader", qos: int = 1, topic_filter: str = "#") -> Client:
    client = world.connected(name, **STAYS)
    client.send(subscribe(topic_filter, qos))
    client.committed()
    return client


def only(packets: list[Packet]) -> Publish:
    (packet,) = [each for each in packets if isinstance(each, Publish)]
    return packet


def refuse(client: Client, packet: Publish, code: int = 0x97) -> None:
    kind = PubAck if packet.qos == 1 else PubRec
    client.send(kind(packet_id=packet.packet_id, code=code))
    assert client.committed() == []


@pytest.mark.parametrize("qos", [1, 2])
def test_what_a_subscriber_refuses_is_a_dead_letter_and_not_sent_again(
    world: World, qos: int
) -> None:
    """[MQTT-4.4.0-2]"""
    client = reader(world, qos=qos)
    given = Properties(
        content_type="text", message_expiry_s=60, user_properties=(("sluicegate.dead.cause", "x"),)
    )
    send(world, Publish(topic="a/b", payload=b"7", qos=qos, packet_id=1, properties=given))
    refuse(client, only(client.got()))
    (letter,) = letters(world)
    original = next(each for each in world.records() if each.value == b"7")
    assert (letter.key, letter.value) == (original.key, b"7")
    kept = dict(original.headers) | {b"mqtt.topic": b"$dead-letter/a/b"}
    del kept[b"mqtt.message-expiry"], kept[b"sluicegate.dead.cause"]
    assert kept.items() <= dict(letter.headers).items()
    assert b"mqtt.message-expiry" not in dict(letter.headers)
    place = next(
        each
        for each in world.log.streams["mqtt"].partitions
        if each.end_offset and each.records(0, count_max=1)
    )
    assert marks(letter) == {
        "client": "reader",
        "cause": "refused 0x97",
        "attempts": "1",
        "stream": "mqtt",
        "partition": str(place.index),
        "offset": str(original.offset),
        "time": str(original.timestamp_ms),
    }
    assert world.broker.counters.dead_letters == 1
    world.restart()
    assert drain(world.connected("reader", **STAYS)) == []
    assert len(letters(world)) == 1


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_crash_leaves_the_message_in_flight_or_a_dead_letter(
    world: World, is_committed: bool
) -> None:
    """Never neither, never both: they ride in one frame."""
    client = reader(world)
    send(world, message(1))
    client.lose()
    world.commit()
    client = world.connected("reader", **STAYS)
    packet = only(client.committed())
    client.send(PubAck(packet_id=packet.packet_id, code=0x80))
    if is_committed:
        world.commit()
    world.restart()
    again = drain(world.connected("reader", **STAYS))
    assert (again, len(letters(world))) == (([], 1) if is_committed else ([1], 0))


def test_where_the_log_takes_no_dead_letter_the_message_stays_in_flight(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = reader(world)
    send(world, message(1))

    def full(*given: object) -> int:
        raise LogFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(world.log, "append", full)
        refuse(client, only(client.got()))
    assert letters(world) == []
    client.lose()
    client = world.connected("reader", **STAYS)
    refuse(client, only(client.committed()))
    assert [marks(each)["attempts"] for each in letters(world)] == ["2"]


def test_the_window_goes_on_without_what_was_refused(tmp_path: Path) -> None:
    world = World(tmp_path, delivery_in_flight_max=1)
    client = reader(world)
    send(world, message(1), message(2))
    refused = only(client.got())
    client.send(PubAck(packet_id=refused.packet_id, code=0x80))
    assert numbers(client.committed()) == [2]


def test_what_is_acknowledged_on_no_connection_is_a_dead_letter_one_a_connection(
    world: World,
) -> None:
    client = reader(world)
    send(world, *(message(number) for number in range(3)))
    seen = []
    for _ in range(5):
        seen.append(numbers(client.got()))
        client.lose()
        world.commit()
        world.restart()
        client = world.connected("reader", **STAYS)
        world.commit()
    assert seen == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 2], [2]]
    assert drain(client) == []
    assert [(each.value, marks(each)["attempts"]) for each in letters(world)] == [
        (b"0 ", "3"),
        (b"1 ", "4"),
        (b"2 ", "5"),
    ]
    assert {marks(each)["cause"] for each in letters(world)} == {"unacknowledged"}


@pytest.mark.parametrize(("qos", "attempts_max"), [(1, 0), (2, 3)])
def test_without_a_limit_and_at_qos_2_it_is_sent_again_for_ever(
    tmp_path: Path, qos: int, attempts_max: int
) -> None:
    """QoS 2: the client may have the identifier."""
    world = World(tmp_path, delivery_attempts_max=attempts_max)
    client = reader(world, qos=qos)
    send(world, message(1, qos=qos))
    for _ in range(12):
        client.lose()
        world.commit()
        client = world.connected("reader", **STAYS)
        world.commit()
    assert drain(client) == [1]
    assert letters(world) == []


def test_a_member_of_a_group_that_refuses(world: World) -> None:
    """[MQTT-4.8.2-6] nobody else gets it; after a crash neither."""
    refuses = member(world, "refuses")
    other = member(world, "other", **STAYS)
    send(world, message(1))
    refuse(refuses, only(refuses.got()))
    world.restart()
    assert drain(world.connected("other", **STAYS)) == []
    other.got()
    assert [marks(each)["client"] for each in letters(world)] == ["refuses"]


def test_dead_letters_come_to_who_asks_for_them_live_and_replayed(world: World) -> None:
    client = reader(world)
    watcher = reader(world, "watcher", topic_filter="$dead-letter/#")
    send(world, message(1, "a/b"))
    refuse(client, only(client.got()))
    live = only(watcher.got())
    assert (live.topic, live.payload) == ("$dead-letter/a/b", b"1 ")
    assert ("sluicegate.dead.client", "reader") in live.properties.user_properties
    later = world.connected("later")
    later.send(subscribe("$replay/earliest/$dead-letter/#", 1))
    assert only(later.committed()).topic == "$dead-letter/a/b"
    # And nobody else has seen it, not even who reads all of the log.
    everything = world.connected("everything")
    everything.send(subscribe("$replay/earliest/#", 1))
    assert drain(everything) == [1]


def test_a_dead_letter_that_is_refused_does_not_breed(world: World) -> None:
    client = reader(world, topic_filter="a")
    watcher = reader(world, "watcher", topic_filter="$dead-letter/#")
    send(world, message(1))
    refuse(client, only(client.got()))
    refuse(watcher, only(watcher.got()))
    assert len(letters(world)) == 1


def test_a_retained_message_that_is_refused_is_a_dead_letter_and_kept(world: World) -> None:
    send(world, Publish(topic="a", payload=b"1", qos=1, packet_id=1, retain=True))
    for count in (1, 2):
        client = world.connected("reader")
        client.send(subscribe("a", 1))
        refuse(client, only(client.committed()))
        assert len(letters(world)) == count


@pytest.mark.e2e
def test_after_sigkill_each_message_is_acknowledged_or_a_dead_letter_once(tmp_path: Path) -> None:
    """A real gateway is killed while a subscriber refuses every other message."""
    gateway = GatewayProcess(tmp_path / "data")
    rng = Random(5)
    refused: set[int] = set()
    taken: set[int] = set()

    def came(client: paho.Client, _data: object, packet: paho.MQTTMessage) -> None:
        number = int(packet.payload)
        if number % 2:
            refused.add(number)
            # paho sends no PUBACK with a reason code of itself.
            sock = client.socket()
            assert isinstance(sock, socket.socket)
            sock.sendall(encode_packet(PubAck(packet_id=packet.mid, code=0x83), 5))
        else:
            taken.add(number)
            client.ack(packet.mid, packet.qos)

    lives = 4
    for life in range(lives):
        gateway.start()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, "reader", protocol=paho.MQTTv5, manual_ack=True
        )
        client.on_message = came
        stays = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        stays.SessionExpiryInterval = 3600
        client.connect("127.0.0.1", gateway.port, clean_start=False, properties=stays)
        client.subscribe("numbers", 1)
        publisher = paho.Client(CallbackAPIVersion.VERSION2, "publisher", protocol=paho.MQTTv5)
        publisher.connect("127.0.0.1", gateway.port)
        publisher.loop_start()
        sent = [
            publisher.publish("numbers", b"%d" % (life * 1000 + each), qos=1) for each in range(300)
        ]
        for each in sent:
            each.wait_for_publish(20)
        is_last = life == lives - 1
        deadline = time.monotonic() + (30 if is_last else rng.uniform(0.01, 0.2))
        while time.monotonic() < deadline and len(refused | taken) < lives * 300:
            client.loop(0.01)
        publisher.loop_stop()
        if is_last:
            for _ in range(50):  # the last answers are out
                client.loop(0.01)
        gateway.kill()
    gateway.start()
    assert gateway.terminate() == 0
    config = GatewayConfig(data=tmp_path / "data")
    log = open_log(config)
    (partition,) = log.streams[DEAD_LETTERS].partitions
    found = [int(each.value or b"") for each in partition.records(0, count_max=10_000)]
    log.close()
    assert len(refused | taken) == lives * 300
    assert sorted(found) == sorted(set(found)), "twice"
    # What was refused last may have been in flight still when the gateway was killed.
    assert set(found) == refused
