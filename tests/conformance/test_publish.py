"""PUBLISH and its acknowledgements, as they come in: sections 3.3 to 3.7, and the receiver's half
of 4.3."""

from pathlib import Path

import pytest

from gateway.mqtt.packets import Disconnect, PubAck, PubComp, PubRec, PubRel
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import (
    LEVELS,
    assert_ended,
    kept,
    publish,
    published,
    reason_of_end,
    subscribed,
)
from tests.e2e.raw_mqtt import packet, text
from tests.mqtt.world import Client, World


@pytest.fixture(params=LEVELS)
def writer(world: World, request: pytest.FixtureRequest) -> Client:
    return world.connected("writer", request.param)


def test_qos_3_ends_the_connection(world: World, writer: Client) -> None:
    """[MQTT-3.3.1-4]"""
    writer.send_bytes(packet(0x36, text("a") + b"\0\1" + b"\0" * (writer.level == 5)))
    assert_ended(writer, ReasonCode.MALFORMED_PACKET)


def test_dup_at_qos_0_ends_the_connection(world: World, writer: Client) -> None:
    """[MQTT-3.3.1-2]"""
    writer.send_bytes(packet(0x38, text("a") + b"\0" * (writer.level == 5)))
    assert_ended(writer, ReasonCode.MALFORMED_PACKET)


@pytest.mark.parametrize("topic", ["#", "+", "a/+", "a/#", "a+b", "a#"])
def test_a_wildcard_in_a_topic_name_ends_the_connection(
    world: World, writer: Client, topic: str
) -> None:
    """3.1.1 [MQTT-3.3.2-2], [MQTT-4.7.1-1]; 5.0 [MQTT-3.3.2-2], [MQTT-4.7.0-1]"""
    writer.send(publish(topic=topic))
    assert_ended(writer, ReasonCode.TOPIC_NAME_INVALID)
    assert world.values() == []


def test_an_empty_topic_name_ends_the_connection(world: World, writer: Client) -> None:
    """[MQTT-4.7.3-1]; in 5.0 it is a Protocol Error without an alias (3.3.2.1)."""
    writer.send(publish(topic=""))
    assert_ended(writer, ReasonCode.PROTOCOL_ERROR)


def test_each_qos_has_its_answer(world: World, writer: Client) -> None:
    """[MQTT-3.3.4-1]; 3.1.1 [MQTT-4.3.2-2], [MQTT-4.3.3-2]; 5.0 [MQTT-4.3.2-4], [MQTT-4.3.3-8]:
    the identifier of the message, and not before the server owns it."""
    writer.send(publish(), publish(qos=1, packet_id=7), publish(qos=2, packet_id=8))
    assert writer.got() == []
    assert sorted(map(str, writer.committed())) == sorted(
        map(str, [PubAck(packet_id=7), PubRec(packet_id=8)])
    )
    assert len(world.values()) == 3


def test_the_answers_of_one_qos_come_in_order(world: World, writer: Client) -> None:
    """[MQTT-4.6.0-2], [MQTT-4.6.0-3] bind clients; the server does the same."""
    for qos, kind in ((1, PubAck), (2, PubRec)):
        ids = [9, 2, 77, 3]
        writer.send(*[publish(qos=qos, packet_id=packet_id) for packet_id in ids])
        answers = [one for one in writer.committed() if isinstance(one, kind)]
        assert [answer.packet_id for answer in answers] == ids


def test_an_identifier_is_new_after_its_puback(world: World, writer: Client) -> None:
    """3.1.1 [MQTT-4.3.2-2], 5.0 [MQTT-4.3.2-5]: whatever DUP says."""
    for payload, dup in ((b"1", False), (b"2", False), (b"3", True)):
        writer.send(publish(payload, qos=1, packet_id=7, dup=dup))
        assert writer.committed() == [PubAck(packet_id=7)]
    assert world.values() == [b"1", b"2", b"3"]


def test_a_message_of_qos_2_is_taken_once_until_it_is_released(
    world: World, writer: Client
) -> None:
    """3.1.1 [MQTT-4.3.3-2]; 5.0 [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.3.3-12]: each PUBLISH
    has its PUBREC, nobody gets it twice, and after PUBCOMP the identifier is new."""
    reader = world.connected("reader")
    subscribed(reader, "a/b", qos=0)
    for dup in (False, True, False):
        writer.send(publish(b"once", qos=2, packet_id=7, dup=dup))
        assert writer.committed() == [PubRec(packet_id=7)]
    writer.send(PubRel(packet_id=7))
    assert writer.committed() == [PubComp(packet_id=7)]
    writer.send(publish(b"again", qos=2, packet_id=7))
    assert writer.committed() == [PubRec(packet_id=7)]
    assert [message.payload for message in published(reader)] == [b"once", b"again"]


def test_a_released_identifier_may_be_released_again(world: World, writer: Client) -> None:
    """3.1.1 [MQTT-4.3.3-2], 5.0 [MQTT-4.3.3-11], [MQTT-3.7.2-1]: PUBCOMP, with 0x92 in 5.0."""
    writer.send(PubRel(packet_id=9))
    code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if writer.level == 5 else 0
    assert writer.committed() == [PubComp(packet_id=9, code=code)]


@pytest.mark.parametrize("level", LEVELS)
def test_qos_2_is_exactly_once_over_a_reconnect_and_a_crash(world: World, level: int) -> None:
    """3.1.1 [MQTT-4.3.3-2], [MQTT-4.1.0-1]; 5.0 [MQTT-4.3.3-10], [MQTT-3.1.2-23]"""
    writer = world.connected("writer", level, **kept(level))
    writer.send(publish(b"once", qos=2, packet_id=7))
    writer.committed()
    for _ in range(2):
        writer = world.connected("writer", level, **kept(level))
        writer.send(publish(b"once", qos=2, packet_id=7, dup=True))
        assert writer.committed() == [PubRec(packet_id=7)]
        world.restart()
    assert world.values() == [b"once"]


def test_qos_2_is_acknowledged_to_the_end_though_it_has_expired(world: World) -> None:
    """5.0 [MQTT-4.3.3-13]"""
    writer = world.connected("writer")
    properties = Properties(message_expiry_s=1)
    writer.send(publish(qos=2, packet_id=7, properties=properties))
    assert writer.committed() == [PubRec(packet_id=7)]
    world.pass_seconds(5)
    writer.send(publish(qos=2, packet_id=7, dup=True, properties=properties), PubRel(packet_id=7))
    assert writer.committed() == [PubRec(packet_id=7), PubComp(packet_id=7)]


def test_what_the_log_does_not_take_is_refused(world: World, writer: Client) -> None:
    """5.0 [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-4.3.3-9]: 0x97, and the identifier is new again;
    3.1.1 [MQTT-3.3.5-2], [MQTT-4.8.0-2]: the connection is closed, nothing is acknowledged."""
    world.log.stalled = "the disk is full"
    world.log.tail_bytes = world.log.limits.tail_bytes_max + 1
    writer.send(publish(b"no", qos=1, packet_id=5), publish(b"no", qos=2, packet_id=6))
    answers = writer.committed()
    assert writer.is_closed == (writer.level == 4)
    if writer.level == 4:
        assert answers == []
        return
    code = ReasonCode.QUOTA_EXCEEDED
    assert answers == [PubAck(packet_id=5, code=code), PubRec(packet_id=6, code=code)]
    world.log.stalled = ""
    writer.send(publish(b"new", qos=2, packet_id=6))
    assert writer.committed() == [PubRec(packet_id=6)]
    assert world.values() == [b"new"]


# -- 5.0 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["#", "+", "a/+", "a/#"])
def test_a_response_topic_with_wildcards_ends_the_connection(world: World, topic: str) -> None:
    """5.0 [MQTT-3.3.2-14]"""
    writer = world.connected()
    writer.send(publish(properties=Properties(response_topic=topic)))
    assert_ended(writer, ReasonCode.PROTOCOL_ERROR)


def test_a_subscription_identifier_from_a_client_ends_the_connection(world: World) -> None:
    """5.0 [MQTT-3.3.4-6]"""
    writer = world.connected()
    writer.send(publish(properties=Properties(subscription_ids=(1,))))
    assert_ended(writer, ReasonCode.PROTOCOL_ERROR)


def test_every_topic_alias_up_to_the_maximum_is_taken(world: World) -> None:
    """5.0 [MQTT-3.3.2-12]"""
    writer = world.client(5)
    maximum = writer.connect().properties.topic_alias_maximum
    assert maximum
    reader = world.connected("reader")
    subscribed(reader, "#", qos=0)
    for alias in range(1, maximum + 1):
        writer.send(publish(topic=f"t/{alias}", properties=Properties(topic_alias=alias)))
    published(reader)
    for alias in range(1, maximum + 1):
        writer.send(publish(topic="", properties=Properties(topic_alias=alias)))
    assert [message.topic for message in published(reader)] == [
        f"t/{alias}" for alias in range(1, maximum + 1)
    ]


def test_topic_aliases_end_with_their_connection(world: World) -> None:
    """5.0 [MQTT-3.3.2-7]"""
    writer = world.connected(**kept(5))
    writer.send(publish(topic="t", properties=Properties(topic_alias=1)))
    writer.lose()
    writer = world.connected(**kept(5))
    writer.send(publish(topic="", properties=Properties(topic_alias=1)))
    assert_ended(writer, ReasonCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("beyond", [0, 1])
def test_more_than_receive_maximum_ends_the_connection(
    tmp_path: Path, qos: int, beyond: int
) -> None:
    """5.0 [MQTT-3.3.4-7], [MQTT-4.9.0-2]"""
    world = World(tmp_path, receive_max=5)
    writer = world.client(5)
    assert writer.connect().properties.receive_maximum == 5
    writer.send(*[publish(qos=qos, packet_id=number) for number in range(1, 6 + beyond)])
    world.commit()
    if beyond:
        assert_ended(writer, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
    else:
        assert not writer.is_closed
    world.close()


def test_receive_maximum_counts_both_qos_together(tmp_path: Path) -> None:
    """5.0 [MQTT-3.3.4-7]: PUBREC does not give a place back, PUBCOMP does."""
    world = World(tmp_path, receive_max=3)
    writer = world.connected()
    for number in (1, 2):
        writer.send(publish(qos=2, packet_id=number))
    world.commit()
    writer.send(publish(qos=1, packet_id=3))
    world.commit()
    writer.send(PubRel(packet_id=1))
    world.commit()
    writer.send(publish(qos=1, packet_id=3), publish(qos=1, packet_id=4))
    world.commit()
    assert not writer.is_closed
    writer.send(*[publish(qos=1, packet_id=number) for number in (3, 4, 5)])
    assert_ended(writer, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
    world.close()


def test_the_quota_begins_anew_with_each_connection(tmp_path: Path) -> None:
    """5.0 [MQTT-4.9.0-1]: identifiers that were not released before do not count."""
    world = World(tmp_path, receive_max=3)
    writer = world.connected(**kept(5))
    writer.send(*[publish(qos=2, packet_id=number) for number in (1, 2, 3)])
    world.commit()
    writer.lose()
    writer = world.connected(**kept(5))
    writer.send(*[publish(qos=2, packet_id=number) for number in (4, 5, 6)])
    assert writer.committed() == [PubRec(packet_id=number) for number in (4, 5, 6)]
    writer.send(publish(qos=2, packet_id=7))
    assert_ended(writer, ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
    world.close()


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        (0x40, {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
        (0x50, {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
        (0x62, {0x00, 0x92}),
        (0x70, {0x00, 0x92}),
    ],
)
def test_an_acknowledgement_with_a_reason_that_is_none_ends_the_connection(
    world: World, kind: int, codes: set[int]
) -> None:
    """5.0 [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]"""
    client = world.connected()
    for code in range(256):
        client.send_bytes(bytes((kind, 3, 0, 1, code)))
        if code in codes:
            assert not client.is_closed
        else:
            assert reason_of_end(client) == ReasonCode.PROTOCOL_ERROR
            client = world.connected()


def test_acknowledgements_of_the_server_carry_nothing_but_their_reason(world: World) -> None:
    """5.0 [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.5.2-2], [MQTT-3.5.2-3], [MQTT-3.6.2-2],
    [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.6.2-1], [MQTT-3.1.2-29]: so none can be
    larger than a client takes that took CONNACK."""
    client = world.connected()
    client.send(publish(qos=1, packet_id=1), publish(qos=2, packet_id=2), PubRel(packet_id=2))
    client.send(PubRel(packet_id=3), PubRec(packet_id=4))
    answers = client.committed()
    assert {type(answer) for answer in answers} == {PubAck, PubRec, PubComp, PubRel}
    for answer in answers:
        assert not isinstance(answer, Disconnect)
        assert getattr(answer, "properties", None) == Properties()
    assert PubRel(packet_id=4, code=ReasonCode.PACKET_IDENTIFIER_NOT_FOUND) in answers
