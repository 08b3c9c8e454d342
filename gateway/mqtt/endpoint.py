"""The sending half of a connection, and its life.

Owns what is written and when, why a connection is not read, keep-alive, and how it ends. The
reading half is in connection.py, which derives from this.

`pending` holds what may be sent only when the log's round is durable; the broker takes it at the
cut and gives it back through `acknowledge`.
"""

import logging
from typing import TYPE_CHECKING, Protocol

from gateway.mqtt.admission import refusal
from gateway.mqtt.authentication import Authenticator
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import (
    KeepAliveExpired,
    MqttError,
    NotConnectFirst,
    PacketTooLarge,
    PeerError,
    SessionTakenOver,
    StorageFull,
    UnsupportedProtocolVersion,
)
from gateway.mqtt.packets import LEVEL_3_1_1, LEVEL_5_0, Disconnect, Will
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.topic_aliases import TopicAliases
from log import LogError, LogFailed, RecordTooLarge

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.enhanced import Enhanced
    from gateway.mqtt.session import Session

_log = logging.getLogger(__name__)

# Why a connection is not read; plain integers, for they are tested with every acknowledgement.
_STORAGE = 1
_WINDOW = 2
_PEER_NOT_READING = 4
_DRAIN = 8
_AUTHENTICATION = 16

_PUBACK_BYTE = 0x40
_REASON_STRING_ROOM_BYTES = 256
_ANSWERS_BYTES_MAX = 64 * 1024


class Wire(Protocol):
    """The transport of a connection. `close` sends what was written first."""

    peer: str

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Endpoint:
    """A client as the server sees it. Neither connected nor ended: it waits for CONNECT."""

    __slots__ = (
        "__weakref__",
        "_answers",
        "_answers_bytes",
        "_broker",
        "_is_held",
        "_last_active_ms",
        "_paused",
        "_receive_max",
        "_wire",
        "_write",
        "authenticator",
        "certificate_name",
        "client_id",
        "enhanced",
        "is_active",
        "is_authenticating",
        "is_connected",
        "is_ended",
        "is_unseen",
        "is_writable",
        "keep_alive_s",
        "level",
        "peer_packet_bytes_max",
        "pending",
        "pending_count",
        "session",
        "unacknowledged_count",
        "user_name",
        "wants_reasons",
        "will",
    )

    def __init__(
        self, wire: Wire, broker: "Broker", authenticator: Authenticator | None = None
    ) -> None:
        self.authenticator = authenticator
        self._wire = wire
        self._write = wire.write
        self._broker = broker
        self._last_active_ms = broker.now_ms()
        self._answers: list[bytes] = []
        self._answers_bytes = 0
        self._is_held = False
        self._paused = 0
        self._receive_max = broker.limits.receive_max
        self.is_active = False
        """Whole packets came since the last sweep."""
        self.is_authenticating = False
        self.is_connected = False
        self.is_ended = False
        self.is_unseen = True
        """The listener was given no message since the last sweep."""
        self.is_writable = True
        self.level = 0
        self.client_id = ""
        self.enhanced: Enhanced | None = None
        """How it is authenticated, if CONNECT named a method."""
        self.wants_reasons = True
        """Request Problem Information: reason strings on what is no CONNACK or DISCONNECT."""
        self.certificate_name: str | None = None
        """CN of the client certificate that TLS has verified."""
        self.user_name = ""
        """Who it is, where the listener asks."""
        self.session: Session | None = None
        self.will: Will | None = None
        self.keep_alive_s = 0
        self.peer_packet_bytes_max: int | None = None
        self.pending = b""
        self.pending_count = 0
        """PUBACKs in `pending`."""
        self.unacknowledged_count = 0

    @property
    def peer(self) -> str:
        """Who is at the other end, for logs."""
        return self._wire.peer

    # -- writing -------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Now, or behind a CONNACK that waits for the log."""
        if not data or self.is_ended:
            return
        if self._is_held:
            self.defer(data)
        else:
            self._write(data)

    def answer(self, data: bytes) -> None:
        """As `send`, to a packet of the read that is dealt with: its answers are one write."""
        if not data or self.is_ended:
            return
        if self._is_held:
            self.defer(data)
            return
        self._answers.append(data)
        self._answers_bytes += len(data)
        if self._answers_bytes > _ANSWERS_BYTES_MAX:
            self.write_answers()

    def write_answers(self) -> None:
        """The read is dealt with, or something else is to be written behind its answers."""
        answers, self._answers = self._answers, []
        self._answers_bytes = 0
        if answers:
            self._write(b"".join(answers))

    def defer(self, data: bytes) -> None:
        """Once all that is in the log's round now is durable."""
        if not self.pending:
            self._broker.waiting.append(self)
        self.pending += data
        self._broker.request()

    def hold(self) -> None:
        """Nothing may overtake what is deferred next (a CONNACK)."""
        self._is_held = True

    def acknowledge(self, data: bytes, count: int) -> None:
        """A round is durable: `data`, with `count` PUBACKs, was in `pending` when it was cut."""
        self._is_held = False
        if self.is_connected:
            self._write(data)
            self.unacknowledged_count -= count
            if self._paused & _WINDOW and self.unacknowledged_count <= self._receive_max:
                self._resume(_WINDOW)

    def refuse(self, error: LogError, answers: list[bytes], count: int) -> None:
        """The log did not take `count` messages; `answers` are their acknowledgements, as for
        success: 5.0 has a reason code for that, 3.1.1 can only be left (3.3.5.2, 4.13.2)."""
        broker = self._broker
        broker.counters.messages_refused += count
        if isinstance(error, LogFailed):
            broker.storage_failed(error)
        elif isinstance(error, RecordTooLarge):
            self.end(PacketTooLarge(str(error)))
        elif answers and self.level < LEVEL_5_0:
            self.end(StorageFull("no room for more messages"))
        else:
            for first_byte, _, high, low in answers:
                if first_byte == _PUBACK_BYTE:  # a PUBREC was never counted
                    self.unacknowledged_count -= 1
                self.defer(bytes((first_byte, 3, high, low, ReasonCode.QUOTA_EXCEEDED)))

    def deny(self, head: bytes, ids: list[bytes], count: int) -> None:
        """Of `count` messages that the client may not publish, those with an identifier are
        answered, as success in 3.1.1, which has no other (3.3.5). `head`: of the answer."""
        self._broker.counters.messages_refused += count
        self._broker.store()  # what came before is answered before
        for packet_id in ids:
            if self.level == LEVEL_5_0:
                self.defer(bytes((head[0], 3)) + packet_id + bytes((ReasonCode.NOT_AUTHORIZED,)))
            else:
                self.defer(head + packet_id)

    def alias_topics(self, count_max: int) -> None:
        """The client takes so many topic aliases of ours; they end with this [MQTT-3.3.2-7]."""
        count_max = min(count_max, self._broker.limits.delivery_topic_alias_max)
        if count_max:  # [MQTT-3.1.2-27]
            aliases = TopicAliases(
                self._write, count_max=count_max, packet_bytes_max=self.peer_packet_bytes_max
            )
            self._write = aliases.write

    def accepts_size(self, size_bytes: int) -> bool:
        """[MQTT-3.1.2-24] whether a packet is not larger than the client said."""
        limit = self.peer_packet_bytes_max
        return limit is None or size_bytes <= limit

    # -- not reading ---------------------------------------------------------------------------

    def writing_paused(self) -> None:
        """The transport's buffer is full: the client does not read."""
        self.is_writable = False
        self._pause(_PEER_NOT_READING)

    def writing_resumed(self) -> None:
        self.is_writable = True
        self._resume(_PEER_NOT_READING)
        if self.session is not None and self.is_connected:
            self.send(self.session.outbox.fill(self._broker.now_ms()))
            self._broker.deliveries.used(self.session)

    def pause_for_window(self) -> None:
        self._pause(_WINDOW)

    def pause_for_storage(self) -> None:
        self._pause(_STORAGE)

    def resume_from_storage(self) -> None:
        self._resume(_STORAGE)

    def pause_for_drain(self) -> None:
        self._pause(_DRAIN)

    def wait_for_authentication(self) -> None:
        """Nothing of it is read before it is known who it is."""
        self.is_authenticating = True
        self._pause(_AUTHENTICATION)

    def authenticated(self) -> None:
        """It was let in after a wait: what came behind its CONNECT is next."""
        self.is_authenticating = False
        self._resume(_AUTHENTICATION)

    def _pause(self, why: int) -> None:
        if not self._paused and not self.is_ended:
            self._wire.pause_reading()
        self._paused |= why

    def _resume(self, why: int) -> None:
        was_paused = self._paused
        self._paused &= ~why
        if was_paused and not self._paused and not self.is_ended:
            self._wire.resume_reading()

    def forget_routes(self) -> None:
        """For the reading half."""

    def forget_rest(self) -> None:
        """Likewise: what it has of a packet that is not whole."""

    # -- life ----------------------------------------------------------------------------------

    def sweep(self, now_ms: int) -> None:
        """Once a second."""
        self.is_unseen = True
        if not self.is_connected:
            if now_ms - self._last_active_ms >= self._broker.limits.connect_timeout_ms:
                self.end(NotConnectFirst("no CONNECT in time"))
        elif self.is_active or self._paused & ~_PEER_NOT_READING:
            self.is_active = False
            self._last_active_ms = now_ms
        elif self.keep_alive_s and now_ms - self._last_active_ms > self.keep_alive_s * 1500:
            # [MQTT-3.1.2-24] / 5.0 [MQTT-3.1.2-22]: one and a half times the keep-alive.
            self.end(KeepAliveExpired(f"silent for over {self.keep_alive_s * 1.5} s"))

    def end(self, error: MqttError) -> None:
        """The server ends the connection, saying why where the protocol lets it."""
        if self.is_ended:
            return
        if isinstance(error, PeerError):
            _log.info(
                "mqtt.client_fault client=%r peer=%s error=%s reason=0x%02x detail=%r",
                self.client_id,
                self.peer,
                type(error).__name__,
                error.reason,
                str(error),
            )
        self.write_answers()
        if not self.is_connected or self._is_held:
            self._write_refusal(error)  # [MQTT-3.14.0-1] no DISCONNECT before CONNACK
        elif self.level == LEVEL_5_0:
            self._write(encode_packet(self._disconnect_for(error), LEVEL_5_0))
        self._close(self.will, is_clean=False, is_takeover=isinstance(error, SessionTakenOver))

    def disconnected(self, *, with_will: bool) -> None:
        """The client said DISCONNECT."""
        self._close(self.will if with_will else None, is_clean=not with_will)

    def lost(self) -> None:
        """The transport is gone."""
        self._answers.clear()
        self._close(self.will, is_clean=False)

    def _write_refusal(self, error: MqttError) -> None:
        level = self.level
        if isinstance(error, UnsupportedProtocolVersion):
            level = max(error.level, LEVEL_3_1_1)  # 3.1.1 [MQTT-3.1.2-2] answered at level 0, too
        answer = refusal(error.reason, str(error), level, bytes_max=self.peer_packet_bytes_max)
        if answer:
            self._write(answer)
        self._broker.counters.connections_refused += 1

    def _disconnect_for(self, error: MqttError) -> Disconnect:
        limit = self.peer_packet_bytes_max
        if limit is not None and limit < _REASON_STRING_ROOM_BYTES:
            return Disconnect(code=error.reason, properties=NO_PROPERTIES)  # [MQTT-3.14.2-3]
        text = str(error)[: _REASON_STRING_ROOM_BYTES // 4]
        return Disconnect(code=error.reason, properties=Properties(reason_string=text))

    def _close(self, will: Will | None, *, is_clean: bool, is_takeover: bool = False) -> None:
        if self.is_ended:
            return
        self.write_answers()
        was_connected = self.is_connected
        self.is_ended = True
        self.is_connected = False
        self.forget_routes()
        self.forget_rest()
        self._wire.close()
        self._broker.gone(self, will)
        if was_connected and not is_takeover:
            self._broker.listener.client_disconnected(self.client_id, clean=is_clean)
