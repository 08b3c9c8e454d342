"""TLS listeners: a gateway process, certificates of a test's own authority, clients not ours."""

from __future__ import annotations

import resource
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.e2e.raw_mqtt import V5, V311, connect_packet, publish_packet
from tests.mqtt.doors import WrappedClient, gateway_with, listener, tcp, tls, trusting
from tests.rigs import GatewayProcess, free_port, need_mosquitto, wait_for
from tests.rigs.certificates import Authority

PLAIN, MUTUAL, NEW = free_port(), free_port(), free_port()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def gateway(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    pair = authority.issue("gateway.test")
    files: dict[str, Any] = {"certificate": pair.certificate, "key": pair.key}
    folder = tmp_path_factory.mktemp("gateway")
    mutual: dict[str, Any] = {
        **files,
        "client_ca": authority.ca,
        "certificate_user_name": True,
        "anonymous": False,
    }
    with gateway_with(
        folder,
        listener("plain", "mqtts", PLAIN, **files),
        listener("mutual", "mqtts", MUTUAL, **mutual),
        listener("new", "mqtts", NEW, min_version="1.3", **files),
        head="[limits]\nconnect_timeout_ms = 3000\n",
    ) as process:
        yield process


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
def test_a_message_is_acknowledged_over_tls(
    gateway: GatewayProcess, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = trusting(authority.ca)
    context.minimum_version = context.maximum_version = version
    with tls(PLAIN, context) as connected, WrappedClient(connected) as client:
        assert connected.version() == version.name.replace("_", ".")
        client.connect("device", V5)
        client.publish("a/b", b"1", V5, packet_id=1)


def test_tls_older_than_the_listener_s_minimum_is_refused(
    gateway: GatewayProcess, authority: Authority
) -> None:
    context = trusting(authority.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="(?i)version"):
        tls(NEW, context)
    with tls(NEW, trusting(authority.ca)) as connected:
        assert connected.version() == "TLSv1.3"


def test_large_packets_cross_records_and_reads_both_ways(
    gateway: GatewayProcess, authority: Authority
) -> None:
    with WrappedClient(tls(PLAIN, trusting(authority.ca))) as client:
        client.connect("large", V311)
        client.send(b"\x82\x0a\0\x07\0\x05big/+\0")
        assert client.answer() == (0x90, b"\0\x07\0")
        payload = bytes(range(256)) * 3_000
        client.send(publish_packet("big/1", payload, V311, packet_id=9, qos=1))
        got = [client.answer(), client.answer()]
        assert (0x40, b"\0\x09") in got
        ((_, body),) = [each for each in got if each is not None and each[0] & 0xF0 == 0x30]
        assert body == b"\0\x05big/1" + payload


def test_many_messages_in_small_pieces_are_all_acknowledged(
    gateway: GatewayProcess, authority: Authority
) -> None:
    with WrappedClient(tls(PLAIN, trusting(authority.ca))) as client:
        client.connect("pieces", V311)
        data = b"".join(
            publish_packet("t", b"%d" % number, V311, packet_id=number) for number in range(1, 501)
        )
        for at in range(0, len(data), 7):
            client.send(data[at : at + 7])
        for number in range(1, 501):
            assert client.answer() == (0x40, number.to_bytes(2, "big"))


def assert_refused(
    gateway: GatewayProcess, context: ssl.SSLContext, client_id: str, *, said: str
) -> None:
    """The mutual listener lets nobody in with this, and the log says why."""
    with WrappedClient(tls(MUTUAL, context)) as client:
        # In TLS 1.3 the client hears of it only when it reads.
        try:
            client.send(connect_packet(client_id, V311))
            assert client.answer() is None
        except (ssl.SSLError, OSError):
            pass
    wait_for(lambda: said in gateway.output_since_start(), timeout=5, what="the reason in the log")


def test_client_without_a_certificate_is_refused_where_one_is_asked_for(
    gateway: GatewayProcess, authority: Authority
) -> None:
    assert_refused(
        gateway, trusting(authority.ca), "nobody", said="peer did not return a certificate"
    )


def test_certificate_of_another_authority_is_refused(
    gateway: GatewayProcess, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path).issue("stranger")
    context = trusting(authority.ca, *stranger)
    assert_refused(gateway, context, "stranger", said="the client's certificate: ")


def test_name_in_the_certificate_is_the_user_s(
    gateway: GatewayProcess, authority: Authority
) -> None:
    """The listener is not for anonymous clients and has no passwords: the certificate is all."""
    with WrappedClient(tls(MUTUAL, trusting(authority.ca, *authority.issue("press-7")))) as client:
        client.connect("press-7", V311)
        client.publish("a", b"1", V311, packet_id=1)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_name_in_the_certificate_is_known_when_a_session_is_resumed(
    gateway: GatewayProcess, authority: Authority, version: ssl.TLSVersion
) -> None:
    """A resumed handshake sends no certificate: it is the session's."""
    context = trusting(authority.ca, *authority.issue("press-9"))
    context.maximum_version = version
    with tls(MUTUAL, context) as first:
        first.sendall(connect_packet("press-9", V311))
        assert first.recv(4) == b"\x20\x02\0\0"
        session = first.session
    again = context.wrap_socket(tcp(MUTUAL), server_hostname="gateway.test", session=session)
    with again, WrappedClient(again) as client:
        assert again.session_reused
        client.connect("press-9", V311)


def test_plain_mqtt_on_a_tls_listener_is_closed_and_logged(gateway: GatewayProcess) -> None:
    with WrappedClient(tcp(PLAIN)) as client:
        client.send(connect_packet("lost", V311))
        first = client.answer()
        assert first is None or first[0] == 0x15, "an alert of TLS, or nothing"
    wait_for(
        lambda: "mqtt.transport_fault listener=plain" in gateway.output_since_start(),
        timeout=5,
        what="the fault in the log",
    )


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_handshake_that_does_not_come_is_ended_by_the_connect_time_out(
    gateway: GatewayProcess, hello: bytes
) -> None:
    with tcp(PLAIN, timeout=20) as connected:
        connected.sendall(hello)
        assert connected.recv(1) == b""


def test_tls_without_connect_is_ended_by_the_connect_time_out(
    gateway: GatewayProcess, authority: Authority
) -> None:
    with tls(PLAIN, trusting(authority.ca)) as connected:
        connected.settimeout(20)
        assert connected.recv(1) == b""


def test_endless_handshake_is_ended_by_its_size(gateway: GatewayProcess) -> None:
    """16 KiB of handshake and 16 KiB of CONNECT are read at most, before anybody is known."""
    record = b"\x16\x03\x01\x3f\xff" + bytes((1, 0xFF, 0xFF, 0xFF)) + bytes(0x3FFF - 4)
    with tcp(PLAIN) as connected, pytest.raises(OSError):
        for _ in range(64):
            connected.sendall(record)
            connected.settimeout(0.2)
            try:
                if connected.recv(64) == b"":
                    raise OSError("closed")
            except TimeoutError:
                pass


def test_closing_says_so_before_the_socket_closes(
    gateway: GatewayProcess, authority: Authority
) -> None:
    """close_notify, so that a client can tell the end from a cut."""
    with tls(PLAIN, trusting(authority.ca)) as connected:
        connected.sendall(connect_packet("bye", V311) + b"\xe0\0")
        assert connected.recv(4) == b"\x20\x02\0\0"
        # Off: an end without close_notify would raise.
        connected.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        assert connected.recv(1) == b""


def test_close_notify_of_the_client_ends_it_with_its_will(
    gateway: GatewayProcess, authority: Authority
) -> None:
    with WrappedClient(tcp(gateway.port)) as watcher:
        watcher.connect("watcher", V311)
        watcher.send(b"\x82\x0b\0\x01\0\x06will/+\0")
        assert watcher.answer() == (0x90, b"\0\x01\0")
        connected = tls(PLAIN, trusting(authority.ca))
        body = b"\0\x04MQTT\x04\x06\0\x3c\0\x05dying\0\x06will/x\0\x04gone"
        connected.sendall(bytes((0x10, len(body))) + body)
        assert connected.recv(4) == b"\x20\x02\0\0"
        connected.unwrap().close()
        assert watcher.answer() == (0x30, b"\0\x06will/xgone")


def test_paho_publishes_and_subscribes_over_tls(
    gateway: GatewayProcess, authority: Authority
) -> None:
    got = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, "paho", protocol=paho.MQTTv5)
    client.tls_set(str(authority.ca))
    # The certificate is for gateway.test, which no name server knows.
    client.tls_insecure_set(True)
    client.on_message = lambda *_: got.set()
    client.on_connect = lambda each, *_: each.subscribe("paho/#", qos=2)
    client.on_subscribe = lambda each, *_: each.publish("paho/1", b"x", qos=2)
    client.connect("127.0.0.1", PLAIN)
    client.loop_start()
    assert got.wait(10)
    client.disconnect()
    client.loop_stop()


@need_mosquitto
def test_mosquitto_pub_with_a_certificate(
    gateway: GatewayProcess, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("press-8")
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(MUTUAL), "--insecure"]
    command += ["--cafile", str(authority.ca), "--cert", str(pair.certificate)]
    command += ["--key", str(pair.key), "-t", "a/b", "-m", "1", "-q", "2", "-V", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


# -- SIGHUP


def shown(port: int, ca: Path) -> bytes:
    """The certificate that a client is shown now."""
    with tls(port, trusting(ca)) as connected:
        return connected.getpeercert(binary_form=True) or b""


def reload(process: GatewayProcess) -> str:
    before = process.output_since_start().count("gateway.reload")
    process.send(signal.SIGHUP)
    wait_for(
        lambda: process.output_since_start().count("gateway.reload") > before,
        timeout=10,
        what="an answer to SIGHUP",
    )
    return process.output_since_start()


def test_sighup_reads_certificates_anew_and_drops_nobody(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("gateway.test")
    port = free_port()
    table = listener("plain", "mqtts", port, certificate=pair.certificate, key=pair.key)
    with gateway_with(tmp_path, table) as process:
        client = WrappedClient(tls(port, trusting(authority.ca)))
        with client:
            client.connect("stays", V311)
            old = shown(port, authority.ca)
            authority.issue("gateway.test")
            assert "gateway.reloaded" in reload(process)
            assert shown(port, authority.ca) != old
            client.publish("a", b"1", V311, packet_id=1)
            # A key that is not the new certificate's: the old pair stays in force.
            new = shown(port, authority.ca)
            other = authority.issue("other.test")
            pair.key.write_bytes(other.key.read_bytes())
            output = reload(process)
            assert "gateway.reload_refused in_force=old" in output
            assert "is not the key of" in output
            assert shown(port, authority.ca) == new
            client.publish("a", b"2", V311, packet_id=2)


def test_sighup_without_a_descriptor_left_keeps_the_old_certificate(tmp_path: Path) -> None:
    """CVE-2017-7652: what cannot be read again stays as it was."""
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("gateway.test")
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    port = free_port()
    table = listener(
        "plain",
        "mqtts",
        port,
        certificate=pair.certificate,
        key=pair.key,
        anonymous=False,
        password_file=passwords,
    )
    with gateway_with(tmp_path, table) as process:
        folder = Path(f"/proc/{process.pid}/fd")
        count = len(list(folder.iterdir()))
        old = shown(port, authority.ca)
        wait_for(lambda: len(list(folder.iterdir())) == count, timeout=10, what="its descriptor")
        authority.issue("gateway.test")
        used = max(int(each.name) for each in folder.iterdir()) + 1
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, hard))
        output = reload(process)
        assert "gateway.reload_refused in_force=old" in output
        assert "Too many open files" in output
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert shown(port, authority.ca) == old
        with WrappedClient(tls(port, trusting(authority.ca))) as client:
            client.send(connect_packet("nobody", V311))
            assert client.answer() == (0x20, b"\0\x05")


def test_half_open_sockets_of_refused_handshakes_are_given_back(
    gateway: GatewayProcess,
) -> None:
    folder = Path(f"/proc/{gateway.pid}/fd")
    before = len(list(folder.iterdir()))
    for _ in range(50):
        connected = tcp(PLAIN)
        connected.sendall(b"\x16\x03\x01\x00\x05hello")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connected.close()
    wait_for(lambda: len(list(folder.iterdir())) <= before, timeout=10, what="their descriptors")
