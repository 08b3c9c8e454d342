"""Sessions: what outlives a network connection, and what of it outlives the process.

Owns the state of a client (4.1): subscriptions, QoS 2 packet identifiers received and not yet
released, and the outbox. Of a session that outlives its connection, two things are durable,
through the log's small state:

    mqtt/session/<client id>   msgpack of SessionState: expiry and subscriptions
    mqtt/qos2/<client id>      the received identifiers, 2 bytes each, big-endian

The identifiers ride in the same frame as their messages, so after a crash either both are there
or neither is: a PUBLISH of QoS 2 that is sent again is answered and not stored again. What waits
in an outbox is in memory only.
"""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.limits import MqttLimits
from gateway.mqtt.delivery import Outbox
from gateway.mqtt.packets import Will
from log import Log

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint

EXPIRY_NEVER_S = 0xFFFFFFFF
_SESSION_KEY = b"mqtt/session/"
_QOS_2_KEY = b"mqtt/qos2/"


class Subscription(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    filter: str
    qos: int
    no_local: bool
    retain_as_published: bool
    subscription_id: int


class SessionState(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What is stored. Fields are only ever added at the end."""

    expiry_s: int
    subscriptions: tuple[Subscription, ...]


class Target(NamedTuple):
    """A subscriber of a topic, its overlapping subscriptions taken together."""

    session: "Session"
    qos: int
    retain_as_published: bool
    subscription_ids: tuple[int, ...]


class Session:
    """One client's state. `expires_at_ms` and `will_at_ms` are set while nobody is connected."""

    __slots__ = (
        "client_id",
        "connection",
        "expires_at_ms",
        "expiry_s",
        "is_stored",
        "outbox",
        "received",
        "subscriptions",
        "will",
        "will_at_ms",
    )

    def __init__(self, client_id: str, limits: MqttLimits) -> None:
        self.client_id = client_id
        self.connection: Endpoint | None = None
        self.expiry_s = 0
        self.expires_at_ms: int | None = None
        self.is_stored = False
        self.subscriptions: dict[str, Subscription] = {}
        self.received: set[int] = set()
        self.outbox = Outbox(
            in_flight_max=limits.delivery_in_flight_max,
            queue_bytes_max=limits.delivery_queue_bytes_max,
        )
        self.will: Will | None = None
        self.will_at_ms: int | None = None


class SessionStore:
    """The durable part of sessions. Every method only puts into the log's current round."""

    def __init__(self, log: Log, limits: MqttLimits) -> None:
        self._log = log
        self._limits = limits

    def load(self) -> list[Session]:
        """The sessions that were there when the process ended."""
        sessions: dict[str, Session] = {}
        for key, value in self._log.scan_state(_SESSION_KEY):
            state = msgspec.msgpack.decode(value, type=SessionState)
            session = Session(key[len(_SESSION_KEY) :].decode(), self._limits)
            session.expiry_s = state.expiry_s
            session.is_stored = True
            session.subscriptions = {item.filter: item for item in state.subscriptions}
            sessions[session.client_id] = session
        for key, value in self._log.scan_state(_QOS_2_KEY):
            owner = sessions.get(key[len(_QOS_2_KEY) :].decode())
            if owner is not None:
                owner.received = {
                    int.from_bytes(value[at : at + 2]) for at in range(0, len(value), 2)
                }
        return list(sessions.values())

    def save(self, session: Session) -> None:
        """Expiry and subscriptions, when they are to outlive the connection."""
        if session.expiry_s == 0:
            return
        state = SessionState(
            expiry_s=session.expiry_s, subscriptions=tuple(session.subscriptions.values())
        )
        self._log.put_state(
            _SESSION_KEY + session.client_id.encode(), msgspec.msgpack.encode(state)
        )
        session.is_stored = True

    def save_received(self, session: Session) -> None:
        if session.is_stored:
            value = b"".join([packet_id.to_bytes(2) for packet_id in session.received])
            self._log.put_state(_QOS_2_KEY + session.client_id.encode(), value or None)

    def forget(self, session: Session) -> bool:
        """True when there was something durable to delete."""
        if not session.is_stored:
            return False
        client_id = session.client_id.encode()
        self._log.put_state(_SESSION_KEY + client_id, None)
        if self._log.get_state(_QOS_2_KEY + client_id) is not None:
            self._log.put_state(_QOS_2_KEY + client_id, None)
        session.is_stored = False
        return True
