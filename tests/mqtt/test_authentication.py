"""gateway/mqtt/authentication.py seen from CONNECT: verdicts at once, late, and too late."""

from pathlib import Path

import pytest

from gateway.mqtt.authentication import Accepted, Answer, Attempt, Exchange, Refused
from gateway.mqtt.errors import BadUserNameOrPassword, NotAuthorized, ServerBusy
from gateway.mqtt.packets import ConnAck, Connect, PingReq, PingResp, PubAck, Publish
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.mqtt.world import Client, World


class Doorman:
    """Keeps who waits, until the test says what becomes of them."""

    methods: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.waiting: list[tuple[Attempt, Answer]] = []

    def authenticate(self, attempt: Attempt, answer: Answer) -> None:
        self.waiting.append((attempt, answer))

    def begin(self, method: str, attempt: Attempt) -> Exchange:
        raise AssertionError("it has no methods")


@pytest.fixture
def doorman() -> Doorman:
    return Doorman()


@pytest.fixture
def world(tmp_path: Path, doorman: Doorman) -> World:
    world = World(tmp_path)
    world.authenticator = doorman
    return world


def knock(world: World, level: int = 5) -> Client:
    client = world.client(level)
    packet = Connect(
        level=level,
        client_id="device",
        clean_start=True,
        keep_alive_s=0,
        user_name="ann",
        password=b"secret",
    )
    client.send(packet)
    return client


def test_an_authenticator_is_told_who_wants_in(world: World, doorman: Doorman) -> None:
    client = knock(world)
    ((attempt, _),) = doorman.waiting
    assert attempt == Attempt(client_id="device", peer="test", user_name="ann", password=b"secret")
    assert client.committed() == [] and client.is_paused


def test_who_is_accepted_later_is_let_in_and_read_again(world: World, doorman: Doorman) -> None:
    client = knock(world)
    doorman.waiting[0][1](Accepted(user_name="ann"))
    (answer,) = client.committed()
    assert isinstance(answer, ConnAck) and answer.code == 0
    assert not client.is_paused
    assert client.connection.user_name == "ann"
    client.send(PingReq())
    assert client.got() == [PingResp()]


def test_what_a_client_sent_behind_its_connect_waits_for_the_verdict(
    world: World, doorman: Doorman
) -> None:
    """[MQTT-3.1.4-6] a client may send before CONNACK; nothing of it is taken before."""
    client = knock(world)
    client.send(Publish(topic="a", payload=b"1", qos=1, packet_id=1))
    client.send_bytes(b"\xc0")
    assert client.committed() == [] and world.values() == []
    doorman.waiting[0][1](Accepted())
    client.send_bytes(b"\0")
    connack, *rest = client.committed()
    assert isinstance(connack, ConnAck)
    assert sorted(map(repr, rest)) == sorted(map(repr, [PubAck(packet_id=1), PingResp()]))
    assert world.values() == [b"1"]
    assert world.broker.partial_bytes == 0


def test_what_the_refused_sent_behind_their_connect_is_thrown_away(
    world: World, doorman: Doorman
) -> None:
    """[MQTT-3.1.4-6] "the server MUST NOT process any data sent by the Client after CONNECT"."""
    client = knock(world)
    client.send(Publish(topic="a", payload=b"1", qos=1, packet_id=1))
    doorman.waiting[0][1](Refused(error=BadUserNameOrPassword("no")))
    (answer,) = client.committed()
    assert isinstance(answer, ConnAck)
    assert world.values() == [] and client.is_closed
    assert world.broker.partial_bytes == 0


@pytest.mark.parametrize(
    ("error", "code", "return_code"),
    [
        (BadUserNameOrPassword("no"), ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
        (NotAuthorized("no"), ReasonCode.NOT_AUTHORIZED, 5),
        (ServerBusy("no"), ReasonCode.SERVER_BUSY, 3),
    ],
)
def test_the_refused_are_told_why(
    world: World, doorman: Doorman, error: NotAuthorized, code: int, return_code: int
) -> None:
    """3.2.2.2 of MQTT 5.0, 3.2.2.3 of 3.1.1; then the connection is closed [MQTT-3.2.2-7]."""
    for level, expected in ((5, code), (4, return_code)):
        client = knock(world, level)
        doorman.waiting.pop()[1](Refused(error=error))
        (answer,) = client.got()
        assert isinstance(answer, ConnAck) and answer.code == expected
        assert client.is_closed


def test_a_verdict_for_a_client_that_is_gone_is_ignored(world: World, doorman: Doorman) -> None:
    client = knock(world)
    client.lose()
    doorman.waiting[0][1](Accepted())
    assert client.committed() == []
    assert world.events.seen == []


def test_thinking_counts_in_the_time_to_connect(world: World, doorman: Doorman) -> None:
    client = knock(world)
    world.pass_seconds(11)
    assert client.is_closed
    doorman.waiting[0][1](Accepted())
    assert world.events.seen == []


def test_a_method_nobody_knows_is_refused(world: World, doorman: Doorman) -> None:
    """[MQTT-4.12.0-1]"""
    client = world.client(5)
    answer = client.connect(properties=Properties(authentication_method="SCRAM-SHA-1"))
    assert answer.code == ReasonCode.BAD_AUTHENTICATION_METHOD
    assert doorman.waiting == []
