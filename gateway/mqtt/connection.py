"""One MQTT connection: bytes in, bytes out.

Owns the framing of what it reads, and the hot path: PUBLISH at QoS 0 and 1. Sans-I/O: it writes
to a `Wire` and reads no clock but the broker's. The sending half is in endpoint.py.

The hot path, `parse`, takes all packets of a read in one loop. It guesses that a packet has the
fixed header and topic of the one before (one comparison of bytes), and collects the payloads of
such a run for one append to the log and one join of PUBACKs. What is acknowledged waits in
`pending` until the broker says that it is durable. Style rules bend here for speed: positions are
juggled in local variables, and nothing is made per packet but two slices.

A peer's fault raises a PeerError somewhere below `receive`, which ends the connection with it:
5.0 clients are sent DISCONNECT (or CONNACK) with its reason code, 3.1.1 has no way to say it.
"""

from typing import TYPE_CHECKING

from gateway.mqtt.authentication import Authenticator
from gateway.mqtt.control import handle_control, handle_pubacks
from gateway.mqtt.decode import Frame, next_frame
from gateway.mqtt.endpoint import Endpoint, Wire
from gateway.mqtt.entrance import take
from gateway.mqtt.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    PeerError,
    ProtocolError,
    QuotaExceeded,
    ReceiveMaximumExceeded,
)
from gateway.mqtt.packets import LEVEL_5_0, Connect
from gateway.mqtt.wire import Reader
from log import LogError

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.inbound import Inbound, Run
    from gateway.mqtt.session import Session

_PUBACK = b"\x40\x02"
_PUBREC = b"\x50\x02"
_ID_0 = b"\0\0"
_INBOX_BYTES_MAX = 1 << 20
"""A turn of the loop may read 64 KiB from each of thousands of connections: not all into memory."""

_LONE_BYTES_MAX = 1024
"""Lone messages are not counted against `_INBOX_BYTES_MAX`, for they are small."""

_NO_PREFIX: tuple[bytes, ...] = ()
"""Nothing begins with one of no prefixes."""


class Connection(Endpoint):
    """Feed it with `receive`; say `lost` when the transport is gone."""

    __slots__ = (
        "_carried_count",
        "_inbound",
        "_is_large_read",
        "_lone_bytes",
        "_packet_bytes_max",
        "_prefix",
        "_rest",
        "_rest_bytes",
        "_run",
        "_size",
        "needed_bytes",
    )

    def __init__(
        self, wire: Wire, broker: "Broker", authenticator: Authenticator | None = None
    ) -> None:
        super().__init__(wire, broker, authenticator)
        self._packet_bytes_max = broker.limits.packet_bytes_max
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self.needed_bytes = 0
        """Of `_rest`, before there is anything to do."""
        self._inbound: Inbound | None = None
        self._run: Run | None = None
        self._prefix: bytes | tuple[bytes, ...] = _NO_PREFIX
        """Fixed header and topic of the last PUBLISH."""
        self._is_large_read = False
        self._size = 0
        """Size of the packet that `_prefix` begins."""
        self._carried_count = 0
        """Identifiers of QoS 2 that were not released on an earlier connection."""
        self._lone_bytes = 0
        """The same when a lone packet like it can take the short way, else 0."""

    def opened(self) -> None:
        """The transport is there: from now on the wire can be used."""
        self._broker.connections.add(self)
        self._broker.counters.sockets_accepted += 1

    def connected(self, packet: Connect, session: "Session", inbound: "Inbound") -> None:
        """CONNECT was accepted; CONNACK is the caller's."""
        self.is_connected = True
        self._broker.counters.connections_accepted += 1
        self.session = session
        self._inbound = inbound
        self.client_id = session.client_id
        self._carried_count = len(session.received)
        self.will = packet.will if inbound.takes_will(packet.will) else None
        if self._broker.is_holding:
            self.pause_for_storage()

    def authenticated(self) -> None:
        super().authenticated()
        data = b"".join(self._rest)
        self.forget_rest()
        if data:
            self.receive(data)

    def forget_routes(self) -> None:
        """The routing table has changed, or the connection has ended."""
        self._run = None
        self._prefix = _NO_PREFIX
        self._lone_bytes = 0
        if self._inbound is not None:
            self._inbound.forget_routes()

    # -- reading -------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes from the client. Never raises for what the client did."""
        if self._rest_bytes:
            self._rest.append(data)
            self._keep_rest(len(data))
            if self.is_ended or self._rest_bytes < self.needed_bytes:
                return
            data = b"".join(self._rest)
            self.forget_rest()
        elif len(data) == self._lone_bytes and data.startswith(self._prefix):
            # One message of QoS 1 like the one before, and nothing else: the device that waits
            # for its PUBACK. The same as `parse` does, without its loop.
            at = len(self._prefix)
            run = self._run
            assert run is not None
            packet_id = data[at : at + 2]
            at += 2
            properties = run.properties
            count = self.unacknowledged_count
            if (
                count < self._receive_max
                and packet_id != _ID_0
                and (not properties or data.startswith(properties, at))
            ):
                self.is_active = True
                self.unacknowledged_count = count + 1
                broker = self._broker
                broker.inbox_bytes += len(data)
                if not broker.is_awaited:
                    broker.is_awaited = True
                    broker.request()
                values = [data[at + len(properties) :]]
                broker.inbox.append((self, run, values, _PUBACK + packet_id, 1))  # type: ignore[arg-type]
                if self.is_unseen:
                    self._show(run, values)
                return
        self.is_active = True
        try:
            if self.is_connected:
                used = self.parse(data)
            else:
                used = take(self, self._broker, data)
        except MqttError as error:
            self.end(error)
            return
        if self._answers:
            self.write_answers()
        if used != len(data) and not self.is_ended:
            rest = data[used:]
            self._rest.append(rest)
            self._keep_rest(len(rest))

    def _keep_rest(self, size: int) -> None:
        """`size` bytes of a packet that is not whole were kept."""
        self._rest_bytes += size
        broker = self._broker
        broker.partial_bytes += size
        if broker.partial_bytes > broker.limits.partial_bytes_max:
            self.end(QuotaExceeded("too many packets of all clients are incomplete"))

    def forget_rest(self) -> None:
        self._broker.partial_bytes -= self._rest_bytes
        self._rest.clear()
        self._rest_bytes = 0

    def parse(self, data: bytes) -> int:
        """All whole packets of `data`; returns how many bytes they were."""
        end = len(data)
        self._is_large_read = end > self._broker.large_bytes
        position = 0
        run = self._run
        prefix = self._prefix
        size = self._size
        prefix_bytes = len(prefix)
        qos = run.qos if run is not None else 0
        properties = run.properties if run is not None else b""
        properties_bytes = len(properties)
        values: list[bytes] = []
        ids: list[bytes] = []
        while position < end:
            if data.startswith(prefix, position):
                stop = position + size
                if stop > end:
                    self.needed_bytes = stop - position
                    break
                at = position + prefix_bytes
            else:
                # Another size, topic, kind of packet, or less than a header.
                if end - position < 2:
                    self.needed_bytes = 2
                    break
                body = position + 2
                stop = body + data[position + 1]
                if data[position + 1] >= 0x80:
                    try:
                        frame = next_frame(data, position, end, self._packet_bytes_max)
                    except PeerError:
                        self._store(run, values, ids)
                        raise
                    if not isinstance(frame, Frame):
                        self.needed_bytes = frame
                        break
                    _, body, stop = frame
                    if data[body - 1] == 0 and self.level == LEVEL_5_0:
                        self._store(run, values, ids)
                        raise MalformedPacket("Remaining Length longer than needed")
                elif stop > end:
                    self.needed_bytes = stop - position
                    break
                first_byte = data[position]
                if first_byte & 0xF0 != 0x30:
                    self._store(run, values, ids)
                    values = []
                    ids = []
                    if first_byte == 0x40:
                        stop = handle_pubacks(self, self._broker, data, position, body, stop)
                    else:
                        handle_control(self, self._broker, first_byte, Reader(data, body, stop))
                    position = stop
                    if self.is_ended:
                        return end
                    continue
                at = body + 2 + int.from_bytes(data[body : body + 2])
                if (
                    run is None
                    or first_byte != run.first_byte
                    or data[body:at] != run.topic
                    or stop - at < run.overhead
                    or not data.startswith(properties, at + 2 if qos else at)
                ):
                    self._store(run, values, ids)
                    values = []
                    ids = []
                    inbound = self._inbound
                    assert inbound is not None
                    run = self._run = inbound.find(first_byte, data, body, stop)
                    qos = run.qos
                    properties = run.properties
                    properties_bytes = len(properties)
                prefix = self._prefix = data[position:at]
                prefix_bytes = at - position
                size = self._size = stop - position
            if qos:
                packet_id = data[at : at + 2]
                at += 2
                if properties_bytes and not data.startswith(properties, at):
                    prefix = _NO_PREFIX  # look again, at all of the packet
                    continue
                at += properties_bytes
                if qos == 2:
                    assert run is not None
                    self._receive_qos_2(run, packet_id, data[at:stop])
                    if self.is_ended:
                        return end
                    position = stop
                    continue
                ids.append(packet_id)
            elif properties_bytes:
                if not data.startswith(properties, at):
                    prefix = _NO_PREFIX
                    continue
                at += properties_bytes
            values.append(data[at:stop])
            position = stop
        if values:
            self._store(run, values, ids)
        run = self._run  # None, if the connection has ended
        is_lone = qos == 1 and run is not None and not run.is_denied
        self._lone_bytes = self._size if is_lone and self._size <= _LONE_BYTES_MAX else 0
        broker = self._broker
        broker.inbox_bytes += end
        if broker.inbox_bytes > _INBOX_BYTES_MAX:
            broker.store()
        received = self.session.received if self.session is not None else None
        count = self._unfinished_count() if received else self.unacknowledged_count
        if count > self._receive_max:
            self._window_exceeded()
        return position

    # -- publishing ----------------------------------------------------------------------------

    def _store(self, run: "Run | None", values: list[bytes], ids: list[bytes]) -> None:
        """Leaves the messages of a run to the broker, with their PUBACKs for when it is done."""
        if not values:
            return
        assert run is not None
        if run.is_denied:
            self.deny(_PUBACK, ids, len(values))
            return
        if self._is_large_read:
            values, ids, error = self._fitting(run, values, ids)
            if error is not None:
                self._store(run, values, ids)
                raise error
        acknowledgements = b""
        if ids:
            if _ID_0 in ids:
                raise ProtocolError("packet identifier 0")  # [MQTT-2.3.1-1], 5.0 [MQTT-2.2.1-3]
            acknowledgements = _PUBACK + _PUBACK.join(ids)
            self.unacknowledged_count += len(ids)
        broker = self._broker
        if not broker.is_awaited:
            broker.arrived(is_awaited=bool(ids))
        broker.inbox.append((self, run, values, acknowledgements, len(ids)))  # type: ignore[arg-type]
        if self.is_unseen:
            self._show(run, values)

    def _fitting(
        self, run: "Run", values: list[bytes], ids: list[bytes]
    ) -> tuple[list[bytes], list[bytes], PacketTooLarge | None]:
        """The messages before the first one that is too large for a record.

        The log would find out in the middle of what other clients have for the same partition.
        """
        bytes_max = self._broker.ingest.record_bytes_max - run.template.fixed_bytes
        for number, value in enumerate(values):
            if len(value) > bytes_max:
                size = len(value) + run.template.fixed_bytes
                return values[:number], ids[:number], PacketTooLarge(f"a record of {size} bytes")
        return values, ids, None

    def _show(self, run: "Run", values: list[bytes]) -> None:
        self.is_unseen = False
        self._broker.listener.message_seen(self.client_id, run.route.topic, values[-1])

    def _receive_qos_2(self, run: "Run", id_bytes: bytes, value: bytes) -> None:
        """Method A of 4.3.3: the identifier is stored with the message, in one frame."""
        packet_id = int.from_bytes(id_bytes)
        if packet_id == 0:
            raise ProtocolError("packet identifier 0")
        session = self.session
        assert session is not None
        if packet_id in session.received:
            self.defer(_PUBREC + id_bytes)
            return
        if run.is_denied:
            self.deny(_PUBREC, [id_bytes], 1)
            return
        if self.level == LEVEL_5_0 and self._unfinished_count() >= self._receive_max:
            raise ReceiveMaximumExceeded(f"over {self._receive_max} messages unreleased")
        broker = self._broker
        broker.store()  # what came before is to be before it in the log
        if self.is_ended:
            return  # for what came before was refused
        try:
            offset = broker.append(run.partition, run.template, value)
        except LogError as error:
            self.refuse(error, [_PUBREC + id_bytes], 1)
            return
        session.received.add(packet_id)
        broker.sessions.received_changed(session)
        if run.retain:
            broker.retained.stored(run.route, run.qos, run.message_properties, value, offset)
        if broker.deliveries.are_wanted:
            broker.deliveries.publish(run, [value], offset)
        if self.is_unseen:
            self._show(run, [value])
        self.defer(_PUBREC + id_bytes)
        if broker.committer.congested:
            broker.hold_back()

    def _unfinished_count(self) -> int:
        """What the client has sent on this connection and not got a PUBACK or PUBCOMP for (3.3.4).

        Identifiers of an earlier connection do not count: the quota begins anew (4.9).
        """
        session = self.session
        if self.level < LEVEL_5_0 or session is None:
            return self.unacknowledged_count
        return self.unacknowledged_count + max(0, len(session.received) - self._carried_count)

    def _window_exceeded(self) -> None:
        if self.level == LEVEL_5_0:
            raise ReceiveMaximumExceeded(f"over {self._receive_max} messages unacknowledged")
        self.pause_for_window()
