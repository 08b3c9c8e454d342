"""Sessions: what outlives a network connection, and what of it outlives the process.

Owns the state of a client (4.1). Of a session that outlives its connection, three things are
durable, through the log's small state:

    mqtt/session/<client id>   msgpack of SessionState: expiry and subscriptions
    mqtt/window/<client id>    positions in the log, and what is in flight (positions.py)
    mqtt/qos2/<client id>      the received identifiers, 2 bytes each, big-endian
    mqtt/group/<hash>          the window of a shared subscription's group (shared.py)

The received identifiers ride in the same frame as their messages, so after a crash either both
are there or neither is: a PUBLISH of QoS 2 that is sent again is answered and not stored again.

A session that is away *sleeps*: all of it but its expiry and its will is in the durable state
only, so it costs a few hundred bytes however much there is for it.
"""

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.limits import MqttLimits
from gateway.mqtt.delivery import Outbox
from gateway.mqtt.messages import NOT_IN_THE_LOG, Delivery
from gateway.mqtt.packets import Will
from gateway.mqtt.positions import Positions, Window, decode_window, encode_window
from log import Log

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint
    from gateway.mqtt.retained_feed import RetainedFeed

EXPIRY_NEVER_S = 0xFFFFFFFF
_SESSION_KEY = b"mqtt/session/"
_WINDOW_KEY = b"mqtt/window/"
_QOS_2_KEY = b"mqtt/qos2/"
_GROUP_KEY = b"mqtt/group/"


class Subscription(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    filter: str
    qos: int
    no_local: bool
    retain_as_published: bool
    subscription_id: int
    start: bytes = b""
    """Positions (positions.py) before which it gets nothing, where those of its session are older:
    it was made while the session was reading, or it is a replay."""
    replay_limit: int | None = None
    """Of a replay: how many stored messages it gets at most, 0: all. None: it is none, or done."""
    with_position: bool = False


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


class Reading:
    """How far a session has read that is fed from the log. Offsets by partition id."""

    __slots__ = (
        "barrier",
        "is_blocked",
        "is_ready",
        "positions",
        "qos_0_from",
        "replays",
        "starts",
    )

    def __init__(self, positions: Positions, barrier: Positions, qos_0_from: Positions) -> None:
        self.positions = positions
        self.barrier = barrier
        """What came before this may not have been kept for the session: it is live only beyond."""
        self.qos_0_from = qos_0_from
        """Messages of QoS 0 before this came before the connection, or were sent already."""
        self.starts: dict[str, Positions] = {}
        """Of each filter whose subscription has a `start`."""
        self.replays: dict[str, int] = {}
        """Filters that are replayed, and how many stored messages are left; 0: all."""
        self.is_ready = False
        """It is in the line of those that are served next."""
        self.is_blocked = False
        """There was no room for its next message, and nothing was acknowledged since."""


_NO_SUBSCRIPTIONS: dict[str, Subscription] = {}
_NO_IDENTIFIERS: set[int] = set()
_NO_OUTBOX = Outbox(in_flight_max=0, queue_bytes_max=0, is_durable=False)
"""What a session that sleeps has of these: shared, never changed."""


class Session:
    """One client's state. `expires_at_ms` and `will_at_ms` are set while nobody is connected.

    Connected, it is *live* (`reading` is None): handed every message that becomes durable and
    matches; or *reading*: fed from the log, from positions on, until those are the end.
    """

    __slots__ = (
        "client_id",
        "connection",
        "expires_at_ms",
        "expiry_s",
        "feed",
        "is_stored",
        "last_id",
        "missed_count",
        "outbox",
        "reading",
        "received",
        "subscriptions",
        "unlogged",
        "will",
        "will_at_ms",
    )

    is_shared = False
    """It is a group of a shared subscription."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.connection: Endpoint | None = None
        self.expiry_s = 0
        self.expires_at_ms: int | None = None
        self.is_stored = False
        self.subscriptions = _NO_SUBSCRIPTIONS
        self.received = _NO_IDENTIFIERS
        self.outbox = _NO_OUTBOX
        self.reading: Reading | None = None
        self.feed: RetainedFeed | None = None
        """It sends retained messages; meanwhile the session is reading, and nothing is read."""
        self.last_id = 0
        self.unlogged: dict[int, Delivery] | None = None
        """In flight when the connection ended, and in no log: a restart ends their delivery."""
        self.missed_count = 0
        """Stored messages that were removed before it had read them: to be told."""
        self.will: Will | None = None
        self.will_at_ms: int | None = None

    def begin(self, limits: MqttLimits) -> None:
        """There is a connection."""
        self.subscriptions = {}
        self.received = set()
        self.outbox = Outbox(
            in_flight_max=limits.delivery_in_flight_max,
            queue_bytes_max=limits.delivery_queue_bytes_max,
            last_id=self.last_id,
            is_durable=self.expiry_s > 0,
        )

    def sleep(self) -> None:
        """The connection is gone; what is to last was saved."""
        self.last_id = self.outbox.last_id
        self.unlogged = self.outbox.unlogged()
        self.subscriptions = _NO_SUBSCRIPTIONS
        self.received = _NO_IDENTIFIERS
        self.outbox = _NO_OUTBOX
        self.reading = None
        self.feed = None

    @property
    def wants_positions(self) -> bool:
        """It is to be fed from the log always: only there is what it wants to know."""
        return any(each.with_position for each in self.subscriptions.values())

    def positions(self, ends: Positions) -> Positions:
        """Where it would go on in each partition; `ends`: where those that are live would."""
        return self.outbox.positions(self.reading.positions if self.reading else ends)


class SessionStore:
    """The durable part of sessions. Every method only puts into the log's current round."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def load(self) -> list[Session]:
        """The sessions that were there when the process ended, asleep."""
        found = []
        for key, value in self._log.scan_state(_SESSION_KEY):
            session = Session(key[len(_SESSION_KEY) :].decode())
            session.expiry_s = _decode_state(value).expiry_s
            session.is_stored = True
            found.append(session)
        return found

    def wake(self, session: Session) -> Window | None:
        """Fills in what slept; returns its window, None if it never had one."""
        client_id = session.client_id.encode()
        state = self._log.get_state(_SESSION_KEY + client_id)
        if state is None:
            return None
        session.subscriptions = {item.filter: item for item in _decode_state(state).subscriptions}
        received = self._log.get_state(_QOS_2_KEY + client_id) or b""
        session.received = {
            int.from_bytes(received[at : at + 2]) for at in range(0, len(received), 2)
        }
        return self.window(session)

    def window(self, session: Session) -> Window | None:
        """As it was saved."""
        window = self._log.get_state(_window_key(session))
        return None if window is None else decode_window(window)

    def subscriptions(self, session: Session) -> tuple[Subscription, ...]:
        """Of a session that sleeps."""
        state = self._log.get_state(_SESSION_KEY + session.client_id.encode())
        return () if state is None else _decode_state(state).subscriptions

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

    def save_window(self, session: Session, ends: Positions) -> None:
        """Positions and what is in flight."""
        if session.is_stored:
            session.outbox.is_changed = False
            in_flight = [
                entry
                for entry in session.outbox.in_flight()
                if entry.partition_id != NOT_IN_THE_LOG
            ]
            self.put_window(session, Window(session.positions(ends), in_flight))

    def put_window(self, session: Session, window: Window) -> None:
        self._log.put_state(_window_key(session), encode_window(*window))

    def forget_window(self, session: Session) -> None:
        if self._log.get_state(_window_key(session)) is not None:
            self._log.put_state(_window_key(session), None)

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
        for prefix in (_WINDOW_KEY, _QOS_2_KEY):
            if self._log.get_state(prefix + client_id) is not None:
                self._log.put_state(prefix + client_id, None)
        session.is_stored = False
        return True


def _window_key(session: Session) -> bytes:
    name = session.client_id.encode()
    if session.is_shared:  # a filter may be longer than a key of the state
        return _GROUP_KEY + blake2b(name, digest_size=16).hexdigest().encode()
    return _WINDOW_KEY + name


def _decode_state(data: bytes) -> SessionState:
    return msgspec.msgpack.decode(data, type=SessionState)
