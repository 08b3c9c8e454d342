"""gateway/passwords.py, and mosquitto_passwd's own files on a real gateway."""

from __future__ import annotations

import base64
import hashlib
import signal
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ListenerFileUnusable
from gateway.mqtt.authentication import Accepted, Attempt, Verdict
from gateway.mqtt.errors import BadUserNameOrPassword, MqttError, NotAuthorized, ServerBusy
from gateway.password_worker import PasswordWorker
from gateway.passwords import PasswordAuthenticator, is_password, read_password_file
from tests.e2e.raw_mqtt import V5, V311, RawClient, packet, text
from tests.mqtt.doors import gateway_with, listener
from tests.rigs import free_port, need_mosquitto, wait_for


def line_7(name: str, password: bytes, *, rounds: int = 101, salt: bytes = b"salt") -> str:
    digest = hashlib.pbkdf2_hmac("sha512", password, salt, rounds)
    kept = (base64.b64encode(each).decode() for each in (salt, digest))
    return f"{name}:$7${rounds}${'$'.join(kept)}\n"


def line_6(name: str, password: bytes, salt: bytes = b"salt") -> str:
    digest = hashlib.sha512(password + salt).digest()
    return f"{name}:$6${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def write(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "passwords"
    file.write_text("".join(lines))
    return file


def mosquitto_passwd(*arguments: str) -> None:
    subprocess.run(["mosquitto_passwd", *arguments], check=True, capture_output=True, timeout=20)


# -- the file


def test_both_formats_comments_and_blank_lines_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, "# users\n\n", line_7("ann", b"7"), line_6("bob", b"6"))
    users = read_password_file(file)
    assert set(users) == {"ann", "bob"}
    assert is_password(users["ann"], b"7") and not is_password(users["ann"], b"6")
    assert is_password(users["bob"], b"6") and not is_password(users["bob"], b"")


@need_mosquitto
@pytest.mark.parametrize("kind", ["sha512", "sha512-pbkdf2"])
def test_what_mosquitto_passwd_writes_is_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "passwords"
    mosquitto_passwd("-H", kind, "-b", "-c", str(file), "zoé", "pass: wörd")
    mosquitto_passwd("-H", kind, "-b", str(file), "bob", "x")
    users = read_password_file(file)
    assert is_password(users["zoé"], "pass: wörd".encode())
    assert not is_password(users["zoé"], b"x")
    assert is_password(users["bob"], b"x")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ann\n", "no user name"),
        (":$6$a$b\n", "no user name"),
        ("ann:secret\n", "is not hashed"),
        ("ann:\n", "is not hashed"),
        ("ann:$argon2id$v=19$m=47104$x$y\n", "kind that is not known here ($argon2id$)"),
        ("ann:$5$a$b\n", "kind that is not known here ($5$)"),
        ("ann:$6$a\n", "kind that is not known here"),
        ("ann:$6$!!!!$" + "A" * 88 + "\n", "is damaged"),
        ("ann:$6$c2FsdA==$c2hvcnQ=\n", "is damaged"),
        (line_7("ann", b"x").replace("101", "0"), "is damaged"),
        (line_7("ann", b"x").replace("101", "99999999"), "is damaged"),
        (line_7("ann", b"x") + line_6("ann", b"y"), "a second time"),
    ],
)
def test_line_that_cannot_be_is_named_with_what_to_do(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ListenerFileUnusable) as caught:
        read_password_file(write(tmp_path, "# first\n", line))
    assert said in str(caught.value)
    assert f"line {1 + len(line.splitlines())}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ListenerFileUnusable, match="No such file"):
        read_password_file(tmp_path / "nope")
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ListenerFileUnusable, match="not UTF-8"):
        read_password_file(tmp_path / "x")


@given(st.text(max_size=40).map(lambda each: f"ann:${each}"))
def test_any_line_is_a_user_or_refused(line: str) -> None:
    from gateway.passwords import _parse

    try:
        _parse(line.partition(":")[2])
    except ValueError:
        pass


# -- the authenticator


class Now:
    """A worker that does what it is given at once; `is_full`: it takes nothing."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.count = 0

    def run(self, work: Callable[[], bool], done: Callable[[bool], None]) -> bool:
        if self.is_full:
            return False
        self.count += 1
        done(work())
        return True


def verdict(
    authenticator: PasswordAuthenticator,
    name: str | None,
    password: bytes | None = None,
    **how: str,
) -> Verdict:
    verdicts: list[Verdict] = []
    authenticator.authenticate(
        Attempt(client_id="c", peer="p", user_name=name, password=password, **how),
        verdicts.append,
    )
    (each,) = verdicts
    return each


def reason(each: Verdict) -> type[MqttError]:
    assert not isinstance(each, Accepted)
    return type(each.error)


def test_names_and_passwords_are_asked_for_where_nobody_may_be_anonymous(tmp_path: Path) -> None:
    users = read_password_file(write(tmp_path, line_7("ann", b"secret")))
    worker = Now()
    ask = partial(
        verdict,
        PasswordAuthenticator(users, worker, anonymous=False, certificate_user_name=False),
    )
    assert ask("ann", b"secret") == Accepted(user_name="ann")
    assert reason(ask("ann", b"wrong")) is BadUserNameOrPassword
    assert reason(ask("ann")) is BadUserNameOrPassword
    assert reason(ask(None)) is NotAuthorized
    # Who is not in the file is checked all the same: time does not tell.
    count = worker.count
    assert reason(ask("eve", b"secret")) is BadUserNameOrPassword
    assert worker.count == count + 1


def test_anonymous_clients_may_come_but_not_with_a_wrong_password(tmp_path: Path) -> None:
    users = read_password_file(write(tmp_path, line_6("ann", b"secret")))
    ask = partial(
        verdict,
        PasswordAuthenticator(users, Now(), anonymous=True, certificate_user_name=False),
    )
    assert ask(None) == Accepted()
    assert ask("ann", b"secret") == Accepted(user_name="ann")
    assert reason(ask("ann", b"wrong")) is BadUserNameOrPassword


def test_name_in_a_verified_certificate_needs_no_password() -> None:
    authenticator = PasswordAuthenticator(None, Now(), anonymous=False, certificate_user_name=True)
    got = verdict(authenticator, "other", certificate_name="press-7")
    assert got == Accepted(user_name="press-7")
    assert reason(verdict(authenticator, None)) is NotAuthorized
    assert reason(verdict(authenticator, "press-7", b"x")) is BadUserNameOrPassword


def test_too_many_that_wait_are_told_that_the_server_is_busy() -> None:
    authenticator = PasswordAuthenticator(
        {}, Now(is_full=True), anonymous=False, certificate_user_name=False
    )
    assert reason(verdict(authenticator, "ann", b"x")) is ServerBusy


def test_worker_takes_no_more_than_its_bound_and_answers_all_it_took() -> None:
    posted: list[Callable[[], None]] = []
    worker = PasswordWorker(2, posted.append)
    answers: list[bool] = []

    def fails() -> bool:
        raise RuntimeError("no")

    assert worker.run(lambda: True, answers.append)
    assert worker.run(fails, answers.append)
    assert not worker.run(lambda: True, answers.append)
    wait_for(lambda: len(posted) == 2, timeout=5, what="both checks")
    for each in posted:
        each()
    assert answers == [True, False]
    assert worker.run(lambda: True, answers.append)


# -- a gateway


def connack(port: int, level: int, name: str | None, password: bytes | None) -> int:
    """Its code."""
    flags = 0x02 | (0x80 if name is not None else 0) | (0x40 if password is not None else 0)
    body = text("MQTT") + bytes((level, flags)) + struct.pack(">H", 60)
    body += b"\0" * (level == V5) + text("device")
    body += b"" if name is None else text(name)
    body += b"" if password is None else text(password)
    with RawClient(port) as client:
        client.send(packet(0x10, body))
        answer = client.answer()
        assert answer is not None and answer[0] == 0x20
        return answer[1][1]


def test_codes_of_connack_and_new_passwords_by_sighup(tmp_path: Path) -> None:
    """5.0 3.2.2.2 and 3.1.1 3.2.2.3."""
    file = write(tmp_path, line_7("ann", b"secret"))
    port = free_port()
    table = listener("known", "mqtt", port, anonymous=False, password_file=file)
    with gateway_with(tmp_path, table) as process:
        assert connack(port, V5, "ann", b"secret") == connack(port, V311, "ann", b"secret") == 0
        for name, password in (("ann", b"wrong"), ("ann", None), ("eve", b"secret"), ("", b"")):
            assert connack(port, V5, name, password) == 0x86
        assert connack(port, V311, "ann", b"wrong") == 4
        assert connack(port, V5, None, None) == 0x87
        assert connack(port, V311, None, None) == 5
        # The default listener asks for nothing.
        assert connack(process.port, V311, "ann", b"wrong") == 0
        write(tmp_path, line_7("eve", b"new"))
        before = process.output_since_start().count("gateway.reload")
        process.send(signal.SIGHUP)
        wait_for(
            lambda: process.output_since_start().count("gateway.reload") > before,
            timeout=10,
            what="an answer to SIGHUP",
        )
        assert connack(port, V311, "ann", b"secret") == 4
        assert connack(port, V311, "eve", b"new") == 0


def test_slow_hashes_do_not_hold_the_others_up(tmp_path: Path) -> None:
    """A check of a million rounds takes about a second; messages of others go on meanwhile."""
    file = write(tmp_path, line_7("slow", b"x", rounds=1_500_000))
    port = free_port()
    table = listener("known", "mqtt", port, anonymous=False, password_file=file)
    with gateway_with(tmp_path, table) as process, RawClient(process.port) as device:
        device.connect("device", V311)
        with RawClient(port) as slow:
            body = text("MQTT") + b"\x04\xc2\0\x3c" + text("slow") + text("slow") + text("x")
            slow.send(packet(0x10, body))
            slow._socket.settimeout(0.05)
            number = 0
            while True:
                number += 1
                device.publish("a", b"1", V311, packet_id=number % 65_535 + 1)
                try:
                    if slow._socket.recv(4) == b"\x20\x02\0\0":
                        break
                except TimeoutError:
                    pass
            assert number > 3, "nothing was acknowledged while the password was checked"
