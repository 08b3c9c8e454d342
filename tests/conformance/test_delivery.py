"""What a subscriber is sent: the sender's half of 3.3 and 4.3, order (4.6), flow control (4.9)."""

import pytest

from gateway.mqtt.packets import (
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import LEVELS, kept, publish, published, subscribe, subscribed
from tests.mqtt.world import Client, World


@pytest.fixture
def writer(world: World) -> Client:
    return world.connected("writer")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sent", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_the_lower_qos_of_both_counts(
    world: World, writer: Client, level: int, sent: int, granted: int
) -> None:
    """3.1.1 [MQTT-3.8.4-6], [MQTT-4.3.1-1], [MQTT-4.3.2-1], [MQTT-4.3.3-1]; 5.0 [MQTT-3.8.4-8],
    [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2]: with DUP 0, and the topic it was sent to."""
    reader = world.connected("reader", level)
    subscribed(reader, "a/+", qos=granted)
    writer.send(publish(qos=sent))
    (message,) = published(reader)
    assert (message.qos, message.dup, message.topic) == (min(sent, granted), False, "a/b")
    assert bool(message.packet_id) == bool(message.qos)


@pytest.mark.parametrize("level", LEVELS)
def test_dup_of_the_publisher_is_not_passed_on(world: World, level: int) -> None:
    """[MQTT-3.3.1-3], [MQTT-3.3.1-2]"""
    reader, writer = world.connected("reader", level), world.connected("writer", level)
    subscribed(reader, "a/b")
    writer.send(publish(qos=1, dup=True), publish(qos=2, packet_id=2, dup=True))
    assert [message.dup for message in published(reader)] == [False, False]


@pytest.mark.parametrize("topic", ["a/b", "A/b", "a/b/", "/a/b", "a//b", "a/b/c", "a", "a/\u00e4"])
@pytest.mark.parametrize("level", LEVELS)
def test_only_what_matches_is_sent(world: World, writer: Client, level: int, topic: str) -> None:
    """[MQTT-3.3.2-3], [MQTT-4.7.3-4]: character by character, nothing is normalised."""
    reader = world.connected("reader", level)
    subscribed(reader, "a/b")
    writer.send(publish(topic=topic))
    assert [message.topic for message in published(reader)] == (["a/b"] if topic == "a/b" else [])


# -- sent again --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("crash", [False, True])
def test_what_was_not_acknowledged_is_sent_again_in_order(
    world: World, level: int, crash: bool
) -> None:
    """[MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT-4.6.0-1]; 3.1.1 [MQTT-4.3.2-1], [MQTT-4.3.3-1],
    [MQTT-2.3.1-4]; 5.0 [MQTT-4.3.2-3], [MQTT-4.3.3-3]: with DUP and its own identifier, on a new
    connection and at no other time."""
    reader = world.connected("reader", level, **kept(level))
    writer = world.connected("writer")
    subscribed(reader, "#")
    writer.send(
        *[publish(b"%d" % number, qos=1 + number % 2, packet_id=number) for number in range(1, 7)]
    )
    first = published(reader)
    assert [one.payload for one in first if one.qos == 1] == [b"2", b"4", b"6"]
    assert [one.payload for one in first if one.qos == 2] == [b"1", b"3", b"5"]
    world.pass_seconds(60)
    assert published(reader) == []
    if crash:
        world.restart()
    else:
        reader.lose()
    back = world.connected("reader", level, **kept(level))
    second = published(back)
    assert all(message.dup for message in second)
    for qos in (1, 2):
        assert [(one.packet_id, one.payload) for one in second if one.qos == qos] == [
            (one.packet_id, one.payload) for one in first if one.qos == qos
        ]


@pytest.mark.parametrize("level", LEVELS)
def test_after_pubrec_only_pubrel_is_sent_again(world: World, writer: Client, level: int) -> None:
    """3.1.1 [MQTT-4.3.3-1], [MQTT-4.4.0-1]; 5.0 [MQTT-4.3.3-4], [MQTT-4.3.3-5], [MQTT-4.3.3-6],
    [MQTT-4.4.0-1]"""
    reader = world.connected("reader", level, **kept(level))
    subscribed(reader, "#")
    writer.send(publish(qos=2))
    (message,) = published(reader)
    reader.send(PubRec(packet_id=message.packet_id))
    assert reader.committed() == [PubRel(packet_id=message.packet_id)]
    for _ in range(2):
        reader.lose()
        reader = world.connected("reader", level, **kept(level))
        assert reader.committed() == [PubRel(packet_id=message.packet_id)]
    reader.send(PubComp(packet_id=message.packet_id))
    reader.committed()
    reader.lose()
    assert world.connected("reader", level, **kept(level)).committed() == []


@pytest.mark.parametrize("level", LEVELS)
def test_pubrels_are_answered_in_the_order_of_pubrecs(world: World, level: int) -> None:
    """[MQTT-4.6.0-4] binds clients; the server does the same."""
    reader, writer = world.connected("reader", level), world.connected("writer")
    subscribed(reader, "#")
    writer.send(*[publish(qos=2, packet_id=number) for number in range(1, 5)])
    ids = [message.packet_id for message in published(reader)]
    reader.send(*[PubRec(packet_id=packet_id) for packet_id in reversed(ids)])
    assert [answer.packet_id for answer in reader.committed() if isinstance(answer, PubRel)] == (
        ids[::-1]
    )


@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_the_client_refused_is_not_sent_again(
    world: World, writer: Client, qos: int
) -> None:
    """5.0 [MQTT-4.4.0-2], [MQTT-4.3.3-4]: no PUBREL, either."""
    reader = world.connected("reader", **kept(5))
    subscribed(reader, "#")
    writer.send(publish(qos=qos))
    (message,) = published(reader)
    kind = PubAck if qos == 1 else PubRec
    reader.send(kind(packet_id=message.packet_id, code=ReasonCode.UNSPECIFIED_ERROR))
    assert reader.committed() == []
    reader.lose()
    assert world.connected("reader", **kept(5)).committed() == []


# -- order and flow ----------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_come_in_the_order_in_which_their_client_sent_them(
    world: World, level: int, qos: int
) -> None:
    """[MQTT-4.6.0-5], [MQTT-4.6.0-6]: every topic is ordered, also where the client is slow."""
    reader = world.connected("reader", level)
    writers = [world.connected(f"writer-{number}") for number in range(3)]
    subscribed(reader, "#", qos=qos)
    got: list[Publish] = []
    for number in range(60):
        for which, writer in enumerate(writers):
            packet_id = number + 1 if qos else 0
            writer.send(publish(b"%d %d" % (which, number), qos=qos, packet_id=packet_id))
            writer.send(PubRel(packet_id=packet_id)) if qos == 2 else None
        if number % 7 == 0:
            got += _taken(reader)
    while more := _taken(reader):
        got += more
    for which in range(3):
        payloads = [one.payload for one in got if one.payload.startswith(b"%d " % which)]
        assert payloads == [b"%d %d" % (which, number) for number in range(60)]


def _taken(reader: Client) -> list[Publish]:
    messages = published(reader)
    for message in messages:
        if message.qos == 1:
            reader.send(PubAck(packet_id=message.packet_id))
        elif message.qos == 2:
            reader.send(PubRec(packet_id=message.packet_id))
    for message in messages:
        if message.qos == 2:
            reader.send(PubComp(packet_id=message.packet_id))
    return messages


@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_than_receive_maximum_is_sent(world: World, writer: Client, qos: int) -> None:
    """5.0 [MQTT-3.3.4-9], [MQTT-4.9.0-1], [MQTT-4.9.0-2]: PUBACK and PUBCOMP make room, PUBREC
    does not."""
    reader = world.connected("reader", properties=Properties(receive_maximum=2))
    subscribed(reader, "#", qos=2)
    writer.send(*[publish(b"%d" % one, qos=qos, packet_id=one) for one in range(1, 6)])
    got = published(reader)
    assert len(got) == 2
    for number in range(1, 4):
        packet_id = got[number - 1].packet_id
        if qos == 2:
            reader.send(PubRec(packet_id=packet_id))
            assert published(reader) == []
            reader.send(PubComp(packet_id=packet_id))
        else:
            reader.send(PubAck(packet_id=packet_id))
        more = published(reader)
        assert len(more) == 1
        got += more
    assert [message.payload for message in got] == [b"1", b"2", b"3", b"4", b"5"]


def test_a_refusing_pubrec_makes_room(world: World, writer: Client) -> None:
    """5.0 [MQTT-3.3.4-9], [MQTT-4.9.0-2]"""
    reader = world.connected("reader", properties=Properties(receive_maximum=1))
    subscribed(reader, "#", qos=2)
    writer.send(publish(b"1", qos=2), publish(b"2", qos=2, packet_id=2))
    (message,) = published(reader)
    reader.send(PubRec(packet_id=message.packet_id, code=ReasonCode.QUOTA_EXCEEDED))
    assert [one.payload for one in published(reader)] == [b"2"]


def test_other_packets_do_not_wait_for_room(world: World, writer: Client) -> None:
    """5.0 [MQTT-3.3.4-10], [MQTT-4.9.0-3]: nor do messages of QoS 0."""
    reader = world.connected("reader", properties=Properties(receive_maximum=1))
    subscribed(reader, "#", qos=2)
    writer.send(publish(qos=1), publish(qos=1, packet_id=2))
    assert len(published(reader)) == 1
    reader.send(PingReq(), subscribe("x", packet_id=77), publish(b"q0", "other"))
    reader.send(publish(qos=2, packet_id=5), PubRel(packet_id=5))
    answers = reader.committed()
    assert {PingResp, SubAck, Publish, PubRec, PubComp} == {type(answer) for answer in answers}
    assert [one.payload for one in answers if isinstance(one, Publish)] == [b"q0"]


# -- properties --------------------------------------------------------------------------------

GIVEN = Properties(
    payload_format=1,
    content_type="text/plain; \u00fc",
    response_topic="reply/to",
    correlation_data=b"\0\xff",
    user_properties=(("b", "1"), ("a", "2"), ("b", "0"), ("", "")),
)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_are_passed_on_as_they_are(world: World, writer: Client, qos: int) -> None:
    """5.0 [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18],
    [MQTT-3.3.2-20]"""
    reader = world.connected("reader")
    subscribed(reader, "#")
    writer.send(publish(qos=qos, properties=GIVEN))
    (message,) = published(reader)
    assert message.properties == GIVEN


def test_a_message_that_has_expired_is_not_sent(world: World, writer: Client) -> None:
    """5.0 [MQTT-3.3.2-5], [MQTT-3.3.2-6]: another one has what is left of its time."""
    world.connected("reader", **kept(5)).send(subscribe("#"))
    world.commit()
    world.connected("reader", **kept(5)).lose()
    for seconds in (5, 30):
        properties = Properties(message_expiry_s=seconds)
        writer.send(publish(b"%d" % seconds, qos=1, properties=properties))
    world.commit()
    world.pass_seconds(10)
    reader = world.connected("reader", **kept(5))
    assert [(one.payload, one.properties.message_expiry_s) for one in published(reader)] == [
        (b"30", 20)
    ]


def test_a_message_does_not_expire_once_it_was_sent(world: World, writer: Client) -> None:
    """5.0 [MQTT-4.3.3-7]"""
    reader = world.connected("reader", **kept(5))
    subscribed(reader, "#")
    writer.send(publish(qos=2, properties=Properties(message_expiry_s=5)))
    (first,) = published(reader)
    world.pass_seconds(10)
    reader.lose()
    back = world.connected("reader", **kept(5))
    (again,) = published(back)
    assert (again.packet_id, again.dup) == (first.packet_id, True)
    back.send(PubRec(packet_id=again.packet_id))
    assert back.committed() == [PubRel(packet_id=again.packet_id)]


@pytest.mark.parametrize("maximum", [None, 0, 3])
def test_a_client_is_sent_no_alias_beyond_its_maximum(
    world: World, writer: Client, maximum: int | None
) -> None:
    """5.0 [MQTT-3.1.2-26], [MQTT-3.1.2-27], [MQTT-3.3.2-8], [MQTT-3.3.2-11]"""
    reader = world.connected("reader", properties=Properties(topic_alias_maximum=maximum))
    subscribed(reader, "#", qos=0)
    names: dict[int, str] = {}
    topics = [f"t/{number % 5}" for number in range(20)]
    got = []
    for topic in topics:
        writer.send(publish(topic=topic))
        for message in published(reader):
            alias = message.properties.topic_alias
            if alias is not None:
                assert 0 < alias <= (maximum or 0)
                if message.topic:
                    names[alias] = message.topic
                got.append(names[alias])
            else:
                got.append(message.topic)
    assert got == topics


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("retain", [False, True])
def test_retain_of_a_live_message(
    world: World, level: int, as_published: bool, retain: bool
) -> None:
    """3.1.1 [MQTT-3.3.1-9]: always 0; 5.0 [MQTT-3.3.1-12], [MQTT-3.3.1-13]: as the subscriber
    wants it."""
    if level == 4 and as_published:
        return
    if retain and world.client(5).connect("probe").properties.retain_available == 0:
        pytest.skip("retained messages are not taken from 5.0 clients yet")
    reader, writer = world.connected("reader", level), world.connected("writer", level)
    subscribed(reader, "#", retain_as_published=as_published)
    writer.send(publish(qos=1, retain=retain))
    (message,) = published(reader)
    assert message.retain == (retain and as_published)
