"""Enhanced authentication: section 4.12 and the AUTH packet, 3.15. All of it is 5.0."""

from collections.abc import Callable

import pytest

from gateway.mqtt.authentication import Accepted, Answer, Attempt, Challenge, Refused
from gateway.mqtt.errors import NotAuthorized
from gateway.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Will,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import publish, reason_of_end, subscribe
from tests.mqtt.world import Client, World

METHOD = "ECHO"

Step = Callable[[Accepted | Refused | Challenge], None]


class Doorman:
    """Asks `questions` one after the other; each is answered with its own bytes."""

    methods = frozenset({METHOD})

    def __init__(self, *questions: bytes) -> None:
        self.questions = questions
        self.begun_count = 0
        self.is_slow = False
        self.held: list[Callable[[], None]] = []

    def authenticate(self, attempt: Attempt, answer: Answer) -> None:
        answer(Accepted())

    def begin(self, method: str, attempt: Attempt) -> "Riddle":
        assert method == METHOD
        self.begun_count += 1
        return Riddle(self)


class Riddle:
    def __init__(self, doorman: Doorman) -> None:
        self._doorman = doorman
        self._left = list(doorman.questions)
        self._expected: bytes | None = b"hello"

    def step(self, data: bytes | None, answer: Step) -> None:
        if self._doorman.is_slow:
            self._doorman.held.append(lambda: self._judge(data, answer))
        else:
            self._judge(data, answer)

    def _judge(self, data: bytes | None, answer: Step) -> None:
        if data != self._expected:
            answer(Refused(error=NotAuthorized("wrong answer")))
        elif self._left:
            self._expected = self._left.pop(0)
            answer(Challenge(data=self._expected))
        else:
            answer(Accepted(user_name="ann", data=b"welcome"))


@pytest.fixture
def doorman(world: World) -> Doorman:
    doorman = Doorman(b"one", b"two")
    world.authenticator = doorman
    return doorman


def knock(world: World, *, data: bytes = b"hello", method: str = METHOD) -> Client:
    client = world.client(5)
    properties = Properties(authentication_method=method, authentication_data=data)
    client.send(
        Connect(
            level=5,
            client_id="device",
            clean_start=True,
            keep_alive_s=0,
            properties=properties,
            will=Will(topic="will", payload=b"gone"),
        )
    )
    return client


def auth(code: int, data: bytes | None, method: str | None = METHOD) -> Auth:
    properties = Properties(authentication_method=method, authentication_data=data)
    return Auth(code=code, properties=properties)


CONTINUE = ReasonCode.CONTINUE_AUTHENTICATION
AGAIN = ReasonCode.RE_AUTHENTICATE


def let_in(world: World) -> Client:
    client = knock(world)
    for word in (b"one", b"two"):
        client.send(auth(CONTINUE, word))
    assert isinstance(client.committed()[-1], ConnAck)
    return client


def test_challenges_go_to_and_fro_until_connack(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-4.12.0-2], [MQTT-4.12.0-5], [MQTT-3.15.2-1]: AUTH with 0x18, and CONNECT's method
    in every AUTH and in CONNACK; [MQTT-3.2.0-1] nothing but AUTH comes before CONNACK. There is
    never a reason string or user property in AUTH [MQTT-3.15.2-2], [MQTT-3.15.2-3]."""
    client = knock(world)
    assert client.committed() == [auth(CONTINUE, b"one")]
    client.send(auth(CONTINUE, b"one"))
    assert client.committed() == [auth(CONTINUE, b"two")]
    client.send(auth(CONTINUE, b"two"))
    (answer,) = client.committed()
    assert isinstance(answer, ConnAck) and answer.code == 0
    assert answer.properties.authentication_method == METHOD
    assert answer.properties.authentication_data == b"welcome"
    assert client.connection.user_name == "ann"
    client.send(PingReq())
    assert client.got() == [PingResp()]


def test_an_exchange_without_challenge_is_connack_at_once(world: World, doorman: Doorman) -> None:
    doorman.questions = ()
    (answer,) = knock(world).committed()
    assert isinstance(answer, ConnAck) and answer.properties.authentication_data == b"welcome"


def test_verdicts_may_come_late_and_packets_early(world: World, doorman: Doorman) -> None:
    doorman.is_slow = True
    client = knock(world)
    client.send(auth(CONTINUE, b"one"), auth(CONTINUE, b"two"), PingReq())
    assert client.committed() == [] and client.is_paused
    while doorman.held:
        doorman.held.pop()()
    first, second, connack, pong = client.committed()
    assert (first, second) == (auth(CONTINUE, b"one"), auth(CONTINUE, b"two"))
    assert isinstance(connack, ConnAck) and connack.code == 0
    assert pong == PingResp()
    assert not client.is_paused


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_wrong_answer_is_refused_at_any_point(world: World, doorman: Doorman, at: int) -> None:
    """5.0 [MQTT-4.12.0-4]: CONNACK with its reason, and the connection is closed."""
    words = [b"hello", b"one", b"two"]
    words[at] = b"guess"
    client = knock(world, data=words[0])
    for word in words[1 : at + 1]:
        client.send(auth(CONTINUE, word))
    assert reason_of_end(client) == ReasonCode.NOT_AUTHORIZED
    assert world.events.seen == [] and world.values() == []


def test_a_method_that_nobody_knows_is_refused(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-4.12.0-1]"""
    assert reason_of_end(knock(world, method="SCRAM")) == ReasonCode.BAD_AUTHENTICATION_METHOD


@pytest.mark.parametrize(
    "packet",
    [
        publish(),
        subscribe("a"),
        PingReq(),
        Connect(level=5, client_id="x", clean_start=True, keep_alive_s=0),
        auth(0, b"one"),
        auth(AGAIN, b"one"),
        auth(CONTINUE, b"one", method="OTHER"),
        auth(CONTINUE, b"one", method=None),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_only_the_right_auth_may_come_before_connack(
    world: World, doorman: Doorman, packet: Packet
) -> None:
    """5.0 [MQTT-3.1.2-30], [MQTT-4.12.0-3], [MQTT-4.12.0-5], [MQTT-3.1.0-2], [MQTT-3.14.0-1]: the
    answer is a CONNACK, for there was none yet; [MQTT-3.1.4-6] nothing of it is processed."""
    client = knock(world)
    client.got()
    client.send(packet)
    (answer,) = client.committed()
    assert isinstance(answer, ConnAck) and answer.code == ReasonCode.PROTOCOL_ERROR
    assert client.is_closed and world.values() == []


def test_the_client_may_leave_before_connack(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-3.1.2-30]; there was no session yet, so no will."""
    client = knock(world)
    client.send(Disconnect())
    assert client.is_closed
    world.commit()
    assert world.values() == []


def test_an_exchange_takes_no_longer_than_connecting_may(world: World, doorman: Doorman) -> None:
    client = knock(world)
    world.pass_seconds(11)
    assert client.is_closed


def test_a_connected_client_may_authenticate_again(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-4.12.1-1], [MQTT-3.15.2-1]: 0x19, challenges, and AUTH with 0x00; other packets go
    on meanwhile."""
    client = let_in(world)
    client.send(auth(AGAIN, b"hello"), PingReq())
    assert client.committed() == [auth(CONTINUE, b"one"), PingResp()]
    client.send(auth(CONTINUE, b"one"))
    client.send(auth(CONTINUE, b"two"))
    assert client.committed() == [auth(CONTINUE, b"two"), auth(0, b"welcome")]
    client.send(auth(AGAIN, b"hello"))
    assert client.committed() == [auth(CONTINUE, b"one")]
    assert doorman.begun_count == 3


def test_who_fails_to_authenticate_again_is_disconnected(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-4.12.1-2]"""
    client = let_in(world)
    client.send(auth(AGAIN, b"guess"))
    assert reason_of_end(client) == ReasonCode.NOT_AUTHORIZED


@pytest.mark.parametrize(
    "packets",
    [
        [auth(CONTINUE, b"one")],
        [auth(AGAIN, b"hello", method="OTHER")],
        [auth(AGAIN, b"hello"), auth(AGAIN, b"hello")],
        [auth(0, None)],
    ],
    ids=["not asked", "another method", "twice", "success"],
)
def test_an_auth_out_of_turn_is_a_protocol_error(
    world: World, doorman: Doorman, packets: list[Auth]
) -> None:
    """5.0 [MQTT-4.12.1-1], [MQTT-4.12.0-3]"""
    client = let_in(world)
    client.send(*packets)
    assert reason_of_end(client) == ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize("has_doorman", [False, True])
def test_no_auth_without_a_method_in_connect(
    world: World, doorman: Doorman, has_doorman: bool
) -> None:
    """5.0 [MQTT-4.12.0-6], [MQTT-4.12.0-7]"""
    if not has_doorman:
        world.authenticator = None
    client = world.client(5)
    assert client.connect().properties.authentication_method is None
    client.send(auth(AGAIN, b"hello"))
    assert reason_of_end(client) == ReasonCode.PROTOCOL_ERROR


def test_an_auth_with_flags_is_malformed(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-3.15.1-1]"""
    client = let_in(world)
    client.send_bytes(b"\xf1\0")
    assert reason_of_end(client) == ReasonCode.MALFORMED_PACKET


def test_an_auth_larger_than_the_client_takes_is_not_sent(world: World, doorman: Doorman) -> None:
    """5.0 [MQTT-3.1.2-24]"""
    doorman.questions = (b"x" * 100,)
    client = world.client(5)
    properties = Properties(
        authentication_method=METHOD, authentication_data=b"hello", maximum_packet_bytes=100
    )
    answer = client.connect(properties=properties)
    assert answer.code == ReasonCode.PACKET_TOO_LARGE
    assert client.is_closed
