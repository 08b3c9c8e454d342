"""Password files, in the formats that mosquitto_passwd writes, and the check of one password.

Owns the file's lines and the arithmetic; who is asked for a password is doors.py's business.

    name:$7$ROUNDS$SALT$HASH        PBKDF2 with HMAC-SHA-512; salt and hash in base64
    name:$6$SALT$HASH               SHA-512 of password and salt, as older files have

Blank lines and lines that begin with # are skipped.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from gateway.errors import ListenerFileUnusable
from gateway.mqtt.authentication import Accepted, Answer, Attempt, Exchange, Refused
from gateway.mqtt.errors import (
    AuthMethodNotSupported,
    BadUserNameOrPassword,
    NotAuthorized,
    ServerBusy,
)

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""About 50,000 users: all are held in memory."""

ROUNDS_MAX: Final = 10_000_000
"""About 5 s a check: more is a mistake in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash:
    """What is kept of a password. rounds 0: SHA-512 alone."""

    rounds: int
    salt: bytes
    digest: bytes


_NOBODY: Final = Hash(rounds=101, salt=b"nobody's", digest=bytes(64))
"""Checked for names that are not in the file, so that time does not tell which are."""


def read_password_file(path: Path) -> dict[str, Hash]:
    """Users by name. Raises ListenerFileUnusable."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise _unusable(
            f"{path} cannot be read: {error.strerror or error}",
            "Give a file that exists and that this user may read; make one with "
            "mosquitto_passwd -c FILE USER",
        ) from error
    except UnicodeDecodeError as error:
        raise _unusable(f"{path} is not UTF-8: {error}", "Save it as UTF-8") from error
    if len(data) > FILE_BYTES_MAX:
        raise _unusable(f"{path} is over {FILE_BYTES_MAX} bytes", "Put fewer users into it")
    users: dict[str, Hash] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, kept = line.rstrip().partition(":")
        if not separator or not name:
            raise _unusable(f"{path}, line {number}: no user name", "A line is name:$7$...")
        if name in users:
            raise _unusable(f"{path}, line {number}: {name!r} a second time", "Remove one of them")
        try:
            users[name] = _parse(kept)
        except ValueError as error:
            raise _unusable(
                f"{path}, line {number}: the password of {name!r} {error}",
                "Write it with mosquitto_passwd FILE USER; plain text is hashed by "
                "mosquitto_passwd -U FILE",
            ) from error
    return users


def is_password(kept: Hash, password: bytes) -> bool:
    """Takes as long as the file's rounds say; releases the GIL meanwhile."""
    if kept.rounds:
        length = len(kept.digest)
        digest = hashlib.pbkdf2_hmac("sha512", password, kept.salt, kept.rounds, length)
    else:
        digest = hashlib.sha512(password + kept.salt).digest()
    return hmac.compare_digest(digest, kept.digest)


class Worker(Protocol):
    """Runs what takes time beside the loop; gateway/password_worker.py."""

    def run(self, work: Callable[[], bool], done: Callable[[bool], None]) -> bool:
        """False: too much waits already, and nothing will be done."""


class PasswordAuthenticator:
    """An Authenticator: user names and passwords of one file, or names out of certificates.

    `users` may be replaced at any time; None: no name is known, and none is asked for.
    """

    methods: frozenset[str] = frozenset()

    def __init__(
        self,
        users: Mapping[str, Hash] | None,
        worker: Worker,
        *,
        anonymous: bool,
        certificate_user_name: bool,
    ) -> None:
        self._users = users
        self._worker = worker
        self._anonymous = anonymous
        self._certificate_user_name = certificate_user_name

    def authenticate(self, attempt: Attempt, answer: Answer) -> None:
        name = attempt.user_name
        if self._certificate_user_name and attempt.certificate_name:
            answer(Accepted(user_name=attempt.certificate_name))
        elif self._anonymous and (name is None or self._users is None):
            answer(Accepted())
        elif name is None:
            answer(Refused(error=NotAuthorized("a user name and password are needed")))
        else:
            kept = (self._users or {}).get(name, _NOBODY)
            work = partial(is_password, kept, attempt.password or b"")
            if not self._worker.run(work, partial(_checked, name, answer)):
                answer(Refused(error=ServerBusy("too many wait for their passwords' check")))

    def begin(self, method: str, attempt: Attempt) -> Exchange:
        raise AuthMethodNotSupported("passwords know no methods")


def _checked(name: str, answer: Answer, is_right: bool) -> None:
    if is_right:
        answer(Accepted(user_name=name))
    else:
        answer(Refused(error=BadUserNameOrPassword("wrong user name or password")))


def _parse(kept: str) -> Hash:
    """Raises ValueError, whose text ends a sentence about the password."""
    if not kept.startswith("$"):
        raise ValueError("is not hashed")
    _, kind, *fields = kept.split("$")
    try:
        if kind == "7" and len(fields) == 3:
            rounds = int(fields[0])
            if not 0 < rounds <= ROUNDS_MAX:
                raise ValueError
            return _hash(rounds, fields[1], fields[2])
        if kind == "6" and len(fields) == 2:
            return _hash(0, fields[0], fields[1])
    except ValueError as error:
        raise ValueError("is damaged") from error
    raise ValueError(f"is of a kind that is not known here (${kind}$)")


def _hash(rounds: int, salt: str, digest: str) -> Hash:
    try:
        kept = Hash(
            rounds=rounds,
            salt=base64.b64decode(salt, validate=True),
            digest=base64.b64decode(digest, validate=True),
        )
    except binascii.Error as error:
        raise ValueError from error
    if len(kept.digest) != 64:
        raise ValueError
    return kept


def _unusable(wrong: str, right: str) -> ListenerFileUnusable:
    return ListenerFileUnusable("password_file", f"password_file: {wrong}", right)
