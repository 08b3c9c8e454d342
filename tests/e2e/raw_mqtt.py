"""A client that sends any bytes, and reads just enough of the answers. Shares nothing with ours."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

V311, V5 = 4, 5
CONNACK, PUBACK, DISCONNECT = 0x20, 0x40, 0xE0


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def packet(first_byte: int, body: bytes) -> bytes:
    length, size = b"", len(body)
    while True:
        size, low = divmod(size, 128)
        length += bytes((low | (0x80 if size else 0),))
        if not size:
            return bytes((first_byte,)) + length + body


def connect_packet(
    client_id: str, level: int, *, protocol: str = "MQTT", extra: bytes = b""
) -> bytes:
    properties = b"\0" if level == V5 else b""
    body = text(protocol) + bytes((level, 0x02)) + struct.pack(">H", 60) + properties
    return packet(0x10, body + text(client_id) + extra)


def publish_packet(
    topic: str | bytes, payload: bytes, level: int, *, packet_id: int = 1, qos: int = 1
) -> bytes:
    identifier = struct.pack(">H", packet_id) if qos else b""
    properties = b"\0" if level == V5 else b""
    return packet(0x30 | qos << 1, text(topic) + identifier + properties + payload)


class RawClient:
    """One TCP connection. `answer` gives one packet as (first byte, body); None: it was closed."""

    def __init__(self, port: int, *, timeout: float = 5.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> tuple[int, bytes] | None:
        try:
            first = self._file.read(1)
            if not first:
                return None
            size = shift = 0
            while True:
                (byte,) = self._file.read(1)
                size |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    break
            return first[0], self._file.read(size)
        except ConnectionError:
            return None

    def connect(self, client_id: str, level: int) -> None:
        self.send(connect_packet(client_id, level))
        answer = self.answer()
        assert answer is not None, "the connection was closed instead of a CONNACK"
        assert answer[0] == CONNACK
        assert answer[1][1] == 0, f"refused: {answer[1][1]:#x}"

    def publish(self, topic: str, payload: bytes, level: int, *, packet_id: int) -> None:
        """QoS 1; returns when acknowledged."""
        self.send(publish_packet(topic, payload, level, packet_id=packet_id))
        answer = self.answer()
        assert answer is not None, "the connection was closed instead of a PUBACK"
        assert answer[0] == PUBACK
        assert answer[1][:2] == struct.pack(">H", packet_id)
        assert answer[1][2:3] in (b"", b"\0", b"\x10"), f"refused: {answer[1][2]:#x}"
