"""The air between one device and the gateway: a TCP relay that fails as radio links do.

Owns the relayed connections of one device. Each device with faults in its profile dials its own
relay, so that both client libraries meet the same faults without being patched.

- drop: both sides are reset at once.
- fade: both sides stay open and nothing gets through any more (half-open). The device finds out
  by its acknowledgement timeout; the gateway by keep-alive, or when the device comes back.
- a connection after a fade or a drop works again.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

CHUNK_BYTES = 16_384
FADED_COUNT_MAX = 8


@dataclass(slots=True, eq=False)
class _Passage:
    """One relayed connection."""

    device: asyncio.StreamWriter
    gateway: asyncio.StreamWriter
    silent: bool = False
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


class Radio:
    """One device's link. `start` before use; `port` is where the device dials."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._live: set[_Passage] = set()
        self._faded: list[_Passage] = []

    @property
    def port(self) -> int:
        """The local port."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)

    async def stop(self) -> None:
        """Reset what is open."""
        if self._server is not None:
            self._server.close()
        for passage in [*self._live, *self._faded]:
            self._reset(passage)
        self._faded.clear()

    def drop(self) -> None:
        """The link breaks, and both sides know."""
        for passage in list(self._live):
            self._reset(passage)

    def fade(self) -> None:
        """The link goes silent. Only so many dead connections are kept for the gateway to find."""
        for passage in list(self._live):
            passage.silent = True
            self._live.discard(passage)
            self._faded.append(passage)
        while len(self._faded) > FADED_COUNT_MAX:
            self._reset(self._faded.pop(0))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        passage = _Passage(device=writer, gateway=upstream[1])
        self._live.add(passage)
        passage.pumps = [
            asyncio.create_task(self._pump(passage, reader, passage.gateway)),
            asyncio.create_task(self._pump(passage, upstream[0], passage.device)),
        ]

    async def _pump(
        self, passage: _Passage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if not passage.silent:
                    writer.write(data)
                    await writer.drain()
        if passage.silent and writer is passage.gateway:
            return  # the device gave up its end; the gateway must not hear of it
        self._reset(passage, orderly=not passage.silent)

    def _reset(self, passage: _Passage, *, orderly: bool = False) -> None:
        self._live.discard(passage)
        for writer in (passage.device, passage.gateway):
            if orderly:
                writer.close()
            else:
                writer.transport.abort()
        current = asyncio.current_task()
        for pump in passage.pumps:
            if pump is not current:
                pump.cancel()
