"""The outbox of one constrained device: what it holds in its small RAM until it is acknowledged.

Owns the bound on memory, packet ids, and the sender's half of QoS 1 and QoS 2 (MQTT 4.3.2, 4.3.3).
Never touches a socket or a clock: links tell it what arrived, it tells them what to send.

    offer -> waiting -> next_to_send -> in flight SENT -> on_puback                     -> gone
                           ^                 |
                           |                 +---------> on_pubrec RECEIVED -> on_pubcomp -> gone
                           +--- on_refused --+

A message counts as acknowledged at PUBACK or at PUBREC: from then on the gateway answers for it.
In flight messages keep their packet id over reconnects, for that is what lets the gateway
recognise a QoS 2 message it has already stored.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

PACKET_ID_MAX = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One reading on its way. `taken_ms` is the machine's time, not the device's drifting one."""

    seq: int
    topic: str
    payload: bytes
    qos: int
    taken_ms: int


class WhenFull(Enum):
    """What a full outbox gives up: the new reading, or the oldest one that was not sent yet."""

    REFUSE_NEW = "refuse-new"
    DROP_OLDEST = "drop-oldest"


class SlotState(Enum):
    """How far a message in flight has come."""

    SENT = "sent"
    RECEIVED = "received"


@dataclass(slots=True, kw_only=True)
class Slot:
    """A message in flight under its packet id."""

    packet_id: int
    message: Message
    state: SlotState = SlotState.SENT
    sent_ms: int = 0
    """First sent on this connection: what the acknowledgement timeout counts from."""
    resent_ms: int = 0
    """Last sent on this connection."""


class Outbox:
    """Bounded in count and in payload bytes; first in, first out."""

    def __init__(
        self, *, count_max: int, bytes_max: int, in_flight_max: int, when_full: WhenFull
    ) -> None:
        if not 1 <= in_flight_max <= count_max:
            raise ValueError("in_flight_max must be between 1 and count_max")
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._in_flight_max = in_flight_max
        self._when_full = when_full
        self._waiting: deque[Message] = deque()
        self._slots: OrderedDict[int, Slot] = OrderedDict()
        self._bytes = 0
        self._last_packet_id = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._slots)

    @property
    def size_bytes(self) -> int:
        """Payload bytes held."""
        return self._bytes

    @property
    def in_flight_count(self) -> int:
        """Messages sent and not finished."""
        return len(self._slots)

    def offer(self, message: Message) -> list[Message]:
        """Take a new reading. Returns what was given up for it (maybe itself): never to be sent."""
        given_up: list[Message] = []
        while self._is_full_for(message):
            if self._when_full is WhenFull.REFUSE_NEW or not self._waiting:
                return [*given_up, message]
            oldest = self._waiting.popleft()
            self._bytes -= len(oldest.payload)
            given_up.append(oldest)
        self._waiting.append(message)
        self._bytes += len(message.payload)
        return given_up

    def next_to_send(self, now_ms: int) -> Slot | None:
        """The next message for the wire, with its packet id; None when the window is full."""
        if not self._waiting or len(self._slots) >= self._in_flight_max:
            return None
        message = self._waiting.popleft()
        packet_id = self._free_packet_id()
        slot = Slot(packet_id=packet_id, message=message, sent_ms=now_ms, resent_ms=now_ms)
        self._slots[slot.packet_id] = slot
        return slot

    def on_puback(self, packet_id: int) -> Message | None:
        """QoS 1 is done. None when the packet id means nothing to us."""
        slot = self._slots.get(packet_id)
        if slot is None or slot.message.qos != 1:
            return None
        del self._slots[packet_id]
        self._bytes -= len(slot.message.payload)
        return slot.message

    def on_pubrec(self, packet_id: int) -> Message | None:
        """QoS 2 was taken over: PUBREL is due. The message the first time, None when repeated."""
        slot = self._slots.get(packet_id)
        if slot is None or slot.message.qos != 2 or slot.state is SlotState.RECEIVED:
            return None
        slot.state = SlotState.RECEIVED
        self._bytes -= len(slot.message.payload)
        return slot.message

    def on_pubcomp(self, packet_id: int) -> bool:
        """QoS 2 is done and the packet id is free. False when it means nothing to us."""
        slot = self._slots.get(packet_id)
        if slot is None or slot.state is not SlotState.RECEIVED:
            return False
        del self._slots[packet_id]
        return True

    def on_refused(self, packet_id: int) -> Message | None:
        """The gateway said no (5.0 reason code, 0x80 up): back to its old place in the queue."""
        slot = self._slots.get(packet_id)
        if slot is None or slot.state is not SlotState.SENT:
            return None
        del self._slots[packet_id]
        position = sum(1 for waiting in self._waiting if waiting.seq < slot.message.seq)
        self._waiting.insert(position, slot.message)
        return slot.message

    def slot(self, packet_id: int) -> Slot | None:
        """What is in flight under that packet id."""
        return self._slots.get(packet_id)

    def unfinished(self) -> list[Slot]:
        """In flight, in order of first sending: sent again after a reconnect [MQTT-4.4.0-1]."""
        return list(self._slots.values())

    def messages(self) -> Iterator[Message]:
        """Everything held that is not acknowledged yet, oldest first."""
        for slot in self._slots.values():
            if slot.state is SlotState.SENT:
                yield slot.message
        yield from self._waiting

    def oldest_sent_ms(self) -> int | None:
        """Since when the longest unanswered message waits on this connection."""
        return min((slot.sent_ms for slot in self._slots.values()), default=None)

    def lose(self) -> list[Message]:
        """Power is gone and this was RAM. Returns what was never acknowledged."""
        lost = list(self.messages())
        self._waiting.clear()
        self._slots.clear()
        self._bytes = 0
        self._last_packet_id = 0
        return lost

    def _is_full_for(self, message: Message) -> bool:
        too_many = len(self) >= self._count_max
        return too_many or self._bytes + len(message.payload) > self._bytes_max

    def _free_packet_id(self) -> int:
        packet_id = self._last_packet_id
        while True:
            packet_id = packet_id % PACKET_ID_MAX + 1
            if packet_id not in self._slots:
                self._last_packet_id = packet_id
                return packet_id
