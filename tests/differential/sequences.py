"""What is sent: the steps of two clients, and how Hypothesis makes them.

A step says what, not which bytes: packet identifiers of deliveries are the server's, so an
acknowledgement names the delivery by its place among those that wait for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st

from gateway.mqtt.packets import (
    LEVEL_3_1_1,
    LEVEL_5_0,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
    Will,
)
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from tests.differential.malformed import CONNECTED, CONNECTED_5_0, FIRST, FIRST_5_0, UNFRAMED

TOPICS = ("a", "a/b", "a/b/c", "a//c", "/a", "a/", "b", "$x/a")
FILTERS = (
    *TOPICS,
    *("#", "+", "a/#", "a/+", "+/b", "a/+/c", "+/+", "/+", "a/b/#", "+/#", "$x/#", "b/#", "/#"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A new connection with a CONNECT; the one that the client has, if any, is left open."""

    clean: bool = True
    expiry_s: int | None = None
    will: Will | None = None
    keep_alive_s: int = 0
    receive_maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """A new connection whose first bytes are a packet of `malformed.FIRST`."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    packet: Packet


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice:
    """A QoS 2 PUBLISH, again with DUP before it is released, and its PUBREL."""

    packet: Publish


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The next acknowledgement of the delivery at `place`; or one that it must not have."""

    place: int
    is_wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unframed:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The client closes its connection without a DISCONNECT."""


Action = Open | First | Send | Twice | Answer | Malformed | Unframed | Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    client: int
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """`levels` of the two clients; a step of a client that is not connected does nothing."""

    levels: tuple[int, int]
    steps: tuple[Step, ...]


_topics = st.sampled_from(TOPICS)
_filters = st.sampled_from(FILTERS)
_ids = st.integers(1, 6)
_maybe = st.booleans()
_retains = st.just(False)  # true as well once retained messages are sent to new subscribers

_message_properties = st.just(NO_PROPERTIES) | st.fixed_dictionaries(
    {},
    optional={
        "payload_format": st.sampled_from((0, 1)),
        "message_expiry_s": st.just(1000),
        "content_type": st.just("text/plain"),
        "response_topic": st.just("b"),
        "correlation_data": st.just(b"\0\xff"),
        "user_properties": st.sampled_from(((("k", "v"),), (("k", "v"), ("k", ""), ("", "w")))),
    },
).map(lambda given: msgspec.convert(given, Properties))


def _weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of these, so many times as often; st.one_of counts each but once."""
    table = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(table) - 1).flatmap(table.__getitem__)


@cache
def _properties(level: int) -> st.SearchStrategy[Properties]:
    return _message_properties if level == LEVEL_5_0 else st.just(NO_PROPERTIES)


@cache
def _wills(level: int) -> st.SearchStrategy[Will]:
    return st.builds(
        Will,
        topic=_topics,
        payload=st.just(b"will"),
        qos=st.integers(0, 2),
        retain=_retains,
        properties=_properties(level),
    )


@cache
def _opens(level: int) -> st.SearchStrategy[Open]:
    is_5_0 = level == LEVEL_5_0
    return st.builds(
        Open,
        clean=_maybe,
        expiry_s=st.sampled_from((None, 0, 1000)) if is_5_0 else st.none(),
        will=st.none() | _wills(level),
        keep_alive_s=st.sampled_from((0, 60)),
        receive_maximum=st.sampled_from((None, None, 1, 2)) if is_5_0 else st.none(),
    )


@cache
def _publishes(level: int) -> st.SearchStrategy[Publish]:
    return st.builds(
        lambda topic, payload, qos, packet_id, dup, retain, properties: Publish(
            topic=topic,
            payload=payload,
            qos=qos,
            packet_id=packet_id if qos else 0,
            dup=dup and qos > 0,
            retain=retain,
            properties=properties,
        ),
        _topics,
        st.sampled_from((b"m", b"n", b"")),
        st.sampled_from((0, 0, 1, 1, 1, 2)),
        _ids,
        st.sampled_from((False, False, False, True)),
        _retains,
        _properties(level),
    )


@cache
def _subscribes(level: int) -> st.SearchStrategy[Subscribe]:
    is_5_0 = level == LEVEL_5_0
    requests = st.builds(
        SubscriptionRequest,
        filter=_filters,
        qos=st.integers(0, 2),
        no_local=_maybe if is_5_0 else st.just(False),
        retain_as_published=_maybe if is_5_0 else st.just(False),
        retain_handling=st.integers(0, 2) if is_5_0 else st.just(0),
    )
    identifiers = st.sampled_from(((), (), (1,), (268_435_455,))) if is_5_0 else st.just(())
    return st.builds(
        Subscribe,
        packet_id=_ids,
        requests=st.lists(requests, min_size=1, max_size=3).map(tuple),
        properties=identifiers.map(lambda ids: Properties(subscription_ids=ids)),
    )


@cache
def _sends(level: int) -> st.SearchStrategy[Send]:
    codes = st.sampled_from((0, 4)) if level == LEVEL_5_0 else st.just(0)
    strangers: list[st.SearchStrategy[Packet]] = [
        st.builds(kind, packet_id=st.sampled_from((7, 60_000)))
        for kind in (PubAck, PubRec, PubRel, PubComp)
    ]
    packets = _weighted(
        (8, _publishes(level)),
        (6, _subscribes(level)),
        (
            2,
            st.builds(
                Unsubscribe,
                packet_id=_ids,
                filters=st.lists(_filters, min_size=1, max_size=3).map(tuple),
            ),
        ),
        (1, st.builds(PubRel, packet_id=_ids)),
        (1, st.one_of(strangers)),
        (1, st.builds(Disconnect, code=codes)),
    )
    return st.builds(Send, packet=packets)


@cache
def _twice(level: int) -> st.SearchStrategy[Twice]:
    return st.builds(
        lambda topic, packet_id, properties: Twice(
            packet=Publish(
                topic=topic, payload=b"2", qos=2, packet_id=packet_id, properties=properties
            )
        ),
        _topics,
        st.integers(100, 102),
        _properties(level),
    )


@cache
def _actions(level: int) -> st.SearchStrategy[Action]:
    is_5_0 = level == LEVEL_5_0
    bad = sorted({**CONNECTED, **CONNECTED_5_0} if is_5_0 else CONNECTED)
    first = sorted({**FIRST, **FIRST_5_0} if is_5_0 else FIRST)
    answers = st.builds(Answer, place=st.integers(0, 2))
    return _weighted(
        (40, _sends(level)),
        (8, answers),
        (4, _opens(level)),
        (4, _twice(level)),
        (1, st.builds(First, name=st.sampled_from(first))),
        (4, st.builds(Malformed, name=st.sampled_from(bad))),
        (1, st.builds(Unframed, name=st.sampled_from(sorted(UNFRAMED)))),
        (2, st.just(Drop())),
        (1, st.builds(Answer, place=st.integers(0, 2), is_wrong=st.just(True))),
    )


_levels = st.tuples(*[st.sampled_from((LEVEL_3_1_1, LEVEL_5_0))] * 2)
_clients = st.sampled_from(((0,), (0, 0, 1), (0, 0, 1)))
_counts = st.integers(2, 14)
_picks = st.integers(0, 2)


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    """Both clients begin connected, for a sequence of strangers shows nothing."""
    levels = draw(_levels)
    clients = draw(_clients)
    steps = [Step(client=each, action=draw(_opens(levels[each]))) for each in sorted({*clients})]
    for _ in range(draw(_counts)):
        client = clients[draw(_picks) % len(clients)]
        action = draw(_actions(levels[client]))
        steps.append(Step(client=client, action=action))
        if _ends(action) and draw(_maybe):
            steps.append(Step(client=client, action=draw(_opens(levels[client]))))
    return Sequence(levels=(levels[0], levels[1]), steps=tuple(steps))


def _ends(action: Action) -> bool:
    """Whether the client is likely to be without a connection behind it."""
    if isinstance(action, Send):
        return isinstance(action.packet, Disconnect)
    return isinstance(action, First | Malformed | Unframed | Drop)
