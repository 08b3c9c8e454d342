"""A 3.1.1 device on amqtt's client-side packets and stream adapters.

Why not amqtt's MQTTClient as it is: its session forgets a message in flight when the connection
is lost or after 5 s (`inflight_out.pop` in a `finally`), so nothing is sent again after a
reconnect, and a second publish would come under a new packet id: neither DUP nor exactly once
can be tested with it. So the outbox keeps the state, and amqtt encodes, decodes and frames.
"""

import asyncio
import contextlib
from typing import Any, TypeAlias

from amqtt.adapters import StreamReaderAdapter
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt import packet_class
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader, MQTTPacket
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.pubrel import PubrelPacket
from errors import LinkError
from link import CONNECT_TIMEOUT_S, Identity, Recorder, wall_ms
from outbox import Outbox, Slot, SlotState

BROKEN = (OSError, TimeoutError, AMQTTError, MQTTError, NoDataError, asyncio.IncompleteReadError)

Packet: TypeAlias = MQTTPacket[Any, Any, Any]


class AmqttLink:
    """One connection at a time; see link.Link."""

    def __init__(self, identity: Identity, outbox: Outbox, recorder: Recorder) -> None:
        self.closed = asyncio.Event()
        self.closed.set()
        self._identity = identity
        self._outbox = outbox
        self._recorder = recorder
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, host: str, port: int, *, forget: bool) -> None:
        """CONNECT with clean session 0; after `forget`, a clean session first, to end the old."""
        if forget:
            await self._connect(host, port, clean_session=True)
            await self.close()
        reader = await self._connect(host, port, clean_session=False)
        self.closed.clear()
        self._tasks = [asyncio.create_task(self._read(reader))]
        if self._identity.keep_alive_s:
            self._tasks.append(asyncio.create_task(self._ping()))
        for slot in self._outbox.unfinished():
            self._transmit(slot, dup=True)

    def pump(self) -> None:
        """First transmissions."""
        while not self.closed.is_set() and (slot := self._outbox.next_to_send(wall_ms())):
            self._transmit(slot, dup=False)

    def resend(self, older_than_ms: int) -> None:
        """Again with DUP on the same connection: 3.1.1 lets a client do that."""
        for slot in self._outbox.unfinished():
            if slot.resent_ms < older_than_ms and not self.closed.is_set():
                sent_ms = slot.sent_ms
                self._transmit(slot, dup=True)
                slot.sent_ms = sent_ms

    async def close(self) -> None:
        """DISCONNECT, then FIN."""
        writer = self._writer
        if writer is not None:
            self._send(DisconnectPacket())
            with contextlib.suppress(OSError, TimeoutError):
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), 1)
        self._drop()

    def abort(self) -> None:
        """RST or silence, whatever the radio makes of it."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._drop()

    async def _connect(self, host: str, port: int, *, clean_session: bool) -> StreamReaderAdapter:
        header = ConnectVariableHeader(keep_alive=self._identity.keep_alive_s)
        packet = ConnectPacket(
            variable_header=header, payload=ConnectPayload(client_id=self._identity.client_id)
        )
        packet.clean_session_flag = clean_session
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                streams = await asyncio.open_connection(host, port)
                self._writer = streams[1]
                reader = StreamReaderAdapter(streams[0])
                self._send(packet)
                connack = await ConnackPacket.from_stream(reader)
        except BROKEN as error:
            self.abort()
            raise LinkError(f"{self._identity.client_id}: {error!r}") from error
        if connack.return_code:
            self.abort()
            raise LinkError(f"{self._identity.client_id}: CONNACK {connack.return_code}")
        return reader

    async def _read(self, reader: StreamReaderAdapter) -> None:
        try:
            while fixed_header := await MQTTFixedHeader.from_stream(reader):
                cls = packet_class(fixed_header)
                self._handle(await cls.from_stream(reader, fixed_header=fixed_header))
        except BROKEN:
            pass
        self.abort()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._identity.keep_alive_s * 0.8)
            self._send(PingReqPacket())

    def _handle(self, packet: Packet) -> None:
        if isinstance(packet, PubackPacket):
            message = self._outbox.on_puback(packet.packet_id)
            if message is not None:
                self._recorder.acknowledged(message)
        elif isinstance(packet, PubrecPacket):
            message = self._outbox.on_pubrec(packet.packet_id)
            if message is not None:
                self._recorder.acknowledged(message)
            self._send(PubrelPacket.build(packet.packet_id))
        elif isinstance(packet, PubcompPacket):
            self._outbox.on_pubcomp(packet.packet_id)
        self.pump()

    def _transmit(self, slot: Slot, *, dup: bool) -> None:
        slot.sent_ms = slot.resent_ms = wall_ms()
        if slot.state is SlotState.RECEIVED:
            self._send(PubrelPacket.build(slot.packet_id))
            return
        message = slot.message
        self._recorder.sent(message, dup=dup)
        self._send(
            PublishPacket.build(
                message.topic, message.payload, slot.packet_id, dup, message.qos, retain=False
            )
        )

    def _send(self, packet: Packet) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(packet.to_bytes())

    def _drop(self) -> None:
        self._writer = None
        self.closed.set()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._tasks = []
