"""A client with something between its socket and MQTT: a PROXY header, TLS, WebSocket, or all.

Owns their order and what happens where one of them fails. Each is a `Layer`, sans-I/O: bytes in,
bytes out for the layer above; and the other way round for what is written. So limits, time-outs
(connect_timeout_ms runs from accept to a whole CONNECT), backpressure and the direct write to the
socket are those of every other connection.
"""

import logging
from typing import Protocol

from gateway.mqtt.client import LINGER_S, Client, ClientServer
from gateway.mqtt.door import Door
from gateway.mqtt.errors import TransportError
from gateway.mqtt.proxy_header import find_header

_log = logging.getLogger(__name__)


class Layer(Protocol):
    """Not `is_open`: the handshake is not done. `is_closed`: the peer said that it ends."""

    is_open: bool
    is_closed: bool

    def receive(self, data: bytes) -> bytes:
        """What these bytes of the peer are for the layer above. Raises TransportError; what is to
        be said about it is in `take_output`."""

    def wrap(self, data: bytes) -> bytes:
        """The layer above's bytes for the peer; b"" while the handshake is not done."""

    def take_output(self) -> bytes:
        """What the layer itself has to say to the peer, since the last call."""

    def last_words(self) -> bytes:
        """Ends it: what to say before the connection is closed."""


class LayeredClient(Client):
    """Layers are made when the client comes, with the door's settings of that moment."""

    __slots__ = ("_early_bytes", "_head", "_is_broken", "_is_lingering", "_layers")

    def __init__(self, server: ClientServer, door: Door) -> None:
        super().__init__(server, door)
        self._layers = _layers(door)
        self._early_bytes = 0
        """Read before CONNECT was whole."""
        self._head: bytes | None = b"" if door.config.proxy_protocol else None
        """Of the PROXY header, while it is not whole."""
        self._is_broken = False
        """What is below MQTT is at fault: nothing more of the peer is understood."""
        self._is_lingering = False
        """MQTT has ended; the peer's half of WebSocket's closing handshake is waited for."""
        self.data_received = self._unwrap  # type: ignore[method-assign]

    def write(self, data: bytes) -> None:
        self._put(data, len(self._layers))

    def close(self) -> None:
        if self._transport.is_closing() or self._is_lingering:
            return
        if self.door.config.place.is_websocket:
            top = len(self._layers) - 1
            words = self._layers[top].last_words()
            self._put(words, top)
            if words and not self._is_broken:
                # RFC 6455, 7.1.1: the connection is closed when both sides have said so.
                self._is_lingering = True
                self._transport.resume_reading()
                self._loop.call_later(LINGER_S, self._finish)
                return
        self._finish()

    def _finish(self) -> None:
        if self._transport.is_closing():
            return
        for index in reversed(range(len(self._layers))):
            self._put(self._layers[index].last_words(), index)
        super().close()

    def _await_close(self, data: bytes) -> None:
        try:
            for index, layer in enumerate(self._layers):
                data = layer.receive(data)
                self._put(layer.take_output(), index)
        except TransportError:
            self._finish()
        if any(layer.is_closed for layer in self._layers):
            self._finish()

    def _is_welcome_here(self) -> bool:
        return self._head is not None or super()._is_welcome_here()

    def _put(self, data: bytes, above: int) -> None:
        """Writes what layer `above` says, through those below it."""
        for layer in reversed(self._layers[:above]):
            if not data:
                return
            data = layer.wrap(data)
        if data:
            super().write(data)

    def _unwrap(self, data: bytes) -> None:
        connection = self._connection
        if connection.is_ended:
            if self._is_lingering:
                self._await_close(data)
            return
        is_early = not connection.is_connected
        if is_early:
            self._early_bytes += len(data)
        try:
            if self._head is not None:
                data = self._locate(self._head + data)
            self._climb(data, 0)
        except TransportError as error:
            self._end(error)
            return
        if is_early and not (connection.is_connected or connection.is_authenticating):
            limits = self._server.broker.limits
            if self._early_bytes > limits.connect_bytes_max + limits.handshake_bytes_max:
                self._end(TransportError(f"{self._early_bytes} bytes and no CONNECT"))

    def _climb(self, data: bytes, index: int) -> None:
        """Hands bytes up from layer `index`."""
        if not data or self._connection.is_ended:
            return
        if index == len(self._layers):
            self._connection.receive(data)
            return
        layer = self._layers[index]
        was_open = layer.is_open
        try:
            data = layer.receive(data)
        finally:
            self._put(layer.take_output(), index)
        if layer.is_open and not was_open and self.door.config.certificate_user_name:
            # Only TLS has one; it is the first layer, and nothing was handed up before.
            self._connection.certificate_name = getattr(layer, "certificate_name", None) or (
                self._connection.certificate_name
            )
        self._climb(data, index + 1)
        if layer.is_closed and not self._connection.is_ended:
            self._connection.lost()

    def _locate(self, data: bytes) -> bytes:
        """Takes the PROXY header off; returns what is behind it."""
        found = find_header(data)
        if found is None:
            self._head = data
            return b""
        self._head = None
        host, port = found.source
        if host:
            self.peer = f"{host}:{port}"
            if not self._server.located(self):
                raise TransportError("too many connections from this address")
        return data[found.size :]

    def _end(self, error: TransportError) -> None:
        if self._connection.is_ended:
            return
        _log.info(
            "mqtt.transport_fault listener=%s peer=%s client=%r detail=%r",
            self.door.config.name,
            self.peer,
            self._connection.client_id,
            str(error),
        )
        self._is_broken = True
        self._connection.lost()


def _layers(door: Door) -> list[Layer]:
    """Outermost first. Imported here: each costs memory that a plain listener need not pay."""
    layers: list[Layer] = []
    if door.tls is not None:
        from gateway.mqtt.tls_layer import TlsLayer

        layers.append(TlsLayer(door.tls))
    if door.config.place.is_websocket:
        from gateway.mqtt.websocket import WebSocketLayer

        layers.append(WebSocketLayer(door.config.place.path, door.config.origins))
    return layers
