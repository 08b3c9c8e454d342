"""Thousands of connections that do nothing good, held by a process of its own.

`python -m bench.crowd PORT idle=N half=N silent=N stuck=N` says `ready` on its standard output
when all are as they are to be, and holds them until its standard input ends; then it says how
often the server closed one.

    idle, silent   connected, without keep-alive; they say nothing more
    half           a TCP connection with the beginning of a CONNECT, a byte a second; opened again
                   when the server has lost patience
    stuck          subscribers of `crowd/feed`, half of them at QoS 0 and half at QoS 1, with a
                   small receive buffer, that never read: they are fed until nothing more fits

Sources are 127.0.1.x and following, 100 connections each: as many devices, and as many ports, as
are wanted.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.machine import Cores
from bench.mqtt_probe import Probe

FEED = "crowd/feed"
_KINDS = ("idle", "half", "silent", "stuck")
_EACH_ADDRESS = 100
_STEP = 250
_TRICKLE_S = 1.0
_RECEIVE_BUFFER_BYTES = 4096
_FEED_BYTES = 16 * 1024
_FEED_COUNT = 40
"""640 KiB for each: more than the gateway's write buffer and the kernel's take together."""
_FEED_EVERY_S = 0.1
_READY_S = 120.0
_CHECKOUT = Path(__file__).parents[1]


@contextmanager
def crowd(port: int, cores: Cores, **counts: int) -> Iterator[None]:
    """Holds such connections, beside the caller, at the lowest priority on the load's core."""
    arguments = [f"{kind}={count}" for kind, count in counts.items()]
    command = ["nice", "-n", "19", *cores.pin_load(), sys.executable, "-m", "bench.crowd"]
    process = subprocess.Popen(
        [*command, str(port), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_CHECKOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], _READY_S)
        if not ready or process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the crowd did not come together: {process.poll()}")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Crowd:
    def __init__(self, port: int) -> None:
        self._port = port
        self._opened_count = 0
        self._all: list[socket.socket] = []
        self._half: list[socket.socket] = []
        self.closed_count = 0

    def connect(self, kind: str, count: int) -> None:
        """Clients whose CONNECT was accepted."""
        for begin in range(0, count, _STEP):
            numbers = range(begin, min(begin + _STEP, count))
            sockets = [self._open(is_small=kind == "stuck") for _ in numbers]
            for number, each in zip(numbers, sockets, strict=True):
                client_id = f"{kind}-{number}".encode()
                head = b"\x10" + bytes((12 + len(client_id),)) + b"\0\4MQTT\4\2\0\0\0"
                each.sendall(head + bytes((len(client_id),)) + client_id)
            for number, each in zip(numbers, sockets, strict=True):
                if each.recv(4) != b"\x20\2\0\0":
                    raise ConnectionError(f"{kind} connection {number} was refused")
                if kind == "stuck":
                    topic = FEED.encode()
                    body = b"\0\1\0" + bytes((len(topic),)) + topic + bytes((number % 2,))
                    each.sendall(b"\x82" + bytes((len(body),)) + body)
                    if each.recv(5)[0] != 0x90:
                        raise ConnectionError(f"subscription {number} was refused")
            self._all += sockets

    def open_half(self, count: int) -> None:
        for _ in range(count):
            each = self._open()
            each.setblocking(False)
            each.send(b"\x10\x7f\0\4MQTT")
            self._half.append(each)

    def trickle(self, share: int, of: int) -> None:
        """A byte on each half-open connection of this share; those that were closed come again."""
        for index in range(share, len(self._half), of):
            each = self._half[index]
            try:
                each.send(b"\4")
                if each.recv(64) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                self.closed_count += 1
                each.close()
                try:
                    self._half[index] = self._open()
                except OSError:
                    continue
                self._half[index].setblocking(False)
                self._half[index].send(b"\x10\x7f\0\4MQTT")

    def check(self) -> None:
        """Raises ConnectionError when the server has closed one of those that are well-behaved."""
        poller = select.poll()
        for each in self._all:
            poller.register(each, select.POLLRDHUP)
        if closed := len(poller.poll(0)):
            raise ConnectionError(f"{closed} connections were closed by the server")

    def _open(self, *, is_small: bool = False) -> socket.socket:
        made = socket.socket()
        made.settimeout(30)
        if is_small:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        number = self._opened_count // _EACH_ADDRESS % 250 + 1
        self._opened_count += 1
        made.bind((f"127.0.1.{number}", 0))
        made.connect(("127.0.0.1", self._port))
        return made


def _feed(port: int, fed: threading.Event, ended: threading.Event) -> None:
    with Probe(port, "crowd-feeder", timeout_s=60) as probe:
        for _ in range(_FEED_COUNT):
            probe.publish(FEED, b"x" * _FEED_BYTES)
        fed.set()
        while not ended.wait(_FEED_EVERY_S):
            probe.publish(FEED, b"x" * 64)


def main(argv: Sequence[str]) -> int:
    port = int(argv[0])
    counts = dict.fromkeys(_KINDS, 0)
    for argument in argv[1:]:
        kind, _, count = argument.partition("=")
        counts[kind] = int(count)
    made = _Crowd(port)
    for kind in ("idle", "silent", "stuck"):
        made.connect(kind, counts[kind])
    fed, ended = threading.Event(), threading.Event()
    feeder = threading.Thread(target=_feed, args=(port, fed, ended), daemon=True)
    if counts["stuck"]:
        feeder.start()
        fed.wait(_READY_S)
    made.open_half(counts["half"])
    print("ready", flush=True)
    shares = 50
    share = 0
    while not select.select([sys.stdin], [], [], _TRICKLE_S / shares)[0]:
        # In small shares, so that the good device on this core is never kept waiting for long.
        made.trickle(share, shares)
        share = (share + 1) % shares
    ended.set()
    made.check()
    print(f"closed={made.closed_count} at={time.time():.0f}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(0)  # closing ten thousand sockets one by one is of no use to anybody


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
