"""The inputs that broke other brokers, by their CVE, and what is to happen instead.

Beside those here:
- CVE-2026-25627 (NanoMQ, a packet's length over WebSocket): tests/mqtt/test_websocket.py
- CVE-2017-7652 (SIGHUP without descriptors): tests/gateway/test_app.py
- CVE-2024-10525 (SUBACK without reason codes, to a client) and CVE-2024-3935 (a bridge that
  connects again): our client side towards MQTT is paho-mqtt (gateway/sources), and the bridge
  speaks Kafka; tests/gateway/test_source.py has the connection that comes again.
"""

from pathlib import Path

import pytest

from gateway.mqtt import packets as p
from gateway.mqtt.properties import Properties
from gateway.mqtt.wire import encode_string
from tests.mqtt.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_cve_2017_7651_a_huge_remaining_length_before_connect_is_not_waited_for(
    world: World,
) -> None:
    client = world.client()
    client.send_bytes(b"\x10\xff\xff\xff\x7f\x00\x04MQTT")
    assert client.is_closed
    assert world.broker.partial_bytes == 0


def test_cve_2023_0809_a_large_first_packet_that_is_no_connect_is_not_waited_for(
    world: World,
) -> None:
    client = world.client()
    client.send_bytes(b"\x30\xff\xff\x7f" + b"x" * 1000)
    assert client.is_closed
    assert world.broker.partial_bytes == 0


def test_cve_2020_13849_a_slot_is_not_held_by_keep_alive(world: World) -> None:
    """SlowITe: neither before CONNECT nor by a keep-alive of 18 hours."""
    silent = world.client()
    slow = world.connected("slow", keep_alive_s=65_535)
    world.pass_seconds(world.limits.connect_timeout_ms / 1000 + 1)
    assert silent.is_closed
    world.pass_seconds(world.limits.keep_alive_s_max * 1.5 + 2)
    assert slow.is_closed


@pytest.mark.parametrize("level", [4, 5])
def test_cve_2019_11779_a_filter_of_65_400_slashes_is_refused(world: World, level: int) -> None:
    client = world.connected(level=level)
    request = p.SubscriptionRequest(filter="/" * 65_400, qos=0)
    client.send(p.Subscribe(packet_id=1, requests=(request,)))
    (answer,) = client.committed()
    assert isinstance(answer, p.SubAck)
    assert answer.codes == ((0x8F,) if level == 5 else (0x80,))
    assert len(world.broker.tree) == 0


@pytest.mark.parametrize("level", [4, 5])
def test_cve_2021_34432_a_publish_without_a_topic_ends_its_connection_only(
    world: World, level: int
) -> None:
    other = world.connected("other")
    client = world.connected(level=level)
    client.send_bytes(b"\x30\x03\0\0\0" if level == 5 else b"\x30\x02\0\0")
    assert client.is_closed
    assert not other.is_closed
    assert world.records() == []


@pytest.mark.parametrize("is_connected", [False, True])
def test_cve_2021_28166_a_connack_from_a_client_ends_its_connection(
    world: World, is_connected: bool
) -> None:
    client = world.connected() if is_connected else world.client()
    client.send_bytes(b"\x20\x03\0\0\0")
    assert client.is_closed


@pytest.mark.parametrize("identifier", [0x21, 0x22, 0x7F], ids=hex)
def test_cve_2023_3592_will_properties_that_are_none_refuse_the_connect(
    world: World, identifier: int
) -> None:
    client = world.client()
    will = b"\3" + bytes((identifier, 0, 1)) + encode_string("w") + encode_string("m")
    body = encode_string("MQTT") + b"\5\6\0\0\0" + encode_string("c") + will
    client.send_bytes(bytes((0x10, len(body))) + body)
    (answer,) = client.got()
    assert isinstance(answer, p.ConnAck)
    assert answer.code == 0x81
    assert client.is_closed


def test_cve_2019_11778_a_will_delay_longer_than_the_session_is_cut_to_it(world: World) -> None:
    """[MQTT-3.1.3-9] the will is published when the session ends, once."""
    watcher = world.connected("watcher")
    watcher.send(p.Subscribe(packet_id=1, requests=(p.SubscriptionRequest(filter="w", qos=0),)))
    watcher.committed()
    will = p.Will(topic="w", payload=b"bye", properties=Properties(will_delay_s=1000))
    client = world.connected(will=will, properties=Properties(session_expiry_s=10))
    client.lose()
    world.pass_seconds(5)
    assert watcher.committed() == []
    world.pass_seconds(10)
    (message,) = watcher.committed()
    assert isinstance(message, p.Publish)
    world.pass_seconds(1000)
    assert watcher.committed() == []


def test_cve_2023_28366_messages_to_a_client_that_does_not_answer_do_not_pile_up(
    world: World,
) -> None:
    """QoS 2 messages with identifiers of the sender that come again, and are never released."""
    client = world.connected(level=4)
    for _ in range(50):
        for packet_id in range(1, 20):
            client.send(p.Publish(topic="a", payload=b"m", qos=2, packet_id=packet_id, dup=True))
    client.committed()
    assert len(world.records()) == 19


def test_a_puback_that_is_too_short_is_not_read_again_for_ever(world: World) -> None:
    """One of ours: tests/fuzz found a loop without an end in the short way for PUBACKs."""
    client = world.connected()
    client.send_bytes(b"\x40\x01\0")
    assert client.is_closed
