"""PROXY protocol version 2: headers as HAProxy writes them, and headers that nobody should."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mqtt.errors import TransportError
from gateway.mqtt.proxy_header import HEADER_BYTES_MAX, Source, find_header
from tests.e2e.raw_mqtt import V311, connect_packet
from tests.mqtt.doors import WrappedClient, gateway_with, listener, tcp, trusting
from tests.rigs import GatewayProcess, free_port, wait_for
from tests.rigs.certificates import Authority

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def header(family: int, addresses: bytes, *, command: int = 0x21, tlvs: bytes = b"") -> bytes:
    size = struct.pack(">H", len(addresses) + len(tlvs))
    return SIGNATURE + bytes((command, family)) + size + addresses + tlvs


def ipv4(host: str, port: int = 40_000, *, tlvs: bytes = b"") -> bytes:
    places = socket.inet_aton(host) + socket.inet_aton("10.0.0.1")
    return header(0x11, places + struct.pack(">HH", port, 1883), tlvs=tlvs)


def ipv6(host: str, port: int = 40_000) -> bytes:
    places = socket.inet_pton(socket.AF_INET6, host) + socket.inet_pton(socket.AF_INET6, "::1")
    return header(0x21, places + struct.pack(">HH", port, 1883))


LOCAL = header(0x00, b"", command=0x20)


# -- the parser


def test_the_source_of_ipv4_and_ipv6_is_found() -> None:
    for data, source in (
        (ipv4("192.0.2.7", 5_000), Source("192.0.2.7", 5_000)),
        (ipv6("2001:db8::7", 5_000), Source("2001:db8::7", 5_000)),
        (ipv6("::ffff:192.0.2.7", 5_000), Source("192.0.2.7", 5_000)),
        (ipv4("192.0.2.7", tlvs=b"\x04\0\x02hi"), Source("192.0.2.7", 40_000)),
        (header(0x31, bytes(216)), Source("", 0)),
        (header(0x00, b""), Source("", 0)),
        (LOCAL, Source("", 0)),
    ):
        found = find_header(data + b"rest")
        assert found is not None and found.source == source
        assert found.size == len(data)


def test_a_part_of_a_header_is_waited_for() -> None:
    data = ipv4("192.0.2.7")
    assert all(find_header(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        b"\x10\x0c\0\x04MQTT",
        SIGNATURE[:11] + b"x",
        header(0x11, bytes(12), command=0x11),
        header(0x11, bytes(12), command=0x22),
        header(0x12, bytes(12)),
        header(0x41, bytes(12)),
        header(0x11, bytes(11)),
        header(0x21, bytes(35)),
        header(0x31, bytes(215)),
        SIGNATURE + b"\x21\x11\xff\xff",
        header(0x11, bytes(12), tlvs=bytes(HEADER_BYTES_MAX)),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(TransportError):
        find_header(data)


@given(st.binary(max_size=64), st.integers(0, 40))
def test_any_bytes_are_a_header_a_part_of_one_or_refused(data: bytes, at: int) -> None:
    whole = ipv4("192.0.2.7")
    try:
        find_header(whole[:at] + data)
    except TransportError:
        pass


# -- the listener

PLAIN, SECURE = free_port(), free_port()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def gateway(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    pair = authority.issue("gateway.test")
    tables = (
        listener("plain", "mqtt", PLAIN, proxy_protocol=True, connections_per_address_max=2),
        listener(
            "secure",
            "mqtts",
            SECURE,
            proxy_protocol=True,
            certificate=pair.certificate,
            key=pair.key,
        ),
    )
    folder: Path = tmp_path_factory.mktemp("gateway")
    with gateway_with(folder, *tables, head="[limits]\nconnect_timeout_ms = 3000\n") as process:
        yield process


def connected(port: int, head: bytes) -> WrappedClient:
    client = WrappedClient(tcp(port))
    client.send(head)
    return client


def test_the_real_address_is_in_the_log(gateway: GatewayProcess) -> None:
    with connected(PLAIN, ipv4("192.0.2.77", 4_077)) as client:
        client.connect("device", V311)
        client.publish("a", b"1", V311, packet_id=1)
        client.send(b"\0\0")
        assert client.answer() is None
    wait_for(
        lambda: "peer=192.0.2.77:4077" in gateway.output_since_start(),
        timeout=5,
        what="the address in the log",
    )


def test_a_header_and_what_follows_may_come_in_one_piece_or_byte_by_byte(
    gateway: GatewayProcess,
) -> None:
    data = ipv6("2001:db8::1") + connect_packet("piece", V311)
    with connected(PLAIN, data) as client:
        assert client.answer() == (0x20, b"\0\0")
    with connected(PLAIN, b"") as client:
        for at in range(len(data)):
            client.send(data[at : at + 1])
        assert client.answer() == (0x20, b"\0\0")


def test_connections_are_counted_by_the_real_address(gateway: GatewayProcess) -> None:
    with (
        connected(PLAIN, ipv4("192.0.2.1")) as one,
        connected(PLAIN, ipv4("192.0.2.1")) as two,
        connected(PLAIN, ipv4("192.0.2.1")) as three,
        connected(PLAIN, ipv4("192.0.2.2")) as other,
        # Of IPv6 a /64 is one address.
        connected(PLAIN, ipv6("2001:db8:0:1::1")) as six_one,
        connected(PLAIN, ipv6("2001:db8:0:1::2")) as six_two,
        connected(PLAIN, ipv6("2001:db8:0:1::3")) as six_three,
        connected(PLAIN, ipv6("2001:db8:0:2::1")) as six_other,
    ):
        for number, client in enumerate((one, two, other, six_one, six_two, six_other)):
            client.connect(f"counted-{number}", V311)
        for client in (three, six_three):
            try:
                client.send(connect_packet("refused", V311))
            except OSError:
                continue
            assert client.answer() is None

    def is_let_in() -> bool:
        with connected(PLAIN, ipv4("192.0.2.1")) as again:
            again.send(connect_packet("again", V311))
            return again.answer() == (0x20, b"\0\0")

    wait_for(is_let_in, timeout=5, what="room after the others have gone")


def test_health_checks_of_the_proxy_are_let_in(gateway: GatewayProcess) -> None:
    for _ in range(3):
        with connected(PLAIN, LOCAL) as client:
            client.connect("check", V311)


@pytest.mark.parametrize("head", [b"", SIGNATURE + b"\x21\x99\0\0", b"PROXY TCP4 1 2 3 4\r\n"])
def test_connection_without_a_proper_header_is_closed_and_logged(
    gateway: GatewayProcess, head: bytes
) -> None:
    before = gateway.output_since_start().count("mqtt.transport_fault listener=plain")
    with connected(PLAIN, head) as client:
        client.send(connect_packet("bare", V311))
        assert client.answer() is None
    wait_for(
        lambda: gateway.output_since_start().count("mqtt.transport_fault listener=plain") > before,
        timeout=5,
        what="the fault in the log",
    )


def test_silence_after_half_a_header_is_ended_by_the_connect_time_out(
    gateway: GatewayProcess,
) -> None:
    with tcp(PLAIN, timeout=20) as half:
        half.sendall(SIGNATURE)
        assert half.recv(1) == b""


@pytest.mark.parametrize("is_one_piece", [True, False])
def test_tls_follows_the_header(
    gateway: GatewayProcess, authority: Authority, is_one_piece: bool
) -> None:
    """One piece: the proxy sends its header and the client's hello in one segment."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = trusting(authority.ca).wrap_bio(incoming, outgoing, server_hostname="gateway.test")
    head = ipv4("192.0.2.9", 4_009)
    with tcp(SECURE) as connected:
        if not is_one_piece:
            connected.sendall(head)
            head = b""
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                connected.sendall(head + outgoing.read())
                head = b""
                incoming.write(connected.recv(65_536))
        session.write(connect_packet("behind", V311) + b"\0\0")
        connected.sendall(outgoing.read())
        answer = b""
        while len(answer) < 4:
            try:
                answer += session.read(4)
            except ssl.SSLWantReadError:
                incoming.write(connected.recv(65_536))
        assert answer == b"\x20\x02\0\0"
    wait_for(
        lambda: "peer=192.0.2.9:4009" in gateway.output_since_start(),
        timeout=5,
        what="the address in the log",
    )
