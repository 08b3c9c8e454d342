"""The table of sessions and of who subscribes to what.

Owns taking over, expiry, wills that wait, and the subscription tree. A client id has at most one
session, a session at most one connection. It stores and delivers nothing itself: wills that are
due are handed to the broker.
"""

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from gateway.limits import MqttLimits
from gateway.mqtt.delivery import PACKET_ID_MAX
from gateway.mqtt.errors import QuotaExceeded, SessionTakenOver
from gateway.mqtt.packets import Will
from gateway.mqtt.session import EXPIRY_NEVER_S, Session, SessionStore, Subscription, Target
from gateway.mqtt.topics import FilterTree
from log import Log

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint


class Opened(NamedTuple):
    """`state_changed`: the CONNACK must wait until the log's round is durable. `due_will`: of a
    session that ended by this while its will waited."""

    session: Session
    is_present: bool
    state_changed: bool
    due_will: Will | None


class SessionTable:
    def __init__(self, log: Log, limits: MqttLimits, now_ms: int, rng: Random) -> None:
        self.limits = limits
        self._store = SessionStore(log, limits)
        self._sessions: dict[str, Session] = {}
        self._offline: set[Session] = set()
        self._changed: dict[Session, None] = {}
        self._received_changed: dict[Session, None] = {}
        self.tree: FilterTree[str, tuple[Session, Subscription]] = FilterTree()
        for session in self._store.load():
            self._sessions[session.client_id] = session
            session.outbox.start_ids_after(rng.randrange(PACKET_ID_MAX))
            for subscription in session.subscriptions.values():
                self.tree.add(subscription.filter, session.client_id, (session, subscription))
            self._set_offline(session, now_ms)

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._sessions

    def open(self, connection: "Endpoint", client_id: str, *, clean: bool, expiry_s: int) -> Opened:
        """The session for a new connection, taken from an older one of the same client id.

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
            session = Session(client_id, self.limits)
            self._sessions[client_id] = session
        session.connection = connection
        session.expires_at_ms = None
        session.will = None
        session.will_at_ms = None
        self._offline.discard(session)
        if session.expiry_s != expiry_s:
            session.expiry_s = expiry_s
            if expiry_s:
                self._store.save(session)
            else:
                state_changed |= self._store.forget(session)
        return Opened(session, is_present, state_changed, due_will)

    def detach(self, session: Session, now_ms: int, will: Will | None) -> Will | None:
        """The connection is gone. Returns the will if it is due at once."""
        session.connection = None
        delay_s = 0
        if will is not None:
            delay_s = min(will.properties.will_delay_s or 0, session.expiry_s)
        if session.expiry_s == 0:
            self._drop(session)
            return will
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

    def subscribe(self, session: Session, subscription: Subscription) -> None:
        """Adds or replaces. Raises QuotaExceeded."""
        known = session.subscriptions
        if subscription.filter not in known and len(known) >= self.limits.subscriptions_max:
            raise QuotaExceeded(f"{len(known)} subscriptions, no more are taken")
        known[subscription.filter] = subscription
        self.tree.add(subscription.filter, session.client_id, (session, subscription))

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        self.tree.remove(topic_filter, session.client_id)
        return True

    def changed(self, session: Session) -> None:
        """Its subscriptions are to be saved with the log's current round, once."""
        self._changed[session] = None

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
        if self._received_changed:
            changed, self._received_changed = self._received_changed, {}
            for session in changed:
                self._store.save_received(session)

    def targets(self, publisher_id: str, topic: str) -> list[Target]:
        """Who gets a message of that client: each session once, with its highest QoS (3.3.4)."""
        found: dict[Session, Target] = {}
        for client_id, (session, subscription) in self.tree.match(topic):
            if subscription.no_local and client_id == publisher_id:
                continue  # [MQTT-3.8.3-3]
            ids = (subscription.subscription_id,) if subscription.subscription_id else ()
            other = found.get(session)
            found[session] = Target(
                session,
                max(subscription.qos, other.qos if other else 0),
                subscription.retain_as_published
                or (other is not None and other.retain_as_published),
                ids + (other.subscription_ids if other else ()),
            )
        return list(found.values())

    def _set_offline(self, session: Session, now_ms: int) -> None:
        self._offline.add(session)
        expiry_s = min(session.expiry_s, self.limits.session_expiry_s_max)
        session.expires_at_ms = now_ms + expiry_s * 1000

    def _drop(self, session: Session) -> bool:
        for topic_filter in session.subscriptions:
            self.tree.remove(topic_filter, session.client_id)
        self._offline.discard(session)
        if self._sessions.get(session.client_id) is session:
            del self._sessions[session.client_id]
        return self._store.forget(session)


def granted_expiry_s(requested_s: int, limits: MqttLimits) -> int:
    """How long a session may outlive its connection; EXPIRY_NEVER_S asks for ever."""
    return min(requested_s, limits.session_expiry_s_max) if requested_s <= EXPIRY_NEVER_S else 0
