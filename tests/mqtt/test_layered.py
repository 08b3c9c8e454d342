"""gateway/mqtt/layered.py on both loops, and TLS under bytes that are none."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config import Address
from gateway.listeners import ListenerConfig, Place, TlsFiles
from gateway.mqtt.door import Door
from gateway.mqtt.errors import TransportError
from gateway.mqtt.packets import ConnAck, Connect, Disconnect, PubAck, Publish
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.tls_layer import TlsLayer
from gateway.places import bind_unix
from gateway.tls import server_context
from tests.mqtt.doors import trusting
from tests.mqtt.test_server import RawClient, on_both_loops, running, until
from tests.rigs.certificates import Authority

NOWHERE = Address(host="127.0.0.1", port=0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def door(authority: Authority) -> Door:
    pair = authority.issue("gateway.test")
    files = TlsFiles(certificate=pair.certificate, key=pair.key)
    place = Place(scheme="mqtts", address=NOWHERE)
    config = ListenerConfig(name="tls", place=place, tls=files, connections_max=1)
    return Door(config, tls=server_context(files))


@cache
def context_of(authority: Authority) -> ssl.SSLContext:
    context = door(authority).tls
    assert context is not None
    return context


async def open_tls(port: int, authority: Authority) -> RawClient:
    return RawClient(
        *await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=trusting(authority.ca),
            server_hostname="gateway.test",
            limit=1 << 22,
        )
    )


async def talk(client: RawClient) -> None:
    client.send(Connect(level=5, client_id="raw", clean_start=True, keep_alive_s=60))
    assert isinstance(await client.next(), ConnAck)
    for number in range(1, 301):
        client.send(Publish(topic="t", payload=bytes(5_000), qos=1, packet_id=number))
    for number in range(1, 301):
        assert await client.next() == PubAck(packet_id=number)


@on_both_loops
async def test_tls_beside_a_plain_listener(tmp_path: Path, authority: Authority) -> None:
    each = door(authority)
    async with running(tmp_path) as gateway:
        port = await gateway.server.start(socket.create_server(("127.0.0.1", 0)), each)
        client = await open_tls(port, authority)
        await talk(client)
        plain = await RawClient.open(gateway.port, "plain")
        assert len(gateway.records()) == 300
        # connections_max is 1: the next is closed before its handshake.
        with pytest.raises((ssl.SSLError, OSError)):
            await open_tls(port, authority)
        client.writer.close()
        await until(lambda: each.count == 0)
        again = await open_tls(port, authority)
        await talk(again)
        for writer in (again.writer, plain.writer):
            writer.close()
        await until(lambda: not gateway.server.clients)
        assert each._by_address == {}


@on_both_loops
async def test_unix_socket_beside_a_plain_listener(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    each = Door(ListenerConfig(name="local", place=Place(scheme="unix", path=str(path))))
    async with running(tmp_path / "data") as gateway:
        assert await gateway.server.start(bind_unix(path, 0o600), each) == 0
        client = RawClient(*await asyncio.open_unix_connection(str(path), limit=1 << 22))
        await talk(client)
        client.writer.close()


@on_both_loops
async def test_stopping_says_goodbye_through_tls(tmp_path: Path, authority: Authority) -> None:
    async with running(tmp_path) as gateway:
        listener = socket.create_server(("127.0.0.1", 0))
        port = await gateway.server.start(listener, door(authority))
        client = await open_tls(port, authority)
        await talk(client)
        stopping = asyncio.create_task(gateway.server.stop())
        goodbye = await client.next()
        assert isinstance(goodbye, Disconnect)
        assert goodbye.code == ReasonCode.SERVER_SHUTTING_DOWN
        assert await client.next() is None
        client.writer.close()
        await stopping


def hello(authority: Authority) -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority.ca).wrap_bio(incoming, outgoing, server_hostname="gateway.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@given(seed=st.integers(0, 2**32))
def test_bytes_that_are_no_tls_are_refused_or_waited_for(authority: Authority, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(hello(authority))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    context = context_of(authority)
    layer = TlsLayer(context)
    try:
        cut = rng.randrange(len(data) + 1)
        for piece in (bytes(data[:cut]), bytes(data[cut:])):
            assert layer.receive(piece) == b""
            layer.take_output()
        assert layer.wrap(b"x") == b""
    except TransportError:
        pass
    layer.last_words()
