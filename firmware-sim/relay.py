"""A TCP relay that fails as links do: a device's radio, and the gateway's uplink in the demo.

Owns the connections it relays. Each device with faults in its profile dials its own relay, so
that both client libraries meet the same faults without being patched.

- drop: both sides are reset at once. What comes after works again.
- fade: both sides stay open and nothing gets through any more (half-open). A device finds out by
  its acknowledgement timeout; the gateway by keep-alive, or when the device comes back.
- cut: drop, and new connections are reset until restore.

A Kafka broker names its own address in its answers, and clients would go round the relay. With
`readdress_port` the relay writes its own port over that one, in what the target sends.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

CHUNK_BYTES = 65_536
FADED_COUNT_MAX = 8
LOOPBACK = b"127.0.0.1"


@dataclass(slots=True, eq=False)
class _Passage:
    """One relayed connection; `near` is the side that dialled us."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    silent: bool = False
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


class Relay:
    """`start` before use; `port` is where to dial."""

    def __init__(self, host: str, port: int, *, readdress_port: int | None = None) -> None:
        self.is_cut = False
        self._target = host, port
        self._readdress_port = readdress_port
        self._server: asyncio.Server | None = None
        self._live: set[_Passage] = set()
        self._faded: list[_Passage] = []
        self._dialling: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The local port."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Reset what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._dialling:
            task.cancel()
        for passage in [*self._live, *self._faded]:
            self._reset(passage)
        self._faded.clear()

    def drop(self) -> None:
        """The link breaks, and both sides know."""
        for passage in list(self._live):
            self._reset(passage)

    def fade(self) -> None:
        """The link goes silent. Only so many dead connections are kept for the far side to find."""
        for passage in list(self._live):
            passage.silent = True
            self._live.discard(passage)
            self._faded.append(passage)
        while len(self._faded) > FADED_COUNT_MAX:
            self._reset(self._faded.pop(0))

    def cut(self) -> None:
        """No connection until `restore`."""
        self.is_cut = True
        self.drop()

    def restore(self) -> None:
        """Connections work again."""
        self.is_cut = False

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio complains aloud of its own one when that is cancelled.
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            _send_reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _send_reset(writer)
            return
        passage = _Passage(near=writer, far=far_writer)
        self._live.add(passage)
        passage.pumps = [
            asyncio.create_task(self._pump_out(passage, reader)),
            asyncio.create_task(self._pump_back(passage, far_reader)),
        ]

    async def _pump_out(self, passage: _Passage, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if not passage.silent:
                    passage.far.write(data)
                    await passage.far.drain()
        if not passage.silent:  # else the near side gave up, and the far side must not hear of it
            self._reset(passage, orderly=True)

    async def _pump_back(self, passage: _Passage, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if not passage.silent:
                    passage.near.write(self._readdressed(data))
                    await passage.near.drain()
        self._reset(passage, orderly=not passage.silent)

    def _readdressed(self, data: bytes) -> bytes:
        if self._readdress_port is None:
            return data
        theirs = LOOPBACK + struct.pack(">i", self._readdress_port)
        return data.replace(theirs, LOOPBACK + struct.pack(">i", self.port))

    def _reset(self, passage: _Passage, *, orderly: bool = False) -> None:
        self._live.discard(passage)
        for writer in (passage.near, passage.far):
            if orderly:
                writer.close()
            else:
                _send_reset(writer)
        current = asyncio.current_task()
        for pump in passage.pumps:
            if pump is not current:
                pump.cancel()


def _send_reset(writer: asyncio.StreamWriter) -> None:
    """RST: without the option, abort would say an orderly FIN."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
