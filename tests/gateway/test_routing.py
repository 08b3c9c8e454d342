"""The routing table: which rule decides, and what the key is."""

import pytest

from gateway.mqtt.errors import TopicFilterInvalid
from gateway.partitioner import partition_for
from gateway.routing import (
    ClientIdKey,
    ConstantKey,
    Destination,
    Router,
    RouteRule,
    TopicLevelKey,
    parse_key,
)

COUNTS = {"mqtt": 3, "alarms": 1, "sites": 16}


def test_without_rules_everything_goes_to_the_first_stream_by_client_id() -> None:
    router = Router(COUNTS)
    for topic in ("a", "a/b", "/", "$SYS/x"):
        assert router.destination("device-1", topic) == Destination(
            stream="mqtt", partition=partition_for(b"device-1", 3), key=b"device-1"
        )


def test_the_default_stream_can_be_named() -> None:
    assert Router(COUNTS, default_stream="alarms").destination("c", "t").stream == "alarms"


def test_the_first_rule_that_matches_decides() -> None:
    router = Router(
        COUNTS,
        [
            RouteRule(topic_filter="+/alarm", stream="alarms", key=ConstantKey("all")),
            RouteRule(topic_filter="site/#", stream="sites", key=TopicLevelKey(1)),
        ],
    )
    assert router.destination("c", "site/alarm").stream == "alarms"
    assert router.destination("c", "site/alarm").key == b"all"
    by_level = router.destination("c", "site/north/temp")
    assert (by_level.stream, by_level.key) == ("sites", b"north")
    assert by_level.partition == partition_for(b"north", 16)
    assert router.destination("c", "elsewhere").stream == "mqtt"


def test_a_topic_without_the_key_level_is_its_own_key() -> None:
    router = Router(COUNTS, [RouteRule(topic_filter="#", stream="sites", key=TopicLevelKey(2))])
    assert router.destination("c", "a/b").key == b"a/b"


def test_a_rule_of_all_topics_also_takes_those_with_a_dollar() -> None:
    router = Router(COUNTS, [RouteRule(topic_filter="#", stream="alarms")])
    assert router.destination("c", "$SYS/broker").stream == "alarms"


def test_a_rule_to_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="no stream 'nowhere'"):
        Router(COUNTS, [RouteRule(topic_filter="#", stream="nowhere")])


def test_a_rule_with_a_bad_filter_is_refused() -> None:
    with pytest.raises(TopicFilterInvalid):
        Router(COUNTS, [RouteRule(topic_filter="a/#/b", stream="mqtt")])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("client-id", ClientIdKey()),
        ("topic-level:0", TopicLevelKey(0)),
        ("topic-level:12", TopicLevelKey(12)),
        ("constant:a:b", ConstantKey("a:b")),
    ],
)
def test_keys_are_parsed(text: str, key: object) -> None:
    assert parse_key(text) == key


@pytest.mark.parametrize(
    "text", ["", "client-id:", "topic-level", "topic-level:-1", "topic-level:x", "constant:", "key"]
)
def test_a_bad_key_says_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="expected client-id, topic-level:N or constant:TEXT"):
        parse_key(text)
