"""Messages on their way to a subscriber, and the window of those it has not acknowledged.

Owns the sending half of QoS 1 and 2 (4.3, 4.4) for one connected session: packet identifiers,
what is in flight, what waits, what is sent again. Sans-I/O: methods return the bytes to send now;
what may be sent only when the session's window is durable is collected in `after_commit`. Never
blocks and never grows beyond its limits: of what does not fit it remembers where that is in the
log (`first_missed`), to be read from there. Only what is in no log is dropped, and counted.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import ProtocolError
from gateway.mqtt.messages import NOT_IN_THE_LOG, Batch, Delivery, Message, encode_delivery
from gateway.mqtt.packets import LEVEL_5_0, PubRel
from gateway.mqtt.positions import InFlight, Positions
from gateway.mqtt.reason_codes import ReasonCode

PACKET_ID_MAX = 65_535


class Outbox:
    """What one connected session's client has still to get or to acknowledge.

    A packet identifier is in `_in_flight` with its delivery until PUBACK or PUBREC, then (QoS 2)
    with None until PUBCOMP; from an earlier connection with its place in the log, until that was
    read and the message sent again. A dict keeps the order in which they were first sent
    [MQTT-4.6.0-1].
    """

    def __init__(
        self, *, in_flight_max: int, queue_bytes_max: int, last_id: int = 0, is_durable: bool
    ) -> None:
        self._in_flight_max = in_flight_max
        self._bytes_max = queue_bytes_max
        self._is_durable = is_durable
        self._window = in_flight_max
        self._level = LEVEL_5_0
        self._packet_bytes_max: int | None = None
        self._in_flight: dict[int, Delivery | InFlight | None] = {}
        self._queue: deque[Delivery] = deque()
        self._queued: dict[int, int] = {}
        """Partition id -> how many in `_queue` are of it."""
        self._queue_bytes = 0
        self._bytes = 0
        """Memory of the messages that wait or are in flight."""
        self._unsent: dict[int, InFlight | Delivery] = {}
        """In flight since an earlier connection, and not sent again on this one yet."""
        self.resent_count = 0
        """Of what was sent again, how many through `after_commit`, on this connection."""
        self._resent_durable_count = 0
        self.last_id = last_id
        self.first_missed: Positions = {}
        """The first message of each partition that did not fit."""
        self.after_commit: list[bytes] = []
        """To be sent when the window, with what these packets stand for, is durable."""
        self.is_changed = False
        """The window is not as it was when `is_changed` was last set to False."""
        self.dropped_count = 0
        self.has_sent_again = False
        """On this connection, something that an earlier one left."""

    @property
    def waiting_count(self) -> int:
        return len(self._queue) + len(self._in_flight)

    # -- a connection begins, and ends

    def attach(
        self,
        *,
        level: int,
        receive_maximum: int | None,
        packet_bytes_max: int | None,
        in_flight: list[InFlight],
        now_ms: int,
        unlogged: dict[int, Delivery] | None = None,
    ) -> bytes:
        """A client is (again) there: what was in flight is sent again [MQTT-4.4.0-1]. PUBRELs at
        once; messages when they have been read, and the new window has room."""
        self._level = level
        self._window = min(self._in_flight_max, receive_maximum or PACKET_ID_MAX)
        self._packet_bytes_max = packet_bytes_max
        parts: list[bytes] = []
        for entry in in_flight:
            if entry.is_received:
                self._in_flight[entry.packet_id] = None
                parts.append(encode_packet(PubRel(packet_id=entry.packet_id), level))
            else:
                self._in_flight[entry.packet_id] = self._unsent[entry.packet_id] = entry
        for packet_id, delivery in (unlogged or {}).items():
            self._bytes += delivery.message.size_bytes
            self._in_flight[packet_id] = self._unsent[packet_id] = delivery
        return b"".join(parts) + self._fill(now_ms)

    def in_flight(self) -> list[InFlight]:
        """What is in flight, for the next connection."""
        found = []
        for packet_id, known in self._in_flight.items():
            if known is None:
                found.append(InFlight(packet_id, 2, True, 0, 0, 0, 0))
            elif isinstance(known, Delivery):
                message = known.message
                place = (message.partition_id, message.offset, known.group)
                found.append(InFlight(packet_id, known.qos, False, known.sent_count, *place))
            else:
                found.append(known)
        return found

    def unlogged(self) -> dict[int, Delivery] | None:
        """What is in flight and in no log."""
        found = {
            packet_id: known
            for packet_id, known in self._in_flight.items()
            if isinstance(known, Delivery) and known.message.partition_id == NOT_IN_THE_LOG
        }
        return found or None

    def positions(self, ends: Positions) -> Positions:
        """`ends`, but where a message of the queue or one that did not fit comes first, that."""
        found = {**ends, **self.first_missed}
        left = len(self._queued)
        seen: set[int] = set()
        for delivery in self._queue:
            partition_id = delivery.message.partition_id
            if partition_id in seen:
                continue
            seen.add(partition_id)
            if partition_id in found:
                found[partition_id] = delivery.message.offset
            left -= 1
            if not left:
                break
        return found

    def clear_queue(self) -> None:
        """It will be read from the log again, from `positions` on."""
        kept = [each for each in self._queue if each.message.partition_id == NOT_IN_THE_LOG]
        self._queue.clear()
        self._queued.clear()
        self._bytes -= self._queue_bytes
        self._queue_bytes = 0
        self.first_missed.clear()
        for delivery in kept:
            self._wait(delivery)

    # -- messages

    def push(self, delivery: Delivery, now_ms: int, *, can_send: bool) -> bytes:
        """One message of QoS 1 or 2; b"" when it has to wait, or does not fit."""
        sends = can_send and not self._queue and self.has_room
        size = delivery.message.size_bytes
        if self.first_missed or (self._bytes and self._bytes + size > self._bytes_max):
            self._miss(delivery.message)
            return b""
        if sends:
            self._bytes += size
            return self._send(delivery, now_ms)
        self._wait(delivery)
        return b""

    def send_batch(self, batch: Batch) -> int:
        """How many of a batch of QoS 1, from the first on, go out now as they are, with its packet
        identifiers; the rest is to be pushed."""
        in_flight = self._in_flight
        count = min(self._window - len(in_flight), len(batch.in_flight))
        if (
            count <= 0
            or self._queue
            or self.is_resending
            or self.first_missed
            or (self._bytes and self._bytes + batch.size_bytes > self._bytes_max)
            or (self._packet_bytes_max is not None and batch.largest_bytes > self._packet_bytes_max)
            or not in_flight.keys().isdisjoint(batch.in_flight)
        ):
            return 0
        self.is_changed = True
        self.last_id = batch.first_id + count - 1
        if count == len(batch.in_flight):
            in_flight.update(batch.in_flight)
            self._bytes += batch.size_bytes
            return count
        for packet_id, delivery in islice(batch.in_flight.items(), count):
            in_flight[packet_id] = delivery
            self._bytes += delivery.message.size_bytes
        return count

    def wait_batch(self, batch: Batch, sent_count: int) -> bool:
        """Puts all but the first `sent_count` into the queue; False where `push` has to decide."""
        size = batch.size_bytes
        if (
            self.first_missed
            or self._bytes + size > self._bytes_max
            or not (self._queue or sent_count)
        ):
            return False
        waiting = list(islice(batch.in_flight.values(), sent_count, None))
        if sent_count:
            size = sum([delivery.message.size_bytes for delivery in waiting])
        partition_id = waiting[0].message.partition_id
        self._queue.extend(waiting)
        self._queued[partition_id] = self._queued.get(partition_id, 0) + len(waiting)
        self._queue_bytes += size
        self._bytes += size
        return True

    def takes(self, size_bytes: int, waiting_bytes_max: int) -> bool:
        """Whether `push` would take a message of that size, with so much in the queue at most."""
        return self._queue_bytes < waiting_bytes_max and (
            not self._bytes or self._bytes + size_bytes <= self._bytes_max
        )

    @property
    def takes_at_once(self) -> bool:
        """`push` would send a message, and not keep it."""
        return self.has_room and not self._queue and self._bytes <= self._bytes_max // 2

    @property
    def has_room(self) -> bool:
        """A message could be sent now."""
        return not self.is_resending and len(self._in_flight) < self._window

    @property
    def is_resending(self) -> bool:
        """What an earlier connection left comes before anything else [MQTT-4.6.0-1]."""
        return bool(self._unsent) or self.resent_count > self._resent_durable_count

    @property
    def next_unsent(self) -> tuple[int, InFlight] | None:
        """Packet identifier and place of what is to be read and sent again next."""
        if not self._unsent or len(self._in_flight) - len(self._unsent) >= self._window:
            return None
        packet_id, known = next(iter(self._unsent.items()))
        return (packet_id, known) if isinstance(known, InFlight) else None

    def acknowledged(self, packet_id: int, now_ms: int) -> bytes:
        """PUBACK. Unknown identifiers are ignored: it may be a late answer to a sent-again one."""
        known = self._in_flight.get(packet_id)
        if known is not None and known.qos == 1:
            self._taken(packet_id)
            del self._in_flight[packet_id]
        elif packet_id in self._in_flight:
            raise ProtocolError("PUBACK for QoS 2")  # [MQTT-4.13.1-1]; 3.1.1 [MQTT-4.8.0-1]
        return self._fill(now_ms)

    def all_acknowledged(self, packet_ids: Sequence[int], now_ms: int) -> bytes:
        """Several PUBACKs that came together."""
        in_flight = self._in_flight
        for packet_id in packet_ids:
            known = in_flight.get(packet_id)
            if known.__class__ is Delivery and known.qos == 1 and not self._unsent:
                self._bytes -= known.message.size_bytes
                del in_flight[packet_id]
            elif known is not None and known.qos == 1:
                self._taken(packet_id)
                del in_flight[packet_id]
            elif packet_id in in_flight:
                raise ProtocolError("PUBACK for QoS 2")  # as above
        self.is_changed = True
        return self._fill(now_ms)

    def received(self, packet_id: int, code: int, now_ms: int) -> bytes:
        """PUBREC: from here on only PUBREL is sent again [MQTT-4.3.3-6..9]."""
        if packet_id in self._in_flight:
            known = self._in_flight[packet_id]
            if known is not None and known.qos != 2:
                raise ProtocolError("PUBREC for QoS 1")  # [MQTT-4.3.2-4]
            self._taken(packet_id)
            if code >= ReasonCode.UNSPECIFIED_ERROR:
                del self._in_flight[packet_id]
                return self._fill(now_ms)
            return self._when_durable(encode_packet(PubRel(packet_id=packet_id), self._level))
        return encode_packet(
            PubRel(packet_id=packet_id, code=ReasonCode.PACKET_IDENTIFIER_NOT_FOUND), self._level
        )

    def completed(self, packet_id: int, now_ms: int) -> bytes:
        """PUBCOMP."""
        if self._in_flight.get(packet_id, self) is None:
            del self._in_flight[packet_id]
            self.is_changed = True
        return self._fill(now_ms)

    def fill(self, now_ms: int) -> bytes:
        """What can be sent now that the connection takes bytes again."""
        return self._fill(now_ms)

    def send_again(self, packet_id: int, delivery: Delivery | None, now_ms: int) -> bytes:
        """`next_unsent` was read; None: it is not to be sent, or in the log no more."""
        self.has_sent_again = True
        if delivery is None:
            del self._unsent[packet_id], self._in_flight[packet_id]
            self.is_changed = True
            return self._fill(now_ms)
        self._bytes += delivery.message.size_bytes
        self._unsent[packet_id] = self._in_flight[packet_id] = delivery
        return self._send_again(packet_id, delivery, now_ms) + self._fill(now_ms)

    def resent(self, count: int, now_ms: int) -> bytes:
        """The first `count` of `resent_count` went out: their round is durable."""
        self._resent_durable_count = count
        return self._fill(now_ms)

    # -- within

    def _fill(self, now_ms: int) -> bytes:
        parts: list[bytes] = []
        while self._unsent and len(self._in_flight) - len(self._unsent) < self._window:
            packet_id, known = next(iter(self._unsent.items()))
            if isinstance(known, InFlight):
                break  # it has to be read first
            parts.append(self._send_again(packet_id, known, now_ms))
        while self._queue and self.has_room:
            delivery = self._queue.popleft()
            self._queue_bytes -= delivery.message.size_bytes
            partition_id = delivery.message.partition_id
            self._queued[partition_id] -= 1
            if not self._queued[partition_id]:
                del self._queued[partition_id]
            parts.append(self._send(delivery, now_ms))
        return b"".join(parts)

    def _wait(self, delivery: Delivery) -> None:
        size = delivery.message.size_bytes
        partition_id = delivery.message.partition_id
        self._queue.append(delivery)
        self._queued[partition_id] = self._queued.get(partition_id, 0) + 1
        self._queue_bytes += size
        self._bytes += size

    def _miss(self, message: Message) -> None:
        if message.partition_id == NOT_IN_THE_LOG:
            self.dropped_count += 1
        else:
            self.first_missed.setdefault(message.partition_id, message.offset)

    def _send_again(self, packet_id: int, delivery: Delivery, now_ms: int) -> bytes:
        data = encode_delivery(delivery, self._level, packet_id, now_ms, dup=True)
        if self._packet_bytes_max is not None and len(data) > self._packet_bytes_max:
            self.dropped_count += 1  # [MQTT-3.1.2-25]
            self._taken(packet_id)
            del self._in_flight[packet_id]
            return b""
        del self._unsent[packet_id]
        self.has_sent_again = True
        self._in_flight[packet_id] = delivery._replace(sent_count=delivery.sent_count + 1)
        if self._is_durable and (delivery.qos == 2 or self.resent_count):
            self.resent_count += 1  # one of QoS 1, too, keeps its place behind one of QoS 2
            return self._when_durable(data)
        return data

    def _taken(self, packet_id: int) -> None:
        """The client has the message: it takes no memory from here on, and is not sent again."""
        self._unsent.pop(packet_id, None)
        known = self._in_flight[packet_id]
        if isinstance(known, Delivery):
            self._bytes -= known.message.size_bytes
        self._in_flight[packet_id] = None
        self.is_changed = True

    def _send(self, delivery: Delivery, now_ms: int) -> bytes:
        """A message that is counted in `_bytes`."""
        self.is_changed = True
        expires_at_ms = delivery.message.expires_at_ms
        if expires_at_ms is not None and expires_at_ms <= now_ms:
            self._bytes -= delivery.message.size_bytes
            return b""  # [MQTT-3.3.2-5]
        packet_id = self._next_id()
        data = encode_delivery(delivery, self._level, packet_id, now_ms)
        if self._packet_bytes_max is not None and len(data) > self._packet_bytes_max:
            self._bytes -= delivery.message.size_bytes
            self.dropped_count += 1  # [MQTT-3.1.2-25] as if it had been delivered
            return b""
        self._in_flight[packet_id] = delivery
        return self._when_durable(data) if delivery.qos == 2 else data

    def _when_durable(self, data: bytes) -> bytes:
        """If power failed after a QoS 2 packet is sent and before its identifier is on disk, the
        message would be sent again with another: twice, for the client."""
        if not self._is_durable:
            return data
        self.is_changed = True
        self.after_commit.append(data)
        return b""

    def _next_id(self) -> int:
        packet_id = self.last_id
        while True:
            packet_id = packet_id % PACKET_ID_MAX + 1
            if packet_id not in self._in_flight:
                self.last_id = packet_id
                return packet_id
