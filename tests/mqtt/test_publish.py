"""PUBLISH from clients: what is stored, when it is acknowledged, what is refused (3.3, 4.3)."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import (
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from gateway.partitioner import partition_for
from tests.mqtt.world import Client, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def publish(number: int, qos: int = 1, topic: str = "a/b", **more: Any) -> Publish:
    return Publish(
        topic=topic,
        payload=b"payload %d" % number,
        qos=qos,
        packet_id=number if qos else 0,
        **more,
    )


def ended_with(client: Client) -> int:
    """The reason code of the DISCONNECT that ended it."""
    answer = client.got()[-1]
    assert isinstance(answer, Disconnect)
    assert client.is_closed
    return answer.code


# -- what is stored


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_becomes_a_record(world: World, level: int, qos: int) -> None:
    client = world.connected("device-0042", level)
    client.send(publish(7, qos))
    world.commit()
    partition = world.log.partition("mqtt", partition_for(b"device-0042", 3))
    (record,) = partition.records(0, count_max=9)
    assert record.key == b"device-0042"
    assert record.value == b"payload 7"
    qos_headers = [] if qos == 1 else [(b"mqtt.qos", b"%d" % qos)]
    assert list(record.headers) == [(b"mqtt.topic", b"a/b"), *qos_headers]


def test_the_retain_flag_is_stored(world: World) -> None:
    client = world.connected(level=4)
    client.send(publish(1, retain=True))
    world.commit()
    assert list(world.records()[0].headers) == [(b"mqtt.topic", b"a/b"), (b"mqtt.retain", b"1")]


def test_a_duplicate_of_qos_1_is_marked(world: World) -> None:
    client = world.connected(level=4)
    client.send(publish(1), publish(2, dup=True), publish(3))
    world.commit()
    marked = [(b"mqtt.dup", b"1") in record.headers for record in world.records()]
    assert marked == [False, True, False]


def test_properties_of_5_0_become_headers(world: World) -> None:
    properties = Properties(
        payload_format=1,
        message_expiry_s=60,
        content_type="application/cbor",
        response_topic="answer/here",
        correlation_data=b"\x00\xff",
        user_properties=(("unit", "°C"), ("unit", "K"), ("", "")),
    )
    client = world.connected()
    client.send(publish(1, properties=properties))
    world.commit()
    (record,) = world.records()
    assert list(record.headers) == [
        (b"mqtt.topic", b"a/b"),
        (b"mqtt.message-expiry", b"60"),
        (b"mqtt.payload-format", b"1"),
        (b"mqtt.content-type", b"application/cbor"),
        (b"mqtt.response-topic", b"answer/here"),
        (b"mqtt.correlation-data", b"\x00\xff"),
        (b"unit", "°C".encode()),
        (b"unit", b"K"),
        (b"", b""),
    ]


# Devices that mix topics, sizes, qualities and properties: the parser's guess is often wrong.
messages = st.builds(
    lambda qos, topic, size, dup, properties: (qos, topic, size, dup and qos > 0, properties),
    st.sampled_from([0, 1, 1, 1, 2]),
    st.sampled_from(["a", "b", "a/b/c", "é" * 70]),
    st.sampled_from([0, 1, 3, 90, 100, 130, 20_000]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from(
        [
            Properties(),
            Properties(),
            Properties(content_type="x"),
            Properties(user_properties=(("k", "v" * 200),)),
        ]
    ),
)


@settings(max_examples=80, deadline=None)
@given(
    sent=st.lists(messages, min_size=1, max_size=40),
    level=st.sampled_from([4, 5]),
    seed=st.integers(0, 1 << 32),
)
def test_however_it_is_cut_into_reads_every_message_is_stored_once_and_acknowledged(
    sent: list[tuple[int, str, int, bool, Properties]],
    level: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = World(tmp_path_factory.mktemp("log"))
    client = world.connected("one", level)
    rng = Random(seed)
    packets = [
        Publish(
            topic=topic,
            payload=rng.randbytes(size),
            qos=qos,
            packet_id=number + 1 if qos else 0,
            dup=dup,
            properties=properties if level == 5 else Properties(),
        )
        for number, (qos, topic, size, dup, properties) in enumerate(sent)
    ]
    data = b"".join(encode_packet(packet, level) for packet in packets)
    while data:
        size = rng.choice([1, 2, 5, 40, 200, 5_000, 100_000])
        client.send_bytes(data[:size])
        data = data[size:]
        if rng.random() < 0.2:
            world.commit()
    world.commit()
    assert [(r.value, r.headers[0][1].decode()) for r in world.records()] == [
        (packet.payload, packet.topic) for packet in packets
    ]
    expected: list[Packet] = []
    for packet in packets:
        if packet.qos:
            kind = PubAck if packet.qos == 1 else PubRec
            expected.append(kind(packet_id=packet.packet_id))
    # [MQTT-4.6.0-2], [MQTT-4.6.0-3]: acknowledgements in the order of the messages, by kind.
    got = client.got()
    for kind in (PubAck, PubRec):
        assert [a for a in got if type(a) is kind] == [a for a in expected if type(a) is kind]
    assert len(got) == len(expected)
    assert client.connection.unacknowledged_count == 0
    world.close()


# -- when it is acknowledged


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize(("qos", "kind"), [(1, PubAck), (2, PubRec)])
def test_nothing_is_acknowledged_before_it_is_durable(
    world: World, level: int, qos: int, kind: type[PubAck] | type[PubRec]
) -> None:
    """Promise 1: the acknowledgement means that fdatasync returned."""
    client = world.connected(level=level)
    client.send(publish(1, qos))
    assert client.got() == []
    frame, token = world.committer.cut()
    client.send(publish(2, qos))
    assert client.got() == []
    world.committer.make_durable(frame, token)
    assert client.got() == [kind(packet_id=1)]
    assert client.committed() == [kind(packet_id=2)]


def test_a_round_is_acknowledged_in_one_write(world: World) -> None:
    client = world.connected(level=4)
    for number in range(1, 6):
        client.send(publish(number))
    writes: list[bytes] = []
    client.connection._write = writes.append  # type: ignore[assignment]
    world.commit()
    assert writes == [b"".join(b"\x40\x02" + n.to_bytes(2) for n in range(1, 6))]


def test_a_client_that_is_gone_is_not_written_to(world: World) -> None:
    client = world.connected(level=4)
    client.send(publish(1))
    client.lose()
    world.commit()
    assert client.output == b""
    assert world.values() == [b"payload 1"]


def test_what_comes_after_the_end_is_not_taken(world: World) -> None:
    old = world.connected("same", 4)
    old.send(publish(1))
    world.connected("same", 4)
    old.send(publish(2))
    old.send(publish(3), publish(4))
    world.commit()
    assert world.values() == [b"payload 1"]


def test_nothing_is_acknowledged_after_the_log_failed(world: World) -> None:
    old, new = world.connected("old", 4), world.connected("new", 5)
    for client in (old, new):
        client.send(publish(1))
    world.committer.cut()
    world.committer.fail()
    assert old.is_closed and old.output == b""
    assert ended_with(new) == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR


# -- QoS 2: exactly once


def test_qos_2_is_received_released_and_completed(world: World) -> None:
    """4.3.3"""
    client = world.connected(level=4)
    client.send(publish(1, 2))
    assert client.committed() == [PubRec(packet_id=1)]
    client.send(PubRel(packet_id=1))
    assert client.committed() == [PubComp(packet_id=1)]


def test_a_re_sent_qos_2_message_is_answered_and_not_stored_again(world: World) -> None:
    """[MQTT-4.3.3-10]"""
    client = world.connected(level=4)
    client.send(publish(1, 2))
    assert client.committed() == [PubRec(packet_id=1)]
    client.send(publish(1, 2, dup=True))
    assert client.committed() == [PubRec(packet_id=1)]
    assert len(world.values()) == 1
    client.send(PubRel(packet_id=1))
    world.commit()
    client.send(publish(1, 2))
    world.commit()
    assert len(world.values()) == 2


def test_a_pubrel_of_an_unknown_identifier_is_completed(world: World) -> None:
    """3.7.2.1: 0x92 in 5.0; in 3.1.1 there is only PUBCOMP."""
    old, new = world.connected("old", 4), world.connected("new", 5)
    old.send(PubRel(packet_id=9))
    new.send(PubRel(packet_id=9))
    assert old.committed() == [PubComp(packet_id=9)]
    assert new.got() == [PubComp(packet_id=9, code=ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)]


HOW: dict[int, dict[str, Any]] = {
    4: {"clean": False},
    5: {"clean": False, "properties": Properties(session_expiry_s=3600)},
}


@pytest.mark.parametrize("level", [4, 5])
def test_a_qos_2_message_re_sent_after_a_crash_is_not_stored_again(
    world: World, level: int
) -> None:
    client = world.connected(level=level, **HOW[level])
    client.send(publish(1, 2), publish(2, 2))
    assert client.committed() == [PubRec(packet_id=1), PubRec(packet_id=2)]
    client.send(publish(3, 2))  # never durable
    world.restart()
    again = world.client(level)
    assert again.connect(**HOW[level]).session_present
    again.send(*(publish(number, 2, dup=True) for number in (1, 2, 3)))
    assert again.committed() == [PubRec(packet_id=number) for number in (1, 2, 3)]
    assert sorted(world.values()) == [b"payload 1", b"payload 2", b"payload 3"]


def test_a_released_identifier_is_new_again_after_a_crash(world: World) -> None:
    """PUBCOMP is sent when the identifier's removal is durable: a crash cannot bring it back."""
    client = world.connected(level=4, **HOW[4])
    client.send(publish(1, 2))
    world.commit()
    client.got()
    client.send(PubRel(packet_id=1))
    assert client.got() == []
    assert client.committed() == [PubComp(packet_id=1)]
    world.restart()
    again = world.connected(level=4, **HOW[4])
    again.send(Publish(topic="a/b", payload=b"another", qos=2, packet_id=1))
    world.commit()
    assert world.values() == [b"payload 1", b"another"]


def test_a_clean_start_forgets_the_identifiers_before_it_is_answered(world: World) -> None:
    client = world.connected(level=4, **HOW[4])
    client.send(publish(1, 2))
    world.commit()
    client.lose()
    other = world.client(4)
    other.send_bytes(bytes.fromhex("10 12 0004 4D515454 04 02 0000 0006") + b"device" + b"\xc0\0")
    assert other.got() == [], "a CONNACK that a crash could take back"
    first, second = other.committed()
    assert (type(first).__name__, type(second).__name__) == ("ConnAck", "PingResp")
    world.restart()
    assert not world.client(4).connect(**HOW[4]).session_present


# -- limits and faults


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        ("30 04 0002 C328", ReasonCode.MALFORMED_PACKET),
        ("30 05 0003 610062", ReasonCode.MALFORMED_PACKET),
        ("36 06 0001 61 0001 00", ReasonCode.MALFORMED_PACKET),
        ("38 04 0001 61 00", ReasonCode.MALFORMED_PACKET),
        ("30 03 0009 61", ReasonCode.MALFORMED_PACKET),
        ("30 00", ReasonCode.MALFORMED_PACKET),
        ("32 03 0001 61", ReasonCode.MALFORMED_PACKET),
        ("30 06 0003 612F23 00", ReasonCode.TOPIC_NAME_INVALID),
        ("30 04 0001 2B 00", ReasonCode.TOPIC_NAME_INVALID),
        ("30 03 0000 00", ReasonCode.PROTOCOL_ERROR),
        ("32 06 0001 61 0000 00", ReasonCode.PROTOCOL_ERROR),
        ("34 06 0001 61 0000 00", ReasonCode.PROTOCOL_ERROR),
        ("30 07 0001 61 03 23 0000", ReasonCode.TOPIC_ALIAS_INVALID),
        ("30 07 0001 61 03 23 FFFF", ReasonCode.TOPIC_ALIAS_INVALID),
        ("30 06 0000 03 23 0001", ReasonCode.PROTOCOL_ERROR),
        ("30 06 0001 61 02 0B 01", ReasonCode.PROTOCOL_ERROR),
        ("30 06 0001 61 02 01 02", ReasonCode.PROTOCOL_ERROR),
        ("30 FF FF FF 7F", ReasonCode.PACKET_TOO_LARGE),
        ("30 FF FF FF FF", ReasonCode.MALFORMED_PACKET),
        ("00 00", ReasonCode.MALFORMED_PACKET),
        ("60 02 0001", ReasonCode.MALFORMED_PACKET),
        ("20 03 00 00 00", ReasonCode.PROTOCOL_ERROR),
        ("D0 00", ReasonCode.PROTOCOL_ERROR),
        ("F0 00", ReasonCode.PROTOCOL_ERROR),
    ],
)
def test_a_fault_ends_a_5_0_connection_with_its_reason(
    world: World, packet: str, reason: ReasonCode
) -> None:
    """4.13; what came before the fault is stored."""
    client = world.connected()
    client.send_bytes(encode_packet(publish(1, 0), 5) + bytes.fromhex(packet))
    assert ended_with(client) == reason
    world.commit()
    assert world.values() == [b"payload 1"]


@pytest.mark.parametrize(
    "packet",
    [
        "30 04 0002 C328",
        "30 06 0003 612F23 00",
        "30 03 0000 00",
        "32 06 0001 61 0000 00",
        "36 06 0001 61 0001 00",
        "30 FF FF FF 7F",
        "20 02 00 00",
        "F0 00",
        "10 0C 0004 4D515454 04 02 0000 0000",
    ],
)
def test_a_fault_closes_a_3_1_1_connection(world: World, packet: str) -> None:
    """3.1.1 4.8: there is nothing to say it with."""
    client = world.connected(level=4)
    client.send_bytes(bytes.fromhex(packet))
    assert client.is_closed
    assert client.output == b""


def test_a_topic_beyond_the_limits_is_refused(world: World) -> None:
    for topic in ("x" * (world.limits.topic_bytes_max + 1), "/" * world.limits.topic_levels_max):
        client = world.connected()
        client.send(publish(1, topic=topic))
        assert ended_with(client) == ReasonCode.TOPIC_NAME_INVALID


def test_identifier_0_is_found_among_many(world: World) -> None:
    client = world.connected(level=4)
    bad = encode_packet(publish(2), 4).replace(b"\0\2payload", b"\0\0payload")
    client.send_bytes(encode_packet(publish(1), 4) + bad + encode_packet(publish(3), 4))
    assert client.is_closed


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("body", ["0003 612F62", "0003 612F62 00", "0003 61", "0004 612F62 0001"])
def test_a_packet_like_the_one_before_but_too_short_takes_nothing_from_the_next(
    world: World, level: int, body: str
) -> None:
    """The parser's guess is by bytes: it must not see a packet's end where another begins."""
    client = world.connected(level=level)
    short = bytes.fromhex(body)
    following = encode_packet(publish(2), level)
    client.send_bytes(
        encode_packet(publish(1), level) + bytes((0x32, len(short))) + short + following * 3
    )
    assert client.is_closed
    world.commit()
    assert world.values() == [b"payload 1"]


def test_a_whole_packet_over_the_limit_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, packet_bytes_max=1_000)
    client = world.connected()
    client.send(publish(1), Publish(topic="a/b", payload=bytes(1_000), qos=1, packet_id=2))
    assert ended_with(client) == ReasonCode.PACKET_TOO_LARGE
    world.commit()
    assert world.values() == [b"payload 1"]


def test_identifier_0_is_found_in_a_lone_packet(world: World) -> None:
    client = world.connected(level=4)
    client.send(publish(1))
    client.send_bytes(encode_packet(publish(2), 4).replace(b"\0\2payload", b"\0\0payload"))
    assert client.is_closed
    assert client.committed() == []


def test_more_than_receive_maximum_is_a_5_0_fault(tmp_path: Path) -> None:
    """[MQTT-3.3.4-7], [MQTT-3.3.4-8]"""
    world = World(tmp_path, receive_max=3)
    client = world.connected()
    client.send(publish(1), publish(2), publish(3))
    assert len(client.committed()) == 3
    client.send(publish(4), publish(5), publish(6), publish(7))
    assert ended_with(client) == ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


def test_lone_messages_beyond_receive_maximum_are_a_5_0_fault(tmp_path: Path) -> None:
    world = World(tmp_path, receive_max=3)
    client = world.connected()
    for number in range(1, 6):
        client.send(publish(number))
    assert ended_with(client) == ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


def test_unreleased_qos_2_counts_against_receive_maximum(tmp_path: Path) -> None:
    world = World(tmp_path, receive_max=3)
    client = world.connected()
    client.send(*(publish(number, 2) for number in (1, 2, 3)))
    world.commit()
    client.got()
    client.send(publish(4, 2))
    assert ended_with(client) == ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


def test_a_3_1_1_client_beyond_the_window_is_not_read_until_it_is_acknowledged(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, receive_max=3)
    client = world.connected(level=4)
    client.send(*(publish(number) for number in range(1, 6)))
    assert client.is_paused
    assert len(client.committed()) == 5
    assert not client.is_paused


def test_a_topic_alias_stands_for_its_topic_until_it_is_set_again(world: World) -> None:
    """3.3.2.3.4"""
    client = world.connected()
    alias = Properties(topic_alias=3)
    topics = ["first", "", "", "second", "", "first", "", "third", ""]
    client.send(*(publish(n + 1, topic=topic, properties=alias) for n, topic in enumerate(topics)))
    world.commit()
    assert [record.headers[0][1].decode() for record in world.records()] == [
        "first", "first", "first", "second", "second", "first", "first", "third", "third",
    ]  # fmt: skip


def test_topic_aliases_end_with_the_connection(world: World) -> None:
    """[MQTT-3.3.2-7]"""
    client = world.connected()
    client.send(publish(1, topic="t", properties=Properties(topic_alias=1)))
    again = world.connected()
    again.send(publish(2, topic="", properties=Properties(topic_alias=1)))
    assert ended_with(again) == ReasonCode.PROTOCOL_ERROR


def test_without_room_5_0_is_told_and_3_1_1_is_left(world: World) -> None:
    """3.4.2.1: 0x97; 3.1.1 [MQTT-3.3.5-2]: either acknowledge or close."""
    world.log.stalled = "the disk is full"
    world.log.tail_bytes = world.log.limits.tail_bytes_max + 1
    new, old = world.connected("new", 5), world.connected("old", 4)
    quiet = world.connected("quiet", 4)
    new.send(publish(1), publish(2), publish(3, 2))
    old.send(publish(1))
    quiet.send(publish(1, 0))
    assert new.committed() == [
        PubAck(packet_id=1, code=ReasonCode.QUOTA_EXCEEDED),
        PubAck(packet_id=2, code=ReasonCode.QUOTA_EXCEEDED),
        PubRec(packet_id=3, code=ReasonCode.QUOTA_EXCEEDED),
    ]
    assert old.is_closed and old.output == b""
    assert not quiet.is_closed
    assert world.broker.counters.messages_refused == 5
    world.log.stalled = ""
    new.send(publish(3, 2), publish(4))
    assert new.committed() == [PubRec(packet_id=3), PubAck(packet_id=4)]
    assert world.values() == [b"payload 3", b"payload 4"]


def test_nobody_is_read_while_the_log_is_congested(world: World) -> None:
    """What is read is in memory: thousands of clients may each have a read in one turn."""
    clients = [world.connected(name) for name in ("busy", "idle")]
    world.committer.congested = True
    clients[0].send(publish(1))
    world.committer.cut()
    clients.append(world.connected("late"))
    assert [client.is_paused for client in clients] == [True, True, True]
    world.committer.relieve()
    assert [client.is_paused for client in clients] == [False, False, False]


def test_the_listener_is_shown_a_sample(world: World) -> None:
    client = world.connected("dev")
    for number in range(1, 5):
        client.send(publish(number))
    world.pass_seconds(1)
    client.send(publish(5), publish(6))
    assert [event for event in world.events.seen if event[0] == "message"] == [
        ("message", "dev", "a/b", b"payload 1"),
        ("message", "dev", "a/b", b"payload 6"),
    ]


def test_a_changed_routing_table_holds_for_open_connections(world: World) -> None:
    from gateway.routing import ConstantKey, Router, RouteRule

    client = world.connected("dev")
    client.send(publish(1))
    world.commit()
    rule = RouteRule(topic_filter="#", stream="mqtt", key=ConstantKey("fixed"))
    world.broker.ingest.replace_router(Router({"mqtt": 3}, [rule]))
    world.broker.routes_changed()
    client.send(publish(2))
    world.commit()
    assert sorted(record.key or b"" for record in world.records()) == [b"dev", b"fixed"]


@pytest.mark.parametrize("level", [4, 5])
def test_mutated_traffic_ends_in_a_reason_and_never_in_an_exception(
    tmp_path: Path, level: int
) -> None:
    world = World(tmp_path)
    rng = Random(20)
    packets: list[Packet] = [publish(1), publish(2, 0), publish(3, 2), PubRel(packet_id=3)]
    packets += [PingReq(), publish(4, topic="x")]
    for turn in range(1_500):
        client = world.connected(f"fuzz-{turn % 7}", level)
        client.got()
        data = bytearray(b"".join(encode_packet(rng.choice(packets), level) for _ in range(8)))
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        client.send_bytes(bytes(data))
        if client.is_closed and level == 5 and b"\xe0" not in data:
            assert ended_with(client) >= ReasonCode.UNSPECIFIED_ERROR
        client.lose()
        if turn % 50 == 0:
            world.commit()
    world.commit()
