"""Replay: stored messages from a place on, in order, then live (gateway/mqtt/replay.py)."""

from pathlib import Path
from typing import Any

import pytest

from gateway.mqtt.packets import (
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
)
from gateway.mqtt.properties import Properties
from tests.mqtt.subscriber import Subscriber
from tests.mqtt.test_catchup import STAYS, drain, message, numbers, send
from tests.mqtt.world import WALL_MS, Client, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, partition_count=1)


def replay(topic_filter: str = "#", qos: int = 1, **asked: str) -> Subscribe:
    names = {"from_": "from"}
    pairs = tuple((names.get(name, name), value) for name, value in asked.items())
    request = SubscriptionRequest(filter=topic_filter, qos=qos)
    return Subscribe(
        packet_id=10, requests=(request,), properties=Properties(user_properties=pairs)
    )


def got(client: Client, packet: Subscribe, qos: int = 1) -> list[int]:
    """What comes of a SUBSCRIBE, acknowledged."""
    client.send(packet)
    keeper = Subscriber()
    answers = client.committed()
    assert SubAck(packet_id=10, codes=(qos,)) in answers
    for each in answers:
        client.send(*keeper.hear(each))
    drain(client, keeper)
    return numbers(list(keeper.handed))


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_from_earliest_comes_all_that_is_stored_then_what_is_live(world: World, qos: int) -> None:
    send(world, *(message(number, qos=qos) for number in range(300)))
    client = world.connected("subscriber")
    assert got(client, replay(qos=qos, from_="earliest"), qos) == list(range(300))
    session = client.connection.session
    assert session is not None and session.reading is None, "live"
    send(world, message(300))
    assert drain(client) == [300]


def test_from_an_offset_and_from_a_time(world: World) -> None:
    send(world, *(message(number) for number in range(10)))
    world.now_ms += 5_000
    between = WALL_MS + world.now_ms
    send(world, *(message(number) for number in range(10, 20)))
    for asked, first in (
        ("offset:7", 7),
        ("offset:1000", 20),
        (f"time:{between}", 10),
        ("time:2023-11-14T22:30:05Z", 10),
        ("latest", 20),
    ):
        client = world.connected(asked)
        assert got(client, replay(from_=asked)) == list(range(first, 20)), asked


@pytest.mark.parametrize("level", [4, 5])
def test_a_prefix_of_the_filter_asks_the_same(world: World, level: int) -> None:
    send(world, *(message(number, "a/b") for number in range(10)))
    client = world.connected("subscriber", level)
    packet = Subscribe(
        packet_id=10, requests=(SubscriptionRequest(filter="$replay/offset:4/a/+", qos=1),)
    )
    assert got(client, packet) == list(range(4, 10))
    client.send(Unsubscribe(packet_id=3, filters=("$replay/offset:4/a/+",)))
    codes = (0,) if level == 5 else ()
    assert client.committed() == [UnsubAck(packet_id=3, codes=codes)]
    send(world, message(10, "a/b"))
    assert drain(client) == []


def test_a_limit_ends_the_stored_ones_and_not_the_live_ones(world: World) -> None:
    send(world, *(message(number) for number in range(100)))
    client = world.connected("subscriber")
    assert got(client, replay(from_="earliest", limit="3")) == [0, 1, 2]
    send(world, message(100))
    assert drain(client) == [100]


def test_other_subscriptions_get_nothing_again(world: World) -> None:
    client = world.connected("subscriber")
    client.send(replay("mine"))
    client.committed()
    send(world, message(1, "mine"), message(2, "other"))
    assert drain(client) == [1]
    assert got(client, replay("other", from_="earliest")) == [2]
    send(world, message(3, "mine"), message(4, "other"))
    assert drain(client) == [3, 4]


def test_deliveries_say_where_they_are_when_asked(world: World) -> None:
    send(world, message(0), message(1))
    client = world.connected("subscriber")
    client.send(replay(from_="offset:1", position="1"))
    (packet,) = [each for each in client.committed() if isinstance(each, Publish)]
    properties = dict(packet.properties.user_properties)
    assert int(properties.pop("sluicegate.time")) == world.records()[1].timestamp_ms
    assert properties == {
        "sluicegate.stream": "mqtt",
        "sluicegate.partition": "0",
        "sluicegate.offset": "1",
    }
    send(world, message(2))
    (live,) = client.got()
    assert isinstance(live, Publish)
    assert ("sluicegate.offset", "2") in live.properties.user_properties


def test_a_replay_of_a_kept_session_goes_on_after_a_crash(world: World) -> None:
    send(world, *(message(number) for number in range(500)))
    client = world.connected("subscriber", **STAYS)
    client.send(replay(from_="offset:100"))
    keeper = Subscriber()
    for packet in client.committed():
        client.send(*keeper.hear(packet))
    client.lose()
    world.commit()
    world.restart()
    drain(world.connected("subscriber", **STAYS), keeper)
    assert sorted(set(numbers(list(keeper.handed)))) == list(range(100, 500))


@pytest.mark.parametrize(
    ("topic_filter", "asked", "right"),
    [
        ("#", {"from_": "yesterday"}, "earliest, latest, offset:N"),
        ("#", {"from_": "offset:-1"}, "offset:N"),
        ("#", {"from_": "time:soon"}, "RFC 3339"),
        ("#", {"from_": "time:2026-01-01T00:00:00"}, "Z or +01:00"),
        ("#", {"from_": "earliest", "limit": "many"}, "a number of messages"),
        ("#", {"position": "yes"}, "0 or 1"),
        ("$share/g/#", {"from_": "earliest"}, "cannot be replayed"),
        ("$replay/earliest", {}, "$replay/FROM/FILTER"),
        ("$replay/first/#", {}, "earliest, latest"),
    ],
)
def test_a_bad_wish_is_refused_with_what_would_be_right(
    world: World, topic_filter: str, asked: dict[str, Any], right: str
) -> None:
    client = world.connected("subscriber")
    client.send(replay(topic_filter, **asked))
    (answer,) = client.committed()
    assert isinstance(answer, SubAck)
    assert answer.codes == (0x83,)
    assert right in (answer.properties.reason_string or "")
