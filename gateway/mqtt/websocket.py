"""MQTT over WebSocket (section 6 of MQTT 5.0 and 3.1.1): the upgrade, then binary frames.

Owns what is MQTT's business in it: the subprotocol, the path, the origin,
binary frames only. Frames and the handshake are wsproto's. Frames are no packets [MQTT-6.0.0-2]:
their payload is handed on as it comes, whole or not, so that a frame's length reserves nothing and
bounds nothing. Beside `mqtt`, `mqttv3.1` is taken: so MQTT 3.1's clients ask, and Mosquitto too
takes it.

Not imported before a listener speaks WebSocket.
"""

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from gateway.mqtt.errors import TransportError

_SUBPROTOCOLS = ("mqtt", "mqttv3.1")
"""The first of these that the client offers."""

_HEAD_END = b"\r\n\r\n"
_HEAD_BYTES_MAX = 8_192
"""A browser's cookies and all; every header field is the client's to choose."""

_UNSUPPORTED_DATA = 1003
_NORMAL = 1000


class WebSocketLayer:
    """A `gateway.mqtt.layered.Layer`. path "": any; origins (): any."""

    def __init__(self, path: str, origins: tuple[str, ...]) -> None:
        self._path = path
        self._origins = origins
        self._connection = WSConnection(ConnectionType.SERVER)
        self._head = b""
        self._output = b""
        self._is_upgraded = False
        self.is_open = False
        self.is_closed = False

    def receive(self, data: bytes) -> bytes:
        if not self._is_upgraded:
            self._head += data
            end = self._head.find(_HEAD_END)
            if max(end, len(self._head) if end < 0 else 0) > _HEAD_BYTES_MAX:
                raise self._refusal("431 Request Header Fields Too Large", "the head is too large")
            if end < 0:
                return b""
            head, data = self._head[: end + 4], self._head[end + 4 :]
            self._head = b""
            self._upgrade(head)
        try:
            self._connection.receive_data(data)
            return self._payload()
        except ProtocolError as error:
            raise TransportError(f"WebSocket: {error}") from error

    def wrap(self, data: bytes) -> bytes:
        if not self.is_open:
            return b""
        return self._connection.send(BytesMessage(data=data))

    def take_output(self) -> bytes:
        output, self._output = self._output, b""
        return output

    def last_words(self) -> bytes:
        if self.is_open and self._connection.state is ConnectionState.OPEN:
            self.is_open = False
            return self._connection.send(CloseConnection(code=_NORMAL))
        return b""

    def _payload(self) -> bytes:
        chunks: list[bytes] = []
        for event in self._connection.events():
            if isinstance(event, BytesMessage):
                chunks.append(bytes(event.data))
            elif isinstance(event, Ping):
                self._output += self._connection.send(event.response())
            elif isinstance(event, CloseConnection):
                self._close(event)
                break
            elif isinstance(event, TextMessage):
                # [MQTT-6.0.0-1] binary frames only, else the connection is closed.
                self._close(CloseConnection(code=_UNSUPPORTED_DATA, reason="binary frames only"))
                raise TransportError("WebSocket: a text frame")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _close(self, event: CloseConnection) -> None:
        """The peer's close is answered, a fault of its framing is told."""
        self.is_closed = True
        self.is_open = False
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._output += self._connection.send(event.response())

    # -- the upgrade

    def _upgrade(self, head: bytes) -> None:
        try:
            self._connection.receive_data(head)
            request = next(iter(self._connection.events()), None)
        except (ProtocolError, UnicodeError) as error:
            if b"upgrade: websocket" in head.lower():
                raise self._refusal("400 Bad Request", str(error)) from error
            raise self._refusal("426 Upgrade Required", "no WebSocket upgrade") from error
        if not isinstance(request, Request):
            raise self._refusal("400 Bad Request", "no request")
        if self._path and request.target.partition("?")[0] != self._path:
            raise self._refusal("404 Not Found", f"path {request.target!r}")
        origin = next((v for name, v in request.extra_headers if name == b"origin"), b"")
        if self._origins and origin and origin.decode("latin-1") not in self._origins:
            raise self._refusal("403 Forbidden", f"origin {origin!r}")
        subprotocol = next((each for each in _SUBPROTOCOLS if each in request.subprotocols), None)
        if subprotocol is None:  # [MQTT-6.0.0-3]
            raise self._refusal("400 Bad Request", "the subprotocol mqtt is not offered")
        # [MQTT-6.0.0-4] the name of the subprotocol is in the answer.
        self._output += self._connection.send(AcceptConnection(subprotocol=subprotocol))
        self._is_upgraded = self.is_open = True

    def _refusal(self, status: str, why: str) -> TransportError:
        body = f"{status}: MQTT over WebSocket is spoken here, subprotocol mqtt.\n"
        self._output += (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        return TransportError(f"WebSocket: {status}: {why}")
