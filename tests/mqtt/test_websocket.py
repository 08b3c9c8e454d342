"""MQTT over WebSocket (section 6): frames made by hand, paho, and a browser's client."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from gateway.mqtt.errors import TransportError
from gateway.mqtt.websocket import WebSocketLayer
from tests.e2e.raw_mqtt import V311, connect_packet, publish_packet
from tests.mqtt.doors import gateway_with, listener, tcp, trusting
from tests.rigs import GatewayProcess, free_port, need_node, wait_for
from tests.rigs.certificates import Authority
from tests.rigs.mqttjs import roundtrip

BINARY, TEXT, CONTINUATION, CLOSE, PING, PONG = 2, 1, 0, 8, 9, 10
CONNACK = b"\x20\x02\0\0"
WS, WSS, ANY = free_port(), free_port(), free_port()
ORIGIN = "https://hmi.plant.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def gateway(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    pair = authority.issue("gateway.test")
    folder: Path = tmp_path_factory.mktemp("gateway")
    tables = (
        listener("pages", "ws", WS, "/mqtt", origins=[ORIGIN]),
        listener("safe", "wss", WSS, "/mqtt", certificate=pair.certificate, key=pair.key),
        listener("any", "ws", ANY),
    )
    with gateway_with(folder, *tables, head="[limits]\nconnect_timeout_ms = 3000\n") as process:
        yield process


def request(path: str = "/mqtt", *, leave_out: str = "", **headers: str) -> bytes:
    fields = {
        "Host": "gateway.test",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if name != leave_out]
    return "\r\n".join((f"GET {path} HTTP/1.1", *lines, "", "")).encode()


def frame(
    payload: bytes, opcode: int = BINARY, *, is_last: bool = True, size: int | None = None
) -> bytes:
    """As a client makes it; `size` is what it says, where that is not the truth."""
    length = len(payload) if size is None else size
    mask = os.urandom(4)
    if length < 126:
        head = struct.pack(">BB", opcode | 0x80 * is_last, 0x80 | length)
    elif length < 65_536:
        head = struct.pack(">BBH", opcode | 0x80 * is_last, 0x80 | 126, length)
    else:
        head = struct.pack(">BBQ", opcode | 0x80 * is_last, 0x80 | 127, length)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Page:
    """A WebSocket client of a few lines."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._file = connected.makefile("rb")

    @classmethod
    def open(cls, port: int, asked: bytes | None = None) -> Page:
        page = cls(tcp(port))
        page.send(request() if asked is None else asked)
        head = page.head()
        assert head.startswith("HTTP/1.1 101 "), head
        return page

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def head(self) -> str:
        lines = b""
        while not lines.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                break
            lines += line
        return lines.decode()

    def next(self) -> tuple[int, bytes] | None:
        """Opcode and payload; None: the connection was closed."""
        try:
            head = self._file.read(2)
        except ConnectionError:
            return None
        if not head:
            return None
        assert head[0] & 0x80 and not head[1] & 0x80, "whole and not masked"
        length = head[1]
        if length == 126:
            (length,) = struct.unpack(">H", self._file.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._file.read(8))
        return head[0] & 0x0F, self._file.read(length)

    def is_closed_within(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1) == b""
        except TimeoutError:
            return False

    def connect(self, client_id: str) -> None:
        self.send(frame(connect_packet(client_id, V311)))
        assert self.next() == (BINARY, CONNACK)


# -- the upgrade


def test_the_subprotocol_is_in_the_answer_and_the_key_is_answered(gateway: GatewayProcess) -> None:
    """[MQTT-6.0.0-4]; RFC 6455, 4.2.2."""
    with Page(tcp(WS)) as page:
        page.send(request(Sec_WebSocket_Protocol="other, mqtt"))
        head = page.head().lower()
        accept = base64.b64encode(
            hashlib.sha1(b"dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        ).decode()
        assert "sec-websocket-protocol: mqtt\r\n" in head
        assert f"sec-websocket-accept: {accept}".lower() in head


def test_clients_of_mqtt_3_1_ask_for_mqttv3_1(gateway: GatewayProcess) -> None:
    with Page(tcp(WS)) as page:
        page.send(request(Sec_WebSocket_Protocol="mqttv3.1"))
        assert "sec-websocket-protocol: mqttv3.1\r\n" in page.head().lower()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("/other"), "404"),
        (request("/mqtt/more"), "404"),
        (request(Sec_WebSocket_Protocol="amqp"), "400"),
        (request(leave_out="Sec-WebSocket-Protocol"), "400"),
        (request(leave_out="Sec-WebSocket-Key"), "400"),
        (request(leave_out="Host"), "400"),
        (request(Host="\udcff".encode("utf-8", "surrogatepass").decode("latin-1")), "400"),
        (request(Sec_WebSocket_Version="8"), "400"),
        (request(leave_out="Upgrade"), "426"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "426"),
        (b"POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "426"),
        (b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0\r\n\r\n", "426"),
        (request(Origin="https://evil.example"), "403"),
        (request(Cookie="x" * 9_000), "431"),
    ],
)
def test_upgrade_that_cannot_be_is_refused_with_its_status(
    gateway: GatewayProcess, asked: bytes, status: str
) -> None:
    with Page(tcp(WS)) as page:
        page.send(asked)
        assert page.head().startswith(f"HTTP/1.1 {status} ")
        wait_for(
            lambda: f"WebSocket: {status} " in gateway.output_since_start(),
            timeout=5,
            what="the reason in the log",
        )


def test_request_and_first_frame_may_share_a_segment_or_come_byte_by_byte(
    gateway: GatewayProcess,
) -> None:
    data = request(Origin=ORIGIN) + frame(connect_packet("early", V311))
    with Page(tcp(WS)) as page:
        page.send(data)
        assert page.head().startswith("HTTP/1.1 101 ")
        assert page.next() == (BINARY, CONNACK)
    with Page(tcp(WS)) as page:
        for at in range(len(data)):
            page.send(data[at : at + 1])
        assert page.head().startswith("HTTP/1.1 101 ")
        assert page.next() == (BINARY, CONNACK)


def test_listener_without_a_path_serves_every_path(gateway: GatewayProcess) -> None:
    for path in ("/", "/mqtt", "/a/b?c=d"):
        with Page.open(ANY, request(path, Origin="https://any.example")) as page:
            page.connect("any")


# -- frames


def test_packets_may_span_frames_and_share_one(gateway: GatewayProcess) -> None:
    """[MQTT-6.0.0-2]"""
    with Page.open(WS) as page:
        data = connect_packet("spans", V311)
        page.send(frame(data[:5]) + frame(data[5:6]))
        page.send(frame(b"") + frame(data[6:] + b"\xc0\0\xc0"))
        assert page.next() == (BINARY, CONNACK)
        page.send(frame(b"\0"))
        got = b""
        while len(got) < 4:
            answer = page.next()
            assert answer is not None and answer[0] == BINARY
            got += answer[1]
        assert got == b"\xd0\0\xd0\0"


def test_fragmented_message_with_a_ping_inside_is_taken(gateway: GatewayProcess) -> None:
    """RFC 6455, 5.4: control frames may come between the fragments of a message."""
    with Page.open(WS) as page:
        data = connect_packet("fragments", V311)
        page.send(frame(data[:4], is_last=False))
        page.send(frame(b"are you there", PING))
        assert page.next() == (PONG, b"are you there")
        page.send(frame(data[4:7], CONTINUATION, is_last=False))
        page.send(frame(data[7:], CONTINUATION))
        assert page.next() == (BINARY, CONNACK)


def test_text_frame_closes_the_connection(gateway: GatewayProcess) -> None:
    """[MQTT-6.0.0-1]"""
    with Page.open(WS) as page:
        page.send(frame(b"hello", TEXT))
        closing = page.next()
        assert closing is not None and closing[0] == CLOSE
        assert closing[1][:2] == struct.pack(">H", 1003)
        assert page.next() is None


def test_close_is_answered_and_ends_the_connection_with_its_will(gateway: GatewayProcess) -> None:
    with Page.open(WS) as watcher, Page.open(WS) as page:
        watcher.connect("watcher")
        watcher.send(frame(b"\x82\x0b\0\x01\0\x06will/+\0"))
        assert watcher.next() == (BINARY, b"\x90\x03\0\x01\0")
        body = b"\0\x04MQTT\x04\x06\0\x3c\0\x05dying\0\x06will/x\0\x04gone"
        page.send(frame(bytes((0x10, len(body))) + body))
        assert page.next() == (BINARY, CONNACK)
        page.send(frame(struct.pack(">H", 1001), CLOSE))
        assert page.next() == (CLOSE, struct.pack(">H", 1001))
        assert page.next() is None
        assert watcher.next() == (BINARY, b"\x30\x0c\0\x06will/xgone")


@pytest.mark.parametrize("is_answered", [True, False])
def test_disconnect_of_the_client_closes_the_websocket_properly(
    gateway: GatewayProcess, is_answered: bool
) -> None:
    with Page.open(WS) as page:
        page.connect("leaves")
        page.send(frame(b"\xe0\0"))
        assert page.next() == (CLOSE, struct.pack(">H", 1000))
        # The socket is open until the client has said so too, or does not within 2 s.
        page.send(frame(b"\xc0\0"))
        if is_answered:
            assert not page.is_closed_within(0.5)
            page.send(frame(struct.pack(">H", 1000), CLOSE))
        assert page.is_closed_within(5)


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x01x",  # not masked
        frame(b"x", 3),  # an opcode that does not exist
        frame(b"x" * 126, PING),  # a control frame over 125 bytes
        frame(b"x", CONTINUATION),  # nothing to continue
        bytes((0xC2, 0x80, 0, 0, 0, 0)),  # a reserved bit
    ],
)
def test_frame_that_breaks_the_rules_is_told_and_closed(
    gateway: GatewayProcess, data: bytes
) -> None:
    with Page.open(WS) as page:
        page.connect("breaks")
        page.send(data)
        closing = page.next()
        assert closing is not None and closing[0] == CLOSE
        assert closing[1][:2] == struct.pack(">H", 1002)
        assert page.next() is None


def test_remaining_length_larger_than_the_frame_waits_and_reads_nothing_beyond(
    gateway: GatewayProcess,
) -> None:
    """CVE-2026-25627 of NanoMQ: the packet's length was believed, and the frame read beyond."""
    with Page.open(WS) as page:
        page.connect("longer")
        whole = publish_packet("t", b"x" * 300, V311)
        page.send(frame(whole[:20]) + frame(b"", PING))
        assert page.next() == (PONG, b"")
        page.send(frame(whole[20:]))
        assert page.next() == (BINARY, b"\x40\x02\0\x01")


def test_frame_that_says_it_is_huge_reserves_nothing(gateway: GatewayProcess) -> None:
    """2^62 bytes said, a CONNECT sent: it is a CONNECT."""
    with Page.open(WS) as page:
        page.send(frame(connect_packet("huge", V311), size=1 << 62))
        assert page.next() == (BINARY, CONNACK)


def test_connect_over_its_limit_is_refused_before_it_is_here(gateway: GatewayProcess) -> None:
    with Page.open(WS) as page:
        page.send(frame(b"\x10\xff\xff\x7f\0\x04MQTT\x04"))
        answer = page.next()
        assert answer is None or answer[0] == CLOSE


def test_pings_alone_do_not_hold_a_place(gateway: GatewayProcess) -> None:
    """Without a CONNECT in time it ends, however alive the WebSocket is."""
    with Page.open(WS) as page:
        for _ in range(60):
            try:
                page.send(frame(b"x", PING))
            except OSError:
                return
            answer = page.next()
            if answer is None or answer[0] == CLOSE:
                return
            threading.Event().wait(0.2)
        pytest.fail("still open")


def test_many_bytes_and_no_connect_are_too_many(gateway: GatewayProcess) -> None:
    """16 KiB of CONNECT, and 16 KiB of what is below it, are read of a stranger."""
    with Page.open(WS) as page:
        try:
            for _ in range(500):
                page.send(frame(bytes(125), PING))
        except OSError:
            pass
        wait_for(
            lambda: "bytes and no CONNECT" in gateway.output_since_start(),
            timeout=5,
            what="the end, which is not that of the time-out",
        )


def test_large_messages_go_both_ways_in_order(gateway: GatewayProcess) -> None:
    with Page.open(WS) as page:
        page.connect("large")
        page.send(frame(b"\x82\x0a\0\x07\0\x05big/+\0"))
        assert page.next() == (BINARY, b"\x90\x03\0\x07\0")
        payload = random.Random(1).randbytes(700_000)
        data = publish_packet("big/1", payload, V311, qos=0)
        for at in range(0, len(data), 65_000):
            page.send(frame(data[at : at + 65_000]))
        got = b""
        while len(got) < len(data):
            answer = page.next()
            assert answer is not None and answer[0] == BINARY
            got += answer[1]
        assert got == data


# -- clients that are not ours


def run_paho(client: paho.Client, port: int) -> None:
    got = threading.Event()
    client.ws_set_options(path="/mqtt")
    client.on_message = lambda *_: got.set()
    client.on_connect = lambda each, *_: each.subscribe("paho/#", qos=2)
    client.on_subscribe = lambda each, *_: each.publish("paho/1", bytes(5_000), qos=2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert got.wait(10)
    client.disconnect()
    client.loop_stop()


def new_paho() -> paho.Client:
    return paho.Client(
        CallbackAPIVersion.VERSION2, "paho", protocol=paho.MQTTv5, transport="websockets"
    )


def test_paho_publishes_and_subscribes_over_ws(gateway: GatewayProcess) -> None:
    # paho says an Origin of http://HOST:PORT, which is not the page's.
    client = new_paho()
    client.ws_set_options(headers={"Origin": ORIGIN})
    run_paho(client, ANY)


def test_paho_publishes_and_subscribes_over_wss(
    gateway: GatewayProcess, authority: Authority
) -> None:
    client = new_paho()
    context = trusting(authority.ca)
    context.check_hostname = False
    client.tls_set_context(context)
    run_paho(client, WSS)


@need_node
@pytest.mark.parametrize("version", [4, 5])
def test_mqtt_js_publishes_and_subscribes_over_ws_and_wss(
    gateway: GatewayProcess, authority: Authority, version: int
) -> None:
    """The client of browsers; its `end` fails if the closing handshakes do not fit."""
    expected = [f"mqttjs/{qos} {70_000 + qos} {qos}" for qos in range(3)]
    for url, ca in (
        (f"ws://127.0.0.1:{ANY}/", None),
        (f"wss://127.0.0.1:{WSS}/mqtt", authority.ca),
    ):
        done = roundtrip(url, version, ca)
        assert done.stdout.splitlines() == expected, done.stderr


# -- the layer alone


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.booleans(), st.integers())
def test_any_bytes_are_payload_or_refused(
    pieces: list[bytes], is_upgraded: bool, seed: int
) -> None:
    layer = WebSocketLayer("", ())
    if is_upgraded:
        assert layer.receive(request()) == b""
        rng = random.Random(seed)
        whole = frame(rng.randbytes(20), rng.randrange(16), is_last=rng.random() < 0.5)
        pieces = [whole[: rng.randrange(len(whole))], *pieces]
    try:
        for piece in pieces:
            layer.receive(piece)
            layer.take_output()
            if layer.is_closed:
                break
    except TransportError:
        pass
    layer.last_words()
