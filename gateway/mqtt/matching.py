"""Which of the subscribers that read from the log want a topic, and a message of it.

Owns a cache over the tree of their subscriptions: the log is full of messages of few topics.
"""

from typing import NamedTuple

from gateway.mqtt.positions import Positions
from gateway.mqtt.session import Reading, Session, Subscription, Target
from gateway.mqtt.sessions import SessionTable, target_of

_TOPICS_MAX = 20_000
"""Topics whose subscribers are remembered: some 4 MiB."""


class Matched(NamedTuple):
    """The subscriptions of a session that match a topic; `target` where it is always the same."""

    session: Session
    subscriptions: list[Subscription]
    whole: Target
    """All of them taken together."""
    target: Target | None
    with_position: bool


class Matcher:
    def __init__(self, sessions: SessionTable) -> None:
        self._sessions = sessions
        self._found: dict[bytes, list[Matched]] = {}
        self._version = -1

    def match(self, topic: bytes) -> list[Matched]:
        """Everybody who reads and wants it."""
        tree = self._sessions.reading_tree
        if self._version != tree.version or len(self._found) > _TOPICS_MAX:
            self._found.clear()
            self._version = tree.version
        found = self._found.get(topic)
        if found is None:
            by_session: dict[Session, list[Subscription]] = {}
            for _, (session, subscription) in tree.match(topic.decode(errors="replace")):
                by_session.setdefault(session, []).append(subscription)
            found = self._found[topic] = [_matched(*pair) for pair in by_session.items()]
        return found

    def target_now(self, session: Session, topic: bytes, group: int) -> Target | None:
        """How a session, live or reading, would get a message of the topic now; `group`: by which
        shared subscription, 0 by its own."""
        if group and not session.is_shared:
            shared = self._sessions.groups.subscription(session, group)
            return None if shared is None else target_of(session, [shared])
        name = topic.decode(errors="replace")
        matches = (
            *self._sessions.tree.match(name),
            *self._sessions.reading_tree.match(name),
        )
        found = [subscription for _, (each, subscription) in matches if each is session]
        return target_of(session, found) if found else None


def _matched(session: Session, subscriptions: list[Subscription]) -> Matched:
    is_plain = not any(each.no_local or each.start or each.with_position for each in subscriptions)
    whole = target_of(session, subscriptions)
    with_position = any(each.with_position for each in subscriptions)
    return Matched(session, subscriptions, whole, whole if is_plain else None, with_position)


def target_at(
    matched: Matched,
    reading: Reading,
    publisher_id: str,
    stored_qos: int,
    partition_id: int,
    offset: int,
) -> Target | None:
    """How it gets this very message; None: not at all."""
    session = matched.session
    valid = [
        each
        for each in matched.subscriptions
        if not (each.no_local and publisher_id == session.client_id)  # [MQTT-3.8.3-3]
        and reading.starts.get(each.filter, {}).get(partition_id, 0) <= offset
        and (
            min(each.qos, stored_qos)
            or offset >= reading.qos_0_from[partition_id]
            or each.filter in reading.replays
        )
    ]
    if len(valid) == len(matched.subscriptions):
        return matched.whole
    return target_of(session, valid) if valid else None


def count_replayed(matched: Matched, reading: Reading, ends: Positions) -> None:
    """A message was handed over: a replay with a limit may have had its last one, and goes on with
    what is stored from now on."""
    for each in matched.subscriptions:
        left = reading.replays.get(each.filter, 0)
        if left == 1:
            del reading.replays[each.filter]
            reading.starts[each.filter] = dict(ends)
        elif left:
            reading.replays[each.filter] = left - 1
