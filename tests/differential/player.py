"""Plays a sequence to one server and writes down what came back, step by step.

Owns the connections, and the fence behind each step: a PINGREQ of whoever acted (the server has
read the step), a QoS 1 message of a third client (what the step stored is durable, and handed
on), a PINGREQ of everybody (what was written before has come). No step waits by sleeping, unless
`patience_s` asks for it: a difference is played again with patience before it is believed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import PeerError
from gateway.mqtt.packets import (
    LEVEL_3_1_1,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.wire import Reader
from tests.differential import malformed
from tests.differential.sequences import (
    Answer,
    Drop,
    First,
    Malformed,
    Open,
    Send,
    Sequence,
    Step,
    Twice,
    Unframed,
)

CLOSED = "closed"
SILENT = "nothing came"
_PATIENCE_S = 2.0
_FENCE_TOPIC = "$fence"
_PACKET_BYTES_MAX = 1 << 20

Item = Packet | str


@dataclass(slots=True)
class Seen:
    """What one connection of a client was sent during one step."""

    client: int
    is_old: bool
    items: list[Item] = field(default_factory=list)


class _Connection:
    """One socket; reads whole packets."""

    def __init__(self, port: int, level: int, client_id: str = "") -> None:
        self.level = level
        self.client_id = client_id
        self.is_open = True
        self.is_connected = False
        self.seen: list[Item] = []
        self.waiting: list[Publish | PubRel] = []
        """Deliveries that wait for an acknowledgement, in the order in which they came."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""

    def send(self, *packets: Packet) -> None:
        self.send_bytes(b"".join(encode_packet(packet, self.level) for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            pass  # the reader will find the end, and what came before it

    def read_until(self, *kinds: type) -> None:
        """All packets up to one of these kinds, or the end; what is no answer is written down."""
        while self.is_open:
            for packet in self._packets():
                if isinstance(packet, PingResp) and PingResp in kinds:
                    return
                self._take(packet)
                if isinstance(packet, kinds):
                    return
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                self.seen.append(SILENT)
                self.close()
                return
            except OSError:
                data = b""
            if not data:
                self.seen.append(CLOSED)
                self.close()
            self._data += data

    def _packets(self) -> Iterator[Packet]:
        while self._data:
            frame = next_frame(self._data, 0, len(self._data), _PACKET_BYTES_MAX)
            if not isinstance(frame, Frame):
                return
            reader = Reader(self._data, frame.start, frame.stop)
            body = self._data[frame.start : frame.stop]
            self._data = self._data[frame.stop :]
            try:
                packet = decode_packet(frame.first_byte, reader, self.level)
            except PeerError:
                self.seen.append(f"no packet of this level: {frame.first_byte:02x} {body.hex()}")
            else:
                yield packet

    def _take(self, packet: Packet) -> None:
        self.seen.append(packet)
        if (isinstance(packet, Publish) and packet.qos) or isinstance(packet, PubRel):
            self.waiting.append(packet)
        elif isinstance(packet, ConnAck) and packet.code == 0:
            self.is_connected = True

    def close(self) -> None:
        self.is_open = self.is_connected = False
        self._socket.close()

    def ping(self) -> None:
        if self.is_connected:
            self.send(PingReq())
            self.read_until(PingResp)


class Player:
    """One server, and the client that fences there. Not for two threads."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._fence = _Connection(port, LEVEL_3_1_1)
        self._fence.send(Connect(level=4, client_id="fence", clean_start=True, keep_alive_s=0))
        self._fence.read_until(ConnAck)
        self._played = 0

    def play(self, sequence: Sequence, *, patience_s: float = 0.0) -> list[list[Seen]]:
        """What each step brought, to every connection that there was."""
        self._played += 1
        game = _Game(self._port, sequence, f"d{self._played}-")
        seen = []
        for step in sequence.steps:
            game.act(step)
            self._settle(game, step.client, patience_s)
            seen.append(game.take_seen())
        self._clean_up(game)
        return seen

    def close(self) -> None:
        self._fence.close()

    def _settle(self, game: _Game, client: int, patience_s: float) -> None:
        game.ping(client)
        self.publish(_FENCE_TOPIC)
        if patience_s:
            time.sleep(patience_s)
        game.ping_all()

    def publish(self, topic: str, *, retain: bool = False) -> None:
        fence = self._fence
        fence.send(Publish(topic=topic, payload=b"", qos=1, packet_id=1, retain=retain))
        fence.read_until(PubAck)
        assert fence.is_open, "the fence's own connection was closed"
        fence.seen.clear()

    def _clean_up(self, game: _Game) -> None:
        """No session and no retained message is left for the next sequence."""
        game.finish()
        for topic in sorted(game.retained_topics):
            self.publish(topic, retain=True)


class _Game:
    """The connections of one sequence."""

    def __init__(self, port: int, sequence: Sequence, prefix: str) -> None:
        self._port = port
        self._levels = sequence.levels
        self._ids = [f"{prefix}{name}" for name in "ab"]
        self._current: list[_Connection | None] = [None, None]
        self._old: list[_Connection | None] = [None, None]
        self._is_kept = [False, False]
        self.retained_topics: set[str] = set()

    def act(self, step: Step) -> None:
        client, action = step.client, step.action
        if isinstance(action, Open | First):
            self._open(client, action)
            return
        connection = self._current[client]
        if connection is None or not connection.is_connected:
            return
        level = connection.level
        if isinstance(action, Send):
            self._note_retained(action)
            connection.send(action.packet)
            if isinstance(action.packet, Disconnect):
                connection.is_connected = False
                connection.read_until()
        elif isinstance(action, Twice):
            again = msgspec.structs.replace(action.packet, dup=True)
            for packet in (action.packet, again):
                connection.send(packet)
                connection.read_until(PubRec)
            connection.send(PubRel(packet_id=action.packet.packet_id))
        elif isinstance(action, Answer):
            self._answer(connection, action)
        elif isinstance(action, Malformed):
            known = {**malformed.CONNECTED, **malformed.CONNECTED_5_0}
            connection.send_bytes(known[action.name](level))
        elif isinstance(action, Unframed):
            connection.send_bytes(malformed.UNFRAMED[action.name])
            connection.close()
        elif isinstance(action, Drop):
            connection.close()

    def _open(self, client: int, action: Open | First) -> None:
        self._retire(client)
        client_id = self._ids[client] if isinstance(action, Open) else ""
        connection = _Connection(self._port, self._levels[client], client_id)
        self._current[client] = connection
        if isinstance(action, First):
            known = {**malformed.FIRST, **malformed.FIRST_5_0}
            connection.send_bytes(known[action.name](connection.level))
            connection.read_until(ConnAck)
            if not connection.is_connected and connection.is_open:
                connection.read_until()
            return
        self._is_kept[client] |= not action.clean or bool(action.expiry_s)
        if action.will is not None and action.will.retain:
            self.retained_topics.add(action.will.topic)
        connection.send(
            Connect(
                level=connection.level,
                client_id=client_id,
                clean_start=action.clean,
                keep_alive_s=action.keep_alive_s,
                will=action.will,
                properties=Properties(
                    session_expiry_s=action.expiry_s, receive_maximum=action.receive_maximum
                ),
            )
        )
        connection.read_until(ConnAck)

    def _retire(self, client: int) -> None:
        """A connection that was taken over is watched until the next one is."""
        old = self._old[client]
        if old is not None and old.is_open:
            old.close()
        self._old[client] = self._current[client]

    def _note_retained(self, action: Send) -> None:
        if isinstance(action.packet, Publish) and action.packet.retain:
            self.retained_topics.add(action.packet.topic)

    def _answer(self, connection: _Connection, action: Answer) -> None:
        if action.place >= len(connection.waiting):
            return
        given = connection.waiting[action.place]
        packet_id = given.packet_id
        if action.is_wrong:
            wrong = PubRec if isinstance(given, Publish) and given.qos == 1 else PubAck
            connection.send(wrong(packet_id=packet_id))
            return
        del connection.waiting[action.place]
        if isinstance(given, PubRel):
            connection.send(PubComp(packet_id=packet_id))
        elif given.qos == 1:
            connection.send(PubAck(packet_id=packet_id))
        else:
            connection.send(PubRec(packet_id=packet_id))

    def ping(self, client: int) -> None:
        connection = self._current[client]
        if connection is not None:
            connection.ping()

    def ping_all(self) -> None:
        for old, current in zip(self._old, self._current, strict=True):
            if old is not None and old.is_connected:
                if (
                    current is not None
                    and current.is_connected
                    and current.client_id == old.client_id
                ):
                    old.read_until()  # [MQTT-3.1.4-2] the server closes it
                else:
                    old.ping()
            if current is not None:
                current.ping()

    def take_seen(self) -> list[Seen]:
        found = []
        for is_old, connections in ((True, self._old), (False, self._current)):
            for client, connection in enumerate(connections):
                if connection is not None:
                    found.append(Seen(client, is_old, connection.seen))
                    connection.seen = []
        return found

    def finish(self) -> None:
        for connection in (*self._old, *self._current):
            if connection is not None and connection.is_open:
                connection.send(Disconnect())
                connection.read_until()
        for client in range(2):
            if self._is_kept[client]:
                level = self._levels[client]
                last = _Connection(self._port, level)
                last.send(
                    Connect(
                        level=level, client_id=self._ids[client], clean_start=True, keep_alive_s=0
                    )
                )
                last.read_until(ConnAck)
                last.send(Disconnect())
                last.read_until()
