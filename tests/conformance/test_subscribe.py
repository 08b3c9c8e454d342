"""SUBSCRIBE, UNSUBSCRIBE and their answers: sections 3.8 to 3.11, and 3.3.4."""

import pytest

from gateway.mqtt.packets import (
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import (
    LEVELS,
    assert_ended,
    kept,
    publish,
    published,
    subscribe,
    subscribed,
)
from tests.e2e.raw_mqtt import packet, text
from tests.mqtt.world import Client, World


@pytest.fixture(params=LEVELS)
def reader(world: World, request: pytest.FixtureRequest) -> Client:
    return world.connected("reader", request.param)


@pytest.fixture
def writer(world: World) -> Client:
    return world.connected("writer")


def listed(client: Client) -> bytes:
    return b"\0" if client.level == 5 else b""


@pytest.mark.parametrize("first_byte", [0x82, 0xA2])
def test_a_packet_without_a_filter_ends_the_connection(
    world: World, reader: Client, first_byte: int
) -> None:
    """3.1.1 [MQTT-3.8.3-3], [MQTT-3.10.3-2]; 5.0 [MQTT-3.8.3-2], [MQTT-3.10.3-2]"""
    reader.send_bytes(packet(first_byte, b"\0\1" + listed(reader)))
    assert_ended(reader, ReasonCode.PROTOCOL_ERROR)


def test_a_filter_without_options_ends_the_connection(world: World, reader: Client) -> None:
    """3.1.1 [MQTT-3.8.3-3]; 5.0 [MQTT-3.8.3-2]"""
    reader.send_bytes(packet(0x82, b"\0\1" + listed(reader) + text("a")))
    assert_ended(reader, ReasonCode.MALFORMED_PACKET)


def test_reserved_option_bits_end_the_connection(world: World, reader: Client) -> None:
    """3.1.1 [MQTT-3.8.3-4]; 5.0 [MQTT-3.8.3-5]: and QoS 3, and in 5.0 Retain Handling 3."""
    level = reader.level
    allowed = {0, 1, 2} if level == 4 else {
        qos | no_local << 2 | retain << 3 | handling << 4
        for qos in range(3)
        for no_local in range(2)
        for retain in range(2)
        for handling in range(3)
    }  # fmt: skip
    for options in range(256):
        client = world.connected("options", level)
        client.send_bytes(packet(0x82, b"\0\1" + listed(client) + text("a") + bytes((options,))))
        assert client.is_closed == (options not in allowed), options


def test_suback_has_a_code_for_each_filter_in_order(world: World, reader: Client) -> None:
    """3.1.1 [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-4], [MQTT-3.8.4-5], [MQTT-3.9.3-1],
    [MQTT-3.9.3-2], [MQTT-3.8.3-2]; 5.0 [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-5],
    [MQTT-3.8.4-6], [MQTT-3.8.4-7], [MQTT-3.9.3-1], [MQTT-3.9.3-2]: one answer, in which each
    filter has what was granted, or why not."""
    wanted = [("a", 1), ("b/#/c", 2), ("+/#", 0), ("", 1), ("a", 2), ("#", 2)]
    requests = [SubscriptionRequest(filter=name, qos=qos) for name, qos in wanted]
    reader.send(Subscribe(packet_id=4711, requests=tuple(requests)))
    (answer,) = reader.committed()
    assert isinstance(answer, SubAck) and answer.packet_id == 4711
    bad = 0x80 if reader.level == 4 else ReasonCode.TOPIC_FILTER_INVALID
    assert answer.codes == (1, bad, 0, bad, 2, 2)
    assert answer.properties.user_properties == ()


def test_subscribing_again_replaces(world: World, reader: Client, writer: Client) -> None:
    """[MQTT-3.8.4-3]; 5.0 [MQTT-3.8.4-4]: one copy, at the new QoS, and nothing is lost between."""
    subscribed(reader, "a/b", qos=2)
    for number, qos in enumerate((0, 1, 2, 1, 0)):
        writer.send(publish(b"%d" % number, qos=2, packet_id=number + 1))
        subscribed_answer = subscribe("a/b", qos=qos, packet_id=20 + number)
        reader.send(subscribed_answer)
        writer.send(publish(b"then", qos=2, packet_id=number + 100))
        messages = published(reader)
        assert [one.payload for one in messages] == [b"%d" % number, b"then"]
        assert messages[1].qos == qos


def test_no_local_is_for_the_publisher_alone(world: World, writer: Client) -> None:
    """5.0 [MQTT-3.8.3-3]"""
    reader = world.connected("reader", 5)
    reader.send(subscribe("a/b", no_local=True))
    reader.committed()
    reader.send(publish(b"own"))
    writer.send(publish(b"other"))
    assert [one.payload for one in published(reader)] == [b"other"]


def test_no_local_on_a_shared_subscription_ends_the_connection(world: World) -> None:
    """5.0 [MQTT-3.8.3-4]: nothing of that SUBSCRIBE is granted."""
    reader = world.connected("reader", 5)
    request = SubscriptionRequest(filter="plain", qos=1)
    shared = SubscriptionRequest(filter="$share/g/a", qos=1, no_local=True)
    reader.send(Subscribe(packet_id=1, requests=(request, shared)))
    assert_ended(reader, ReasonCode.PROTOCOL_ERROR)


def test_overlapping_subscriptions_give_one_message_of_the_highest_qos(
    world: World, reader: Client, writer: Client
) -> None:
    """3.1.1 [MQTT-3.3.5-1], 5.0 [MQTT-3.3.4-2]"""
    for number, (name, qos) in enumerate((("a/b", 0), ("a/+", 2), ("#", 1))):
        subscribed(reader, name, qos=qos, packet_id=number + 1)
    writer.send(publish(qos=2))
    assert [message.qos for message in published(reader)] == [2]


def test_a_message_has_the_identifiers_of_all_its_subscriptions(
    world: World, writer: Client
) -> None:
    """5.0 [MQTT-3.3.4-3], [MQTT-3.3.4-4]"""
    reader = world.connected("reader", 5)
    ids: dict[str, tuple[int, ...]] = {
        "a/b": (1,),
        "a/+": (268_435_455,),
        "#": (),
        "x": (3,),
        "+/b": (1,),
    }
    for number, (name, given) in enumerate(ids.items()):
        subscribed(
            reader, name, packet_id=number + 1, properties=Properties(subscription_ids=given)
        )
    writer.send(publish(qos=1))
    (message,) = published(reader)
    assert sorted(message.properties.subscription_ids) == [1, 1, 268_435_455]


def test_unsuback_answers_every_unsubscribe(world: World, reader: Client) -> None:
    """3.1.1 [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6]; 5.0 [MQTT-3.10.4-4],
    [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-3.11.3-2], [MQTT-3.11.2-1],
    [MQTT-3.11.2-2]: also where there was nothing to delete."""
    subscribed(reader, "a", "b/+")
    reader.send(Unsubscribe(packet_id=4711, filters=("x", "b/+", "a", "a", "a#")))
    (answer,) = reader.committed()
    none, bad = ReasonCode.NO_SUBSCRIPTION_EXISTED, ReasonCode.TOPIC_FILTER_INVALID
    codes = (none, 0, 0, none, bad) if reader.level == 5 else ()
    assert answer == UnsubAck(packet_id=4711, codes=codes)


def test_filters_are_compared_character_by_character(
    world: World, reader: Client, writer: Client
) -> None:
    """[MQTT-3.10.4-1], [MQTT-3.10.4-2]"""
    subscribed(reader, "a/+")
    reader.send(Unsubscribe(packet_id=1, filters=("a/b", "#", "+/+", "A/+", "a/+/", "a/#")))
    writer.send(publish(b"1"))
    assert [one.payload for one in published(reader)] == [b"1"]
    reader.send(Unsubscribe(packet_id=2, filters=("a/+",)))
    writer.send(publish(b"2"))
    assert published(reader) == []


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_begun_is_completed_after_unsubscribe(
    world: World, writer: Client, reader: Client, qos: int
) -> None:
    """[MQTT-3.10.4-3]"""
    level = reader.level
    reader = world.connected("reader", level, **kept(level))
    subscribed(reader, "a/b")
    writer.send(publish(qos=qos))
    (message,) = published(reader)
    reader.send(Unsubscribe(packet_id=2, filters=("a/b",)))
    reader.committed()
    reader.lose()
    back = world.connected("reader", level, **kept(level))
    (again,) = published(back)
    assert (again.packet_id, again.dup) == (message.packet_id, True)
    if qos == 1:
        back.send(PubAck(packet_id=again.packet_id))
    else:
        back.send(PubRec(packet_id=again.packet_id))
        assert back.committed() == [PubRel(packet_id=again.packet_id)]
        back.send(PubComp(packet_id=again.packet_id))
    assert back.committed() == []


def test_suback_never_has_user_properties(world: World) -> None:
    """5.0 [MQTT-3.9.2-1], [MQTT-3.9.2-2]: its reason string is left out where it does not fit."""
    for bytes_max, has_text in ((45, False), (1000, True)):
        client = world.connected(properties=Properties(maximum_packet_bytes=bytes_max))
        client.send(subscribe("a/#/b", *["x"] * 20))
        (answer,) = client.committed()
        assert isinstance(answer, SubAck) and answer.properties.user_properties == ()
        assert bool(answer.properties.reason_string) == has_text
