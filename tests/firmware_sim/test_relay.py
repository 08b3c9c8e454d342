"""The relay must fail exactly as it says, or what is learned from its failures is worth nothing."""

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from relay import Relay


@dataclass(slots=True)
class Echo:
    """Answers what it gets, with something in front; keeps its open connections."""

    prefix: bytes = b""
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ended_count: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(1000):
                writer.write(self.prefix + data)
        except OSError:
            pass
        self.ended_count += 1
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()
    for writer in echo.writers:
        writer.transport.abort()


@pytest.fixture
async def relay(echo: Echo) -> AsyncIterator[Relay]:
    relay = Relay("127.0.0.1", echo.port)
    await relay.start()
    yield relay
    await relay.stop()


async def dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    async with asyncio.timeout(2):
        assert (await reader.read(1000)).endswith(b"hello")
    return reader, writer


async def test_drop_resets_both_sides_and_the_next_connection_works(
    relay: Relay, echo: Echo
) -> None:
    reader, _ = await dial(relay.port)
    relay.drop()
    async with asyncio.timeout(2):
        with pytest.raises(ConnectionResetError):
            await reader.read(10)
        while not echo.ended_count:
            await asyncio.sleep(0.01)
    await dial(relay.port)


async def test_a_faded_connection_stays_open_on_both_sides_and_carries_nothing(
    relay: Relay, echo: Echo
) -> None:
    reader, writer = await dial(relay.port)
    relay.fade()
    writer.write(b"lost")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(10), 0.2)
    writer.transport.abort()
    await asyncio.sleep(0.1)
    assert echo.ended_count == 0
    await dial(relay.port)


async def test_while_cut_nothing_connects(relay: Relay) -> None:
    reader, _ = await dial(relay.port)
    relay.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read(10)
    for _ in range(3):
        late, _ = await asyncio.open_connection("127.0.0.1", relay.port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await late.readexactly(1)
    relay.restore()
    await dial(relay.port)


async def test_an_orderly_end_is_passed_on(relay: Relay, echo: Echo) -> None:
    _, writer = await dial(relay.port)
    writer.close()
    async with asyncio.timeout(2):
        while not echo.ended_count:
            await asyncio.sleep(0.01)


async def test_the_targets_own_address_is_written_over(echo: Echo) -> None:
    """So that a Kafka client that reads a broker's address comes back through the relay."""
    echo.prefix = b"\x00\x09127.0.0.1" + struct.pack(">i", echo.port)
    relay = Relay("127.0.0.1", echo.port, readdress_port=echo.port)
    await relay.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(b"!")
    answer = await asyncio.wait_for(reader.readexactly(16), 2)
    assert answer == b"\x00\x09127.0.0.1" + struct.pack(">i", relay.port) + b"!"
    writer.close()
    await relay.stop()
