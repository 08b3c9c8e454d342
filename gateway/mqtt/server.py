"""The MQTT server on asyncio: listeners for the connection cores.

Owns the listening sockets, who is connected through them, and the sweep that runs once a second.
All of MQTT is in the cores (connection.py, broker.py); client.py and layered.py move the bytes.

    broker = Broker(log=log, ingest=ingest, committer=committer, limits=limits,
                    now_ms=monotonic_ms, rng=rng, listener=devices)
    committer.add_participant(broker)
    server = Server(broker)
    port = await server.start(listening_socket)         # any number, each with its Door
    ...
    broker.routes_changed()         # after ingest.replace_router(...)
    ...
    await server.stop()             # accepts nobody, reads nothing more, commits what was read,
                                    # sends its acknowledgements, then DISCONNECT 0x8B to 5.0
                                    # clients, and closes every connection

`stop` needs the committer running, and is to be called before `log.close()`; when the log has
failed it only ends the connections.

Limits of a door are checked before anything is read; who is refused is closed at once, counted,
and reported once a second.
"""

import asyncio
import logging
import socket
from functools import partial

from bridge.config import Address
from gateway.listeners import plain_listener
from gateway.mqtt.broker import Broker
from gateway.mqtt.client import LINGER_S, Client
from gateway.mqtt.door import Door
from log import LogError

_log = logging.getLogger(__name__)

_SWEEP_S = 1.0

_BACKLOG_COUNT = 1024
"""Connections the kernel keeps while the loop is busy: a whole fleet may come back at once."""


class Server:
    """The listeners of one broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.clients: set[Client] = set()
        self.doors: list[Door] = []
        self._all_gone = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket, door: Door | None = None) -> int:
        """Serves a bound socket, which is the server's from now on; returns its port, 0 for a
        Unix socket. Without a door: plain MQTT, and everybody is let in."""
        if door is None:
            door = Door(plain_listener(Address(host="", port=0)))
        loop = asyncio.get_running_loop()
        self.broker.catchup.pace.call_later = loop.call_later
        is_unix = listener.family == socket.AF_UNIX
        create = loop.create_unix_server if is_unix else loop.create_server
        factory = partial(_client_kind(door), self, door)
        self._servers.append(await create(factory, sock=listener, backlog=_BACKLOG_COUNT))
        self.doors.append(door)
        port = 0 if is_unix else int(listener.getsockname()[1])
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(_SWEEP_S, self._sweep)
        scheme = door.config.place.scheme
        _log.info("mqtt.listening listener=%s scheme=%s port=%d", door.config.name, scheme, port)
        return port

    async def stop(self) -> None:
        """Stops, losing nothing that was read; see the module's docstring."""
        self.broker.is_draining = True
        for server in self._servers:
            server.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self.broker.connections):
            connection.pause_for_drain()
        await self._flush()
        self.broker.end_all()
        if self.clients:
            try:
                await asyncio.wait_for(self._all_gone.wait(), LINGER_S)
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
        self._sweep_timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        self.broker.sweep(self.broker.now_ms())
        for door in self.doors:
            for limit, count in door.refused.items():
                _log.warning(
                    "mqtt.connections_refused listener=%s reason=%s count=%d",
                    door.config.name,
                    limit,
                    count,
                )
            door.refused.clear()

    # -- called by clients

    def opened(self, client: Client) -> bool:
        """False: there is no room for one more."""
        limits = self.broker.limits
        if len(self.clients) >= limits.connections_max:
            client.door.refused["connections_max"] += 1
            return False
        if not client.door.enter(limits, self.broker.now_ms()):
            return False
        self.clients.add(client)
        return True

    def located(self, client: Client) -> bool:
        """False: there are too many from the client's address."""
        client.is_located = client.door.enter_from(client.host, self.broker.limits)
        return client.is_located

    def closed(self, client: Client) -> None:
        if client in self.clients:
            self.clients.discard(client)
            client.door.leave()
        if client.is_located:
            client.is_located = False
            client.door.leave_from(client.host)
        if self.broker.is_draining and not self.clients:
            self._all_gone.set()


def _client_kind(door: Door) -> type[Client]:
    if door.is_plain:
        return Client
    from gateway.mqtt.layered import LayeredClient

    return LayeredClient
