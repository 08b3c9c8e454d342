"""The [listener.NAME] tables: what is read, and how what is wrong is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bridge.config import Address
from gateway.config import Flags, GatewayConfig, load, read_file
from gateway.errors import ConfigInvalid, UrlInvalid
from gateway.listeners import ListenerConfig, Place, TlsFiles
from gateway.urls import parse_place
from tests.rigs.certificates import Authority

DATA = Path("/somewhere")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    authority.issue("gateway.test", file="server")
    authority.issue("other.test", file="other")
    authority.issue("old.test", file="expired", days=-1)
    authority.issue("soon.test", file="soon", days=5)
    encrypted = ["openssl", "pkey", "-in", "server.key", "-aes256", "-passout", "pass:x"]
    subprocess.run([*encrypted, "-out", "encrypted.key"], cwd=authority.folder, check=True)
    (authority.folder / "empty").write_text("")
    (authority.folder / "passwords").write_text("")
    (authority.folder / "plain").write_text("ann:secret\n")
    return authority


def write(authority: Authority, text: str) -> Path:
    file = authority.folder / "sluicegate.toml"
    file.write_text(text)
    return file


def read(authority: Authority, text: str) -> GatewayConfig:
    return read_file(write(authority, text), default_data=DATA)


def the_problem(authority: Authority, text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        read(authority, text)
    (problem,) = caught.value.problems
    return str(problem)


TLS = 'url = "mqtts://127.0.0.1"\ncertificate = "server.pem"\nkey = "server.key"\n'
WS = 'url = "ws://127.0.0.1:8080"\n'
PLAIN = 'url = "mqtt://127.0.0.1:2883"\n'


def test_every_key_is_read_and_paths_are_relative_to_the_file(authority: Authority) -> None:
    text = (
        "[listener.plant]\n"
        + TLS
        + 'client_ca = "ca.pem"\nmin_version = "1.3"\ncertificate_user_name = true\n'
        'anonymous = false\npassword_file = "passwords"\nproxy_protocol = true\n'
        "connections_max = 5\nconnections_per_address_max = 4\nconnect_rate_max = 3\n"
        '[listener.pages]\nurl = "ws://[::1]:8080/mqtt"\norigins = ["https://x"]\n'
        '[listener.local]\nurl = "unix:///run/x.sock"\nmode = "0600"\n'
    )
    folder = authority.folder
    assert read(authority, text).listeners == (
        ListenerConfig(
            name="plant",
            place=Place(scheme="mqtts", address=Address(host="127.0.0.1", port=8883)),
            tls=TlsFiles(
                certificate=folder / "server.pem",
                key=folder / "server.key",
                client_ca=folder / "ca.pem",
                min_version="1.3",
            ),
            anonymous=False,
            password_file=folder / "passwords",
            certificate_user_name=True,
            proxy_protocol=True,
            connections_max=5,
            connections_per_address_max=4,
            connect_rate_max=3,
        ),
        ListenerConfig(
            name="pages",
            place=Place(scheme="ws", address=Address(host="::1", port=8080), path="/mqtt"),
            origins=("https://x",),
        ),
        ListenerConfig(name="local", place=Place(scheme="unix", path="/run/x.sock"), mode=0o600),
    )


def test_default_listener_stays_only_where_it_is_said(authority: Authority) -> None:
    names = [each.name for each in read(authority, "").all_listeners()]
    assert names == ["default"]
    names = [each.name for each in read(authority, f"[listener.a]\n{PLAIN}").all_listeners()]
    assert names == ["a"]
    text = f'listen = "mqtt://127.0.0.1"\n[listener.a]\n{PLAIN}'
    assert [each.name for each in read(authority, text).all_listeners()] == ["default", "a"]
    flags = Flags(config=write(authority, f"[listener.a]\n{PLAIN}"), listen="mqtt://127.0.0.1:1884")
    config = load(flags, default_data=DATA)
    assert [each.name for each in config.all_listeners()] == ["default", "a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this listener has no url"),
        ('url = "http://x"', "begins with none of mqtt://, mqtts://, ws://, wss://, unix://"),
        ('url = "mqtt://x/path"', "mqtt:// has no path. Write it as mqtt://0.0.0.0:1883"),
        ('url = "ws://x/a?b"', "has more than a path"),
        ('url = "wss://:1/"', "names no host"),
        ('url = "unix://relative"', "names no absolute path of up to 107 bytes"),
        (f'url = "unix:///{"x" * 107}"', "names no absolute path of up to 107 bytes"),
        ('url = "mqtts://x"', 'mqtts:// needs a certificate. Write certificate = "FILE"'),
        (
            'url = "wss://x"\ncertificate = "server.pem"',
            'wss:// needs a key. Write key = "FILE"',
        ),
        (PLAIN + 'certificate = "server.pem"', "write url = mqtts:// or wss://"),
        (PLAIN + 'origins = ["x"]', "origins means nothing for a mqtt:// listener"),
        (WS + 'mode = "0660"', "mode means nothing for a ws:// listener"),
        ('url = "unix:///x"\nmode = "rw"', "mode = 'rw' is no mode"),
        ('url = "unix:///x"\nconnections_per_address_max = 1', "write url = anything but unix"),
        (PLAIN + "anonymous = false", "there is nothing to know anybody by"),
        (TLS + "certificate_user_name = true", "nobody's certificate is verified"),
        (PLAIN + "connections_max = 0", "From 1 to"),
        (PLAIN + "conections_max = 1", "Did you mean 'connections_max'?"),
        (TLS + 'min_version = "1.1"', 'Write "1.2" or "1.3"'),
        (TLS.replace("server.pem", "nope.pem"), "nope.pem cannot be read: No such file"),
        (TLS.replace("server.key", "nope.key"), "nope.key cannot be read: No such file"),
        (TLS.replace("server.key", "other.key"), "other.key is not the key of"),
        (TLS.replace("server.pem", "empty"), "empty has no certificate in PEM"),
        (TLS.replace("server.key", "empty"), "empty has no private key in PEM"),
        (TLS.replace("server.key", "server.pem"), "server.pem has no private key in PEM"),
        (TLS.replace("server.key", "encrypted.key"), "Decrypt it with: openssl pkey"),
        (TLS + 'client_ca = "empty"', "empty has no certificate in PEM"),
        (TLS + 'client_ca = "nope"', "nope cannot be read"),
        (PLAIN + 'password_file = "nope"', "make one with mosquitto_passwd -c FILE USER"),
        (PLAIN + 'password_file = "plain"', "mosquitto_passwd -U FILE"),
        (PLAIN + f"[listener.b]\n{PLAIN}", "Give each listener its own port"),
    ],
)
def test_what_cannot_be_is_said_with_what_can(authority: Authority, text: str, said: str) -> None:
    problem = the_problem(authority, f"[listener.a]\n{text}\n")
    assert said in problem
    assert ", in [listener" in problem


def test_names_are_as_those_of_streams(authority: Authority) -> None:
    for name in ("default", '"a b"'):
        problem = the_problem(authority, f"[listener.{name}]\n{PLAIN}")
        assert "is no name for a listener" in problem


def test_listen_says_where_the_other_kinds_belong(authority: Authority) -> None:
    problem = the_problem(authority, 'listen = "mqtts://0.0.0.0:8883"')
    assert "[listener.NAME] table" in problem
    with pytest.raises(UrlInvalid, match="listener.NAME"):
        load(Flags(listen="ws://x"), default_data=DATA)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://127.0.0.1:1883",
        "mqtts://[::1]:8883",
        "ws://0.0.0.0:8080",
        "ws://0.0.0.0:8080/",
        "wss://gateway.test:443/a/b",
        "unix:///run/sluicegate/mqtt.sock",
    ],
)
def test_place_is_written_as_it_was_read(url: str) -> None:
    assert str(parse_place(url)) == url


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("server", None),
        ("expired", "has expired. Renew it, and send SIGHUP"),
        ("soon", "expires in 4 days"),
    ],
)
def test_check_config_warns_of_certificates_that_clients_will_refuse(
    authority: Authority, name: str, said: str | None
) -> None:
    """No problem: a gateway whose clock is wrong after a power cut must start all the same."""
    file = write(authority, "[listener.a]\n" + TLS.replace("server.", f"{name}."))
    command = [sys.executable, "-m", "gateway", "check-config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert "listens on  mqtts://127.0.0.1:8883" in done.stdout
    assert (said or "listens") in done.stdout
    assert ("warning" in done.stdout) is (said is not None)
