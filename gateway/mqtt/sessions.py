"""The table of sessions and of who subscribes to what.

Owns taking over, expiry, wills that wait, and the two trees of subscriptions: of the sessions
that are live, and of those that read from the log. Those of sessions that are away are in none. A
client id has at most one session, a session at most one connection. It stores and delivers
nothing itself: wills that are due are handed to the broker.
"""

from collections.abc import Iterable, Iterator
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.ingest import Route
from gateway.limits import MqttLimits
from gateway.mqtt.delivery import PACKET_ID_MAX
from gateway.mqtt.errors import QuotaExceeded, SessionTakenOver
from gateway.mqtt.packets import Will
from gateway.mqtt.positions import InFlight, Positions, Window, encode_positions
from gateway.mqtt.session import (
    EXPIRY_NEVER_S,
    Reading,
    Session,
    SessionStore,
    Subscription,
    Target,
)
from gateway.mqtt.topics import FilterTree, is_shared
from log import Log

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint
    from gateway.mqtt.shared import Groups

_SAVE_SWEEPS = 5
"""A window that has changed is saved within so many sweeps: what was acknowledged since is sent
again after a kill. Every second would be five times the writes."""

_SAVE_ALL_SWEEPS = 600
"""And every other within so many: else a restart would read, and report as missed, what retention
has removed long after it was handed out."""

Tree = FilterTree[str, tuple[Session, Subscription]]


class Opened(NamedTuple):
    """`state_changed`: the CONNACK must wait until the log's round is durable. `due_will`: of a
    session that ended by this while its will waited. `window`: of a session that slept."""

    session: Session
    is_present: bool
    state_changed: bool
    due_will: Will | None
    window: Window | None


class SessionTable:
    """`ends`: up to where in each partition (by its id) messages were handed to live sessions."""

    def __init__(self, log: Log, limits: MqttLimits, now_ms: int, rng: Random) -> None:
        self.limits = limits
        self._next_packet_id = 1
        self.ends: Positions = {
            partition.partition_id: partition.durable_end for partition in log.partitions.values()
        }
        self._store = SessionStore(log)
        self._sessions: dict[str, Session] = {}
        self._offline: set[Session] = set()
        self._changed: dict[Session, None] = {}
        self._window_changed: dict[Session, None] = {}
        self._received_changed: dict[Session, None] = {}
        self._sweep_count = 0
        self.has_failed = False
        """The log takes nothing any more."""
        self.tree: Tree = FilterTree()
        self.reading_tree: Tree = FilterTree()
        for session in self._store.load():
            self._sessions[session.client_id] = session
            # The client may hold identifiers of QoS 2 that are no longer known here, and would
            # take a new message with one of them for the old one.
            session.last_id = rng.randrange(PACKET_ID_MAX)
            self._set_offline(session, now_ms)
        self.groups: Groups
        """Set by its owner, who then calls `remember_groups`."""

    def remember_groups(self) -> None:
        """Which sessions that are away are members of which."""
        for session in self._sessions.values():
            for subscription in self._store.subscriptions(session):
                if is_shared(subscription.filter):
                    self.groups.remember(session.client_id, subscription)

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._sessions

    def open(self, connection: "Endpoint", client_id: str, *, clean: bool, expiry_s: int) -> Opened:
        """The session for a new connection, taken from an older one of the same client id. It is
        in no tree yet.

        Raises QuotaExceeded when there are too many.
        """
        session = self._sessions.get(client_id)
        state_changed = False
        due_will: Will | None = None
        if session is not None and session.connection is not None:
            # [MQTT-3.1.4-3] the older network connection is closed.
            session.connection.end(SessionTakenOver("the client connected again"))
            session = self._sessions.get(client_id)
        if session is not None and clean:
            due_will = session.will
            state_changed = self._drop(session)
            session = None
        is_present = session is not None
        if session is None:
            if len(self._sessions) >= self.limits.sessions_max:
                raise QuotaExceeded(f"{len(self._sessions)} sessions are kept, no more are taken")
            session = Session(client_id)
            self._sessions[client_id] = session
        session.connection = connection
        session.expires_at_ms = None
        session.will = None
        session.will_at_ms = None
        self._offline.discard(session)
        expiry_changed = session.expiry_s != expiry_s
        session.expiry_s = expiry_s
        session.begin(self.limits)
        window = self._store.wake(session) if session.is_stored else None
        if expiry_changed:
            if expiry_s:
                self._store.save(session)
                self.window_changed(session)
            else:
                state_changed |= self._store.forget(session)
        return Opened(session, is_present, state_changed, due_will, window)

    def detach(self, session: Session, now_ms: int, will: Will | None) -> Will | None:
        """The connection is gone. Returns the will if it is due at once."""
        session.connection = None
        delay_s = 0
        if will is not None:
            delay_s = min(will.properties.will_delay_s or 0, session.expiry_s)
        self.groups.detach(session, ends=session.expiry_s == 0)
        self._leave_trees(session)
        if session.expiry_s == 0:
            self._drop(session)
            return will
        self._put_to_sleep(session)
        self._set_offline(session, now_ms)
        if will is not None and delay_s:
            session.will = will
            session.will_at_ms = now_ms + delay_s * 1000
            return None
        return will

    def change_expiry(self, session: Session, expiry_s: int) -> None:
        """As a DISCONNECT may ask (3.14.2.2.2)."""
        if expiry_s == session.expiry_s:
            return
        session.expiry_s = expiry_s
        if expiry_s:
            self._store.save(session)
        else:
            self._store.forget(session)

    def sweep(self, now_ms: int) -> Iterator[tuple[Session, Will]]:
        """Ends what has expired; yields the wills that are due."""
        for session in list(self._offline):
            expired = session.expires_at_ms is not None and session.expires_at_ms <= now_ms
            will_due = session.will_at_ms is not None and session.will_at_ms <= now_ms
            if session.will is not None and (expired or will_due):
                yield session, session.will
                session.will = None
                session.will_at_ms = None
            if expired:
                self._drop(session)

    def save_some(self, connections: "Iterable[Endpoint]") -> bool:
        """Once a sweep: some of the windows, those that have changed first, are marked for saving.
        True when there were any."""
        self._sweep_count += 1
        was_empty = not self._window_changed
        for connection in connections:
            session = connection.session
            if (
                session is not None
                and session.is_stored
                and ((id(session) >> 4) + self._sweep_count)
                % (_SAVE_SWEEPS if session.outbox.is_changed else _SAVE_ALL_SWEEPS)
                == 0
            ):
                self.window_changed(session)
        for group in self.groups.by_name.values():
            if group.is_stored and group.outbox.is_changed:
                self.window_changed(group)
        return was_empty and bool(self._window_changed)

    # -- subscriptions

    def subscribe(self, session: Session, subscription: Subscription) -> None:
        """Adds or replaces. Raises QuotaExceeded."""
        known = session.subscriptions
        if subscription.filter not in known and len(known) >= self.limits.subscriptions_max:
            raise QuotaExceeded(f"{len(known)} subscriptions, no more are taken")
        reading = session.reading
        if is_shared(subscription.filter):
            self.groups.join(session, subscription)
        elif reading is None:
            self.tree.add(subscription.filter, session.client_id, (session, subscription))
        else:
            replaced = known.get(subscription.filter)
            start = dict(self.ends) if replaced is None else reading.starts.get(replaced.filter)
            if start is not None:
                reading.starts[subscription.filter] = start
                subscription = with_start(subscription, start)
            self.reading_tree.add(subscription.filter, session.client_id, (session, subscription))
        known[subscription.filter] = subscription

    def start_at(self, session: Session, topic_filter: str, start: Positions) -> None:
        """Of a session that reads: this subscription gets nothing from before."""
        reading = session.reading
        assert reading is not None
        reading.starts[topic_filter] = start
        subscription = with_start(session.subscriptions[topic_filter], start)
        session.subscriptions[topic_filter] = subscription
        self.reading_tree.add(topic_filter, session.client_id, (session, subscription))

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        if is_shared(topic_filter):
            self.groups.leave(session, topic_filter)
        elif session.reading is None:
            self.tree.remove(topic_filter, session.client_id)
        else:
            session.reading.starts.pop(topic_filter, None)
            self.reading_tree.remove(topic_filter, session.client_id)
        return True

    def set_reading(self, session: Session, reading: Reading) -> None:
        """It is fed from the log from now on."""
        self._leave_trees(session)
        session.reading = reading
        for subscription in session.subscriptions.values():
            if not is_shared(subscription.filter):
                self.reading_tree.add(
                    subscription.filter, session.client_id, (session, subscription)
                )

    def set_live(self, session: Session) -> None:
        """It is handed what becomes durable from now on, and has had everything before."""
        self._leave_trees(session)
        session.reading = None
        for topic_filter, subscription in list(session.subscriptions.items()):
            if is_shared(topic_filter):
                continue
            if subscription.start:
                subscription = session.subscriptions[topic_filter] = with_start(subscription, {})
                self._changed[session] = None
            self.tree.add(topic_filter, session.client_id, (session, subscription))

    def _leave_trees(self, session: Session) -> None:
        for topic_filter in session.subscriptions:
            self.tree.remove(topic_filter, session.client_id)
            self.reading_tree.remove(topic_filter, session.client_id)

    def take_packet_ids(self, count: int) -> int:
        """The first of so many packet identifiers in a row, the same for all sessions that a run
        goes to. A session that has one of them in flight takes others, of its own."""
        first = self._next_packet_id
        if first + count - 1 > PACKET_ID_MAX:
            first = 1
        self._next_packet_id = first + count
        return first

    def match(self, route: Route) -> None:
        """Finds the live subscribers of a route anew, after the tree has changed: each session
        once, with its highest QoS (3.3.4)."""
        found: dict[Session, list[Subscription]] = {}
        for client_id, (session, subscription) in self.tree.match(route.topic):
            if subscription.no_local and client_id == route.client_id:
                continue  # [MQTT-3.8.3-3]
            found.setdefault(session, []).append(subscription)
        route.targets = [target_of(session, several) for session, several in found.items()]
        route.matched_version = self.tree.version

    # -- saving

    def changed(self, session: Session) -> None:
        """Its subscriptions are to be saved with the log's current round, once."""
        self._changed[session] = None
        self._window_changed[session] = None

    def window_changed(self, session: Session) -> None:
        """Likewise its window; of a group, its members' too, in the same frame."""
        self._window_changed[session] = None
        if session.is_shared:
            self._window_changed.update(dict.fromkeys(self.groups.kept_members(session)))

    def received_changed(self, session: Session) -> None:
        """Likewise its received identifiers."""
        self._received_changed[session] = None

    def save_changed(self) -> None:
        """Puts what has changed into the log's current round; called before that is cut.

        Once a session and round: a client may change its subscriptions with every few bytes.
        """
        if self._changed:
            changed, self._changed = self._changed, {}
            for session in changed:
                if session.is_stored:  # or it has ended
                    self._store.save(session)
        if self._window_changed:
            changed, self._window_changed = self._window_changed, {}
            for session in changed:
                self._store.save_window(session, self.ends)
        if self._received_changed:
            changed, self._received_changed = self._received_changed, {}
            for session in changed:
                self._store.save_received(session)

    def _put_to_sleep(self, session: Session) -> None:
        """All that is to last goes to the durable state, and out of memory."""
        if self.has_failed:
            return
        if session in self._changed:
            del self._changed[session]
            self._store.save(session)
        if session in self._received_changed:
            del self._received_changed[session]
            self._store.save_received(session)
        self._window_changed.pop(session, None)
        self._store.save_window(session, self.ends)
        session.sleep()

    def _set_offline(self, session: Session, now_ms: int) -> None:
        self._offline.add(session)
        expiry_s = min(session.expiry_s, self.limits.session_expiry_s_max)
        session.expires_at_ms = now_ms + expiry_s * 1000

    def group_window(self, group: Session) -> Window | None:
        return self._store.window(group) if group.is_stored else None

    def add_returned(self, group: Session, entries: list[InFlight]) -> None:
        """To a group of which nobody is there."""
        window = self._store.window(group) or Window(dict(self.ends), [])
        self._store.put_window(group, Window(window.positions, window.in_flight + entries))

    def group_away(self, group: Session, *, is_kept: bool) -> None:
        """Its last member that was there has gone."""
        self._leave_trees(group)
        if is_kept:
            group.is_stored = True
            self._put_to_sleep(group)

    def forget_group(self, group: Session) -> None:
        self._window_changed.pop(group, None)
        if not self.has_failed:
            self._store.forget_window(group)

    def _drop(self, session: Session) -> bool:
        if session.connection is None and session.is_stored:
            names = [
                each.filter for each in self._store.subscriptions(session) if is_shared(each.filter)
            ]
            if names:
                window = self._store.window(session)
                in_flight = [] if window is None else window.in_flight
                self.groups.forget(session.client_id, names, in_flight)
        self._leave_trees(session)
        for waiting in (self._changed, self._window_changed, self._received_changed):
            waiting.pop(session, None)
        self._offline.discard(session)
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
        return self._store.forget(session)


def target_of(session: Session, subscriptions: list[Subscription]) -> Target:
    """Its overlapping subscriptions taken together [MQTT-3.3.4-2]."""
    return Target(
        session,
        max(subscription.qos for subscription in subscriptions),
        any(subscription.retain_as_published for subscription in subscriptions),
        tuple(each.subscription_id for each in subscriptions if each.subscription_id),
    )


def with_start(subscription: Subscription, start: Positions) -> Subscription:
    return msgspec.structs.replace(subscription, start=encode_positions(start), replay_limit=None)


def granted_expiry_s(requested_s: int, limits: MqttLimits) -> int:
    """How long a session may outlive its connection; EXPIRY_NEVER_S asks for ever."""
    return min(requested_s, limits.session_expiry_s_max) if requested_s <= EXPIRY_NEVER_S else 0
