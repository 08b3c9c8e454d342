"""A TCP link that can be cut, or go silent, while both ends stay up.

    cut        every connection is reset, and so is every new one
    blackhole  connections stay open and new ones are taken, but no byte passes: what a dead radio
               or a dropped NAT entry looks like until TCP's or the client's own time-outs
    restore    bytes pass again; what was held in a blackhole arrives late, as TCP would send it

It counts the bytes of both directions, so that a test can say what the link carried.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

_RECEIVE_BYTES = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpProxy:
    """Forwards 127.0.0.1:port to the target ("host:port" or a port of 127.0.0.1)."""

    def __init__(self, target: str | int, *, delay_ms: float = 0.0) -> None:
        if isinstance(target, int):
            self._target = ("127.0.0.1", target)
        else:
            host, _, port = target.rpartition(":")
            self._target = (host, int(port))
        self._delay_s = delay_ms / 1000
        self._is_cut = False
        self._is_closed = False
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.bytes_to_target = 0
        self.bytes_from_target = 0
        self.connection_count = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy-accept", daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Resets every connection, and each new one until `restore`."""
        self._is_cut = True
        self._flows.set()
        self._reset_all()

    def blackhole(self) -> None:
        """Lets no byte through until `restore`; nobody is told."""
        self._flows.clear()

    def restore(self) -> None:
        """Ends a cut or a blackhole."""
        self._is_cut = False
        self._flows.set()

    def close(self) -> None:
        """Ends the proxy for good."""
        self._is_closed = True
        self._is_cut = True
        self._flows.set()
        # close() alone does not wake a thread that blocks in accept().
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._reset_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _reset_all(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            _reset(each)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                _reset(near)
                continue
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._flows.wait()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            _reset(near)
            return
        far.settimeout(None)
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if self._is_cut:
                _reset(near)
                _reset(far)
                return
            self._sockets.update((near, far))
            self.connection_count += 1
        threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
        self._pump(far, near, False)

    def _pump(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        try:
            while data := source.recv(_RECEIVE_BYTES):
                if self._delay_s:
                    time.sleep(self._delay_s)
                self._flows.wait()
                if self._is_cut:
                    break
                sink.sendall(data)
                if is_up:
                    self.bytes_to_target += len(data)
                else:
                    self.bytes_from_target += len(data)
            self._flows.wait()
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(source)
            _reset(sink)
            with self._lock:
                self._sockets.difference_update((source, sink))


def _reset(each: socket.socket) -> None:
    """Closes with a RST, and wakes a thread that blocks in recv()."""
    try:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        return
    try:
        each.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    each.close()
