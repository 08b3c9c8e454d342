"""Where a message goes: from its client and topic to a stream, a key and a partition.

Owns the routing table. The first rule whose filter matches the topic decides; where none does,
the default rule: the stream named as default (`mqtt`), key = client id. A router is immutable: a
changed configuration makes a new one.

Unlike a subscription, a rule `#` also matches topics that begin with `$`: nothing may fall
through a table whose last rule is meant to catch all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.mqtt.topics import check_topic_filter, filter_matches
from gateway.partitioner import partition_for


@dataclass(frozen=True, slots=True)
class ClientIdKey:
    """The record's key is the client id."""


@dataclass(frozen=True, slots=True)
class TopicLevelKey:
    """The record's key is one level of the topic, counted from 0; absent: the whole topic."""

    level: int


@dataclass(frozen=True, slots=True)
class ConstantKey:
    """All records of the rule have one key, so one partition and one order."""

    value: str


Key = ClientIdKey | TopicLevelKey | ConstantKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    topic_filter: str
    stream: str
    key: Key = ClientIdKey()


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    stream: str
    partition: int
    key: bytes


def parse_key(text: str) -> Key:
    """`client-id`, `topic-level:N` or `constant:TEXT`; raises ValueError that says so."""
    kind, colon, argument = text.partition(":")
    if kind == "client-id" and not colon:
        return ClientIdKey()
    if kind == "topic-level" and argument.isascii() and argument.isdigit():
        return TopicLevelKey(int(argument))
    if kind == "constant" and argument:
        return ConstantKey(argument)
    raise ValueError(f"{text!r}: expected client-id, topic-level:N or constant:TEXT")


class Router:
    """`partition_counts` names every stream; raises ValueError for a rule that cannot work."""

    def __init__(
        self,
        partition_counts: Mapping[str, int],
        rules: Sequence[RouteRule] = (),
        *,
        default_stream: str | None = None,
    ) -> None:
        if not partition_counts:
            raise ValueError("a router needs at least one stream")
        self._partition_counts = dict(partition_counts)
        default = default_stream or next(iter(self._partition_counts))
        self._rules = (*rules, RouteRule(topic_filter="#", stream=default))
        for rule in self._rules:
            check_topic_filter(rule.topic_filter)
            if rule.stream not in self._partition_counts:
                raise ValueError(f"route {rule.topic_filter!r}: no stream {rule.stream!r}")

    def destination(self, client_id: str, topic: str) -> Destination:
        rule = next(rule for rule in self._rules if _rule_matches(rule.topic_filter, topic))
        key = _key_of(rule.key, client_id, topic).encode()
        return Destination(
            stream=rule.stream,
            partition=partition_for(key, self._partition_counts[rule.stream]),
            key=key,
        )


def _rule_matches(topic_filter: str, topic: str) -> bool:
    return topic_filter == "#" or filter_matches(topic_filter, topic)


def _key_of(key: Key, client_id: str, topic: str) -> str:
    match key:
        case ClientIdKey():
            return client_id
        case TopicLevelKey(level):
            levels = topic.split("/")
            return levels[level] if level < len(levels) else topic
        case ConstantKey(value):
            return value
