"""Topic names and filters: section 4.7."""

import pytest

from gateway.mqtt.packets import SubAck
from gateway.mqtt.reason_codes import ReasonCode
from tests.conformance.acts import LEVELS, assert_ended, publish, published, subscribe, subscribed
from tests.mqtt.world import World


@pytest.mark.parametrize("name", ["a/#/b", "#/a", "a#", "a/b#", "##"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_multi_level_wildcard_stands_alone_at_the_end(
    world: World, level: int, name: str
) -> None:
    """3.1.1 [MQTT-4.7.1-2], 5.0 [MQTT-4.7.1-1]"""
    _refused(world, level, name)


@pytest.mark.parametrize("name", ["a+", "+a", "a/b+/c", "++", "+#"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_single_level_wildcard_is_a_whole_level(world: World, level: int, name: str) -> None:
    """3.1.1 [MQTT-4.7.1-3], 5.0 [MQTT-4.7.1-2]"""
    _refused(world, level, name)


@pytest.mark.parametrize("level", LEVELS)
def test_an_empty_filter_is_refused(world: World, level: int) -> None:
    """[MQTT-4.7.3-1]"""
    _refused(world, level, "")


@pytest.mark.parametrize("level", LEVELS)
def test_a_filter_over_the_limit_is_refused(world: World, level: int) -> None:
    """[MQTT-4.7.3-3]: 65,535 bytes are what the length can say; the limit is lower."""
    _refused(world, level, "x" * (world.limits.topic_bytes_max + 1))
    writer = world.connected("writer", level)
    writer.send(publish(topic="x" * (world.limits.topic_bytes_max + 1)))
    assert_ended(writer, ReasonCode.TOPIC_NAME_INVALID)


def _refused(world: World, level: int, name: str) -> None:
    client = world.connected(level=level)
    client.send(subscribe(name))
    (answer,) = client.committed()
    assert isinstance(answer, SubAck)
    assert answer.codes == (0x80 if level == 4 else ReasonCode.TOPIC_FILTER_INVALID,)


MATCHES = {
    "sport/tennis/player1/#": {
        "sport/tennis/player1": True,
        "sport/tennis/player1/ranking": True,
        "sport/tennis/player1/score/wimbledon": True,
        "sport/tennis/player2": False,
    },
    "sport/#": {"sport": True, "sport/": True, "sports": False},
    "#": {"a": True, "/": True, "a/b/c": True, "$SYS/x": False, "$a": False},
    "+": {"a": True, "/a": False, "$a": False, "finance": True},
    "+/+": {"/finance": True, "a/b": True, "$SYS/x": False, "finance": False},
    "/+": {"/finance": True, "finance": False},
    "+/tennis/#": {"sport/tennis": True, "sport/tennis/x/y": True, "sport/golf": False},
    "sport/+/player1": {"sport/tennis/player1": True, "sport//player1": True, "sport/a/b": False},
    "+/monitor/Clients": {"$app/monitor/Clients": False, "app/monitor/Clients": True},
    "$app/#": {"$app/x": True, "$app": True, "app/x": False},
    "$app/monitor/+": {"$app/monitor/Clients": True},
    "ACCOUNTS": {"ACCOUNTS": True, "Accounts": False},
    "a b/\u00e9": {"a b/\u00e9": True, "a b/e\u0301": False, "ab/\u00e9": False},
}


@pytest.mark.parametrize(
    ("name", "topic", "expected"),
    [
        (name, topic, is_match)
        for name, cases in MATCHES.items()
        for topic, is_match in cases.items()
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_a_filter_matches_as_written(
    world: World, level: int, name: str, topic: str, expected: bool
) -> None:
    """[MQTT-4.7.2-1], [MQTT-4.7.3-4]; 3.1.1 [MQTT-4.7.1-2], [MQTT-4.7.1-3]; 5.0 [MQTT-4.7.1-1],
    [MQTT-4.7.1-2]"""
    client = world.connected(level=level)
    subscribed(client, name, qos=0)
    client.send(publish(topic=topic))
    assert [message.topic for message in published(client)] == ([topic] if expected else [])
