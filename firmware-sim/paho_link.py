"""A 5.0 device on paho-mqtt, driven from asyncio by paho's external event loop interface.

paho keeps its own copy of what is in flight and sends it again, with DUP and under the same
packet id, after each reconnect; the outbox bounds and accounts for it. Some of paho's inner
methods are overridden, because its callbacks cannot tell what an auditor must know (each single
transmission; PUBREC, for paho reports QoS 2 at PUBCOMP only), and because of two faults of its
sender: a PUBREC that refuses counts as a success, and PUBREC is forgotten when a reconnect takes
more than one attempt. None of those is public, so tests hold what is relied on.
"""

import asyncio
import contextlib
import socket
from typing import Any

import paho.mqtt.client as paho
from errors import LinkError
from link import (
    CONNECT_TIMEOUT_S,
    REFUSED_PAUSE_MS,
    SESSION_EXPIRY_S,
    Identity,
    Recorder,
    wall_ms,
)
from outbox import Outbox, Slot, SlotState
from paho.mqtt.enums import (
    CallbackAPIVersion,
    MessageState,
    MQTTErrorCode,
    MQTTProtocolVersion,
)
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

REFUSED_MIN = 0x80
MISC_INTERVAL_S = 1.0


class _ObservedClient(paho.Client):
    """paho.Client that says what it does."""

    link: "PahoLink"

    def _send_publish(self, mid: int, *args: Any, **kwargs: Any) -> MQTTErrorCode:
        if self.socket() is not None:
            dup = kwargs.get("dup", args[4] if len(args) > 4 else False)
            self.link.on_transmit(mid, dup=bool(dup))
        return super()._send_publish(mid, *args, **kwargs)

    def _messages_reconnect_reset_out(self) -> None:
        # Called by each attempt to connect. paho's own forgets PUBREC at the second one, and then
        # sends PUBLISH again, without DUP: a duplicate no gateway can recognise after PUBREL.
        super()._messages_reconnect_reset_out()
        for mid, message in self._out_messages.items():
            if self.link.was_received(mid):
                message.state = MessageState.MQTT_MS_RESEND_PUBREL

    def _handle_pubrec(self) -> MQTTErrorCode:
        packet = bytes(self._in_packet["packet"])
        mid = int.from_bytes(packet[:2], "big")
        code = packet[2] if len(packet) > 2 else 0
        if code >= REFUSED_MIN:
            with self._out_message_mutex:
                if self._out_messages.pop(mid, None) is not None:
                    self._inflight_messages -= 1
            self.link.on_refused(mid, code)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self.link.on_pubrec(mid)
        return super()._handle_pubrec()


class PahoLink:
    """One connection at a time; see link.Link."""

    def __init__(self, identity: Identity, outbox: Outbox, recorder: Recorder) -> None:
        self.closed = asyncio.Event()
        self.closed.set()
        self._identity = identity
        self._outbox = outbox
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._packet_ids: dict[int, int] = {}
        self._first_time: Slot | None = None
        self._paused_until_ms = 0
        self._connected: asyncio.Future[None] | None = None
        self._misc: asyncio.Task[None] | None = None
        self._properties = _properties(PacketTypes.PUBLISH)
        if identity.content_type:
            self._properties.ContentType = identity.content_type
        for pair in identity.user_properties.items():
            self._properties.UserProperty = pair
        self._client = self._new_client()

    async def open(self, host: str, port: int, *, forget: bool) -> None:
        """CONNECT with clean start 0 (1 after `forget`, with a new client object)."""
        if forget:
            self._packet_ids.clear()
            self._client = self._new_client()
        self._connected = self._loop.create_future()
        expiry = _properties(PacketTypes.CONNECT)
        expiry.SessionExpiryInterval = SESSION_EXPIRY_S
        try:
            self._client.connect(
                host,
                port,
                keepalive=self._identity.keep_alive_s,
                clean_start=forget,
                properties=expiry,
            )
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected
        except (OSError, TimeoutError, LinkError) as error:
            self.abort()
            raise LinkError(f"{self._identity.client_id}: {error!r}") from error
        self.closed.clear()
        self._misc = asyncio.create_task(self._run_misc(self._client))

    def pump(self) -> None:
        """First transmissions."""
        if wall_ms() < self._paused_until_ms:
            return
        while not self.closed.is_set() and (slot := self._outbox.next_to_send(wall_ms())):
            message = slot.message
            self._first_time = slot
            info = self._client.publish(
                message.topic, message.payload, message.qos, properties=self._properties
            )
            self._first_time = None
            self._packet_ids[info.mid] = slot.packet_id

    def resend(self, older_than_ms: int) -> None:
        """5.0 forbids to send again on the same connection [MQTT-4.4.0-1]."""

    async def close(self) -> None:
        """DISCONNECT, then FIN."""
        if not self.closed.is_set():
            self._client.disconnect()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closed.wait(), 1)
        self.abort()

    def abort(self) -> None:
        """The socket dies under paho, which notices as it would on a real loss."""
        sock: Any = self._client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            self._client.loop_read()
            if self._client.socket() is not None:
                self._client.loop_write()
        self._on_down(LinkError("aborted"))

    def on_transmit(self, mid: int, *, dup: bool) -> None:
        """A PUBLISH goes out."""
        # paho numbers messages by itself, and gives the number only after the transmission.
        slot = self._first_time or self._outbox.slot(self._packet_ids.get(mid, 0))
        if slot is not None:
            slot.sent_ms = wall_ms()
            self._recorder.sent(slot.message, dup=dup)

    def on_pubrec(self, mid: int) -> None:
        """QoS 2 was taken over."""
        message = self._outbox.on_pubrec(self._packet_ids.get(mid, 0))
        if message is not None:
            self._recorder.acknowledged(message)

    def was_received(self, mid: int) -> bool:
        """Whether PUBREC has come: from then on only PUBREL may be sent [MQTT-4.3.3-6]."""
        slot = self._outbox.slot(self._packet_ids.get(mid, 0))
        return slot is not None and slot.state is SlotState.RECEIVED

    def on_refused(self, mid: int, code: int) -> None:
        """PUBACK or PUBREC with an error."""
        message = self._outbox.on_refused(self._packet_ids.pop(mid, 0))
        if message is not None:
            self._recorder.refused(message, code)
            self._paused_until_ms = wall_ms() + REFUSED_PAUSE_MS

    def _new_client(self) -> _ObservedClient:
        client = _ObservedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._identity.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.link = self
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages = 0xFFFF
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        return client

    def _on_connect(self, _c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        future = self._connected
        if future is None or future.done():
            return
        if reason.is_failure:
            future.set_exception(LinkError(f"CONNACK {reason}"))
        else:
            # paho sends unfinished messages right after this callback: new ones come later.
            future.set_result(None)

    def _on_disconnect(self, _c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        self._on_down(LinkError(f"disconnected: {reason}"))

    def _on_publish(self, _c: Any, _u: Any, mid: int, reason: Any, _p: Any) -> None:
        if reason.value >= REFUSED_MIN and reason.getName() != "Packet identifier not found":
            self.on_refused(mid, reason.value)
        else:
            packet_id = self._packet_ids.pop(mid, 0)
            message = self._outbox.on_puback(packet_id)
            if message is not None:
                self._recorder.acknowledged(message)
            self._outbox.on_pubcomp(packet_id)
        self._loop.call_soon(self.pump)

    def _on_socket_open(self, client: paho.Client, _u: Any, sock: Any) -> None:
        self._loop.add_reader(sock, client.loop_read)

    def _on_socket_close(self, _c: Any, _u: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _on_register_write(self, client: paho.Client, _u: Any, sock: Any) -> None:
        self._loop.add_writer(sock, client.loop_write)

    def _on_unregister_write(self, _c: Any, _u: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _on_down(self, error: LinkError) -> None:
        if self._connected is not None and not self._connected.done():
            self._connected.set_exception(error)
            self._connected.exception()
        if self._misc is not None:
            self._misc.cancel()
            self._misc = None
        self.closed.set()

    async def _run_misc(self, client: paho.Client) -> None:
        while True:
            await asyncio.sleep(MISC_INTERVAL_S)
            client.loop_misc()


def _properties(packet_type: int) -> Any:
    # Untyped in paho, and attributes appear by name.
    return Properties(packet_type)  # type: ignore[no-untyped-call]
