"""CONNECT and CONNACK, keep-alive, take-over, wills: sections 3.1, 3.2 and 3.14."""

from pathlib import Path
from typing import Any

import pytest

from gateway.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Publish,
    Will,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.mqtt.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_3_1_1_client_is_let_in(world: World) -> None:
    client = world.client(4)
    assert client.connect() == ConnAck(session_present=False, code=0)
    assert world.events.seen == [("connected", "device", 4, 0)]


def test_a_5_0_client_is_told_the_terms(world: World) -> None:
    """3.2.2.3: what the server wants or cannot do is in CONNACK."""
    properties = world.client(5).connect(keep_alive_s=30).properties
    assert properties.retain_available is None, "they are"
    assert properties.shared_subscription_available == 1
    assert properties.receive_maximum == world.limits.receive_max
    assert properties.topic_alias_maximum == world.limits.topic_alias_max
    assert properties.maximum_packet_bytes == world.limits.packet_bytes_max
    assert properties.server_keep_alive_s is None
    assert properties.assigned_client_id is None


def test_a_5_0_client_without_an_id_is_given_one(world: World) -> None:
    """[MQTT-3.1.3-6], [MQTT-3.1.3-7]"""
    first = world.client(5).connect("").properties.assigned_client_id
    second = world.client(5).connect("").properties.assigned_client_id
    assert first and second and first != second


def test_a_3_1_1_client_without_an_id_needs_a_clean_session(world: World) -> None:
    """3.1.1 [MQTT-3.1.3-7], [MQTT-3.1.3-8]: return code 0x02 and close."""
    assert world.client(4).connect("", clean=True).code == 0
    refused = world.client(4)
    assert refused.connect("", clean=False).code == 2
    assert refused.is_closed


def test_a_client_id_over_the_limit_is_refused_by_name(world: World) -> None:
    old, new = world.client(4), world.client(5)
    assert old.connect("x" * 257).code == 2
    assert new.connect("x" * 257).code == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
    assert old.is_closed and new.is_closed


@pytest.mark.parametrize(
    ("connect", "answer"),
    [
        # 3.1.1 [MQTT-3.1.2-2]: return code 0x01
        ("10 0C 0004 4D515454 03 02 0000 0000", "20 02 00 01"),
        ("10 0E 0006 4D5149736470 04 02 0000 0000", "20 02 00 01"),
        ("10 0C 0004 4D515454 00 02 0000 0000", "20 02 00 01"),
    ],
)
def test_an_older_protocol_level_is_answered_in_3_1_1(
    world: World, connect: str, answer: str
) -> None:
    client = world.client()
    client.send_bytes(bytes.fromhex(connect))
    assert client.output == bytes.fromhex(answer)
    assert client.is_closed


def test_a_newer_protocol_level_is_answered_in_5_0(world: World) -> None:
    """5.0 [MQTT-3.1.2-2]: reason code 0x84."""
    client = world.client(5)
    client.send_bytes(bytes.fromhex("10 0D 0004 4D515454 06 02 0000 00 0000"))
    (answer,) = client.got()
    assert isinstance(answer, ConnAck)
    assert answer.code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
    assert client.is_closed


@pytest.mark.parametrize(
    "data",
    ["30 03 0001 61", "20 02 0000", "E0 00", "C0 00", "00 00", "FF"],
    ids=["PUBLISH", "CONNACK (CVE-2021-28166)", "DISCONNECT", "PINGREQ", "type 0", "half a header"],
)
@pytest.mark.parametrize("level", [4, 5])
def test_anything_but_connect_first_ends_the_connection(
    world: World, data: str, level: int
) -> None:
    """[MQTT-3.1.0-1]"""
    client = world.client(level)
    client.send_bytes(bytes.fromhex(data))
    assert client.is_closed
    assert client.output == b""
    assert world.records() == []


def test_a_large_first_packet_is_refused_by_its_length(world: World) -> None:
    """CVE-2017-7651, CVE-2023-0809: nothing of it is waited for or kept."""
    client = world.client()
    client.send_bytes(b"\x10\xff\xff\xff\x7f")
    assert client.is_closed


@pytest.mark.parametrize(
    ("connect", "reason"),
    [
        ("10 10 0004 4D515454 05 02 0000 03 21 0000 0000", ReasonCode.PROTOCOL_ERROR),
        ("10 0D 0004 4D515454 05 03 0000 00 0000", ReasonCode.MALFORMED_PACKET),
        ("10 0D 0004 4D515454 05 02 0000 00 0009", ReasonCode.MALFORMED_PACKET),
        ("10 0E 0004 4D515454 05 02 0000 00 0001 00", ReasonCode.MALFORMED_PACKET),
        (
            "10 18 0004 4D515454 05 06 0000 00 0001 61 03 21 0001 0001 62 0001 63",
            ReasonCode.MALFORMED_PACKET,
        ),
    ],
    ids=["Receive Maximum 0", "reserved flag", "cut short", "NUL", "will property (CVE-2023-3592)"],
)
def test_a_bad_connect_of_5_0_is_answered_with_its_reason(
    world: World, connect: str, reason: ReasonCode
) -> None:
    """3.1.4, 4.13"""
    client = world.client(5)
    client.send_bytes(bytes.fromhex(connect))
    (answer,) = client.got()
    assert isinstance(answer, ConnAck)
    assert answer.code == reason
    assert client.is_closed


def test_a_second_connect_is_a_protocol_error(world: World) -> None:
    """[MQTT-3.1.0-2]"""
    client = world.connected(level=5)
    client.send(Connect(level=5, client_id="device", clean_start=True, keep_alive_s=0))
    (answer,) = client.got()
    assert isinstance(answer, Disconnect)
    assert answer.code == ReasonCode.PROTOCOL_ERROR
    assert client.is_closed


def test_connect_may_come_byte_by_byte_with_more_behind_it(world: World) -> None:
    client = world.client(4)
    data = bytes.fromhex("10 0D 0004 4D515454 04 02 0000 0001 61 C0 00 C0 00")
    for byte in data:
        client.send_bytes(bytes((byte,)))
    assert client.got() == [ConnAck(session_present=False, code=0), PingResp(), PingResp()]


def test_packets_behind_connect_in_one_read_are_taken(world: World) -> None:
    client = world.client(4)
    client.send(
        Connect(level=4, client_id="a", clean_start=True, keep_alive_s=0),
        Publish(topic="t", payload=b"one", qos=1, packet_id=1),
        PingReq(),
    )
    assert client.got() == [ConnAck(session_present=False, code=0), PingResp()]
    world.commit()
    assert world.values() == [b"one"]


def test_a_slot_that_says_nothing_is_taken_back(world: World) -> None:
    """SlowITe (CVE-2020-13849): time to CONNECT is the server's."""
    client = world.client()
    client.send_bytes(b"\x10")
    world.pass_seconds(9)
    assert not client.is_closed
    world.pass_seconds(2)
    assert client.is_closed


def test_a_silent_client_is_ended_after_one_and_a_half_keep_alives(world: World) -> None:
    """[MQTT-3.1.2-24], 5.0 [MQTT-3.1.2-22]"""
    old = world.connected("old", 4, keep_alive_s=10)
    new = world.connected("new", 5, keep_alive_s=10)
    world.pass_seconds(14)
    assert [old.is_closed, new.is_closed] == [False, False]
    world.pass_seconds(3)
    assert [old.is_closed, old.output] == [True, b""]
    (answer,) = new.got()
    assert isinstance(answer, Disconnect) and answer.code == ReasonCode.KEEP_ALIVE_TIMEOUT


def test_a_client_that_pings_stays(world: World) -> None:
    client = world.connected(level=4, keep_alive_s=10)
    for _ in range(5):
        world.pass_seconds(9)
        client.send(PingReq())
        assert client.got() == [PingResp()]
    assert not client.is_closed


def test_half_a_packet_is_no_sign_of_life(world: World) -> None:
    client = world.connected(level=4, keep_alive_s=10)
    client.send_bytes(b"\x30\x7f")
    for _ in range(20):
        world.pass_seconds(1)
        client.send_bytes(b"x")
    assert client.is_closed


@pytest.mark.parametrize("asked_s", [0, 50_000])
def test_the_longest_keep_alive_is_the_servers(world: World, asked_s: int) -> None:
    """[MQTT-3.1.2-21], 3.2.2.3.14"""
    answer = world.client(5).connect(keep_alive_s=asked_s)
    assert answer.properties.server_keep_alive_s == world.limits.keep_alive_s_max


@pytest.mark.parametrize("level", [4, 5])
def test_the_newer_connection_of_a_client_id_takes_over(world: World, level: int) -> None:
    """[MQTT-3.1.4-3]"""
    old = world.connected("same", level)
    new = world.connected("same", level)
    assert old.is_closed and not new.is_closed
    if level == 5:
        (answer,) = old.got()
        assert isinstance(answer, Disconnect) and answer.code == ReasonCode.SESSION_TAKEN_OVER
    old.lose()
    assert world.events.seen == [("connected", "same", level, new.connection.keep_alive_s)] * 2
    new.send(PingReq())
    assert new.got() == [PingResp()]


def test_extended_authentication_is_refused_by_name(world: World) -> None:
    """4.12: reason code 0x8C"""
    client = world.client(5)
    answer = client.connect(properties=Properties(authentication_method="SCRAM-SHA-1"))
    assert answer.code == ReasonCode.BAD_AUTHENTICATION_METHOD


# -- wills


WILL = Will(topic="will/of/device", payload=b"gone", qos=1)


@pytest.mark.parametrize("level", [4, 5])
def test_a_will_is_stored_when_the_network_is_cut(world: World, level: int) -> None:
    """[MQTT-3.1.2-8]"""
    client = world.connected(level=level, will=WILL)
    client.lose()
    world.commit()
    (record,) = world.records()
    assert record.value == b"gone"
    assert (b"mqtt.topic", b"will/of/device") in record.headers
    assert record.key == b"device"


def test_a_will_is_dropped_by_disconnect(world: World) -> None:
    """[MQTT-3.14.4-3]"""
    client = world.connected(will=WILL)
    client.send(Disconnect())
    client.lose()
    world.commit()
    assert client.is_closed
    assert world.records() == []
    assert world.events.seen[-1] == ("disconnected", "device", True)


def test_a_will_is_kept_by_disconnect_with_will(world: World) -> None:
    """3.14.2.1: reason code 0x04"""
    client = world.connected(will=WILL)
    client.send(Disconnect(code=ReasonCode.DISCONNECT_WITH_WILL))
    world.commit()
    assert world.values() == [b"gone"]


def test_a_will_is_stored_after_a_protocol_error_and_a_keep_alive(world: World) -> None:
    fault = world.connected("fault", will=WILL)
    fault.send_bytes(b"\x00\x00")
    silent = world.connected("silent", will=WILL, keep_alive_s=1)
    world.pass_seconds(4)
    world.commit()
    assert fault.is_closed and silent.is_closed
    assert [record.key for record in world.records()] in (
        [b"fault", b"silent"],
        [b"silent", b"fault"],
    )


def test_a_delayed_will_waits_and_is_dropped_when_the_client_comes_back(world: World) -> None:
    """[MQTT-3.1.3-9]"""
    will = Will(topic="w", payload=b"late", properties=Properties(will_delay_s=10))
    how: dict[str, Any] = {
        "clean": False,
        "properties": Properties(session_expiry_s=100),
        "will": will,
    }
    world.connected(**how).lose()
    world.pass_seconds(5)
    world.commit()
    assert world.values() == []
    again = world.connected(**how)
    world.pass_seconds(20)
    world.commit()
    assert world.values() == []
    again.lose()
    world.pass_seconds(12)
    world.commit()
    assert world.values() == [b"late"]


def test_a_will_does_not_wait_longer_than_the_session(world: World) -> None:
    """3.1.3.2.2; CVE-2019-11778"""
    will = Will(topic="w", payload=b"at the end", properties=Properties(will_delay_s=1_000))
    world.connected(clean=False, properties=Properties(session_expiry_s=3), will=will).lose()
    world.pass_seconds(5)
    world.commit()
    assert world.values() == [b"at the end"]


@pytest.mark.parametrize("topic", ["", "a/#", "+"])
def test_a_will_with_a_bad_topic_is_refused(world: World, topic: str) -> None:
    client = world.client(5)
    answer = client.connect(will=Will(topic=topic, payload=b""))
    assert answer.code == ReasonCode.TOPIC_NAME_INVALID
    assert client.is_closed


# -- when the server cannot


def test_nobody_is_let_in_after_the_log_failed(world: World) -> None:
    world.committer.fail()
    old, new = world.client(4), world.client(5)
    assert old.connect().code == 3
    assert new.connect().code == ReasonCode.SERVER_UNAVAILABLE


def test_nobody_is_let_in_beyond_the_sessions_that_are_kept(tmp_path: Path) -> None:
    world = World(tmp_path, sessions_max=1)
    world.connected("one")
    assert world.client(5).connect("two").code == ReasonCode.QUOTA_EXCEEDED
    assert world.client(4).connect("three").code == 3


def test_a_3_1_1_client_is_held_to_the_longest_keep_alive_unless_it_asks_for_none(
    tmp_path: Path,
) -> None:
    """3.1.1 3.1.2.10"""
    world = World(tmp_path, keep_alive_s_max=10)
    long, none = world.connected("long", 4, keep_alive_s=60_000), world.connected("none", 4)
    world.pass_seconds(14)
    assert [client.is_closed for client in (long, none)] == [False, False]
    world.pass_seconds(3)
    assert [client.is_closed for client in (long, none)] == [True, False]


def test_the_answers_to_a_read_are_one_write_in_order(world: World) -> None:
    client = world.connected()
    writes: list[bytes] = []
    client.connection._write = writes.append  # type: ignore[assignment]
    client.send_bytes(b"\xc0\0" * 1_000)
    assert writes == [b"\xd0\0" * 1_000]
    writes.clear()
    client.send_bytes(b"\xc0\0\xc0\0\x00\0")
    assert [data[0] for data in writes] == [0xD0, 0xE0], "they precede the DISCONNECT"
    assert writes[0] == b"\xd0\0" * 2
