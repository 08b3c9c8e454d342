"""When a connection is given up, and when it is only slow. The peer is a socket of the test."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable

import pytest

from bridge.config import Address, UpstreamConfig
from bridge.connection import Connection
from bridge.errors import ProtocolMismatch, Unreachable

_API_VERSIONS = 18
PATIENCE_MS = 600


class Peer:
    """Speaks as much of Kafka as opening takes; reads what follows at `read_bytes` each 20 ms."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.versions = [(0, 3, 13), (_API_VERSIONS, 0, 4)]
        self.is_silent = False

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        request = await reader.readexactly(size)
        if self.is_silent:
            await asyncio.sleep(60)
        body = request[4:8] + struct.pack(">hi", 0, len(self.versions))
        body += b"".join(struct.pack(">hhh", *each) for each in self.versions)
        writer.write(struct.pack(">i", len(body)) + body)
        while True:
            await asyncio.sleep(0.02)
            if self.read_bytes and not await reader.read(self.read_bytes):
                return

    def close(self) -> None:
        self._server.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


async def _open(peer: Peer, closed: Callable[[Connection], None] = lambda _: None) -> Connection:
    address = Address(host="127.0.0.1", port=await peer.start())
    config = UpstreamConfig(name="u", bootstrap=(address,))
    connection = Connection(address, config, closed)
    await connection.open(connect_timeout_ms=3000)
    return connection


async def _send_much(connection: Connection, answered: list[object]) -> None:
    connection.produce([bytes(8 << 20)], connection.next_correlation_id(), answered.append)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


async def _is_given_up(connection: Connection, *, after_s: float) -> bool:
    """Watched as the cluster does it."""
    deadline = time.monotonic() + after_s
    while time.monotonic() < deadline:
        if connection.stalled(_now_ms(), PATIENCE_MS):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_slow_link_is_not_a_dead_one(peer: Peer) -> None:
    connection = await _open(peer)
    peer.read_bytes = 10_000
    await _send_much(connection, [])
    assert not await _is_given_up(connection, after_s=3 * PATIENCE_MS / 1000)
    connection.give_up()


async def test_a_link_on_which_nothing_moves_is_given_up(peer: Peer) -> None:
    closed: list[Connection] = []
    answered: list[asyncio.Future[bytes]] = []
    connection = await _open(peer, closed.append)
    await _send_much(connection, answered)  # type: ignore[arg-type]
    assert await _is_given_up(connection, after_s=3 * PATIENCE_MS / 1000)
    connection.give_up()
    await asyncio.sleep(0)
    assert closed == [connection]
    assert answered[0].exception() is not None
    with pytest.raises(Unreachable):
        connection.produce([b""], 1, lambda _: None)


async def test_an_idle_link_is_left_alone(peer: Peer) -> None:
    connection = await _open(peer)
    assert not await _is_given_up(connection, after_s=2 * PATIENCE_MS / 1000)
    connection.give_up()


async def test_a_broker_too_old_for_the_bridge_is_named_so(peer: Peer) -> None:
    peer.versions = [(0, 0, 7), (_API_VERSIONS, 0, 2)]
    connection = await _open(peer)
    with pytest.raises(ProtocolMismatch, match=r"Produce 0\.\.7"):
        _ = connection.produce_version
    connection.give_up()


async def test_nobody_there_and_nobody_answering_are_unreachable(peer: Peer) -> None:
    port = await peer.start()
    config = UpstreamConfig(name="u", bootstrap=(Address(host="127.0.0.1", port=port),))
    peer.is_silent = True
    connection = Connection(config.bootstrap[0], config, lambda _: None)
    with pytest.raises(Unreachable, match="no answer within 200 ms"):
        await connection.open(connect_timeout_ms=200)
    peer.close()
    connection = Connection(config.bootstrap[0], config, lambda _: None)
    with pytest.raises(Unreachable, match=str(port)):
        await connection.open(connect_timeout_ms=200)
