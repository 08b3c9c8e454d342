"""Shared subscriptions (4.8.2): $share/GROUP/FILTER, each message to one of the group's members.

Owns the groups. To the fan-out and to the catch-up a group is a session like others: live or
reading, with positions of its own, durable while a kept session is a member. What it is handed
goes by turns to a member with room in its window; where none has room, the group reads from the
log when one has. So no message waits in the queue of a member that may not come back.

An unacknowledged message of QoS 1 of a session that has ended goes to another member, one of
QoS 2 does not [MQTT-4.8.2-5]; nor one that a member refused [MQTT-4.8.2-6]: that is a
dead letter. A kept session gets its own again when it is back [MQTT-4.8.2-4].
"""

from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING

from gateway.mqtt.delivery import Outbox
from gateway.mqtt.errors import TopicFilterInvalid
from gateway.mqtt.messages import Delivery, encode_delivery
from gateway.mqtt.packets import LEVEL_5_0
from gateway.mqtt.positions import InFlight, Positions
from gateway.mqtt.session import Session, Subscription
from gateway.mqtt.topics import is_shared

if TYPE_CHECKING:
    from gateway.mqtt.catchup import Catchup
    from gateway.mqtt.sessions import SessionTable


def split_shared(topic_filter: str) -> tuple[str, str]:
    """Share name and filter. Raises TopicFilterInvalid [MQTT-4.8.2-1], [MQTT-4.8.2-2]."""
    _, name, *rest = topic_filter.split("/", 2)
    if not name or "+" in name or "#" in name:
        raise TopicFilterInvalid("a share name has at least one character and no wildcard")
    if not rest or not rest[0]:
        raise TopicFilterInvalid("a shared subscription needs a filter behind its share name")
    return name, rest[0]


class _Members:
    """Stands where a session has its connection: who takes bytes."""

    level = LEVEL_5_0

    def __init__(self, group: "Group") -> None:
        self._group = group

    @property
    def is_writable(self) -> bool:
        return any(
            member.connection is not None and member.connection.is_writable
            for member in self._group.online.values()
        )


class GroupOutbox(Outbox):
    """Gives to members at once, or not at all."""

    def __init__(self, group: "Group") -> None:
        super().__init__(in_flight_max=0, queue_bytes_max=0, is_durable=False)
        self._group = group
        self.returned: deque[InFlight] = deque()
        """What a member was sent and did not acknowledge before its session ended."""
        self.touched: set[Session] = set()

    def push(self, delivery: Delivery, now_ms: int, *, can_send: bool) -> bytes:
        member = self._next_member()
        if self.first_missed or member is None:
            if delivery.qos:
                self._miss(delivery.message)
            else:
                self.dropped_count += 1
            return b""
        self._give(member, delivery, now_ms)
        return b""

    def takes(self, size_bytes: int, waiting_bytes_max: int) -> bool:
        return any(map(_has_room, self._group.online.values()))

    def positions(self, ends: Positions) -> Positions:
        return {**ends, **self.first_missed}

    def clear_queue(self) -> None:
        self.first_missed.clear()

    def in_flight(self) -> list[InFlight]:
        """For the durable window: what would come back, were the process killed now."""
        group = self._group
        return [
            *self.returned,
            *(
                entry
                for member in group.online.values()
                if not member.is_stored
                for entry in member.outbox.in_flight()
                if entry.group == group.number and entry.qos == 1
            ),
        ]

    @property
    def is_resending(self) -> bool:
        return bool(self.returned)

    @property
    def next_unsent(self) -> tuple[int, InFlight] | None:
        if self.returned and self.takes(0, 0):
            return 0, self.returned[0]
        return None

    def send_again(self, packet_id: int, delivery: Delivery | None, now_ms: int) -> bytes:
        self.returned.popleft()
        member = self._next_member()
        if delivery is not None and member is not None:
            self._give(member, delivery._replace(sent_count=0), now_ms)
        return b""

    def _next_member(self) -> Session | None:
        """By turns; 4.8.2 leaves the choice to the server."""
        group = self._group
        names = list(group.online)
        for step in range(len(names)):
            name = names[(group.turn + step) % len(names)]
            member = group.online[name]
            if _has_room(member):
                group.turn = (group.turn + step + 1) % len(names)
                return member
        return None

    def _give(self, member: Session, delivery: Delivery, now_ms: int) -> None:
        connection = member.connection
        assert connection is not None
        group = self._group
        self.is_changed = True
        subscription = group.members[member.client_id]
        given = delivery._replace(
            qos=min(delivery.qos, subscription.qos),  # [MQTT-4.8.2-3]
            retain=delivery.message.retain and subscription.retain_as_published,
            subscription_ids=(subscription.subscription_id,)
            if subscription.subscription_id
            else (),
            group=group.number,
        )
        if given.qos:
            data = member.outbox.push(given, now_ms, can_send=True)
            self.touched.add(member)
        else:
            data = encode_delivery(given, connection.level, 0, now_ms)
            if not connection.accepts_size(len(data)):
                self.dropped_count += 1
                return
        connection.send(data)


def _has_room(member: Session) -> bool:
    connection = member.connection
    return connection is not None and connection.is_writable and member.outbox.takes_at_once


class Group(Session):
    """`client_id` is the whole filter, $share and all: no client's can begin so and be in a tree
    beside it."""

    __slots__ = ("filter", "members", "number", "online", "turn")

    is_shared = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.filter = split_shared(name)[1]
        self.number = int.from_bytes(blake2b(name.encode(), digest_size=4).digest()) or 1
        self.members: dict[str, Subscription] = {}
        """By client id, those that are away too."""
        self.online: dict[str, Session] = {}
        self.turn = 0

    def begin_group(self) -> None:
        """A member is there."""
        self.outbox = GroupOutbox(self)
        self.connection = _Members(self)  # type: ignore[assignment]

    def refresh(self) -> None:
        """Members have changed: it wants what any of them does."""
        qos = max(each.qos for each in self.members.values())
        self.subscriptions = {
            self.filter: Subscription(
                filter=self.filter,
                qos=qos,
                no_local=False,
                retain_as_published=True,
                subscription_id=0,
            )
        }


class Groups:
    def __init__(self, sessions: "SessionTable", catchup: "Catchup") -> None:
        self._sessions = sessions
        self._catchup = catchup
        self.by_name: dict[str, Group] = {}
        self._by_number: dict[int, Group] = {}
        self._of: dict[Session, set[Group]] = {}
        """Of sessions that are connected."""

    def join(self, session: Session, subscription: Subscription) -> None:
        """A connected session subscribes, or is back."""
        name = subscription.filter
        group = self._group(name)
        group.members[session.client_id] = subscription
        group.online[session.client_id] = session
        group.is_stored |= session.is_stored
        self._of.setdefault(session, set()).add(group)
        group.refresh()
        if group.connection is None:
            group.begin_group()
            window = self._sessions.group_window(group)
            assert isinstance(group.outbox, GroupOutbox)
            if window is not None:
                group.outbox.returned.extend(window.in_flight)
            positions = dict(self._sessions.ends) if window is None else window.positions
            self._catchup.attach(group, positions)
            self._sessions.window_changed(group)
        elif group.reading is None:
            self._sessions.set_live(group)
        else:
            self._sessions.set_reading(group, group.reading)
            self._catchup.changed(group)
            self._catchup.room_made(group)

    def remember(self, client_id: str, subscription: Subscription) -> None:
        """At the start: of a session that is away."""
        group = self._group(subscription.filter)
        group.members[client_id] = subscription
        group.is_stored = True

    def attach(self, session: Session) -> None:
        for subscription in session.subscriptions.values():
            if is_shared(subscription.filter):
                self.join(session, subscription)

    def leave(self, session: Session, name: str) -> None:
        """UNSUBSCRIBE."""
        group = self.by_name[name]
        self._of[session].discard(group)
        del group.members[session.client_id]
        self._away(group, session)

    def detach(self, session: Session, *, ends: bool) -> None:
        """The connection is gone; `ends`: and the session with it."""
        for group in self._of.pop(session, ()):
            if ends:
                self._take_back(group, session.outbox.in_flight())
                del group.members[session.client_id]
            self._away(group, session)

    def forget(self, client_id: str, names: list[str], in_flight: list[InFlight]) -> None:
        """A session that was away has ended."""
        for name in names:
            group = self.by_name.get(name)
            if group is not None and group.members.pop(client_id, None) is not None:
                self._take_back(group, in_flight)
                self._drop_if_empty(group)

    def room_made(self, session: Session) -> None:
        """A member's window, or its connection, takes more."""
        for group in self._of.get(session, ()):
            if group.reading is not None or group.outbox.is_resending:
                self._catchup.room_made(group)

    def kept_members(self, session: Session) -> list[Session]:
        """Those that are there, and whose windows are durable."""
        assert isinstance(session, Group)
        return [member for member in session.online.values() if member.is_stored]

    def window_changed(self, number: int) -> None:
        """Of the group with that number."""
        if number in self._by_number:
            self._sessions.window_changed(self._by_number[number])

    def subscription(self, session: Session, number: int) -> Subscription | None:
        """By which a message came to a member."""
        group = self._by_number.get(number)
        return None if group is None else group.members.get(session.client_id)

    def _group(self, name: str) -> Group:
        group = self.by_name.get(name)
        if group is None:
            group = self.by_name[name] = Group(name)
            self._by_number[group.number] = group
        return group

    def _take_back(self, group: Group, in_flight: list[InFlight]) -> None:
        """What an ended session leaves of QoS 1 goes to another."""
        entries = [
            entry
            for entry in in_flight
            if entry.group == group.number and entry.qos == 1 and not entry.is_received
        ]
        if not entries:
            return
        if isinstance(group.outbox, GroupOutbox):
            group.outbox.returned.extend(entries)
            self._sessions.window_changed(group)
            self._catchup.room_made(group)
        else:
            self._sessions.add_returned(group, entries)

    def _away(self, group: Group, session: Session) -> None:
        group.online.pop(session.client_id, None)
        if group.online:
            group.refresh()
            self._catchup.room_made(group)
            return
        self._catchup.end(group)
        group.connection = None
        self._sessions.group_away(group, is_kept=bool(group.members))
        self._drop_if_empty(group)

    def _drop_if_empty(self, group: Group) -> None:
        if not group.members:
            self._sessions.forget_group(group)
            self.by_name.pop(group.client_id, None)
            self._by_number.pop(group.number, None)
