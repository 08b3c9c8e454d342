"""The MQTT server on asyncio: sockets for the connection cores.

Owns the listening socket, one `asyncio.Protocol` per client, and the sweep that runs once a
second. All of MQTT is in the cores (connection.py, broker.py); this module only moves bytes.

    broker = Broker(log=log, ingest=ingest, committer=committer, limits=limits,
                    now_ms=monotonic_ms, rng=rng, listener=devices)
    committer.add_participant(broker)
    server = Server(broker)
    port = await server.start(listening_socket)
    ...
    broker.routes_changed()         # after ingest.replace_router(...)
    ...
    await server.stop()             # accepts nobody, reads nothing more, commits what was read,
                                    # sends its acknowledgements, then DISCONNECT 0x8B to 5.0
                                    # clients, and closes every connection

`stop` needs the committer running, and is to be called before `log.close()`; when the log has
failed it only ends the connections.

Acknowledgements are written straight to the socket while the transport has nothing buffered: the
transport's own write costs as much again as the system call. What the socket does not take goes
to the transport, and everything after it too, until its buffer is empty.
"""

import asyncio
import logging
import os
import socket
from typing import cast

from gateway.mqtt.broker import Broker
from gateway.mqtt.connection import Connection
from log import LogError

_log = logging.getLogger(__name__)

_SWEEP_S = 1.0

_READ_BYTES_MAX = 65_536
"""asyncio's own 256 KiB makes every read map and unmap memory: half the speed at 1,000 clients."""

_BACKLOG_COUNT = 1024
"""Connections the kernel keeps while the loop is busy: a whole fleet may come back at once."""

_LINGER_S = 2.0
"""How long a closing connection may take to read what was written to it."""


class Server:
    """One listener of one broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.clients: set[_Client] = set()
        self._all_gone = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> int:
        """Serves a bound socket, which is the server's from now on; returns its port."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(
            lambda: _Client(self, self._loop), sock=listener, backlog=_BACKLOG_COUNT
        )
        port = int(listener.getsockname()[1])
        self._sweep_timer = self._loop.call_later(_SWEEP_S, self._sweep)
        _log.info("mqtt.listening port=%d", port)
        return port

    async def stop(self) -> None:
        """Stops, losing nothing that was read; see the module's docstring."""
        self.broker.is_draining = True
        if self._server is not None:
            self._server.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self.broker.connections):
            connection.pause_for_drain()
        await self._flush()
        self.broker.end_all()
        if self.clients:
            try:
                await asyncio.wait_for(self._all_gone.wait(), _LINGER_S)
            except TimeoutError:
                for client in list(self.clients):
                    client.abort()
        # Wills of the clients that were ended are in the round that is open now.
        await self._flush()
        _log.info("mqtt.stopped")

    async def _flush(self) -> None:
        try:
            await self.broker.committer.flush()
        except LogError as error:
            _log.error("mqtt.stopped_without_commit error=%s", error)

    def _sweep(self) -> None:
        self._sweep_timer = self._loop.call_later(_SWEEP_S, self._sweep)
        self.broker.sweep(self.broker.now_ms())

    def opened(self, client: "_Client") -> bool:
        """False: there is no room for one more."""
        if len(self.clients) >= self.broker.limits.connections_max:
            _log.warning("mqtt.connection_refused reason=connections_max")
            return False
        self.clients.add(client)
        return True

    def closed(self, client: "_Client") -> None:
        self.clients.discard(client)
        if self.broker.is_draining and not self.clients:
            self._all_gone.set()


class _Client(asyncio.Protocol):
    """The wire of one connection (`gateway.mqtt.endpoint.Wire`)."""

    __slots__ = (
        "_connection",
        "_fd",
        "_is_buffered",
        "_loop",
        "_server",
        "_transport",
        "data_received",
        "peer",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport
        self._fd = -1
        self._is_buffered = False
        self.peer = "?"
        self._connection = Connection(self, server.broker)
        # Without a frame in between: the loop looks this up once, or at every read.
        self.data_received = self._connection.receive  # type: ignore[method-assign]

    # -- called by the loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.opened(self):
            self._transport.abort()
            return
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if address else "?"
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES_MAX
        self._transport.set_write_buffer_limits(
            high=self._server.broker.limits.write_buffer_bytes_max
        )
        sock = transport.get_extra_info("socket")
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
            self._loop.call_later(_LINGER_S, self.abort)
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
