"""A few blocking MQTT 3.1.1 calls over a bare socket: what a bench asks of a server, no more."""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Self

_CONNECT_FLAGS = (b"\x00", b"\x02")
"""Without and with Clean Session."""


class Probe:
    """One session without keep-alive. Raises OSError when the server is not as expected."""

    def __init__(
        self, port: int, client_id: str, *, is_clean: bool = True, timeout_s: float = 10.0
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        body = b"\x00\x04MQTT\x04" + _CONNECT_FLAGS[is_clean] + b"\x00\x00" + _string(client_id)
        self._socket.sendall(_packet(0x10, body))
        self._expect(0x20)

    def publish(self, topic: str, payload: bytes) -> None:
        """QoS 1; returns when its PUBACK is here."""
        self.publish_many(topic, [payload])

    def publish_many(self, topic: str, payloads: list[bytes]) -> None:
        """QoS 1, all in flight at once (at most 65,535); returns when all are acknowledged."""
        head = _string(topic)
        sent = [
            _packet(0x32, head + packet_id.to_bytes(2, "big") + payload)
            for packet_id, payload in enumerate(payloads, 1)
        ]
        self._socket.sendall(b"".join(sent))
        for _ in payloads:
            self._expect(0x40)

    def subscribe(self, topic_filter: str, *, qos: int) -> None:
        self._socket.sendall(_packet(0x82, b"\x00\x01" + _string(topic_filter) + bytes((qos,))))
        self._expect(0x90)

    def listen(self, topic: str, count: int) -> list[bytes]:
        """Subscribes at QoS 0, and gives the payloads of the first `count` messages that come."""
        self._socket.sendall(_packet(0x82, b"\x00\x01" + _string(topic) + b"\x00"))
        found: list[bytes] = []
        while len(found) < count:
            kind, body = self._receive()
            if kind & 0xF0 == 0x30:
                found.append(body[2 + int.from_bytes(body[:2], "big") :])
        return found

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _expect(self, kind: int) -> None:
        got, body = self._receive()
        if got != kind or (kind == 0x20 and body[1]):
            raise OSError(f"packet {got:#x} {body[:16].hex()} came where {kind:#x} was expected")

    def _receive(self) -> tuple[int, bytes]:
        while True:
            if len(self._buffer) >= 2 and (found := _split(self._buffer)) is not None:
                kind, body, self._buffer = found
                return kind, body
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._buffer += data


def first_acknowledged(port: int, *, timeout_s: float) -> float:
    """Tries until one QoS 1 message is acknowledged; gives time.monotonic() of that moment."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with Probe(port, "first", timeout_s=timeout_s) as probe:
                probe.publish("bench/first", b"x" * 64)
                return time.monotonic()
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no PUBACK within {timeout_s} s") from error
            time.sleep(0.002)


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(first: int, body: bytes) -> bytes:
    length, rest = b"", len(body)
    while True:
        rest, digit = rest >> 7, rest & 0x7F
        length += bytes((digit | 0x80 if rest else digit,))
        if not rest:
            return bytes((first,)) + length + body


def _split(data: bytes) -> tuple[int, bytes, bytes] | None:
    size = shift = 0
    for position in range(1, min(5, len(data))):
        size |= (data[position] & 0x7F) << shift
        shift += 7
        if data[position] < 0x80:
            end = position + 1 + size
            return (data[0], data[position + 1 : end], data[end:]) if len(data) >= end else None
    return None
