"""Topic names and filters: section 4.7 of MQTT 3.1.1 and 5.0."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mqtt.errors import TopicFilterInvalid, TopicNameInvalid
from gateway.mqtt.topics import (
    FilterTree,
    check_topic_filter,
    check_topic_name,
    filter_matches,
    is_shared,
)

# Examples of 4.7.1.2, 4.7.1.3 and 4.7.2, and their neighbours.
MATCHES = [
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("sport/#", "sports", False),
    ("#", "a", True),
    ("#", "/", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("+/tennis/#", "sport/tennis", True),
    ("+/monitor/Clients", "$SYS/monitor/Clients", False),
    ("#", "$SYS/monitor/Clients", False),
    ("$SYS/#", "$SYS/monitor/Clients", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    ("a/+/c", "a//c", True),
    ("a", "A", False),
    ("a/b", "a", False),
    ("a", "a/", False),
]


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_a_filter_matches_as_the_standard_says(
    topic_filter: str, topic: str, expected: bool
) -> None:
    assert filter_matches(topic_filter, topic) is expected
    tree: FilterTree[str, int] = FilterTree()
    tree.add(topic_filter, "client", 1)
    assert tree.match(topic) == ([("client", 1)] if expected else [])


@pytest.mark.parametrize("topic", ["a", "/", "//", "a b", "$SYS/x", "é/ü", "a/" * 199 + "a"])
def test_a_valid_topic_name_is_taken(topic: str) -> None:
    check_topic_name(topic)


@pytest.mark.parametrize(
    "topic",
    ["", "#", "+", "a/#", "a+b", "a\0b", "x" * 65_536, "é" * 32_768, "/" * 200],
    ids=[
        "empty",
        "#",
        "+",
        "a/#",
        "a+b",
        "NUL",
        "65536 bytes",
        "65536 bytes in UTF-8",
        "201 levels",
    ],
)
def test_an_invalid_topic_name_is_refused(topic: str) -> None:
    """[MQTT-4.7.3-1], [MQTT-3.3.2-2], [MQTT-4.7.3-2], [MQTT-4.7.3-3]"""
    with pytest.raises(TopicNameInvalid):
        check_topic_name(topic)


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/#", "+/a/+", "/#", "$share/g/a", "/" * 199])
def test_a_valid_filter_is_taken(topic_filter: str) -> None:
    check_topic_filter(topic_filter)


@pytest.mark.parametrize(
    "topic_filter",
    ["", "a#", "#a", "a/#/b", "##", "a+", "+a/b", "a/++", "a\0", "x" * 65_536, "/" * 65_400],
    ids=[
        "",
        "a#",
        "#a",
        "a/#/b",
        "##",
        "a+",
        "+a/b",
        "a/++",
        "NUL",
        "65536 bytes",
        "65400 slashes",
    ],
)
def test_an_invalid_filter_is_refused(topic_filter: str) -> None:
    """[MQTT-4.7.1-1] to [MQTT-4.7.1-3]; CVE-2019-11779 for the slashes."""
    with pytest.raises(TopicFilterInvalid):
        check_topic_filter(topic_filter)


def test_shared_subscriptions_are_recognised() -> None:
    assert is_shared("$share/group/a")
    assert not is_shared("$shared/a")


levels = st.sampled_from(["a", "b", "", "$x"])
names = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=4),
        st.booleans(),
    )
    .map(lambda parts: "/".join([*parts[0], "#"] if parts[1] else parts[0]))
    .filter(bool)
)


@settings(deadline=None)
@given(st.lists(filters, max_size=12), st.lists(filters, max_size=6), names)
def test_the_tree_finds_what_each_filter_alone_would(
    added: list[str], removed: list[str], topic: str
) -> None:
    tree: FilterTree[str, str] = FilterTree()
    kept: set[str] = set()
    for topic_filter in added:
        assert tree.add(topic_filter, topic_filter, topic_filter) is (topic_filter not in kept)
        kept.add(topic_filter)
    for topic_filter in removed:
        assert tree.remove(topic_filter, topic_filter) is (topic_filter in kept)
        kept.discard(topic_filter)
    assert len(tree) == len(kept)
    found = [value for _, value in tree.match(topic)]
    assert sorted(found) == sorted(item for item in kept if filter_matches(item, topic))


def test_the_tree_keeps_nothing_of_what_was_removed() -> None:
    tree: FilterTree[str, int] = FilterTree()
    empty = tree._root.children
    tree.add("a/b/c", "one", 1)
    tree.add("a/b", "two", 2)
    tree.remove("a/b/c", "one")
    tree.remove("a/b", "two")
    assert empty == {}


def test_every_change_of_the_tree_makes_a_new_version() -> None:
    tree: FilterTree[str, int] = FilterTree()
    versions = [tree.version]
    tree.add("a", "one", 1)
    versions.append(tree.version)
    tree.add("a", "one", 2)
    versions.append(tree.version)
    tree.remove("a", "one")
    versions.append(tree.version)
    assert len(set(versions)) == 4
    assert not tree.remove("a", "one")
    assert tree.version == versions[-1]
