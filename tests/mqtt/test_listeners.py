"""Listeners of one gateway: several at once, Unix sockets, and what bounds who connects."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.limits import MqttLimits
from gateway.listeners import ListenerConfig, Place
from gateway.mqtt.door import Door
from tests.e2e.raw_mqtt import V5, V311, RawClient, connect_packet
from tests.mqtt.doors import WrappedClient, gateway_with, listener
from tests.rigs import GatewayFailed, GatewayProcess, free_port, wait_for

FEW, SLOW = free_port(), free_port()


def unix(path: Path) -> WrappedClient:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(5)
    connected.connect(str(path))
    return WrappedClient(connected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[GatewayProcess]:
    tables = (
        listener("few", "mqtt", FEW, connections_max=3, connections_per_address_max=2),
        listener("slow", "mqtt", SLOW, connect_rate_max=1),
        listener("local", "unix", path=f"unix://{folder}/mqtt.sock", mode="0600"),
    )
    with gateway_with(folder, *tables) as process:
        yield process


def is_let_in(port: int, client_id: str = "tries") -> bool:
    with RawClient(port) as client:
        try:
            client.send(connect_packet(client_id, V311))
        except OSError:
            return False
        return client.answer() == (0x20, b"\0\0")


def test_the_readiness_line_names_every_listener(gateway: GatewayProcess, folder: Path) -> None:
    line = next(
        each
        for each in gateway.output_since_start().splitlines()
        if each.startswith("ready mqtt://")
    )
    assert line.split(" data=")[0].split() == [
        "ready",
        f"mqtt://127.0.0.1:{gateway.port}",
        f"mqtt://127.0.0.1:{FEW}",
        f"mqtt://127.0.0.1:{SLOW}",
        f"unix://{folder}/mqtt.sock",
    ]


def test_a_message_of_one_listener_reaches_a_subscriber_of_another(
    gateway: GatewayProcess, folder: Path
) -> None:
    with RawClient(gateway.port) as subscriber, unix(folder / "mqtt.sock") as publisher:
        subscriber.connect("subscriber", V311)
        subscriber.send(b"\x82\x0a\0\x01\0\x05one/+\0")
        assert subscriber.answer() == (0x90, b"\0\x01\0")
        publisher.connect("publisher", V5)
        publisher.publish("one/1", b"x", V5, packet_id=1)
        assert subscriber.answer() == (0x30, b"\0\x05one/1x")


# -- limits


def test_connections_of_one_address_are_bounded_by_listener(gateway: GatewayProcess) -> None:
    with RawClient(FEW) as one, RawClient(FEW) as two:
        one.connect("one", V311)
        two.connect("two", V311)
        assert not is_let_in(FEW)
        assert is_let_in(gateway.port)
    wait_for(lambda: is_let_in(FEW), timeout=5, what="room after the others have gone")
    wait_for(
        lambda: (
            "mqtt.connections_refused listener=few reason=connections_per_address_max"
            in gateway.output_since_start()
        ),
        timeout=5,
        what="the refusals in the log",
    )


def test_connect_rate_is_bounded_by_listener(gateway: GatewayProcess) -> None:
    answers = [is_let_in(SLOW, f"rate-{number}") for number in range(40)]
    assert answers[0] and not all(answers)
    assert is_let_in(gateway.port)
    wait_for(lambda: is_let_in(SLOW), timeout=5, what="the next second")
    wait_for(
        lambda: "listener=slow reason=connect_rate_max" in gateway.output_since_start(),
        timeout=5,
        what="the refusals in the log",
    )


LIMITS = MqttLimits(connections_per_address_max=2, connect_rate_max=3)


def door(**fields: int) -> Door:
    return Door(ListenerConfig(name="x", place=Place(scheme="mqtt"), **fields))  # type: ignore[arg-type]


def test_a_door_lets_in_as_many_as_it_may_and_again_when_they_leave() -> None:
    each = door(connections_max=2)
    assert [each.enter(LIMITS, 0) for _ in range(3)] == [True, True, False]
    each.leave()
    assert each.enter(LIMITS, 0)
    assert each.refused == {"connections_max": 1}


def test_a_door_s_rate_begins_anew_each_second() -> None:
    each = door()
    assert [each.enter(LIMITS, 500 + at) for at in (0, 1, 2, 3, 998)] == [True] * 3 + [False] * 2
    assert each.enter(LIMITS, 1_500)


def test_a_listener_s_own_limit_goes_before_the_common_one() -> None:
    each = door(connect_rate_max=1, connections_per_address_max=1)
    assert [each.enter(LIMITS, 0) for _ in range(2)] == [True, False]
    assert [each.enter_from("192.0.2.1", LIMITS) for _ in range(2)] == [True, False]


def test_an_address_is_counted_down_to_nothing() -> None:
    each = door()
    for host in ("192.0.2.1", "2001:db8::1", "2001:db8::2", "fe80::1%eth0", "strange:"):
        assert each.enter_from(host, LIMITS)
    assert not each.enter_from("2001:db8::3", LIMITS)
    for host in ("192.0.2.1", "2001:db8::2", "2001:db8::1", "fe80::1%eth0", "strange:"):
        each.leave_from(host)
    assert each._by_address == {}


# -- Unix sockets


def test_unix_socket_has_its_mode_and_goes_with_the_gateway(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    with gateway_with(
        tmp_path, listener("local", "unix", path=f"unix://{path}", mode="0620")
    ) as process:
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        with unix(path) as client:
            client.connect("local", V311)
            client.publish("a", b"1", V311, packet_id=1)
            client.send(b"\0\0")
            assert client.answer() is None
        assert "peer=unix" in process.output_since_start()
        assert process.terminate() == 0
    assert not path.exists()


def test_socket_file_of_a_killed_gateway_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    process = gateway_with(tmp_path, listener("local", "unix", path=f"unix://{path}"))
    with process:
        process.kill()
        assert path.is_socket()
        process.start()
        with unix(path) as client:
            client.connect("local", V311)


def start_fails(process: GatewayProcess) -> str:
    with pytest.raises(GatewayFailed) as caught:
        process.start()
    process.kill()
    assert "exit status 1" in str(caught.value)
    return str(caught.value)


def test_socket_that_somebody_answers_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen(1)
        text = start_fails(gateway_with(tmp_path, listener("x", "unix", path=f"unix://{path}")))
        assert "another program listens there" in text
        assert path.is_socket()


@pytest.mark.parametrize("is_directory", [False, True])
def test_file_that_is_no_socket_is_not_taken_away(tmp_path: Path, is_directory: bool) -> None:
    path = tmp_path / "mqtt.sock"
    if is_directory:
        path.mkdir()
    else:
        path.write_text("precious")
    text = start_fails(gateway_with(tmp_path, listener("x", "unix", path=f"unix://{path}")))
    assert "it is no socket" in text
    assert path.exists()


def test_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "mqtt.sock"
    text = start_fails(gateway_with(tmp_path, listener("x", "unix", path=f"unix://{path}")))
    assert "Give a path in a directory that exists" in text


def test_port_that_is_taken_is_said_with_its_listener_s_scheme(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = start_fails(gateway_with(tmp_path, listener("x", "ws", port)))
        assert f"ws://127.0.0.1:{port}" in text and "is in use" in text


# -- which listeners there are, and SIGHUP


def test_without_listen_only_the_tables_listen(tmp_path: Path) -> None:
    port = free_port()
    process = gateway_with(tmp_path, listener("only", "mqtt", port))
    process._flags[:2] = []
    with process:
        assert is_let_in(port)
        line = f"ready mqtt://127.0.0.1:{port} data="
        assert line in process.output_since_start()


def reload(process: GatewayProcess, text: str) -> str:
    (process.data_dir.parent / "gateway.toml").write_text(text)
    before = process.output_since_start().count("gateway.reload")
    process.send(signal.SIGHUP)
    wait_for(
        lambda: process.output_since_start().count("gateway.reload") > before,
        timeout=10,
        what="an answer to SIGHUP",
    )
    wait_for(lambda: process.output_since_start().endswith("\n"), timeout=1, what="whole lines")
    return process.output_since_start()


def test_sighup_changes_what_a_listener_asks_and_says_what_has_to_wait(tmp_path: Path) -> None:
    port = free_port()
    with gateway_with(tmp_path, listener("a", "mqtt", port), listener("b", "mqtt")) as process:
        with RawClient(port) as stays:
            stays.connect("stays", V311)
            text = listener("a", "mqtt", port, connections_max=1) + listener("c", "mqtt")
            output = reload(process, text)
            assert "gateway.reloaded changed=[listener]" in output
            wait_for(
                lambda: "needs_restart=[listener.b],[listener.c]" in process.output_since_start(),
                timeout=5,
                what="what waits",
            )
            assert not is_let_in(port)
            stays.publish("a", b"1", V311, packet_id=1)
        wait_for(lambda: is_let_in(port), timeout=5, what="room")
        # It has moved: that waits, and it stays as it was.
        reload(process, listener("a", "mqtt"))
        wait_for(
            lambda: "needs_restart=[listener.a],[listener.b]" in process.output_since_start(),
            timeout=5,
            what="what waits",
        )
        assert is_let_in(port)


def test_nothing_of_tls_websocket_or_passwords_is_loaded_for_plain_listeners() -> None:
    """They cost memory that a gateway without them need not pay."""
    code = (
        "import sys, gateway.app, gateway.cli; from gateway.mqtt.server import _client_kind;"
        "from gateway.config import load, Flags; from pathlib import Path;"
        "load(Flags(), default_data=Path('/'));"
        "print(*(each for each in ('wsproto', 'h11', 'gateway.tls', 'gateway.mqtt.tls_layer',"
        "'gateway.mqtt.websocket', 'gateway.mqtt.layered', 'gateway.passwords')"
        " if each in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
