"""PUBLISH from clients that ask for too much: what they are held to, and that others live on."""

from pathlib import Path

import pytest

from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import (
    PubAck,
    Publish,
    PubRel,
    Will,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.mqtt.test_publish import HOW, ended_with, publish
from tests.mqtt.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_qos_2_is_held_back_by_a_congested_log(world: World) -> None:
    clients = [world.connected(name) for name in ("busy", "idle")]
    world.committer.congested = True
    clients[0].send(publish(1, 2))
    assert [client.is_paused for client in clients] == [True, True]


def test_a_will_is_held_back_by_a_congested_log(world: World) -> None:
    other = world.connected("other")
    dying = world.connected("dying", will=Will(topic="w", payload=b"gone", qos=0, retain=False))
    world.committer.congested = True
    dying.lose()
    assert other.is_paused


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_too_large_for_a_record_ends_its_sender_alone(tmp_path: Path, qos: int) -> None:
    """A topic by alias is in the record and not in the packet."""
    world = World(tmp_path, partition_count=1)
    innocent, guilty = world.connected("innocent", 4), world.connected("guilty")
    alias = Properties(topic_alias=1)
    guilty.send(publish(1, topic="t" * 4_000, properties=alias))
    innocent.send(publish(1))
    payload = bytes(world.limits.packet_bytes_max - 20)
    large = Publish(topic="", payload=payload, qos=qos, packet_id=3 if qos else 0, properties=alias)
    after = publish(4, topic="", properties=alias)
    guilty.send(publish(2, topic="", properties=alias), large, after)
    innocent.send(publish(2))
    assert innocent.committed() == [PubAck(packet_id=1), PubAck(packet_id=2)]
    assert ended_with(guilty) == ReasonCode.PACKET_TOO_LARGE
    assert sorted(world.values()) == sorted([b"payload 1", b"payload 2"] * 2)
    assert not innocent.is_closed


def test_refused_qos_2_messages_leave_receive_maximum_as_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, receive_max=3)
    client = world.connected()
    world.log.stalled = "the disk is full"
    world.log.tail_bytes = world.log.limits.tail_bytes_max + 1
    client.send(*(publish(number, 2) for number in range(1, 9)))
    assert len(client.committed()) == 8
    assert client.connection.unacknowledged_count == 0


def test_qos_2_behind_a_refused_message_that_ended_the_connection_is_left(world: World) -> None:
    client = world.connected(level=4)
    world.log.stalled = "the disk is full"
    world.log.tail_bytes = world.log.limits.tail_bytes_max + 1
    before = publish(1)
    client.send(before, publish(2, 2), publish(3, 2), publish(4))
    assert client.is_closed
    world.log.stalled = ""
    assert client.committed() == []
    assert world.values() == []
    assert world.broker.counters.messages_refused == 1


def test_many_qos_2_messages_save_their_identifiers_once_a_round(world: World) -> None:
    client = world.connected(level=4, **HOW[4])
    saved: list[tuple[bytes, bytes | None]] = []
    put = world.log.put_state

    def counted(key: bytes, value: bytes | None) -> None:
        saved.append((key, value))
        put(key, value)

    world.log.put_state = counted  # type: ignore[method-assign]
    client.send(*(publish(number, 2) for number in (1, 2, 3)), PubRel(packet_id=2))
    assert len(client.committed()) == 4
    identifiers = [value for key, value in saved if key == b"mqtt/qos2/device"]
    assert identifiers == [b"\0\1\0\3"]


def test_identifiers_released_in_the_round_that_ends_their_session_do_not_come_back(
    world: World,
) -> None:
    client = world.connected(level=4, **HOW[4])
    client.send(publish(1, 2))
    world.commit()
    client.send(PubRel(packet_id=1))
    world.connected(level=4)
    assert world.log.scan_state(b"mqtt/") == []


def test_packets_that_came_in_part_are_bounded_over_all_connections(tmp_path: Path) -> None:
    world = World(tmp_path, partial_bytes_max=1_000)
    first, second, third = (world.connected(name) for name in ("first", "second", "third"))
    packet = encode_packet(Publish(topic="a", payload=bytes(800), qos=1, packet_id=1), 5)
    first.send_bytes(packet[:300])
    first.send_bytes(packet[300:500])
    second.send_bytes(packet[:400])
    assert world.broker.partial_bytes == 900
    third.send_bytes(packet[:101])
    assert ended_with(third) == ReasonCode.QUOTA_EXCEEDED
    assert world.broker.partial_bytes == 900
    second.lose()
    assert world.broker.partial_bytes == 500
    first.send_bytes(packet[500:])
    assert world.broker.partial_bytes == 0
    assert first.committed() == [PubAck(packet_id=1)]


def test_a_3_1_1_client_may_have_more_unreleased_than_receive_max(tmp_path: Path) -> None:
    """3.1.1 has no Receive Maximum; were it not read, its PUBREL could not be read either."""
    world = World(tmp_path, receive_max=3)
    client = world.connected(level=4)
    client.send(*(publish(number, 2) for number in range(1, 9)))
    assert len(client.committed()) == 8
    client.send(*(PubRel(packet_id=number) for number in range(1, 9)))
    assert len(client.committed()) == 8
    assert not client.is_closed and not client.is_paused


@pytest.mark.parametrize("topic", ["answer/+", "#"])
def test_a_response_topic_with_wildcards_is_refused(world: World, topic: str) -> None:
    """[MQTT-3.3.2-14]"""
    client = world.connected()
    client.send(publish(1, properties=Properties(response_topic=topic)))
    assert ended_with(client) == ReasonCode.PROTOCOL_ERROR
