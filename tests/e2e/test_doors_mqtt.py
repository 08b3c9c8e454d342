"""Bad input at the MQTT door of a whole gateway: a reason code or the end of that connection.

And each time: the gateway goes on, and what was acknowledged before is stored.
The codec's and the broker's own cases are in tests/mqtt; here is one of each kind, end to end.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from log import Log, StreamSpec
from tests.e2e.raw_mqtt import (
    CONNACK,
    DISCONNECT,
    V5,
    V311,
    RawClient,
    connect_packet,
    packet,
    publish_packet,
    text,
)
from tests.rigs import GatewayProcess


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("doors") / "data") as process:
        acknowledge_some(process)
        yield process
        assert process.terminate() == 0
        assert "Traceback" not in process.output_since_start()
        log = Log.open(process.data_dir, [StreamSpec(name="mqtt", partition_count=3)])
        values = [
            record.value
            for partition in log.streams["mqtt"].partitions
            for record in partition.records(0, count_max=1000)
            if record.key == b"good"
        ]
        log.close()
        assert values == [b"%d" % number for number in range(10)]


def acknowledge_some(gateway: GatewayProcess) -> None:
    with RawClient(gateway.port) as client:
        client.connect("good", V311)
        for number in range(10):
            client.publish("a/b", b"%d" % number, V311, packet_id=number + 1)


@pytest.fixture
def bad(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient(gateway.port) as client:
        yield client
    with RawClient(gateway.port) as another:
        another.connect("another", V5)


def reason_of_disconnect(client: RawClient) -> int:
    """[MQTT-4.13.1-1]: DISCONNECT with a reason code before the connection is closed."""
    answer = client.answer()
    assert answer is not None, "closed without a DISCONNECT"
    assert answer[0] == DISCONNECT
    assert client.answer() is None
    return answer[1][0]


def is_closed_without_a_word(client: RawClient) -> bool:
    """3.1.1 has no DISCONNECT from the server [MQTT-4.8.0-1]."""
    return client.answer() is None


@pytest.mark.parametrize("level", [V311, V5])
def test_first_packet_that_is_not_connect_closes_the_connection(bad: RawClient, level: int) -> None:
    """[MQTT-3.1.0-1]"""
    bad.send(publish_packet("a", b"x", level))
    assert bad.answer() is None


def test_bytes_that_are_no_mqtt_close_the_connection(bad: RawClient) -> None:
    bad.send(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
    assert bad.answer() is None


def test_tls_hello_on_the_plain_port_closes_the_connection(bad: RawClient) -> None:
    bad.send(bytes.fromhex("160301020001000001fc0303") + bytes(64))
    assert bad.answer() is None


def test_remaining_length_far_over_the_limit_before_connect_closes_at_once(
    bad: RawClient,
) -> None:
    """Nothing is buffered for it (CVE-2017-7651): the answer comes before the body."""
    bad.send(b"\x10\xff\xff\xff\x7f")
    assert bad.answer() is None


def test_remaining_length_of_five_bytes_is_malformed(bad: RawClient) -> None:
    """2.1.4 (5.0), 2.2.3 (3.1.1): at most four bytes."""
    bad.connect("five", V5)
    bad.send(b"\x30\xff\xff\xff\xff\x01")
    assert reason_of_disconnect(bad) == 0x81


def test_packet_larger_than_the_maximum_packet_size_is_0x95(bad: RawClient) -> None:
    """[MQTT-3.2.2-15] tells the limit; 4.13 the answer."""
    bad.connect("large", V5)
    bad.send(b"\x32\xff\xff\xff\x7f")
    assert reason_of_disconnect(bad) == 0x95


def test_packet_larger_than_the_limit_closes_a_3_1_1_connection(bad: RawClient) -> None:
    bad.connect("large311", V311)
    bad.send(b"\x32\xff\xff\xff\x7f")
    assert is_closed_without_a_word(bad)


@pytest.mark.parametrize("level", [0, 1, 6, 0x85, 255])
def test_wrong_protocol_level_is_refused_in_the_connack(bad: RawClient, level: int) -> None:
    """[MQTT-3.1.2-2]: 0x01 for who speaks an older version, 0x84 for a later one."""
    bad.send(connect_packet("level", level))
    answer = bad.answer()
    if answer is not None:
        assert answer[0] == CONNACK
        assert answer[1][1] in (0x01, 0x84)
        assert bad.answer() is None


def test_wrong_protocol_name_closes_the_connection(bad: RawClient) -> None:
    """[MQTT-3.1.2-1]"""
    bad.send(connect_packet("name", V311, protocol="MQTX"))
    answer = bad.answer()
    assert answer is None or answer[1][1] != 0


INVALID_TOPICS = [
    pytest.param(b"a/\xff", 0x81, id="no-utf8"),
    pytest.param(b"a/\xed\xa0\x80", 0x81, id="surrogate"),
    pytest.param(b"a/\0b", 0x81, id="null"),
    pytest.param(b"a/+/b", 0x90, id="plus"),
    pytest.param(b"a/#", 0x90, id="hash"),
    pytest.param(b"", 0x82, id="empty"),
]


@pytest.mark.parametrize(("topic", "reason"), INVALID_TOPICS)
def test_invalid_topic_in_a_publish_is_answered_with_a_reason(
    bad: RawClient, topic: bytes, reason: int
) -> None:
    """[MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-3.3.2-2], 3.3.2.1, 4.7.3"""
    bad.connect("topic", V5)
    bad.send(publish_packet(topic, b"x", V5))
    got = reason_of_disconnect(bad)
    # Both standards' words allow malformed, protocol error or topic name invalid for some of these.
    assert got == reason or got in (0x81, 0x82, 0x90)


@pytest.mark.parametrize(("topic", "reason"), INVALID_TOPICS)
def test_invalid_topic_closes_a_3_1_1_connection_and_gets_no_puback(
    bad: RawClient, topic: bytes, reason: int
) -> None:
    """[MQTT-1.5.3-1], [MQTT-3.3.2-2], [MQTT-4.7.3-1]"""
    bad.connect("topic311", V311)
    bad.send(publish_packet(topic, b"x", V311))
    assert is_closed_without_a_word(bad)


def test_qos_3_is_malformed(bad: RawClient) -> None:
    """[MQTT-3.3.1-4]"""
    bad.connect("qos3", V5)
    bad.send(packet(0x36, text("a") + b"\0\x01\0x"))
    assert reason_of_disconnect(bad) == 0x81


def test_packet_id_0_is_refused(bad: RawClient) -> None:
    """[MQTT-2.2.1-3]"""
    bad.connect("id0", V5)
    bad.send(publish_packet("a", b"x", V5, packet_id=0))
    assert reason_of_disconnect(bad) in (0x81, 0x82)


def test_connack_from_a_client_is_a_protocol_error(bad: RawClient) -> None:
    """CVE-2021-28166"""
    bad.connect("connack", V5)
    bad.send(packet(0x20, b"\0\0\0"))
    assert reason_of_disconnect(bad) in (0x81, 0x82)


def test_second_connect_is_a_protocol_error(bad: RawClient) -> None:
    """[MQTT-3.1.0-2]"""
    bad.connect("twice", V5)
    bad.send(connect_packet("twice", V5))
    assert reason_of_disconnect(bad) == 0x82


def test_filter_of_65_000_levels_is_refused(bad: RawClient) -> None:
    """CVE-2019-11779"""
    bad.connect("deep", V5)
    bad.send(packet(0x82, b"\0\x01\0" + text("/" * 65_400) + b"\x01"))
    answer = bad.answer()
    assert answer is not None
    if answer[0] == 0x90:
        assert answer[1][-1] >= 0x80
    else:
        assert answer[0] == DISCONNECT


def test_half_a_packet_and_a_reset_are_nothing_special(gateway: GatewayProcess) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(connect_packet("half", V5)[:7])
    with RawClient(gateway.port) as client:
        client.connect("half", V5)
