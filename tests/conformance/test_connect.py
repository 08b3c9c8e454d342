"""CONNECT: section 3.1."""

import pytest

from gateway.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    PubRec,
    SubAck,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import (
    LEVELS,
    assert_ended,
    kept,
    publish,
    published,
    reason_of_end,
    subscribe,
    subscribed,
)
from tests.e2e.raw_mqtt import packet, text
from tests.mqtt.world import Client, World


def raw_connect(
    level: int, flags: int, payload: bytes, *, name: str = "MQTT", properties: bytes = b""
) -> bytes:
    listed = bytes((len(properties),)) + properties if level == 5 else b""
    return packet(0x10, text(name) + bytes((level, flags, 0, 0)) + listed + payload)


def refused(world: World, level: int, data: bytes) -> Client:
    """It is closed; 5.0 was told that it is malformed, 3.1.1 nothing."""
    client = world.client(level)
    client.send_bytes(data)
    assert_ended(client, ReasonCode.MALFORMED_PACKET)
    return client


@pytest.mark.parametrize("first", ["C0 00", "E0 00", "30 04 0001 61 00", "82 06 0001 0001 61 00"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_first_packet_must_be_connect(world: World, level: int, first: str) -> None:
    """[MQTT-3.1.0-1]"""
    client = world.client(level)
    client.send_bytes(bytes.fromhex(first) + raw_connect(level, 2, text("device")))
    assert client.is_closed and client.output == b""
    assert world.events.seen == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_second_connect_ends_the_connection(world: World, level: int) -> None:
    """[MQTT-3.1.0-2]"""
    client = world.connected(level=level)
    client.send(Connect(level=level, client_id="device", clean_start=True, keep_alive_s=0))
    assert_ended(client, ReasonCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("name", ["MQTt", "MQIsdp", "", "HTTP"])
@pytest.mark.parametrize("level", LEVELS)
def test_another_protocol_name_is_refused(world: World, level: int, name: str) -> None:
    """[MQTT-3.1.2-1]"""
    client = world.client(level)
    client.send_bytes(raw_connect(level, 2, text("device"), name=name))
    assert client.is_closed and world.events.seen == []
    (answer,) = client.got()
    assert isinstance(answer, ConnAck)
    assert answer.code == (1 if level == 4 else ReasonCode.UNSUPPORTED_PROTOCOL_VERSION)


@pytest.mark.parametrize(("asked", "level", "code"), [(1, 4, 1), (2, 4, 1), (6, 5, 0x84)])
def test_another_protocol_level_is_refused(world: World, asked: int, level: int, code: int) -> None:
    """3.1.1 [MQTT-3.1.2-2]: return code 0x01; 5.0 [MQTT-3.1.2-2]: reason code 0x84."""
    client = world.client(level)
    client.send_bytes(raw_connect(asked, 2, b"\0" + text("device")))
    (answer,) = client.got()
    assert answer == ConnAck(session_present=False, code=code, properties=answer.properties)  # type: ignore[union-attr]
    assert client.is_closed


@pytest.mark.parametrize("level", LEVELS)
def test_the_reserved_connect_flag_is_checked(world: World, level: int) -> None:
    """[MQTT-3.1.2-3]"""
    refused(world, level, raw_connect(level, 3, text("device")))


# -- sessions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_session_is_resumed_with_what_it_missed(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-4], [MQTT-3.1.2-5]; 5.0 [MQTT-3.1.2-5], [MQTT-3.1.2-23]; both
    [MQTT-4.5.0-1]"""
    first = world.connected("reader", level, **kept(level))
    subscribed(first, "a/#", qos=2)
    first.send(Disconnect())
    writer = world.connected("writer")
    writer.send(publish(b"1", qos=1), publish(b"2", qos=2, packet_id=2))
    world.commit()
    second = world.client(level)
    assert second.connect("reader", **kept(level)).session_present
    assert [(one.payload, one.qos) for one in published(second)] == [(b"1", 1), (b"2", 2)]
    writer.send(publish(b"3"))
    assert [one.payload for one in published(second)] == [b"3"]


@pytest.mark.parametrize("level", LEVELS)
def test_without_a_session_there_is_a_new_one(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-4], 5.0 [MQTT-3.1.2-6]"""
    assert not world.client(level).connect("reader", **kept(level)).session_present


@pytest.mark.parametrize("level", LEVELS)
def test_a_clean_start_discards_the_session(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-6], [MQTT-3.1.4-3]; 5.0 [MQTT-3.1.2-4], [MQTT-3.1.4-4]: its
    subscriptions, what waits for it, and what it has not released."""
    first = world.connected("device", level, **kept(level))
    subscribed(first, "a/#")
    first.send(publish(b"old", qos=2, packet_id=7, topic="b"))
    first.committed()
    first.lose()
    writer = world.connected("writer")
    writer.send(publish(b"missed", qos=1))
    world.commit()
    second = world.client(level)
    assert not second.connect("device", **kept(level, clean=True)).session_present
    assert published(second) == []
    writer.send(publish(b"next", qos=1))
    assert published(second) == []
    second.send(publish(b"new", qos=2, packet_id=7, topic="b"))
    assert second.committed() == [PubRec(packet_id=7)]
    assert b"new" in world.values()


@pytest.mark.parametrize("level", LEVELS)
def test_a_session_without_expiry_ends_with_its_connection(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-6]: nothing of it is used again."""
    subscribed(world.connected("device", level), "a/#")
    world.connected("device", level).lose()
    assert not world.client(level).connect("device", **kept(level)).session_present


# -- flags and payload -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [b"", text("x"), text("x") + text("topic")], ids=["none", "id", "no message"]
)
@pytest.mark.parametrize("level", LEVELS)
def test_the_fields_of_a_will_must_be_there(world: World, level: int, payload: bytes) -> None:
    """3.1.1 [MQTT-3.1.2-9], [MQTT-3.1.3-3]; 5.0 [MQTT-3.1.2-9], [MQTT-3.1.3-3], [MQTT-3.1.3-1]"""
    refused(world, level, raw_connect(level, 6, payload))


@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x1A, 0x22])
@pytest.mark.parametrize("level", LEVELS)
def test_without_a_will_its_flags_are_zero(world: World, level: int, flags: int) -> None:
    """3.1.1 [MQTT-3.1.2-11], [MQTT-3.1.2-13], [MQTT-3.1.2-15]; 5.0 [MQTT-3.1.2-11],
    [MQTT-3.1.2-13]"""
    refused(world, level, raw_connect(level, flags, text("device")))


@pytest.mark.parametrize("level", LEVELS)
def test_fields_that_no_flag_announces_are_refused(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-11], [MQTT-3.1.2-18], [MQTT-3.1.2-20]; 5.0 [MQTT-3.1.2-16],
    [MQTT-3.1.2-18]"""
    refused(world, level, raw_connect(level, 2, text("device") + text("ann")))
    refused(world, level, raw_connect(level, 0x82, text("device") + text("ann") + text("pw")))


@pytest.mark.parametrize("level", LEVELS)
def test_will_qos_3_is_refused(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-14], 5.0 [MQTT-3.1.2-12]"""
    will = (b"\0" if level == 5 else b"") + text("topic") + text("message")
    refused(world, level, raw_connect(level, 0x1E, text("device") + will))


@pytest.mark.parametrize("level", LEVELS)
def test_fields_that_a_flag_announces_must_be_there(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-19], [MQTT-3.1.2-21]; 5.0 [MQTT-3.1.2-17], [MQTT-3.1.2-19]"""
    refused(world, level, raw_connect(level, 0x82, text("device")))
    refused(world, level, raw_connect(level, 0xC2, text("device") + text("ann")))


def test_a_password_without_a_user_name_is_for_5_0_alone(world: World) -> None:
    """3.1.1 [MQTT-3.1.2-22]"""
    refused(world, 4, raw_connect(4, 0x42, text("device") + text("pw")))
    client = world.client(5)
    client.send_bytes(raw_connect(5, 0x42, text("device") + text("pw")))
    assert isinstance(client.committed()[0], ConnAck) and not client.is_closed


@pytest.mark.parametrize("level", LEVELS)
def test_the_fields_of_the_payload_come_in_order(world: World, level: int) -> None:
    """[MQTT-3.1.3-1], [MQTT-3.1.3-2], [MQTT-3.1.3-3]: each is taken for what its place says."""
    subscriber = world.connected("subscriber", level)
    subscribed(subscriber, "will/#", qos=0)
    client = world.client(level)
    will = (b"\0" if level == 5 else b"") + text("will/topic") + text("message")
    client.send_bytes(raw_connect(level, 0xC6, text("id") + will + text("ann") + text("pw")))
    assert ("connected", "id", level, client.connection.keep_alive_s) in world.events.seen
    client.lose()
    assert published(subscriber) == [publish(b"message", "will/topic")]


# -- client identifier -------------------------------------------------------------------------

ALNUM = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize("level", LEVELS)
def test_identifiers_of_1_to_23_letters_and_digits_are_taken(world: World, level: int) -> None:
    """[MQTT-3.1.3-5]"""
    for client_id in (*ALNUM, ALNUM[:23], ALNUM[20:43], ALNUM[-23:], ALNUM, "a/ü $"):
        assert world.client(level).connect(client_id).code == 0


@pytest.mark.parametrize("level", LEVELS)
def test_a_client_without_an_identifier_is_given_its_own(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.3-6], [MQTT-3.1.3-7]; 5.0 [MQTT-3.1.3-6], [MQTT-3.1.3-7],
    [MQTT-3.2.2-16]: one that no session has, told in 5.0, and treated like any other."""
    clients = [world.client(level) for _ in range(3)]
    told = [client.connect("").properties.assigned_client_id for client in clients]
    given = [client.connection.client_id for client in clients]
    assert len(set(given)) == 3 and all(given)
    assert told == (given if level == 5 else [None] * 3)
    assert not any(client.is_closed for client in clients)


def test_a_given_identifier_is_never_one_that_is_in_use(world: World) -> None:
    """5.0 [MQTT-3.2.2-16]"""
    state = world.broker.rng.getstate()
    first = world.client(5)
    taken = first.connect("").properties.assigned_client_id
    world.broker.rng.setstate(state)
    assert world.client(5).connect("").properties.assigned_client_id != taken
    assert not first.is_closed


@pytest.mark.parametrize("level", [3, 4])
def test_no_identifier_without_a_clean_session_is_refused(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.3-8], [MQTT-3.1.3-9], [MQTT-3.1.3-7]: return code 0x02, and close."""
    client = world.client(level)
    answer = client.connect("", clean=False)
    assert answer == ConnAck(session_present=False, code=2) and client.is_closed


@pytest.mark.parametrize(("level", "code"), [(4, 2), (5, 0x85)])
def test_an_identifier_that_is_not_taken_is_refused_by_name(
    world: World, level: int, code: int
) -> None:
    """3.1.1 [MQTT-3.1.3-9]; 5.0 [MQTT-3.1.3-8], [MQTT-3.1.4-2], [MQTT-3.2.2-8]"""
    client = world.client(level)
    assert client.connect("x" * (world.limits.client_id_bytes_max + 1)).code == code
    assert client.is_closed


# -- response ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_connect_that_is_no_connect_is_refused(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.4-1]: closed without a CONNACK; 5.0 [MQTT-3.1.4-1]: with 0x81."""
    refused(world, level, raw_connect(level, 2, text("device") + b"\0"))
    refused(world, level, raw_connect(level, 2, b"\0\x09short"))


@pytest.mark.parametrize("level", LEVELS)
def test_the_older_connection_of_a_client_is_closed(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.4-2], 5.0 [MQTT-3.1.4-3]"""
    older = world.connected("device", level)
    newer = world.connected("device", level)
    assert_ended(older, ReasonCode.SESSION_TAKEN_OVER)
    newer.send(PingReq())
    assert newer.got() == [PingResp()]


@pytest.mark.parametrize("level", LEVELS)
def test_a_good_connect_is_acknowledged(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.4-4], 5.0 [MQTT-3.1.4-5]"""
    assert world.client(level).connect().code == 0


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_behind_a_refused_connect_is_processed(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.4-5], 5.0 [MQTT-3.1.4-6]"""
    client = world.client(level)
    packets = (Connect(level=level, client_id="x" * 999, clean_start=True, keep_alive_s=0),)
    client.send(*packets, publish(qos=1, packet_id=1))
    client.send(publish(qos=1, packet_id=2))
    answers = client.committed()
    assert len(answers) == 1 and isinstance(answers[0], ConnAck)
    assert world.values() == []


# -- keep-alive --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_silence_of_one_and_a_half_keep_alives_ends_the_connection(
    world: World, level: int
) -> None:
    """3.1.1 [MQTT-3.1.2-24], 5.0 [MQTT-3.1.2-22], [MQTT-3.2.2-22]"""
    client = world.connected(level=level, keep_alive_s=10)
    world.pass_seconds(15)
    assert not client.is_closed
    client.send(PingReq())
    world.pass_seconds(15)
    assert not client.is_closed
    client.got()
    world.pass_seconds(3)
    assert_ended(client, ReasonCode.KEEP_ALIVE_TIMEOUT)


def test_the_servers_keep_alive_counts_where_it_was_told(world: World) -> None:
    """5.0 [MQTT-3.1.2-21], [MQTT-3.2.2-21]"""
    client = world.client(5)
    keep_alive_s = client.connect(keep_alive_s=0xFFFF).properties.server_keep_alive_s
    assert keep_alive_s == world.limits.keep_alive_s_max < 0xFFFF
    world.pass_seconds(keep_alive_s * 1.5 + 3)
    assert_ended(client, ReasonCode.KEEP_ALIVE_TIMEOUT)


# -- what a 5.0 client asks for ----------------------------------------------------------------


def test_no_message_larger_than_the_client_takes_is_sent(world: World) -> None:
    """5.0 [MQTT-3.1.2-24], [MQTT-3.1.2-25]: it is as if it had been sent."""
    properties = Properties(maximum_packet_bytes=60)
    reader = world.connected("reader", properties=properties)
    writer = world.connected("writer")
    subscribed(reader, "#", qos=1)
    for qos in (0, 1, 2):
        writer.send(publish(b"x" * 80, qos=qos), publish(b"small", qos=qos, packet_id=2))
        world.commit()
    assert [one.payload for one in published(reader)] == [b"small"] * 3


def test_no_answer_larger_than_the_client_takes_is_sent(world: World) -> None:
    """5.0 [MQTT-3.1.2-24], [MQTT-3.9.2-1]: first the reason string is left out, then the
    connection is ended."""
    client = world.connected(properties=Properties(maximum_packet_bytes=40))
    client.send(subscribe("a/#/b", *["a"] * 9))
    (answer,) = client.committed()
    assert isinstance(answer, SubAck) and answer.properties == Properties()
    client.send(subscribe(*["a"] * 40))
    assert_ended(client, ReasonCode.PACKET_TOO_LARGE)


@pytest.mark.parametrize("bytes_max", [1, 4, 5, 20])
def test_no_connack_larger_than_the_client_takes_is_sent(world: World, bytes_max: int) -> None:
    """5.0 [MQTT-3.1.2-24], [MQTT-3.2.2-19]: not even the one that refuses."""
    client = world.client(5)
    properties = Properties(maximum_packet_bytes=bytes_max)
    client.send(
        Connect(level=5, client_id="", clean_start=True, keep_alive_s=0, properties=properties)
    )
    world.commit()
    assert len(client.output) <= bytes_max
    assert reason_of_end(client) == (ReasonCode.PACKET_TOO_LARGE if bytes_max >= 5 else None)
    assert world.events.seen == []


@pytest.mark.parametrize("asked", [None, 0, 1])
def test_response_information_is_never_given(world: World, asked: int | None) -> None:
    """5.0 [MQTT-3.1.2-28]: the server has none, so it may leave it out when asked, too."""
    properties = Properties(request_response_information=asked)
    assert world.client(5).connect(properties=properties).properties.response_information is None


@pytest.mark.parametrize("wanted", [None, 0, 1])
def test_reason_strings_are_for_who_wants_them(world: World, wanted: int | None) -> None:
    """5.0 [MQTT-3.1.2-29]: without, but for CONNACK and DISCONNECT."""
    client = world.connected(properties=Properties(request_problem_information=wanted))
    client.send(subscribe("good", "a/#/b"))
    (answer,) = client.committed()
    assert isinstance(answer, SubAck)
    assert bool(answer.properties.reason_string) == (wanted != 0)
    client.send(subscribe(packet_id=0))
    (end,) = client.got()
    assert isinstance(end, Disconnect) and end.properties.reason_string


def test_the_order_of_user_properties_of_a_will_is_kept(world: World) -> None:
    """5.0 [MQTT-3.1.3-10]"""
    pairs = (("b", "1"), ("a", "2"), ("b", "0"), ("a", "1"))
    listed = b"".join([b"\x26" + text(name) + text(value) for name, value in pairs])
    reader = world.connected("reader")
    subscribed(reader, "will")
    client = world.client(5)
    will = bytes((len(listed),)) + listed + text("will") + text("message")
    client.send_bytes(raw_connect(5, 6, text("device") + will))
    client.lose()
    (message,) = published(reader)
    assert message.properties.user_properties == pairs


# -- MQTT 3.1 ----------------------------------------------------------------------------------


def test_a_device_of_3_1_is_served_like_one_of_3_1_1(world: World) -> None:
    """MQIsdp, level 3: plants have such devices. DUP is set on what it sends again, and there is
    no Session Present and no failure in SUBACK."""
    client = world.connected("old", 3, clean=False)
    client.lose()
    client = world.client(3)
    assert not client.connect("old", clean=False).session_present
    client.send_bytes(packet(0x8A, b"\0\1" + text("a/#") + b"\1"))
    assert client.committed() == [SubAck(packet_id=1, codes=(1,))]
    client.send(publish(b"x", qos=2, packet_id=3))
    world.commit()
    client.send_bytes(bytes.fromhex("6A 02 0003"))
    assert len(client.committed()) == 3  # PUBREC, its own message, PUBCOMP
    client.send(subscribe("a/#/b"))
    assert client.is_closed
