"""SUBSCRIBE, UNSUBSCRIBE and what subscribers get (3.8 to 3.11, 4.3 to 4.6)."""

from pathlib import Path
from typing import Any

import pytest

from gateway.mqtt.packets import (
    ConnAck,
    Disconnect,
    PubAck,
    PubComp,
    Publish,
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
from tests.mqtt.world import Client, World

STAYS: dict[int, dict[str, Any]] = {
    4: {"clean": False},
    5: {"clean": False, "properties": Properties(session_expiry_s=3600)},
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def subscribe(*filters: str, qos: int = 0, **options: Any) -> Subscribe:
    requests = [SubscriptionRequest(filter=item, qos=qos, **options) for item in filters]
    return Subscribe(packet_id=10, requests=tuple(requests))


def subscriber(world: World, *filters: str, level: int = 5, qos: int = 0, **how: Any) -> Client:
    client = world.connected("subscriber", level, **how)
    client.send(subscribe(*filters, qos=qos))
    assert client.committed() == [SubAck(packet_id=10, codes=(qos,) * len(filters))]
    return client


def publish(number: int, topic: str = "a/b", qos: int = 0, **more: Any) -> Publish:
    return Publish(
        topic=topic,
        payload=b"%d" % number,
        qos=qos,
        packet_id=number if qos else 0,
        **more,
    )


def payloads_once_committed(client: Client) -> list[bytes]:
    client.world.commit()
    return payloads(client)


def payloads(client: Client) -> list[bytes]:
    return [packet.payload for packet in client.got() if isinstance(packet, Publish)]


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("publish_qos", [0, 1, 2])
@pytest.mark.parametrize("granted_qos", [0, 1, 2])
def test_a_message_is_delivered_at_the_lower_of_both_qos(
    world: World, level: int, publish_qos: int, granted_qos: int
) -> None:
    """[MQTT-3.8.4-8], and 4.3 to the end of the handshake."""
    client = subscriber(world, "a/+", level=level, qos=granted_qos)
    world.connected("publisher", level).send(publish(1, qos=publish_qos))
    qos = min(publish_qos, granted_qos)
    expected = Publish(topic="a/b", payload=b"1", qos=qos, packet_id=1 if qos else 0)
    assert client.committed() == [expected]
    if qos == 1:
        client.send(PubAck(packet_id=1))
    elif qos == 2:
        client.send(PubRec(packet_id=1))
        assert client.got() == [PubRel(packet_id=1)]
        client.send(PubComp(packet_id=1))
    assert client.got() == []
    session = client.connection.session
    assert session is not None
    assert session.outbox.waiting_count == 0


def test_nobody_is_handed_what_a_crash_could_take_back(world: World) -> None:
    client = subscriber(world, "#")
    world.connected("publisher").send(publish(1))
    assert client.got() == []
    frame, token = world.committer.cut()
    assert client.got() == []
    world.committer.make_durable(frame, token)
    assert payloads(client) == [b"1"]


def test_only_what_matches_is_delivered(world: World) -> None:
    client = subscriber(world, "a/+/c", "x/#")
    publisher = world.connected("publisher")
    for number, topic in enumerate(["a/b/c", "a/b", "x", "x/y/z", "$x", "A/b/c"]):
        publisher.send(publish(number, topic))
    world.commit()
    assert payloads(client) == [b"0", b"2", b"3"]


def test_a_client_gets_its_own_messages_unless_no_local(world: World) -> None:
    """[MQTT-3.8.3-3]"""
    client = subscriber(world, "own/#")
    client.send(subscribe("deaf/#", no_local=True))
    client.send(publish(1, "own/t"), publish(2, "deaf/t"))
    world.commit()
    assert payloads(client) == [b"1"]


def test_overlapping_subscriptions_deliver_once_with_all_identifiers(world: World) -> None:
    """3.3.4: the greatest QoS; [MQTT-3.3.4-3] to -5 for the identifiers."""
    client = world.connected("subscriber")
    for identifier, (topic_filter, qos) in enumerate([("a/#", 0), ("+/b", 1), ("c", 2)], 1):
        client.send(
            Subscribe(
                packet_id=identifier,
                requests=(SubscriptionRequest(filter=topic_filter, qos=qos),),
                properties=Properties(subscription_ids=(identifier,)),
            )
        )
    client.committed()
    world.connected("publisher").send(publish(1, "a/b", qos=2))
    (packet,) = client.committed()
    assert isinstance(packet, Publish)
    assert packet.qos == 1
    assert sorted(packet.properties.subscription_ids) == [1, 2]


def test_subscribing_again_replaces_the_qos(world: World) -> None:
    """[MQTT-3.8.4-3]"""
    client = subscriber(world, "a/b", qos=0)
    client.send(subscribe("a/b", qos=1))
    client.committed()
    world.connected("publisher").send(publish(1, qos=1))
    (packet,) = client.committed()
    assert isinstance(packet, Publish) and packet.qos == 1


def test_unsubscribing_ends_deliveries(world: World) -> None:
    """[MQTT-3.10.4-1] to -6; 5.0 3.11.3"""
    client = subscriber(world, "a/b", "a/+")
    client.send(Unsubscribe(packet_id=11, filters=("a/b", "never")))
    assert client.committed() == [UnsubAck(packet_id=11, codes=(0, 0x11))]
    client.send(Unsubscribe(packet_id=12, filters=("a/+",)))
    assert client.committed() == [UnsubAck(packet_id=12, codes=(0,))]
    world.connected("publisher").send(publish(1))
    assert client.committed() == []


def test_a_subscription_made_between_two_messages_gets_the_second(world: World) -> None:
    publisher = world.connected("publisher")
    publisher.send(publish(1))
    world.commit()
    client = subscriber(world, "a/b")
    publisher.send(publish(2))
    assert client.committed() == [Publish(topic="a/b", payload=b"2")]


@pytest.mark.parametrize(
    ("topic_filter", "code_5_0"),
    [
        ("", ReasonCode.TOPIC_FILTER_INVALID),
        ("a/#/b", ReasonCode.TOPIC_FILTER_INVALID),
        ("a+", ReasonCode.TOPIC_FILTER_INVALID),
        ("/" * 3_000, ReasonCode.TOPIC_FILTER_INVALID),
        ("$share/group", ReasonCode.TOPIC_FILTER_INVALID),
        ("$share//a", ReasonCode.TOPIC_FILTER_INVALID),
        ("$share/g+/a", ReasonCode.TOPIC_FILTER_INVALID),
        ("$share/g/", ReasonCode.TOPIC_FILTER_INVALID),
        ("$share/g/a+", ReasonCode.TOPIC_FILTER_INVALID),
    ],
    ids=[
        "empty",
        "# inside",
        "a+",
        "3000 slashes (CVE-2019-11779)",
        "shared without a filter",
        "shared without a name",
        "shared with a wildcard in the name",
        "shared with an empty filter",
        "shared with a bad filter",
    ],
)
def test_a_filter_that_cannot_be_is_refused_in_suback(
    world: World, topic_filter: str, code_5_0: ReasonCode
) -> None:
    """3.9.3: a bad filter does not take the good ones with it. [MQTT-4.8.2-1], [MQTT-4.8.2-2]"""
    old, new = world.connected("old", 4), world.connected("new", 5)
    for client in (old, new):
        client.send(subscribe("good", topic_filter, qos=1))
    assert old.committed() == [SubAck(packet_id=10, codes=(1, 0x80))]
    (answer,) = new.got()
    assert isinstance(answer, SubAck) and answer.codes == (1, code_5_0)


def test_no_local_on_a_shared_subscription_is_a_protocol_error(world: World) -> None:
    """[MQTT-3.8.3-4]"""
    client = world.connected()
    client.send(subscribe("$share/g/a", no_local=True))
    (answer,) = client.got()
    assert isinstance(answer, Disconnect) and answer.code == ReasonCode.PROTOCOL_ERROR


def test_more_subscriptions_than_the_limit_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path, subscriptions_max=2)
    client = world.connected()
    client.send(subscribe("a", "b", "c"))
    (answer,) = client.got()
    assert isinstance(answer, SubAck) and answer.codes == (0, 0, ReasonCode.QUOTA_EXCEEDED)


def test_properties_of_the_publisher_are_passed_on(world: World) -> None:
    """[MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-17], [MQTT-3.3.2-20], not its topic alias."""
    new, old = subscriber(world, "#"), world.connected("old", 4)
    old.send(subscribe("#"))
    world.commit()
    old.got()
    given = Properties(
        payload_format=1,
        content_type="text/plain",
        response_topic="r",
        correlation_data=b"c",
        user_properties=(("k", "v"), ("k", "w")),
    )
    with_alias = Properties(
        **{
            field: getattr(given, field)
            for field in given.__struct_fields__
            if field != "topic_alias"
        },
        topic_alias=1,
    )
    world.connected("publisher").send(publish(1, properties=with_alias))
    assert new.committed() == [Publish(topic="a/b", payload=b"1", properties=given)]
    assert old.got() == [Publish(topic="a/b", payload=b"1")]


def test_a_message_that_has_expired_is_not_delivered(world: World) -> None:
    """[MQTT-3.3.2-5], [MQTT-3.3.2-6]"""
    client = subscriber(world, "#", qos=1, **STAYS[5])
    client.lose()
    publisher = world.connected("publisher")
    publisher.send(publish(1, qos=1, properties=Properties(message_expiry_s=10)))
    publisher.send(publish(2, qos=1, properties=Properties(message_expiry_s=100)))
    world.commit()
    world.pass_seconds(30)
    back = world.connected("subscriber", **STAYS[5])
    (packet,) = back.got()
    assert isinstance(packet, Publish)
    assert packet.payload == b"2"
    assert packet.properties.message_expiry_s == 70


# -- the window, and sessions


@pytest.mark.parametrize("level", [4, 5])
def test_no_more_is_in_flight_than_the_window(tmp_path: Path, level: int) -> None:
    world = World(tmp_path, delivery_in_flight_max=3)
    client = subscriber(world, "#", level=level, qos=1)
    publisher = world.connected("publisher", level)
    publisher.send(*(publish(number, qos=1) for number in range(1, 6)))
    first = client.committed()
    assert [packet.payload for packet in first] == [b"1", b"2", b"3"]  # type: ignore[union-attr]
    client.send(PubAck(packet_id=2))
    assert client.got() == [publish(4, qos=1)]
    client.send(PubAck(packet_id=1), PubAck(packet_id=3))
    (last,) = client.got()
    assert isinstance(last, Publish) and last.payload == b"5"


def test_the_window_is_not_larger_than_the_clients_receive_maximum(world: World) -> None:
    """[MQTT-3.3.4-9]"""
    client = subscriber(world, "#", qos=1, properties=Properties(receive_maximum=2))
    world.connected("publisher").send(*(publish(number, qos=1) for number in range(1, 6)))
    assert len(client.committed()) == 2


@pytest.mark.parametrize("level", [4, 5])
def test_a_session_that_is_resumed_gets_what_it_missed_and_what_it_did_not_acknowledge(
    world: World, level: int
) -> None:
    """[MQTT-4.4.0-1]: DUP is set; a PUBREL is sent again as such."""
    client = subscriber(world, "#", level=level, qos=2, **STAYS[level])
    publisher = world.connected("publisher", level)
    publisher.send(publish(1, qos=1), publish(2, qos=2), publish(3, qos=2))
    assert len(client.committed()) == 3
    client.send(PubRec(packet_id=2))
    assert client.committed() == [PubRel(packet_id=2)]
    client.lose()
    publisher.send(publish(4, qos=1), publish(5, qos=0))
    world.commit()
    back = world.client(level)
    assert back.connect("subscriber", **STAYS[level]).session_present
    assert back.got() == [
        PubRel(packet_id=2),
        publish(1, qos=1, dup=True),
        publish(3, qos=2, dup=True),
        publish(4, qos=1),
    ]


def test_a_clean_start_ends_the_session(world: World) -> None:
    """[MQTT-3.1.2-4]"""
    client = subscriber(world, "#", level=4, **STAYS[4])
    client.lose()
    back = world.client(4)
    assert not back.connect("subscriber", clean=True).session_present
    world.connected("publisher").send(publish(1))
    assert back.committed() == []


def test_a_session_without_expiry_ends_with_its_connection(world: World) -> None:
    """3.1.2.11.2"""
    client = subscriber(world, "#", clean=False)
    client.lose()
    assert len(world.broker.tree) == 0
    assert not world.client(5).connect("subscriber", clean=False).session_present


def test_a_session_expires(world: World) -> None:
    client = subscriber(world, "#", clean=False, properties=Properties(session_expiry_s=10))
    client.lose()
    world.pass_seconds(8)
    assert len(world.broker.sessions) == 1
    world.pass_seconds(4)
    assert len(world.broker.sessions) == 0
    assert len(world.broker.tree) == 0
    world.commit()
    assert world.log.scan_state(b"mqtt/") == []


def test_no_session_lives_longer_than_the_limit(tmp_path: Path) -> None:
    world = World(tmp_path, session_expiry_s_max=60)
    never = Properties(session_expiry_s=0xFFFFFFFF)
    answer = world.client(5).connect("new", clean=False, properties=never)
    assert answer.properties.session_expiry_s == 60
    world.connected("old", 4, clean=False).lose()
    world.pass_seconds(62)
    assert [session.client_id for session in world.broker.sessions._sessions.values()] == ["new"]


def test_disconnect_may_change_the_expiry_but_not_of_a_session_that_ends(world: World) -> None:
    """3.14.2.2.2"""
    stays = world.connected("stays", **STAYS[5])
    stays.send(Disconnect(properties=Properties(session_expiry_s=0)))
    assert len(world.broker.sessions) == 0
    ends = world.connected("ends")
    ends.send(Disconnect(properties=Properties(session_expiry_s=5)))
    answer = ends.got()[-1]
    assert isinstance(answer, Disconnect) and answer.code == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize("level", [4, 5])
def test_subscriptions_of_a_kept_session_survive_a_crash(world: World, level: int) -> None:
    client = subscriber(world, "a/#", level=level, qos=1, **STAYS[level])
    client.send(Unsubscribe(packet_id=3, filters=("a/#",)), subscribe("b/#", qos=1))
    world.commit()
    world.restart()
    back = world.client(level)
    assert back.connect("subscriber", **STAYS[level]).session_present
    world.connected("publisher").send(publish(1, "a/x", qos=1), publish(2, "b/x", qos=1))
    world.commit()
    assert payloads(back) == [b"2"]


def test_suback_of_a_kept_session_means_that_it_is_durable(world: World) -> None:
    client = world.connected("subscriber", 4, **STAYS[4])
    client.send(subscribe("a"))
    assert client.got() == []
    assert client.committed() == [SubAck(packet_id=10, codes=(0,))]


# -- slow subscribers


def test_a_subscriber_that_does_not_read_loses_qos_0_and_keeps_qos_1(world: World) -> None:
    client = subscriber(world, "#", qos=1)
    publisher = world.connected("publisher")
    client.connection.writing_paused()
    assert [client.is_paused] == [True]
    publisher.send(publish(1), publish(2, qos=1), publish(3, qos=1))
    assert client.committed() == []
    assert world.broker.counters.deliveries_dropped == 1
    client.connection.writing_resumed()
    assert not client.is_paused
    assert payloads(client) == [b"2", b"3"]


def test_an_offline_subscriber_costs_no_memory_for_what_it_will_get(tmp_path: Path) -> None:
    """CVE-2023-28366: what is kept for a client that does not answer is limited."""
    world = World(tmp_path, delivery_queue_bytes_max=5_000)
    client = subscriber(world, "#", level=4, qos=1, **STAYS[4])
    client.lose()
    (session,) = world.broker.sessions._sessions.values()
    publisher = world.connected("publisher")
    for number in range(1, 200):
        publisher.send(Publish(topic="t", payload=b"%d" % number, qos=1, packet_id=number))
        world.commit()
    assert session.outbox.waiting_count == 0
    back = world.connected("subscriber", 4, **STAYS[4])
    numbers: list[int] = []
    while packets := back.got():
        for packet in packets:
            assert isinstance(packet, Publish)
            numbers.append(int(packet.payload))
            assert session.outbox._bytes <= 5_000
            back.send(PubAck(packet_id=packet.packet_id))
        world.commit()
    assert numbers == list(range(1, 200))
    assert world.broker.counters.deliveries_dropped == 0


def test_a_delivery_larger_than_the_client_takes_is_left_out(world: World) -> None:
    """[MQTT-3.1.2-24], [MQTT-3.1.2-25]"""
    client = subscriber(world, "#", qos=1, properties=Properties(maximum_packet_bytes=50))
    publisher = world.connected("publisher")
    for qos in (0, 1):
        publisher.send(
            Publish(topic="t", payload=bytes(100), qos=qos, packet_id=qos),
            publish(9, qos=qos),
        )
    world.commit()
    assert payloads(client) == [b"9", b"9"]


def test_connack_comes_before_what_a_resumed_session_is_sent(world: World) -> None:
    client = subscriber(world, "#", level=4, qos=1, **STAYS[4])
    client.lose()
    world.connected("publisher", 4).send(publish(1, qos=1))
    world.commit()
    back = world.client(4)
    back.send_bytes(bytes.fromhex("10 16 0004 4D515454 04 00 0000 000A") + b"subscriber")
    first, second = back.committed()
    assert first == ConnAck(session_present=True, code=0)
    assert isinstance(second, Publish)


def test_many_subscribes_save_their_session_once_a_round(world: World) -> None:
    client = world.connected("subscriber", 4, **STAYS[4])
    client.send(subscribe(*(f"{number}/" + "x" * 500 for number in range(50))))
    world.commit()
    client.got()
    saved: list[bytes] = []
    put = world.log.put_state

    def counted(key: bytes, value: bytes | None) -> None:
        saved.append(key)
        put(key, value)

    world.log.put_state = counted  # type: ignore[method-assign]
    client.send(*[subscribe("a")] * 60)
    assert client.got() == [], "SUBACK waits for the round"
    assert len(client.committed()) == 60
    assert saved == [b"mqtt/session/subscriber", b"mqtt/window/subscriber"]
    world.restart()
    again = world.connected("subscriber", 4, **STAYS[4])
    world.connected("publisher").send(publish(1, "a"))
    world.commit()
    assert payloads(again) == [b"1"]


def test_identifiers_of_deliveries_begin_elsewhere_after_a_restart(world: World) -> None:
    """The client may still hold one of QoS 2 and would take a new message for the old one."""
    subscriber(world, "a", qos=2, level=4, **STAYS[4])
    world.restart()
    again = world.connected("subscriber", 4, **STAYS[4])
    world.connected("publisher").send(publish(1, "a", qos=2))
    world.commit()
    (delivered,) = again.got()
    assert isinstance(delivered, Publish)
    assert delivered.packet_id != 1


def test_what_is_in_flight_is_bounded_by_bytes(tmp_path: Path) -> None:
    world = World(tmp_path, delivery_queue_bytes_max=10_000)
    client = subscriber(world, "a", qos=1)
    publisher = world.connected("publisher")
    for size in (20_000, 1, 1):
        publisher.send(Publish(topic="a", payload=bytes(size), qos=1, packet_id=1))
        world.commit()
    (large,) = client.got()
    assert isinstance(large, Publish), "one is always sent"
    client.send(PubAck(packet_id=large.packet_id))
    assert [len(payload) for payload in payloads_once_committed(client)] == [1, 1]
    client.send(PubAck(packet_id=2), PubAck(packet_id=3))
    for _ in range(5):
        publisher.send(Publish(topic="a", payload=bytes(3_000), qos=1, packet_id=1))
    world.commit()
    got = client.got()
    assert len(got) == 2
    client.send(*[PubAck(packet_id=packet.packet_id) for packet in got])  # type: ignore[union-attr]
    assert len(payloads_once_committed(client)) == 2, "the others were read from the log"
    assert world.broker.counters.deliveries_dropped == 0


@pytest.mark.parametrize("qos", [1, 2])
def test_after_a_reconnect_no_more_is_sent_again_than_the_new_window_and_size(
    world: World, qos: int
) -> None:
    stays = STAYS[5]
    client = subscriber(world, "a", qos=qos, **stays)
    publisher = world.connected("publisher")
    for size in (1, 2, 500, 3):
        publisher.send(
            Publish(topic="a", payload=bytes(size), qos=1 if qos == 1 else 2, packet_id=size)
        )
    world.commit()
    assert len(client.got()) == 4
    client.lose()
    narrow = Properties(session_expiry_s=3600, receive_maximum=1, maximum_packet_bytes=100)
    again = world.connected("subscriber", clean=False, properties=narrow)
    sizes = []
    for _ in range(3):
        (packet,) = again.committed()
        assert isinstance(packet, Publish) and packet.dup
        sizes.append(len(packet.payload))
        if qos == 1:
            again.send(PubAck(packet_id=packet.packet_id))
        else:
            again.send(PubRec(packet_id=packet.packet_id))
            assert again.committed() == [PubRel(packet_id=packet.packet_id)]
            again.send(PubComp(packet_id=packet.packet_id))
    assert sizes == [1, 2, 3]
    assert again.got() == []
    assert world.broker.counters.deliveries_dropped == 1
    session = world.broker.sessions._sessions["subscriber"]
    assert session.outbox._bytes == 0
    assert session.outbox.waiting_count == 0
