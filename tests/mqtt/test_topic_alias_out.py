"""Topic aliases towards subscribers: who is sent some, and that each is introduced before it is
used, whatever happens to messages on their way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import MQTTMessage

from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import Packet, PubAck, PubComp, Publish, PubRec, PubRel
from gateway.mqtt.properties import Properties
from gateway.mqtt.topic_aliases import TopicAliases
from gateway.mqtt.wire import Reader
from tests.conformance.acts import kept, publish, published, subscribe, subscribed
from tests.mqtt.strategies import packets
from tests.mqtt.test_server import Paho, on_both_loops, running, until
from tests.mqtt.world import Client, World

TOPIC = "fleet/press-3/temperature"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def taker(world: World, maximum: int = 10, client_id: str = "reader", **how: Any) -> Client:
    """A client that takes aliases, and is subscribed to everything."""
    properties = Properties(topic_alias_maximum=maximum, **how)
    reader = world.connected(client_id, clean=False, properties=properties)
    subscribed(reader, "#")
    return reader


def heads(packets: list[Publish]) -> list[tuple[str, int | None]]:
    return [(packet.topic, packet.properties.topic_alias) for packet in packets]


class Resolver:
    """The client's half (3.3.2.3.4), for one connection."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}

    def topic(self, packet: Publish) -> str:
        alias = packet.properties.topic_alias
        if packet.topic:
            if alias is not None:
                self.names[alias] = packet.topic
            return packet.topic
        assert alias is not None, "neither a topic nor an alias"
        return self.names[alias]


# -- who, and how many


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_topic_is_sent_once_and_then_its_alias(world: World, qos: int) -> None:
    """5.0 [MQTT-3.1.2-26]"""
    reader, writer = taker(world), world.connected("writer")
    for number in range(1, 4):
        writer.send(publish(b"%d" % number, TOPIC, qos=qos, packet_id=number if qos else 0))
    got = published(reader)
    assert heads(got) == [(TOPIC, 1), ("", 1), ("", 1)]
    assert [(packet.payload, packet.qos) for packet in got] == [(b"%d" % n, qos) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("maximum", "ours", "aliased"), [(2, 128, 2), (9, 3, 3), (65_535, 4, 4), (9, 0, 0)]
)
def test_the_first_topics_have_aliases_up_to_both_limits(
    tmp_path: Path, maximum: int, ours: int, aliased: int
) -> None:
    """5.0 [MQTT-3.3.2-8], [MQTT-3.3.2-11]"""
    world = World(tmp_path, delivery_topic_alias_max=ours)
    reader, writer = taker(world, maximum), world.connected("writer")
    topics = [f"topic/{number}" for number in range(6)]
    for topic in topics * 3:
        writer.send(publish(topic=topic))
    got = published(reader)
    aliases = [*range(1, aliased + 1)]
    without = [(topic, None) for topic in topics[aliased:]]
    assert heads(got[:6]) == [*zip(topics[:aliased], aliases, strict=True), *without]
    for round_of_topics in (got[6:12], got[12:]):
        assert heads(round_of_topics) == [*(("", alias) for alias in aliases), *without]


@pytest.mark.parametrize("level", [4, 5])
def test_who_takes_none_is_sent_none_beside_one_who_does(world: World, level: int) -> None:
    """5.0 [MQTT-3.1.2-27]"""
    reader, other = taker(world), world.connected("other", level)
    subscribed(other, "#")
    writer = world.connected("writer")
    for qos in (0, 1, 2, 0):
        writer.send(publish(topic=TOPIC, qos=qos))
    assert heads(published(other)) == [(TOPIC, None)] * 4
    assert [Resolver().topic(packet) for packet in published(reader)[:1]] == [TOPIC]


@pytest.mark.parametrize("topic", ["a", "abc", "äb"])
def test_a_topic_no_longer_than_an_alias_has_none(world: World, topic: str) -> None:
    reader, writer = taker(world), world.connected("writer")
    writer.send(publish(topic=topic), publish(topic=topic))
    assert heads(published(reader)) == [(topic, None)] * 2


def test_what_is_sent_with_retain_uses_aliases_and_introduces_none(world: World) -> None:
    """A thousand retained messages would take all that there are, and not come again."""
    writer = world.connected("writer")
    writer.send(publish(topic="kept/one", retain=True), publish(topic="kept/two", retain=True))
    reader = world.connected("reader", properties=Properties(topic_alias_maximum=10))
    reader.send(subscribe("#"))
    retained = sorted(published(reader), key=lambda packet: packet.topic)
    assert [packet.retain for packet in retained] == [True, True]
    assert heads(retained) == [("kept/one", None), ("kept/two", None)]
    writer.send(publish(topic="kept/two"))
    assert heads(published(reader)) == [("kept/two", 1)]
    reader.send(subscribe("kept/two"))
    (again,) = published(reader)
    assert (again.topic, again.properties.topic_alias, again.retain) == ("", 1, True)


# -- of one connection


def test_aliases_end_with_the_connection_and_what_is_sent_again_has_its_topic(
    world: World,
) -> None:
    """5.0 [MQTT-3.3.2-7]"""
    reader, writer = taker(world, session_expiry_s=1000), world.connected("writer")
    writer.send(*[publish(topic=TOPIC, qos=1, packet_id=number) for number in (1, 2)])
    assert heads(published(reader)) == [(TOPIC, 1), ("", 1)]
    reader.lose()
    how = Properties(topic_alias_maximum=10, session_expiry_s=1000)
    back = world.connected("reader", clean=False, properties=how)
    again = published(back)
    assert [packet.dup for packet in again] == [True, True]
    assert heads(again) == [(TOPIC, None)] * 2
    writer.send(publish(topic=TOPIC), publish(topic=TOPIC))
    assert heads(published(back)) == [(TOPIC, 1), ("", 1)]


def test_a_session_may_come_back_without_aliases(world: World) -> None:
    """5.0 [MQTT-3.1.2-27]"""
    reader, writer = taker(world, session_expiry_s=1000), world.connected("writer")
    writer.send(publish(topic=TOPIC))
    assert heads(published(reader)) == [(TOPIC, 1)]
    reader.lose()
    back = world.connected("reader", **kept(5))
    writer.send(publish(topic=TOPIC))
    assert heads(published(back)) == [(TOPIC, None)]


# -- the order of introduction and use


def test_a_message_that_is_too_large_introduces_nothing(world: World) -> None:
    """5.0 [MQTT-3.1.2-24], [MQTT-3.1.2-25]; nor is a packet made too large by its introduction."""
    bare = len(encode_packet(Publish(topic=TOPIC, payload=b""), 5))
    reader, writer = taker(world, maximum_packet_bytes=bare + 10), world.connected("writer")
    for size in (11, 10, 8, 7, 10):
        writer.send(publish(b"x" * size, TOPIC))
    got = published(reader)
    assert [len(packet.payload) for packet in got] == [10, 8, 7, 10]
    assert heads(got) == [(TOPIC, None), (TOPIC, None), (TOPIC, 1), ("", 1)]


def test_qos_2_that_waits_for_the_disk_uses_what_overtook_it(world: World) -> None:
    """Its packets are made before others that go out first."""
    reader, writer = taker(world, session_expiry_s=1000), world.connected("writer")
    for number, qos in enumerate((2, 0, 1, 2, 0), 1):
        writer.send(publish(b"%d" % number, TOPIC, qos=qos, packet_id=number if qos else 0))
    got = published(reader)
    assert [packet.qos for packet in got] == [0, 1, 0, 2, 2]
    assert heads(got) == [(TOPIC, 1), *[("", 1)] * 4]


def test_what_waits_for_acknowledgements_introduces_when_it_is_sent(tmp_path: Path) -> None:
    world = World(tmp_path, delivery_in_flight_max=1)
    reader, writer = taker(world), world.connected("writer")
    topics = ["one/topic", "two/topic", "three/topic", "two/topic", "one/topic"]
    for number, topic in enumerate(topics, 1):
        writer.send(publish(topic=topic, qos=1, packet_id=number))
    writer.send(publish(topic="three/topic"))  # QoS 0 goes out at once
    got = published(reader)
    for _ in topics:
        (waiting,) = [packet for packet in got[-2:] if packet.qos][-1:]
        reader.send(PubAck(packet_id=waiting.packet_id))
        got += published(reader)
    assert heads(got) == [
        ("one/topic", 1),
        ("three/topic", 2),
        ("two/topic", 3),
        ("", 2),
        ("", 3),
        ("", 1),
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_message_has_its_topic_whatever_happens(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All QoS, slow acknowledgements, a full transport, an overflowing queue, a size limit, and
    reconnects. The payload says the topic."""
    world = World(
        tmp_path_factory.mktemp("world"), delivery_in_flight_max=3, delivery_queue_bytes_max=2_000
    )
    how = Properties(topic_alias_maximum=3, session_expiry_s=1000, maximum_packet_bytes=60)
    reader = world.connected("reader", clean=False, properties=how)
    subscribed(reader, "#")
    resolver = Resolver()
    writer = world.connected("writer")
    unanswered: list[Packet] = []
    steps = ["publish"] * 5 + ["commit", "answer", "pause", "resume", "reconnect"]
    for number, step in enumerate(data.draw(st.lists(st.sampled_from(steps), max_size=40)), 1):
        if step == "publish":
            topic = data.draw(st.sampled_from(["abc", "t/long/1", "t/long/2", "t/3", "t/long/4"]))
            payload = topic.encode() + b" " * data.draw(st.sampled_from([0, 35, 60]))
            qos = data.draw(st.integers(0, 2))
            writer.send(publish(payload, topic, qos=qos, packet_id=number if qos else 0))
        elif step == "commit":
            world.commit()
        elif step == "answer":
            reader.send(*unanswered)
            unanswered = []
        elif step == "pause" and reader.connection.is_writable:
            reader.connection.writing_paused()
        elif step == "resume" and not reader.connection.is_writable:
            reader.connection.writing_resumed()
        elif step == "reconnect":
            reader.lose()
            reader, resolver, unanswered = world.client(), Resolver(), []
            reader.connect("reader", clean=False, properties=how)
        for packet in reader.got():
            if isinstance(packet, Publish):
                assert resolver.topic(packet).encode() == packet.payload.strip()
                assert not packet.dup or packet.topic
                assert packet.properties.topic_alias in (None, 1, 2, 3)
                if packet.qos:
                    kind = PubAck if packet.qos == 1 else PubRec
                    unanswered.append(kind(packet_id=packet.packet_id))
            elif isinstance(packet, PubRel):
                unanswered.append(PubComp(packet_id=packet.packet_id))
        writer.send(*(PubRel(packet_id=p.packet_id) for p in writer.got() if isinstance(p, PubRec)))
    world.close()


# -- the bytes


def _packets(data: bytes) -> list[tuple[Packet, int]]:
    """With their sizes."""
    found = []
    at = 0
    while at < len(data):
        frame = next_frame(data, at, len(data), 1 << 28)
        assert isinstance(frame, Frame)
        reader = Reader(data, frame.start, frame.stop)
        found.append((decode_packet(frame.first_byte, reader, 5), frame.stop - at))
        at = frame.stop
    return found


_NAMES = st.sampled_from(["a", "abc", "abcd", "t" * 30, "u" * 125, "v" * 200, "w" * 17_000])
_PADDING = st.sampled_from([(), (("k", "v" * 110),), (("k", "v" * 119),), (("k", "v" * 16_375),)])


@st.composite
def _publish(draw: st.DrawFn) -> Publish:
    """Of sizes around those at which a length takes another byte."""
    qos = draw(st.integers(0, 2))
    return Publish(
        topic=draw(_NAMES),
        payload=b"x" * draw(st.sampled_from([0, 1, 60, 90, 120, 16_200, 16_380])),
        qos=qos,
        packet_id=draw(st.integers(1, 65_535)) if qos else 0,
        dup=draw(st.booleans()) if qos else False,
        retain=draw(st.booleans()),
        properties=Properties(user_properties=draw(_PADDING)),
    )


def _mostly_publish() -> st.SearchStrategy[Packet]:
    return st.integers(0, 4).flatmap(lambda number: _publish() if number else packets(5))


@settings(deadline=None)
@given(
    writes=st.lists(st.lists(_mostly_publish(), max_size=6), max_size=6),
    count_max=st.integers(1, 4),
    limit=st.none() | st.integers(10, 40_000),
)
def test_what_is_written_means_what_was_given(
    writes: list[list[Packet]], count_max: int, limit: int | None
) -> None:
    written: list[bytes] = []
    aliases = TopicAliases(written.append, count_max=count_max, packet_bytes_max=limit)
    resolver = Resolver()
    for given_packets in writes:
        before = [(packet, len(encode_packet(packet, 5))) for packet in given_packets]
        before = [
            (packet, size)
            for packet, size in before
            # What the server sends: topics, and no aliases of a client's.
            if not isinstance(packet, Publish)
            or (packet.topic and packet.properties.topic_alias is None)
        ]
        aliases.write(b"".join(encode_packet(packet, 5) for packet, _ in before))
        after = _packets(written.pop())
        assert len(after) == len(before)
        for (packet, size), (was, size_before) in zip(after, before, strict=True):
            if isinstance(packet, Publish) and isinstance(was, Publish):
                alias = packet.properties.topic_alias
                assert resolver.topic(packet) == was.topic
                assert alias is None or (0 < alias <= count_max and not packet.dup)
                assert packet.topic or size <= size_before
                assert size == size_before or size < size_before or limit is None or size <= limit
                packet = _without_alias(packet, was.topic)
            assert packet == was
    assert not written


def _without_alias(packet: Publish, topic: str) -> Publish:
    properties = {
        name: getattr(packet.properties, name)
        for name in Properties.__struct_fields__
        if name != "topic_alias"
    }
    fields = {name: getattr(packet, name) for name in Publish.__struct_fields__}
    return Publish(**{**fields, "topic": topic, "properties": Properties(**properties)})


# -- a client that is not ours


@on_both_loops
async def test_paho_resolves_what_it_is_sent(tmp_path: Path) -> None:
    """paho-mqtt hands an empty topic and the alias to its user, who has to look it up. (Of QoS 2 it
    hands out a message after others that came later, so its user could not.)"""
    async with running(tmp_path) as gateway:
        subscriber = await asyncio.to_thread(Paho, "subscriber", gateway.port, alias_max=5)
        await until(lambda: subscriber.connected)
        subscriber.client.subscribe("fleet/#", qos=1)
        publisher = await asyncio.to_thread(Paho, "publisher", gateway.port)
        await until(lambda: publisher.connected and len(gateway.server.broker.tree))
        for number in range(60):
            topic = f"fleet/press-{number % 8}/temperature"
            publisher.client.publish(topic, topic, qos=number % 3)
        await until(lambda: len(subscriber.messages) == 60)
        names: dict[int, str] = {}
        for message in subscriber.messages:
            assert _looked_up(message, names) == message.payload.decode()
        assert sorted(names) == [1, 2, 3, 4, 5]
        assert sum(not message.topic for message in subscriber.messages) > 20
        await asyncio.to_thread(publisher.close)
        await asyncio.to_thread(subscriber.close)


def _looked_up(message: MQTTMessage, names: dict[int, str]) -> str:
    alias = getattr(message.properties, "TopicAlias", None)
    if alias is None:
        return message.topic
    if message.topic:
        names[alias] = message.topic
    return names[alias]
