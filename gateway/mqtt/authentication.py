"""Who is let in: the interface between CONNECT (admission.py) and what knows the users.

Owns the shapes only. Each listener has an `Authenticator`, or None: then everybody is let in and
user names are not looked at. An authenticator never blocks and reads no clock: it is called in the
loop's thread and gives its verdict by calling `answer`, at once or later, once, in that thread.
While it thinks, the connection is not read; the time counts in connect_timeout_ms.

    CONNECT without an authentication method
        authenticate(attempt, answer)           -> answer(Accepted(...) | Refused(...))

    5.0 CONNECT with one (4.12 of MQTT 5.0)     its name is in `methods`, else 0x8C
        exchange = begin(method, attempt)
        exchange.step(data, answer)             data: Authentication Data of CONNECT, or None
            answer(Challenge(data))             AUTH 0x18 goes out; the client's AUTH is the next
        exchange.step(data, answer)             step, and so on, until
            answer(Accepted(...) | Refused(...))    CONNACK, with Accepted.data in it

    AUTH 0x19 of a connected client: begin and step again, with the same method [MQTT-4.12.1-1];
    Refused ends the connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.mqtt.errors import MqttError


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is known of who wants in."""

    client_id: str
    peer: str
    user_name: str | None = None
    password: bytes | None = None
    certificate_name: str | None = None
    """CN of the client certificate that TLS has verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """`user_name` is who the client is from now on; "" for nobody in particular."""

    user_name: str = ""
    data: bytes | None = None
    """Authentication Data of CONNACK, or of the AUTH that ends a re-authentication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`error` says it: NotAuthorized, BadUserNameOrPassword, ServerBusy."""

    error: MqttError


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """`data` is the Authentication Data of an AUTH with reason 0x18; only in an exchange."""

    data: bytes | None = None


Verdict = Accepted | Refused
Answer = Callable[[Verdict], None]


class Exchange(Protocol):
    """One enhanced authentication under way."""

    def step(
        self, data: bytes | None, answer: Callable[[Accepted | Refused | Challenge], None]
    ) -> None: ...


class Authenticator(Protocol):
    """Who knows the users of one listener."""

    @property
    def methods(self) -> frozenset[str]:
        """Authentication methods of 5.0 that `begin` takes; mostly none."""

    def authenticate(self, attempt: Attempt, answer: Answer) -> None: ...

    def begin(self, method: str, attempt: Attempt) -> Exchange: ...
