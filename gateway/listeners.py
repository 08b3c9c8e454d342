"""What a listener is, as values: where it listens, what it asks of who comes in.

Owns the shapes; gateway/listener_reader.py reads them from the file, gateway/doors.py makes them
work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge.config import Address

DEFAULT_LISTENER: Final = "default"
"""The one that `listen` and --listen say."""


_NOWHERE: Final = Address(host="", port=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a listener is: an address and what is spoken there, or a path of the file system."""

    scheme: str
    """mqtt, mqtts, ws, wss or unix."""
    address: Address = _NOWHERE
    path: str = ""
    """Of ws and wss: the only path that is served, "" for any. Of unix: the socket's file."""

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("mqtts", "wss")

    @property
    def is_websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    @property
    def is_unix(self) -> bool:
        return self.scheme == "unix"

    def __str__(self) -> str:
        return f"{self.scheme}://{'' if self.is_unix else self.address}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files of a listener, and the oldest TLS it speaks ("1.2" or "1.3")."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Clients must have a certificate that one of these signed."""
    min_version: str = "1.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """One listener. A limit that is None is that of [limits]."""

    name: str
    place: Place
    tls: TlsFiles | None = None
    anonymous: bool = True
    password_file: Path | None = None
    certificate_user_name: bool = False
    """The CN of the client's certificate is its user name, and no password is asked for."""
    proxy_protocol: bool = False
    """Every connection begins with a PROXY protocol version 2 header."""
    origins: tuple[str, ...] = ()
    """Web pages that may connect, by their Origin; () for all."""
    mode: int = 0o660
    """Permissions of a Unix socket."""
    connections_max: int | None = None
    connections_per_address_max: int | None = None
    connect_rate_max: int | None = None


def plain_listener(address: Address) -> ListenerConfig:
    """MQTT over TCP, and everybody is let in: what `listen` says."""
    return ListenerConfig(name=DEFAULT_LISTENER, place=Place(scheme="mqtt", address=address))
