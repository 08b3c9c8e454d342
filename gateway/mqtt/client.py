"""One client's socket on asyncio: the wire of a connection core.

Owns the transport of one connection, and moves bytes between it and the core. What stands between
a socket and MQTT (TLS, WebSocket) is in layered.py, which derives from this.

Acknowledgements are written straight to the socket while the transport has nothing buffered: the
transport's own write costs as much again as the system call. What the socket does not take goes
to the transport, and everything after it too, until its buffer is empty.
"""

import asyncio
import os
import socket
from typing import Protocol, cast

from gateway.mqtt.broker import Broker
from gateway.mqtt.connection import Connection
from gateway.mqtt.door import Door

_READ_BYTES_MAX = 65_536
"""asyncio's own 256 KiB makes every read map and unmap memory: half the speed at 1,000 clients."""

LINGER_S = 2.0
"""How long a closing connection may take to read what was written to it."""


class ClientServer(Protocol):
    """What a client needs of its server."""

    broker: Broker

    def opened(self, client: "Client") -> bool:
        """False: there is no room for one more."""

    def located(self, client: "Client") -> bool:
        """`peer` has its address. False: there are too many from there."""

    def closed(self, client: "Client") -> None: ...


class Client(asyncio.Protocol):
    """The wire of one connection (`gateway.mqtt.endpoint.Wire`)."""

    __slots__ = (
        "_connection",
        "_fd",
        "_is_buffered",
        "_loop",
        "_server",
        "_transport",
        "data_received",
        "door",
        "is_located",
        "peer",
    )

    def __init__(self, server: ClientServer, door: Door) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.door = door
        self.is_located = False
        """It is counted among those of its address."""
        self._transport: asyncio.Transport
        self._fd = -1
        self._is_buffered = False
        self.peer = "?"
        self._connection = Connection(self, server.broker, door.authenticator)
        # Without a frame in between: the loop looks this up once, or at every read.
        self.data_received = self._connection.receive  # type: ignore[method-assign]

    @property
    def host(self) -> str:
        """`peer` without its port."""
        return self.peer.rpartition(":")[0]

    # -- called by the loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        is_tcp = isinstance(address, tuple)
        self.peer = f"{address[0]}:{address[1]}" if is_tcp else "unix"
        if not self._server.opened(self) or (is_tcp and not self._is_welcome_here()):
            self._transport.abort()
            return
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES_MAX
        self._transport.set_write_buffer_limits(
            high=self._server.broker.limits.write_buffer_bytes_max
        )
        sock = transport.get_extra_info("socket")
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._fd = sock.fileno()
        self._connection.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        # Both loops call this before they close the descriptor, so `_fd` is never another's.
        self._fd = -1
        self._connection.lost()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._connection.writing_paused()

    def resume_writing(self) -> None:
        self._connection.writing_resumed()

    def _is_welcome_here(self) -> bool:
        """The address of the socket is that of the client; a proxy says another one later."""
        return self._server.located(self)

    # -- called by the connection --------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._is_buffered:
            if self._transport.get_write_buffer_size():
                self._transport.write(data)
                return
            self._is_buffered = False
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The peer is gone; the loop will see it too and say connection_lost.
            return
        if sent != len(data):
            self._is_buffered = True
            self._transport.write(data[sent:])

    def close(self) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._loop.call_later(LINGER_S, self.abort)
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
